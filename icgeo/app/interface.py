"""The page: its parts, and what each does; needs the extra [demo].

Conventions: what a visitor gives or gets lives in the `gr.State` of the session; all visitors share
the models and nothing else. Nothing is fetched from the network, and temporary files are removed
an hour after they were made, and when the server stops.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import lru_cache, partial, wraps
from importlib import resources
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData
from torch import Tensor

from icgeo.app import outputs, session
from icgeo.app.session import ExampleList, Request, Visit, forget
from icgeo.config import one_line
from icgeo.geolocator import Geolocator
from icgeo.models import MapModel, load
from icgeo.plots import plot_interactive
from icgeo.plots.theme import place_name
from icgeo.prediction import Example

KEPT_SECONDS = 3600
MAX_SHOTS, MAX_STEPS, MAX_SAMPLES = 32, 50, 16
_INTRO = """# icgeo
Give photos to locate, and examples: photos whose places are known. The model draws a map for each.
The model in the box knows **views from orbit**, not street photos. Do not locate people's photos
without their consent. Nothing leaves this server, which forgets all of it within the hour."""
_ON_THE_GROUND = (
    "These photos were taken on the ground. A model that knows views from orbit, as tiny does, "
    "cannot tell them apart; choose another model."
)
_FRAME = """<div role="group" aria-label="Map of the world: click where the photo was taken">
@children</div>"""
_INDEXES = ": looking over the map, which takes a minute or two the first time"
_SHOWN = ("drawn", "table", "density", "chain", "files", "context")
"""Parts of the page that show one answer."""


def build(model: str | Path | Sequence[str] = "tiny", *, device: str = "cpu") -> Any:
    """Make the page, a `gradio.Blocks`; the first model is loaded at once.

    Raises:
        LoadError: no such model.
    """
    names = [str(model)] if isinstance(model, str | Path) else list(model)
    load_model = lru_cache(maxsize=None)(lambda name: load(name, device=device))
    with gr.Blocks(title="icgeo", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(_INTRO)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                queries = _photos_part()
                bank = _bank_part()
            with gr.Column(min_width=320):
                settings = _settings_part(names, load_model(names[0]))
                _answer_part(queries, bank, settings, load_model)
    return page


def _explained(action: Callable[..., Any]) -> Callable[..., Any]:
    """Show what is wrong with an input as a message, and leave the page as it is."""

    @wraps(action)
    def explained(*values: Any) -> Any:
        try:
            return action(*values)
        except ValueError as error:
            gr.Warning(one_line(error))
            return gr.skip()

    return explained


def _as_list(problems: Sequence[str]) -> str:
    return "\n".join(f"- ⚠ {problem}" for problem in problems)


def _on(event: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return event(*arguments, api_visibility="private", show_progress="minimal", **options)


def _gallery(label: str, name: str) -> Any:
    look: dict[str, Any] = {"columns": 4, "height": 260, "object_fit": "contain", "buttons": []}
    look["allow_preview"] = False
    # a label that is shown would cover the first photo
    return gr.Gallery(label=label, show_label=False, elem_id=name, interactive=False, **look)


def _picture(title: str, name: str, value: Any = None) -> Any:
    """Show a picture, if there is one, under its title: gradio's label would cover a corner."""
    look: dict[str, Any] = {"show_label": False, "alt_text": title, "buttons": []}
    with gr.Column(elem_classes="pictured"):
        gr.Markdown(title)
        return gr.Image(value, type="pil", interactive=False, elem_id=name, **look)


def _photos_part() -> Any:
    """Photos to locate: uploaded, or taken from orbit."""
    queries = gr.State((), time_to_live=KEPT_SECONDS)
    gr.Markdown("### 1. Photos to locate")
    files = gr.File(label="Photos", file_count="multiple", elem_id="photos", height=150)
    with gr.Row():
        view = gr.Button("Try a view from orbit", size="sm", elem_id="try")
        remove_button = gr.Button("Remove", size="sm", elem_id="remove-photo", min_width=90)
        clear_button = gr.Button("Clear photos", size="sm", elem_id="clear-photos", min_width=90)
    notice = gr.Markdown(elem_id="photos-notice")
    selection = gr.State(None)
    gallery = _gallery("To locate", "queries")
    components = [queries, selection, gallery, notice]

    def show(shots: Any, problems: Sequence[str] = ()) -> list[Any]:
        pictures = [(shot.photo, shot.name) for shot in shots]
        return [shots, None, gr.Gallery(pictures, selected_index=None), _as_list(problems)]

    def choose(event: gr.SelectData) -> int:
        return event.index

    def remove(photos: Any, number: int | None) -> list[Any]:
        number = len(photos) - 1 if number is None else number
        return show((*photos[:number], *photos[number + 1 :]))

    def take(paths: list[str], photos: Any) -> list[Any]:
        shots, problems = session.read_uploads(paths, held=len(photos))
        return [None, *show((*photos, *shots), problems)]

    @_explained
    def look(photos: Any) -> list[Any]:
        number = len(photos) + 1
        session.check_count(number)
        world = [*session.BUILT_IN][(number - 1) % len(session.BUILT_IN)]
        shots = session.built_in_views(world, seed=999 + number, count=1, first=number)
        return show((*photos, *shots))

    _on(files.upload, take, [files, queries], [files, *components])
    _on(view.click, look, queries, components)
    _on(gallery.select, choose, None, selection)
    _on(remove_button.click, remove, [queries, selection], components)
    _on(clear_button.click, lambda: show(()), None, components)
    return queries


def _bank_part() -> Any:
    """Examples: uploaded and placed, listed in a manifest, or views from orbit."""
    bank = gr.State(ExampleList(), time_to_live=KEPT_SECONDS)
    gr.Markdown("### 2. Examples")
    name = gr.Dropdown(session.set_names(), label="A set in the box", elem_id="set")
    with gr.Row():
        add = gr.Button("Add them", size="sm", elem_id="add-set", min_width=90)
        remove_button = gr.Button("Remove", size="sm", elem_id="remove-example", min_width=90)
        clear_button = gr.Button("Clear examples", size="sm", min_width=90)
    label = "Photos, or a table with its photos"
    files = gr.File(label=label, file_count="multiple", elem_id="examples", height=150)
    notice = gr.Markdown(elem_id="bank-notice")
    gallery = _gallery("Examples", "bank")
    gr.Markdown("Where they were taken: click on the map, or type it")
    clicks = (resources.files("icgeo") / "assets" / "clicks.js").read_text(encoding="utf-8")
    with gr.HTML(html_template=_FRAME, js_on_load=clicks) as frame:
        world = gr.Plot(_world(ExampleList()), show_label=False, elem_id="world")
    with gr.Row():
        label = "Latitude, longitude in degrees"
        place = gr.Textbox(label=label, placeholder="48.86, 2.35", scale=2, elem_id="place")
        place_button = gr.Button("Place it there", size="sm", min_width=90, elem_id="put")
    components = [bank, gallery, world, notice]
    _on(files.upload, _take_files, [files, bank], [files, *components])
    _on(add.click, _take_set, [name, bank], components)
    _on(gallery.select, _choose, bank, components)
    _on(
        remove_button.click,
        lambda examples: _show_bank(examples.without_chosen()),
        bank,
        components,
    )
    _on(clear_button.click, lambda: _show_bank(ExampleList()), None, components)
    _on(frame.click, _put_at_click, bank, components)
    for ask in (place_button.click, place.submit):
        _on(ask, _put_as_typed, [place, bank], components)
    return bank


def _world(bank: ExampleList, view: Any = None) -> PlotData:
    return PlotData(type="plotly", plot=outputs.draw_world(bank, view))


def _take_files(paths: list[str], bank: ExampleList) -> list[Any]:
    shots, problems = session.read_uploads(paths, held=len(bank.shots))
    return [None, *_show_bank(bank.adding(shots), problems)]


@_explained
def _take_set(name: str, bank: ExampleList) -> list[Any]:
    shots = session.built_in_set(name, seed=len(bank.shots))
    problems = [_ON_THE_GROUND] if name == session.REAL else []
    return _show_bank(bank.adding(shots), problems)


def _choose(bank: ExampleList, event: gr.SelectData) -> list[Any]:
    return _show_bank(replace(bank, chosen=event.index))


@_explained
def _put_as_typed(text: str, bank: ExampleList) -> list[Any]:
    return _show_bank(bank.placing(*session.read_place(text)))


@_explained
def _put_at_click(bank: ExampleList, event: gr.EventData) -> Any:
    return _show_bank(bank.placing(event.lat, event.lon), view=event.view)


def _show_bank(bank: ExampleList, problems: Sequence[str] = (), *, view: Any = None) -> list[Any]:
    names = [place_name(*one.place) if one.place else f"where? {one.name}" for one in bank.shots]
    pictures = [(shot.photo, name) for shot, name in zip(bank.shots, names, strict=True)]
    lines = [_as_list(problems)]
    if bank.chosen is not None:
        lines.append(
            f"Chosen: `{bank.shots[bank.chosen].name}`, {names[bank.chosen]}. Click on the map or "
            "type a place to move it, or remove it."
        )
    elif bank.waiting:
        count, name = len(bank.waiting), bank.waiting[0].name
        lines.append(
            f"**{count} without a place.** Click on the map where `{name}` was taken, or type "
            "latitude and longitude."
        )
    elif bank.shots:
        lines.append("Click on an example to move or remove it.")
    gallery = gr.Gallery(pictures, selected_index=bank.chosen)
    return [bank, gallery, _world(bank, view), "\n\n".join(lines)]


def _settings_part(names: Sequence[str], default_model: MapModel) -> list[Any]:
    gr.Markdown("### 3. Locate")
    settings, slider = default_model.settings, partial(gr.Slider, step=1, min_width=140)
    options: dict[str, Any] = {"label": "Examples shown", "elem_id": "choice-of-examples"}
    with gr.Row():
        model = gr.Dropdown([*names], value=names[0], label="Model", min_width=140)
        ways = gr.Dropdown([*session.WAYS_TO_CHOOSE], min_width=140, **options)
    with gr.Row():
        counts = [
            slider(0, MAX_SHOTS, value=16, label="Shots", elem_id="shots"),
            slider(1, MAX_STEPS, value=settings.steps, label="Steps", elem_id="steps"),
            slider(1, MAX_SAMPLES, value=settings.samples, label="Samples", elem_id="samples"),
        ]
    with gr.Row():
        names_of_maps, label = [*session.MAPS], "Map on which to find the place"
        map_choice = gr.Dropdown(names_of_maps, value=session.NO_MAP, label=label, elem_id="map")
        label = "Or a picture of a planet, GeoTIFF, PMTiles"
        map_file = gr.File(label=label, elem_id="map-file", height=90)
    with gr.Row():
        label = "Zoom on the map (else its views are examples)"
        zoom = gr.Checkbox(True, label=label, elem_id="zoom", min_width=140)
        north_up = gr.Checkbox(False, label="Photos are north up", elem_id="north", min_width=140)
    return [model, ways, *counts, map_choice, map_file, zoom, north_up]


def _outcome_part() -> dict[str, Any]:
    """All that is shown of an answer, by name; hidden until there is one."""
    parts: dict[str, Any] = {}
    options: dict[str, Any] = {"file_count": "multiple", "interactive": False}
    with gr.Column(visible=False) as parts["outcome"]:
        choice = gr.Dropdown(label="Photo", visible=False, elem_id="choice", filterable=False)
        with gr.Row():
            with gr.Column(min_width=320):
                parts["drawn"] = _picture("Map drawn", "drawn")
            with gr.Column(min_width=320):
                parts["table"] = gr.Markdown(elem_id="summary")
        parts["density"] = gr.Plot(label="Density", elem_id="density")
        parts["chain"] = _picture("Zoom: from the planet to the place", "chain")
        parts["context"] = _picture("Context: what the model was shown", "context")
        label = "GeoJSON, GeoParquet, FITS, PNG"
        parts["files"] = gr.File(label=label, elem_id="files", **options)
    return {"choice": choice, **parts}


def _answer_part(queries: Any, bank: Any, settings: Sequence[Any], load_model: Any) -> None:
    """Start, watch and stop locating."""
    answers = gr.State(None, time_to_live=KEPT_SECONDS, delete_callback=forget)
    ticket = gr.State(None)
    with gr.Row():
        start = gr.Button("Locate", variant="primary", elem_id="locate")
        stop = gr.Button("Cancel", elem_id="cancel")
    status = gr.Markdown(elem_id="status", min_height=32)
    parts = {"answers": answers, "status": status, **_outcome_part()}

    def run(cancel_event: Event, old_visit: Visit | None, *values: Any) -> Iterator[dict[Any, Any]]:
        try:
            for number, update in enumerate(_locate(load_model, Request(*values), cancel_event)):
                if not number:
                    forget(old_visit)  # the request is right, and answers take the place of others
                yield {parts[name]: value for name, value in update.items()}
        except ValueError as error:
            gr.Warning(one_line(error))
            yield {status: ""}

    def show(number: int, visit: Visit) -> list[Any]:
        return [*_shown(visit, number).values()]

    inputs = [ticket, answers, queries, bank, *settings]
    click = _on(start.click, lambda: (Event(), "Waiting …"), None, [ticket, status], queue=False)
    _on(click.then, run, inputs, [*parts.values()], concurrency_limit=1)
    _on(
        stop.click,
        lambda cancel_event: cancel_event and cancel_event.set(),
        ticket,
        None,
        queue=False,
    )
    choice_inputs, components = [parts["choice"], answers], [parts[name] for name in _SHOWN]
    _on(parts["choice"].input, show, choice_inputs, components, trigger_mode="always_last")


def _shown(visit: Visit, number: int) -> dict[str, Any]:
    """What the parts of the page show of one answer."""
    answer = visit.answers[number]
    shot, prediction = answer.shot, answer.prediction
    rows = outputs.summary(prediction, shot.place, is_earth=visit.is_earth)
    header, *body = (f"| {' | '.join(row)} |" for row in rows)
    values = (
        None if prediction.map is None else outputs.picture(prediction.map),
        "\n".join([header, "|---|---|", *body]),
        plot_interactive(prediction, shot.place),
        answer.chain,
        answer.files,
        answer.context,
    )
    return dict(zip(_SHOWN, values, strict=True))


def _told(
    locator: Geolocator, bank: ExampleList, reduced_bank: ExampleList, examples: Sequence[Example]
) -> str:
    """Say how many examples are shown, which are left out, and which the model cannot know."""
    notes = {
        "without a place left out": len(bank.waiting),
        "left out, which show this photo": len(bank.shots) - len(reduced_bank.shots),
        "unlike all that the model was trained on": session.count_unlike(locator, examples),
    }
    remarks = ", ".join(f"{count} {note}" for note, count in notes.items() if count)
    count = f"{len(examples)} example{'' if len(examples) == 1 else 's'}"
    if locator.zooms:
        count = "zoomed on the map" + (f" with {count}" if examples else "")
    return f"{count} ({remarks})" if remarks else count


def _locate(
    load_model: Callable[[str], MapModel], request: Request, cancel_event: Event
) -> Iterator[dict[str, Any]]:
    """Give what changes on the page while photos are located, one after the other."""
    if not request.queries:
        raise ValueError("expected a photo to locate, got none; upload one, or try a view")
    locator = session.build_locator(load_model(request.model), request, cancel_event)
    # what is chosen of a map that is not zoomed on stands among the examples
    drawing_locator = locator if locator.zooms else replace(locator, map=None)
    visit, empty_values = Visit(cancel_event, request.is_earth), dict.fromkeys(_SHOWN)
    hide, show = gr.update(visible=False), gr.update(visible=True)
    yield {"answers": visit, "choice": hide, "outcome": show, **empty_values}
    try:
        for number, shot in enumerate(request.queries):
            query_request = replace(request, bank=request.bank.without_photo(shot.photo))
            examples = session.choose_examples(locator, shot.photo, query_request)
            context = outputs.draw_context(examples, locator.loaded.settings.style)
            description = _told(locator, request.bank, query_request.bank, examples)
            title = f"Photo {number + 1} of {len(request.queries)}, {description}"
            note = _INDEXES if locator.zooms and not number else ""
            yield {**empty_values, "context": context, "status": title + note}
            steps = session.locate_in_steps(
                drawing_locator, shot.photo, examples, cancelled=cancel_event
            )
            for step, result in enumerate(steps, start=1):
                if isinstance(result, Tensor):
                    text = f"{title}: step {step} of {int(request.steps)}"
                    yield {"drawn": outputs.picture(result), "status": text}
                else:
                    answer = outputs.as_answer(result, shot, locator, visit, context)
                    visit = replace(visit, answers=(*visit.answers, answer))
            yield {"answers": visit, "status": f"{title}: done", **_shown(visit, number)}
    except CancelledError:
        values = _shown(visit, len(visit.answers) - 1) if visit.answers else empty_values
        yield {"status": "Cancelled.", **values}
    options = [(f"{i + 1}. {answer.shot.name}", i) for i, answer in enumerate(visit.answers)]
    if len(request.queries) > 1 and options:
        yield {"choice": gr.update(choices=options, value=options[-1][1], visible=True)}
