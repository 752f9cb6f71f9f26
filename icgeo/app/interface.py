"""The page: its parts, what each does, and the server.

Conventions: what a visitor gives or gets lives in the `gr.State` of the session; all visitors share
the models and nothing else. Nothing is fetched from the network, and temporary files are removed
an hour after they were made, and when the server stops.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial, wraps
from pathlib import Path
from threading import Event
from typing import Any

from torch import Tensor

from icgeo.app import outputs, session
from icgeo.app.answers import (
    WAYS_TO_CHOOSE,
    Answer,
    CancelledError,
    Request,
    Visit,
    build_locator,
    choose_examples,
    forget,
    locate_in_steps,
)
from icgeo.models import LoadError, MapModel, load
from icgeo.plots import plot_interactive
from icgeo.plots.theme import place_name

KEPT_SECONDS = 3600
MAX_SHOTS, MAX_STEPS, MAX_SAMPLES = 32, 50, 16
_INTRO = """# icgeo
Give photos to locate, and examples: photos whose places are known. The model draws a map for each.
The model in the box knows **views from orbit**, not street photos. Do not locate people's photos
without their consent. Nothing leaves this server, which forgets all of it within the hour."""


_Update = dict[str, Any]
"""New values of parts of the page, by name."""


def import_gradio() -> Any:
    """Import gradio, which is an extra.

    Raises:
        LoadError: it, or plotly, is not installed.
    """
    try:
        import gradio
        import plotly  # noqa: F401
    except ImportError as error:
        raise LoadError("the page needs gradio and plotly: pip install 'icgeo[demo]'") from error
    return gradio


def build(model: str | Path | Sequence[str] = "tiny", *, device: str = "cpu") -> Any:
    """Make the page, a `gradio.Blocks`; the first model is loaded at once.

    Raises:
        LoadError: no such model, or gradio is not installed.
    """
    gradio = import_gradio()
    names = [str(model)] if isinstance(model, str | Path) else list(model)
    opened = lru_cache(maxsize=None)(lambda name: load(name, device=device))
    with gradio.Blocks(
        title="icgeo", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)
    ) as page:
        gradio.Markdown(_INTRO)
        with gradio.Row(equal_height=False):
            with gradio.Column(min_width=320):
                queries = _photos_part(gradio)
                bank = _bank_part(gradio)
            with gradio.Column(min_width=320, scale=2):
                settings = _settings_part(gradio, names, opened(names[0]))
                _answer_part(gradio, queries, bank, settings, opened)
    return page


def _explained(gradio: Any, action: Callable[..., Any]) -> Callable[..., Any]:
    """Show what is wrong with an input as a message, and leave the page as it is."""

    @wraps(action)
    def explained(*given: Any) -> Any:
        try:
            return action(*given)
        except ValueError as error:
            _warn(gradio, error)
            return gradio.skip()

    return explained


def _warn(gradio: Any, error: ValueError) -> None:
    gradio.Warning(" ".join(str(error).split()))


def _as_list(problems: Sequence[str]) -> str:
    return "\n".join(f"- ⚠ {problem}" for problem in problems)


def _on(event: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return event(*arguments, api_visibility="private", show_progress="minimal", **options)


def _gallery(gradio: Any, label: str, name: str) -> Any:
    return gradio.Gallery(
        label=label,
        show_label=False,  # it would cover the first photo
        columns=3,
        height=260,
        object_fit="contain",
        elem_id=name,
        interactive=False,
        buttons=[],
    )


def _picture(gradio: Any, title: str, name: str, value: Any = None) -> Any:
    """Show a picture under its title: gradio's own label would cover a corner of it."""
    gradio.Markdown(title)
    return gradio.Image(
        value,
        show_label=False,
        alt_text=title,
        type="pil",
        interactive=False,
        elem_id=name,
        buttons=[],
    )


def _captioned(shots: Sequence[session.Shot]) -> list[tuple[Any, str]]:
    return [(shot.photo, shot.name) for shot in shots]


def _photos_part(gradio: Any) -> Any:
    """Photos to locate: uploaded, or taken from orbit."""
    queries = gradio.State((), time_to_live=KEPT_SECONDS)
    gradio.Markdown("### 1. Photos to locate")
    files = gradio.File(label="Photos", file_count="multiple", elem_id="photos", height=150)
    with gradio.Row():
        view = gradio.Button("Try a view from orbit", size="sm", elem_id="try")
        back = gradio.Button("Remove last", size="sm", elem_id="remove-photo", min_width=90)
        clear = gradio.Button("Clear photos", size="sm", elem_id="clear-photos", min_width=90)
    notice = gradio.Markdown(elem_id="photos-notice")
    gallery = _gallery(gradio, "To locate", "queries")
    shown = [queries, gallery, notice]

    def show(shots: Any, problems: Sequence[str] = ()) -> list[Any]:
        return [shots, _captioned(shots), _as_list(problems)]

    def take(paths: list[str], known: Any) -> list[Any]:
        shots, problems = session.read_uploads(paths)
        try:
            session.check_count(len(known) + len(shots))
        except ValueError as error:  # or what was uploaded would be sent again with the next
            shots, problems = [], [str(error)]
        return [None, *show((*known, *shots), problems)]

    def look(known: Any) -> list[Any]:
        number = len(known) + 1
        session.check_count(number)
        world = [*session.BUILT_IN][(number - 1) % len(session.BUILT_IN)]
        shots = session.built_in_views(world, seed=999 + number, count=1, first=number)
        return show((*known, *shots))

    _on(files.upload, _explained(gradio, take), [files, queries], [files, *shown])
    _on(view.click, _explained(gradio, look), queries, shown)
    _on(back.click, lambda known: show(known[:-1]), queries, shown)
    _on(clear.click, lambda: show(()), None, shown)
    return queries


def _bank_part(gradio: Any) -> Any:
    """Examples: uploaded and placed, listed in a manifest, or views from orbit."""
    bank = gradio.State(session.ExampleList(), time_to_live=KEPT_SECONDS)
    gradio.Markdown("### 2. Examples")
    name, add, back, clear = _set_row(gradio)
    files = gradio.File(
        label="Photos, or a manifest (CSV, Parquet) with its photos",
        file_count="multiple",
        elem_id="examples",
        height=170,
    )
    notice = gradio.Markdown(elem_id="bank-notice")
    world = _picture(gradio, "Where they were taken", "world", outputs.draw_click_map(()))
    *place, put_there = _place_row(gradio)
    shown = [bank, _gallery(gradio, "Examples", "bank"), world, notice]
    take, take_set, put = _bank_actions(gradio)

    def click(known: session.ExampleList, event: gradio.SelectData) -> Any:
        return put(*outputs.place_of_pixel(*event.index), known)

    _on(files.upload, take, [files, bank], [files, *shown])
    _on(add.click, take_set, [name, bank], shown)
    _on(back.click, lambda known: _show_bank(known.without_last()), bank, shown)
    _on(clear.click, lambda: _show_bank(session.ExampleList()), None, shown)
    _on(world.select, click, bank, shown)
    for ask in (put_there.click, *(box.submit for box in place)):
        _on(ask, put, [*place, bank], shown)
    return bank


def _bank_actions(gradio: Any) -> tuple[Callable[..., Any], ...]:
    """What uploading, adding a set and placing do to a bank."""

    def take(paths: list[str], known: session.ExampleList) -> list[Any]:
        shots, problems = session.read_uploads(paths)
        try:
            known = known.adding(shots)
        except ValueError as error:  # or what was uploaded would be sent again with the next
            problems = [str(error)]
        return [None, *_show_bank(known, problems)]

    def take_set(chosen: str, known: session.ExampleList) -> list[Any]:
        shots = session.built_in_set(chosen, seed=len(known.examples))
        return _show_bank(known.adding(shots))

    def put(lat: float | None, lon: float | None, known: session.ExampleList) -> list[Any]:
        return _show_bank(known.placing(lat, lon))

    return tuple(_explained(gradio, action) for action in (take, take_set, put))


def _set_row(gradio: Any) -> tuple[Any, ...]:
    with gradio.Row():
        name = gradio.Dropdown(session.set_names(), label="A set in the box", min_width=140)
        with gradio.Column(min_width=100):
            add = gradio.Button("Add them", size="sm", elem_id="add-set")
            back = gradio.Button("Remove last", size="sm", elem_id="remove-example")
            clear = gradio.Button("Clear examples", size="sm")
    return name, add, back, clear


def _place_row(gradio: Any) -> tuple[Any, Any, Any]:
    with gradio.Row():
        lat = gradio.Number(label="Latitude", value=None, min_width=90, elem_id="lat")
        lon = gradio.Number(label="Longitude", value=None, min_width=90, elem_id="lon")
        button = gradio.Button("Place it there", size="sm", min_width=90, elem_id="place")
    return lat, lon, button


def _show_bank(bank: session.ExampleList, problems: Sequence[str] = ()) -> list[Any]:
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


def _settings_part(gradio: Any, names: Sequence[str], first: MapModel) -> list[Any]:
    gradio.Markdown("### 3. Locate")
    own, slider = first.settings, partial(gradio.Slider, step=1, min_width=140)
    with gradio.Row():
        which = [
            gradio.Dropdown([*names], value=names[0], label="Model", min_width=140),
            gradio.Dropdown(
                [*WAYS_TO_CHOOSE],
                label="Examples shown",
                min_width=140,
                elem_id="choice-of-examples",
            ),
        ]
    with gradio.Row():
        return [
            *which,
            slider(0, MAX_SHOTS, value=16, label="Shots", elem_id="shots"),
            slider(1, MAX_STEPS, value=own.steps, label="Steps", elem_id="steps"),
            slider(1, MAX_SAMPLES, value=own.samples, label="Samples", elem_id="samples"),
        ]


def _outcome_part(gradio: Any) -> dict[str, Any]:
    """All that is shown of an answer, by name; hidden until there is one."""
    with gradio.Column(visible=False) as outcome:
        choice = gradio.Dropdown(label="Photo", visible=False, elem_id="choice", filterable=False)
        with gradio.Row():
            with gradio.Column(min_width=320):
                drawn = _picture(gradio, "Map drawn", "drawn")
            with gradio.Column(min_width=320):
                table = gradio.Markdown(elem_id="summary")
        density = gradio.Plot(label="Density", elem_id="density")
        context = _picture(gradio, "Context: what the model was shown", "context")
        files = gradio.File(
            label="GeoJSON, GeoParquet, FITS, PNG",
            elem_id="files",
            file_count="multiple",
            interactive=False,
        )
    return {
        "choice": choice, "drawn": drawn, "context": context, "table": table, "density": density,
        "files": files, "outcome": outcome,
    }  # fmt: skip


def _answer_part(
    gradio: Any, queries: Any, bank: Any, settings: Sequence[Any], opened: Any
) -> None:
    """Locate, callback_on_step_end, stop."""
    answers = gradio.State(None, time_to_live=KEPT_SECONDS, delete_callback=forget)
    ticket = gradio.State(None)
    with gradio.Row():
        start = gradio.Button("Locate", variant="primary", elem_id="locate")
        stop = gradio.Button("Cancel", elem_id="cancel")
    status = gradio.Markdown(elem_id="status", min_height=32)
    parts = {"answers": answers, "status": status, **_outcome_part(gradio)}

    def run(asking: Event, before: Visit | None, *given: Any) -> Iterator[dict[Any, Any]]:
        try:
            for number, update in enumerate(_locate(gradio, opened, Request(*given), asking)):
                if not number:
                    forget(before)  # the request is right, and answers take the place of others
                yield {parts[name]: value for name, value in update.items()}
        except ValueError as error:
            _warn(gradio, error)
            yield {status: ""}

    def show(number: int, visit: Visit) -> list[Any]:
        return [*_shown(visit, number).values()]

    def cancel(asking: Event | None) -> None:
        if asking is not None:
            asking.set()

    inputs = [ticket, answers, queries, bank, *settings]
    waiting = _on(start.click, lambda: (Event(), "Waiting …"), None, [ticket, status], queue=False)
    _on(waiting.then, run, inputs, [*parts.values()], concurrency_limit=1)
    _on(stop.click, cancel, ticket, None, queue=False)
    changed = [parts[name] for name in _SHOWN]
    choice = parts["choice"]
    _on(choice.input, show, [choice, answers], changed, trigger_mode="always_last")


_SHOWN = ("drawn", "table", "density", "files", "context")


def _shown(visit: Visit, number: int) -> dict[str, Any]:
    """What the parts of the page show of one answer."""
    answer = visit.answers[number]
    shot, prediction = answer.shot, answer.prediction
    values = (
        None if prediction.map is None else outputs.picture(prediction.map),
        _table(outputs.summary(prediction, shot.place)),
        plot_interactive(prediction, shot.place),
        answer.files,
        answer.context,
    )
    return dict(zip(_SHOWN, values, strict=True))


def _table(rows: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {name} | {value} |" for name, value in rows)
    return "\n".join([first, "|---|---|", *others])


def _locate(
    gradio: Any, opened: Callable[[str], MapModel], request: Request, asking: Event
) -> Iterator[_Update]:
    """Give what changes on the page while photos are located, one after the other."""
    if not request.queries:
        raise ValueError("expected a photo to locate, got none; upload one, or try a view")
    visit, locator = Visit(asking), build_locator(opened(request.model), request)
    hidden, visible = gradio.update(visible=False), gradio.update(visible=True)
    blank = dict.fromkeys(_SHOWN)
    yield {"answers": visit, "choice": hidden, "outcome": visible, **blank}
    try:
        for number, shot in enumerate(request.queries):
            examples = choose_examples(locator, shot.photo, request)
            context = outputs.draw_context(examples, locator.loaded.settings.style)
            title = _title(request, number, len(examples))
            yield {**blank, "context": context, "status": title}
            found = locate_in_steps(locator, shot.photo, examples, cancelled=asking)
            for step, seen in enumerate(found, start=1):
                if isinstance(seen, Tensor):
                    text = f"{title}: step {step} of {int(request.steps)}"
                    yield {"drawn": outputs.picture(seen), "status": text}
                else:
                    folder = Path(visit.folder.name) / str(number)
                    folder.mkdir()
                    files = outputs.save_files(seen, shot, folder)
                    visit = visit.adding(Answer(shot, seen, context, files))
            yield {"answers": visit, "status": f"{title}: done", **_shown(visit, number)}
    except CancelledError:
        last = _shown(visit, len(visit.answers) - 1) if visit.answers else blank
        yield {"status": "Cancelled.", **last}
    options = [(f"{i + 1}. {answer.shot.name}", i) for i, answer in enumerate(visit.answers)]
    if len(request.queries) > 1 and options:
        yield {"choice": gradio.update(choices=options, value=options[-1][1], visible=True)}


def _title(request: Request, number: int, shown: int) -> str:
    """Say which photo it is, and how many examples it is shown."""
    waiting = len(request.bank.waiting)
    left_out = f" ({waiting} without a place left out)" if waiting else ""
    examples = f"{shown} example{'' if shown == 1 else 's'}"
    return f"Photo {number + 1} of {len(request.queries)}, {examples}{left_out}"
