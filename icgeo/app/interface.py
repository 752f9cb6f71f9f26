"""The page: its parts, and what each does; needs the extra [demo].

Conventions: what a visitor gives or gets lives in the `gr.State` of the session; all visitors share
the models and nothing else. Nothing is fetched from the network, and temporary files are removed
an hour after they were made, and when the server stops.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import lru_cache, partial, wraps
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from torch import Tensor

from icgeo.app import outputs, session
from icgeo.app.session import Answer, ExampleList, Request, Visit, forget
from icgeo.config import one_line
from icgeo.models import MapModel, load
from icgeo.plots import plot_interactive
from icgeo.plots.theme import place_name

KEPT_SECONDS = 3600
MAX_SHOTS, MAX_STEPS, MAX_SAMPLES = 32, 50, 16
_INTRO = """# icgeo
Give photos to locate, and examples: photos whose places are known. The model draws a map for each.
The model in the box knows **views from orbit**, not street photos. Do not locate people's photos
without their consent. Nothing leaves this server, which forgets all of it within the hour."""
_SHOWN = ("drawn", "table", "density", "files", "context")
"""Parts of the page that show one answer."""


def build(model: str | Path | Sequence[str] = "tiny", *, device: str = "cpu") -> Any:
    """Make the page, a `gradio.Blocks`; the first model is loaded at once.

    Raises:
        LoadError: no such model.
    """
    names = [str(model)] if isinstance(model, str | Path) else list(model)
    opened = lru_cache(maxsize=None)(lambda name: load(name, device=device))
    with gr.Blocks(title="icgeo", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(_INTRO)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                queries = _photos_part()
                bank = _bank_part()
            with gr.Column(min_width=320, scale=2):
                settings = _settings_part(names, opened(names[0]))
                _answer_part(queries, bank, settings, opened)
    return page


def _explained(action: Callable[..., Any]) -> Callable[..., Any]:
    """Show what is wrong with an input as a message, and leave the page as it is."""

    @wraps(action)
    def explained(*given: Any) -> Any:
        try:
            return action(*given)
        except ValueError as error:
            gr.Warning(one_line(error))
            return gr.skip()

    return explained


def _as_list(problems: Sequence[str]) -> str:
    return "\n".join(f"- ⚠ {problem}" for problem in problems)


def _on(event: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return event(*arguments, api_visibility="private", show_progress="minimal", **options)


def _gallery(label: str, name: str) -> Any:
    look: dict[str, Any] = {"columns": 3, "height": 260, "object_fit": "contain", "buttons": []}
    # a label that is shown would cover the first photo
    return gr.Gallery(label=label, show_label=False, elem_id=name, interactive=False, **look)


def _picture(title: str, name: str, value: Any = None) -> Any:
    """Show a picture under its title: gradio's own label would cover a corner of it."""
    gr.Markdown(title)
    look: dict[str, Any] = {"show_label": False, "alt_text": title, "buttons": []}
    return gr.Image(value, type="pil", interactive=False, elem_id=name, **look)


def _photos_part() -> Any:
    """Photos to locate: uploaded, or taken from orbit."""
    queries = gr.State((), time_to_live=KEPT_SECONDS)
    gr.Markdown("### 1. Photos to locate")
    files = gr.File(label="Photos", file_count="multiple", elem_id="photos", height=150)
    with gr.Row():
        view = gr.Button("Try a view from orbit", size="sm", elem_id="try")
        back = gr.Button("Remove last", size="sm", elem_id="remove-photo", min_width=90)
        clear = gr.Button("Clear photos", size="sm", elem_id="clear-photos", min_width=90)
    notice = gr.Markdown(elem_id="photos-notice")
    shown = [queries, _gallery("To locate", "queries"), notice]

    def show(shots: Any, problems: Sequence[str] = ()) -> list[Any]:
        return [shots, [(shot.photo, shot.name) for shot in shots], _as_list(problems)]

    def take(paths: list[str], known: Any) -> list[Any]:
        shots, problems = session.read_uploads(paths, held=len(known))
        return [None, *show((*known, *shots), problems)]

    @_explained
    def look(known: Any) -> list[Any]:
        number = len(known) + 1
        session.check_count(number)
        world = [*session.BUILT_IN][(number - 1) % len(session.BUILT_IN)]
        shots = session.built_in_views(world, seed=999 + number, count=1, first=number)
        return show((*known, *shots))

    _on(files.upload, take, [files, queries], [files, *shown])
    _on(view.click, look, queries, shown)
    _on(back.click, lambda known: show(known[:-1]), queries, shown)
    _on(clear.click, lambda: show(()), None, shown)
    return queries


def _bank_part() -> Any:
    """Examples: uploaded and placed, listed in a manifest, or views from orbit."""
    bank = gr.State(ExampleList(), time_to_live=KEPT_SECONDS)
    gr.Markdown("### 2. Examples")
    with gr.Row():
        name = gr.Dropdown(session.set_names(), label="A set in the box", min_width=140)
        with gr.Column(min_width=100):
            add = gr.Button("Add them", size="sm", elem_id="add-set")
            back = gr.Button("Remove last", size="sm", elem_id="remove-example")
            clear = gr.Button("Clear examples", size="sm")
    label = "Photos, or a manifest (CSV, Parquet) with its photos"
    files = gr.File(label=label, file_count="multiple", elem_id="examples", height=170)
    notice = gr.Markdown(elem_id="bank-notice")
    world = _picture("Where they were taken", "world", outputs.draw_click_map(()))
    with gr.Row():
        lat = gr.Number(label="Latitude", value=None, min_width=90, elem_id="lat")
        lon = gr.Number(label="Longitude", value=None, min_width=90, elem_id="lon")
        put_there = gr.Button("Place it there", size="sm", min_width=90, elem_id="place")
    shown = [bank, _gallery("Examples", "bank"), world, notice]
    _on(files.upload, _take_files, [files, bank], [files, *shown])
    _on(add.click, _take_set, [name, bank], shown)
    _on(back.click, lambda known: _show_bank(known.without_last()), bank, shown)
    _on(clear.click, lambda: _show_bank(ExampleList()), None, shown)
    _on(world.select, _put_at_click, bank, shown)
    for ask in (put_there.click, lat.submit, lon.submit):
        _on(ask, _put, [lat, lon, bank], shown)
    return bank


def _take_files(paths: list[str], known: ExampleList) -> list[Any]:
    held = len(known.examples) + len(known.waiting)
    shots, problems = session.read_uploads(paths, held=held)
    return [None, *_show_bank(known.adding(shots), problems)]


@_explained
def _take_set(chosen: str, known: ExampleList) -> list[Any]:
    shots = session.built_in_set(chosen, seed=len(known.examples))
    return _show_bank(known.adding(shots))


@_explained
def _put(lat: float | None, lon: float | None, known: ExampleList) -> list[Any]:
    return _show_bank(known.placing(lat, lon))


def _put_at_click(known: ExampleList, event: gr.SelectData) -> Any:
    return _put(*outputs.place_of_pixel(*event.index), known)


def _show_bank(bank: ExampleList, problems: Sequence[str] = ()) -> list[Any]:
    pictures: list[tuple[Any, str]] = []
    pictures += [(shot.photo, f"where? {shot.name}") for shot in bank.waiting]
    pictures += [(one.image, place_name(one.lat, one.lon)) for one in bank.examples]
    lines = [_as_list(problems)]
    if bank.waiting:
        count, name = len(bank.waiting), bank.waiting[0].name
        lines.append(
            f"**{count} without a place.** Click on the map where `{name}` was taken, or type "
            "latitude and longitude."
        )
    return [bank, pictures, outputs.draw_click_map(bank.examples), "\n\n".join(lines)]


def _settings_part(names: Sequence[str], first: MapModel) -> list[Any]:
    gr.Markdown("### 3. Locate")
    own, slider = first.settings, partial(gr.Slider, step=1, min_width=140)
    ways: dict[str, Any] = {"label": "Examples shown", "elem_id": "choice-of-examples"}
    with gr.Row():
        which = [
            gr.Dropdown([*names], value=names[0], label="Model", min_width=140),
            gr.Dropdown([*session.WAYS_TO_CHOOSE], min_width=140, **ways),
        ]
    with gr.Row():
        return [
            *which,
            slider(0, MAX_SHOTS, value=16, label="Shots", elem_id="shots"),
            slider(1, MAX_STEPS, value=own.steps, label="Steps", elem_id="steps"),
            slider(1, MAX_SAMPLES, value=own.samples, label="Samples", elem_id="samples"),
        ]


def _outcome_part() -> dict[str, Any]:
    """All that is shown of an answer, by name; hidden until there is one."""
    parts: dict[str, Any] = {}
    several: dict[str, Any] = {"file_count": "multiple", "interactive": False}
    with gr.Column(visible=False) as parts["outcome"]:
        choice = gr.Dropdown(label="Photo", visible=False, elem_id="choice", filterable=False)
        with gr.Row():
            with gr.Column(min_width=320):
                parts["drawn"] = _picture("Map drawn", "drawn")
            with gr.Column(min_width=320):
                parts["table"] = gr.Markdown(elem_id="summary")
        parts["density"] = gr.Plot(label="Density", elem_id="density")
        parts["context"] = _picture("Context: what the model was shown", "context")
        label = "GeoJSON, GeoParquet, FITS, PNG"
        parts["files"] = gr.File(label=label, elem_id="files", **several)
    return {"choice": choice, **parts}


def _answer_part(queries: Any, bank: Any, settings: Sequence[Any], opened: Any) -> None:
    """Start, watch and stop locating."""
    answers = gr.State(None, time_to_live=KEPT_SECONDS, delete_callback=forget)
    ticket = gr.State(None)
    with gr.Row():
        start = gr.Button("Locate", variant="primary", elem_id="locate")
        stop = gr.Button("Cancel", elem_id="cancel")
    status = gr.Markdown(elem_id="status", min_height=32)
    parts = {"answers": answers, "status": status, **_outcome_part()}

    def run(asking: Event, before: Visit | None, *given: Any) -> Iterator[dict[Any, Any]]:
        try:
            for number, update in enumerate(_locate(opened, Request(*given), asking)):
                if not number:
                    forget(before)  # the request is right, and answers take the place of others
                yield {parts[name]: value for name, value in update.items()}
        except ValueError as error:
            gr.Warning(one_line(error))
            yield {status: ""}

    def show(number: int, visit: Visit) -> list[Any]:
        return [*_shown(visit, number).values()]

    inputs = [ticket, answers, queries, bank, *settings]
    waiting = _on(start.click, lambda: (Event(), "Waiting …"), None, [ticket, status], queue=False)
    _on(waiting.then, run, inputs, [*parts.values()], concurrency_limit=1)
    _on(stop.click, lambda asking: asking and asking.set(), ticket, None, queue=False)
    chosen, changed = [parts["choice"], answers], [parts[name] for name in _SHOWN]
    _on(parts["choice"].input, show, chosen, changed, trigger_mode="always_last")


def _shown(visit: Visit, number: int) -> dict[str, Any]:
    """What the parts of the page show of one answer."""
    answer = visit.answers[number]
    shot, prediction = answer.shot, answer.prediction
    first, *others = (f"| {' | '.join(row)} |" for row in outputs.summary(prediction, shot.place))
    values = (
        None if prediction.map is None else outputs.picture(prediction.map),
        "\n".join([first, "|---|---|", *others]),
        plot_interactive(prediction, shot.place),
        answer.files,
        answer.context,
    )
    return dict(zip(_SHOWN, values, strict=True))


def _locate(
    opened: Callable[[str], MapModel], request: Request, asking: Event
) -> Iterator[dict[str, Any]]:
    """Give what changes on the page while photos are located, one after the other."""
    if not request.queries:
        raise ValueError("expected a photo to locate, got none; upload one, or try a view")
    locator = session.build_locator(opened(request.model), request)
    visit, blank = Visit(asking), dict.fromkeys(_SHOWN)
    waiting = len(request.bank.waiting)
    left_out = f" ({waiting} without a place left out)" if waiting else ""
    hidden, visible = gr.update(visible=False), gr.update(visible=True)
    yield {"answers": visit, "choice": hidden, "outcome": visible, **blank}
    try:
        for number, shot in enumerate(request.queries):
            examples = session.choose_examples(locator, shot.photo, request)
            context = outputs.draw_context(examples, locator.loaded.settings.style)
            count = f"{len(examples)} example{'' if len(examples) == 1 else 's'}"
            title = f"Photo {number + 1} of {len(request.queries)}, {count}{left_out}"
            yield {**blank, "context": context, "status": title}
            steps = session.locate_in_steps(locator, shot.photo, examples, cancelled=asking)
            for step, seen in enumerate(steps, start=1):
                if isinstance(seen, Tensor):
                    text = f"{title}: step {step} of {int(request.steps)}"
                    yield {"drawn": outputs.picture(seen), "status": text}
                else:
                    files = outputs.save_files(seen, shot, Path(visit.folder.name) / str(number))
                    answer = Answer(shot, seen, context, files)
                    visit = replace(visit, answers=(*visit.answers, answer))
            yield {"answers": visit, "status": f"{title}: done", **_shown(visit, number)}
    except CancelledError:
        last = _shown(visit, len(visit.answers) - 1) if visit.answers else blank
        yield {"status": "Cancelled.", **last}
    options = [(f"{i + 1}. {answer.shot.name}", i) for i, answer in enumerate(visit.answers)]
    if len(request.queries) > 1 and options:
        yield {"choice": gr.update(choices=options, value=options[-1][1], visible=True)}
