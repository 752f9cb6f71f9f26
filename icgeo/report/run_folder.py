"""Run folders: their figures and best and worst cases saved, and all of it read for a report.

Conventions: the folder `cases` of a run holds photo, drawn map and density of the queries that went
best and worst, and `cases.json`, which says whose they are: a report is read where no photos are.
"""

import base64
import json
import mimetypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from icgeo import plots
from icgeo.config import UsageError
from icgeo.data.photos import Photo, PhotoError, read_photo
from icgeo.evaluation import Episode, Query, levels_by_world, read_rows, score
from icgeo.evaluation.scores import GUESS_KM, methods
from icgeo.geolocator import Geolocator
from icgeo.maps import MapStyle
from icgeo.plots.theme import TITLE, drawn_image
from icgeo.prediction import Example, Locator, Prediction
from icgeo.selection import Selecting
from icgeo.sphere import Values

EACH = 3
"""Best and worst cases of a world, and rows of the gallery for each run."""
PHOTO_SIDE = 240
KEY = ["locator", "episode", "id", "shots"]
"""Columns that tell rows apart."""

EpisodeRuns = Sequence[tuple[Locator, Episode]]
"""Locators, each with an episode that it was given."""


@dataclass(frozen=True)
class EmbeddedImage:
    """An image file in memory, so that a page needs no other file."""

    data: bytes
    suffix: str

    @classmethod
    def from_image(cls, image: Image.Image, suffix: str = ".png") -> "EmbeddedImage":
        """Encode an image as PNG, or as JPEG if the suffix is `.jpg`."""
        stream = BytesIO()
        image.save(stream, Image.registered_extensions()[suffix], quality=85, optimize=True)
        return cls(stream.getvalue(), suffix)

    @classmethod
    def from_figure(cls, figure: Figure, *, dpi: float | None = None) -> "EmbeddedImage":
        """Render a figure as SVG, which is sharp at any size, or with `dpi` as PNG."""
        stream = BytesIO()
        if dpi is not None:
            figure.savefig(stream, format="png", dpi=dpi)
            return cls.from_image(Image.open(stream).convert("RGB"))
        with mpl.rc_context({"svg.hashsalt": "icgeo"}):  # the same figure, the same bytes
            figure.savefig(stream, format="svg", metadata={"Date": None})
        return cls(stream.getvalue(), ".svg")

    @property
    def uri(self) -> str:
        """The image as an address that holds it."""
        kind = mimetypes.types_map.get(self.suffix, "image/png")
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds."""

    name: str
    rows: pd.DataFrame
    options: Mapping[str, Any]
    versions: Mapping[str, Any]
    cases: pd.DataFrame


def read_run(folder: Path) -> Run:
    """Read a run folder; one without a row yet, or with failures alone, is fine.

    Raises:
        UsageError: no run folder, or files that cannot be read.
    """
    if not any(folder.glob("predictions*.jsonl")):
        raise UsageError(
            f"expected a run folder with predictions.jsonl, found none in {folder}; make one with "
            "scripts/zero_shot.py, or name another"
        )
    try:
        rows = read_rows(folder)
        options, versions = map(_read_values, (folder / "options.yaml", folder / "versions.json"))
        return Run(folder.resolve().name, rows, options, versions, load_cases(folder, rows))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {folder}: {error}; repair or remove the file") from error


def _read_values(path: Path) -> Mapping[str, Any]:
    """Read a file of named values, YAML or JSON, which is YAML too; nothing if there is none."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(values, Mapping):
        raise ValueError(f"expected named values in {path}, got {type(values).__name__}")
    return values


def choose_cases(rows: pd.DataFrame, each: int = EACH) -> pd.DataFrame:
    """Return the best and worst rows of each world and method, with most shots, and their `kind`.

    A query without an answer counts as a guess; where no truth is known the 90 % area decides.
    """
    answers = methods(rows[rows.error.isna()])
    cases = [answers[:0].assign(kind="")]
    for _, group in answers.groupby(["world", "locator"], sort=False):
        final_rows = group[group.shots == group.shots.max()]
        scored_rows = final_rows[final_rows.nll.notna()]
        if scored_rows.empty:
            low, high, values = "surest", "least sure", final_rows.area_90_km2.fillna(0)
        else:
            low, high, values = "best", "worst", scored_rows.distance_km.fillna(GUESS_KM)
        ranking = final_rows.loc[values.sort_values(kind="stable").index]
        tail = ranking[each:][-each:][::-1]
        cases += [ranking[:each].assign(kind=low), tail.assign(kind=high)]
    return pd.concat(cases)


def save_figures(
    folder: Path, rows: pd.DataFrame, runs: EpisodeRuns, style: MapStyle, *, each: int = EACH
) -> None:
    """Write the figures of a run, and the folder `cases` that `write_report` reads.

    They are `context.png`, `gallery.png`, and where the truth is known `shots` and `calibration`;
    `WORLD-best.png` and `WORLD-worst.png` show how two queries of each world were located. `rows`
    are what `evaluate` returned of the `runs`, of which some queries are located again, the `each`
    best and worst; in `style` the model is shown its examples.
    """
    figures: dict[str, Figure] = {}
    locator, episode = runs[0]
    with suppress(PhotoError):
        if examples := _shown(locator, episode.queries[0].photo, episode.examples):
            figures["context"] = plots.plot_context(examples, style=style)
            figures["context"].suptitle(_told(locator, examples), fontsize=TITLE)
    if gallery := _draw_gallery(rows, runs):
        figures["gallery"] = gallery
    if len(scores := score(rows)):
        figures["shots"] = plots.plot_shots(scores)
        figures["calibration"] = plots.plot_calibration(levels_by_world(rows))
    cases = {case.key: case for case in _locate_cases(rows, runs, each)}
    for *key, world, kind in choose_cases(rows, each=1)[[*KEY, "world", "kind"]].to_numpy():
        if case := cases.get(tuple(key)):
            figures[f"{world}-{kind.replace(' ', '-')}"] = _draw_case(case, kind)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    _save_cases(folder, cases.values())


def _draw_gallery(rows: pd.DataFrame, runs: EpisodeRuns) -> Figure | None:
    """Show the first queries of each run that can be read, if any."""
    failures = set(rows[rows.error.notna()].set_index(["episode", "id"]).index)
    gallery: list[tuple[Any, ...]] = []
    for locator, episode in runs:
        queries = [one for one in episode.queries if (episode.id, one.id) not in failures][:EACH]
        answers = locator.locate([one.photo for one in queries], episode.examples)
        for query, answer in zip(queries, answers, strict=True):
            row = (answer, query.photo, query.lat_lon, query.id, episode.is_earth)
            gallery.append((*row, _base(episode)))
    if not gallery:
        return None
    *columns, titles, on_earth, bases = zip(*gallery, strict=True)
    marks: dict[str, Any] = {"titles": titles, "on_earth": on_earth, "bases": bases}
    figure = plots.plot_gallery(*columns, **marks)
    notes = dict.fromkeys(_told(locator, episode.examples) for locator, episode in runs)
    figure.suptitle("; ".join(notes), fontsize=TITLE)
    return figure


@dataclass(frozen=True, eq=False)
class Case:
    """One of the queries that went best or worst, located again."""

    locator: Locator
    episode: Episode
    query: Query
    shots: int
    prediction: Prediction

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Values of the columns `KEY` of its row."""
        return self.locator.name, self.episode.id, self.query.id, self.shots


def _locate_cases(rows: pd.DataFrame, runs: EpisodeRuns, each: int) -> Iterator[Case]:
    """Locate the best and worst queries of each world again, those of a run at once."""
    keys = choose_cases(rows, each)[KEY].itertuples(index=False, name=None)
    shots_of = {(*key, query): shots for *key, query, shots in keys}
    for locator, episode in runs:
        cases = [
            (query, shots)
            for query in episode.queries
            if (shots := shots_of.get((locator.name, episode.id, query.id))) is not None
        ]
        for shots in {shots for _, shots in cases}:
            queries = [query for query, count in cases if count == shots]
            photos = [query.photo for query in queries]
            predictions = locator.locate(photos, episode.examples[:shots])
            for query, prediction in zip(queries, predictions, strict=True):
                yield Case(locator, episode, query, shots, prediction)


def _draw_case(case: Case, kind: str) -> Figure:
    """Show how a query was located, by its parts where the locator compares them."""
    episode, photo, truth = case.episode, case.query.photo, case.query.lat_lon
    head = f"{episode.world}: {kind} of {len(episode.queries)} photos"
    if (figure := _draw_chain(case)) is None:
        examples = _shown(case.locator, photo, episode.examples[: case.shots])
        head += f", {_told(case.locator, examples)}"
        locator = case.locator.locator if isinstance(case.locator, Selecting) else case.locator
        evidence = locator.explain(photo, examples) if isinstance(locator, Geolocator) else None
        marks: dict[str, Any] = {"on_earth": episode.is_earth, "base": _base(episode)}
        if evidence is None:
            marks["title"] = case.query.id
            figure = plots.plot_prediction(case.prediction, photo, truth, **marks)
        else:
            figure = plots.plot_evidence(case.prediction, photo, examples, evidence, truth, **marks)
    figure.suptitle(head, fontsize=TITLE)
    return figure


def _draw_chain(case: Case) -> Figure | None:
    """Show the levels of a zoom on a map, if there are some."""
    if not (case.prediction.levels and isinstance(case.locator, Geolocator)):
        return None
    base_map = case.locator.map_zoom.base_map if case.locator.zooms else None
    return plots.plot_zoom(case.prediction, case.query.photo, base_map, case.query.lat_lon)


def _base(episode: Episode) -> Tensor | None:
    return None if episode.picture is None else episode.picture / 255


def _shown(locator: Locator, photo: Photo, examples: Sequence[Example]) -> Sequence[Example]:
    """Return the examples that a locator chooses for a photo, as many as these, or these."""
    if not (isinstance(locator, Selecting) and examples):
        return examples
    (numbers,) = locator.choose([photo], len(examples)).tolist()
    return [locator.bank.examples[number] for number in numbers]


def _told(locator: Locator, examples: Sequence[Example]) -> str:
    """Say how many examples a figure's photos were shown, and how these were chosen."""
    if isinstance(locator, Selecting) and examples:
        choice = type(locator.strategy).__name__.lower()
        return f"{len(examples)} of {len(locator.bank)} examples shown, choice: {choice}"
    return f"{len(examples) or 'no'} examples shown, the same to each photo"


def _save_cases(folder: Path, cases: Iterable[Case]) -> None:
    """Keep photo, map and density of the best and worst queries."""
    target = folder / "cases"
    target.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    for case in cases:
        prediction, query, episode = case.prediction, case.query, case.episode
        marks: dict[str, Any] = {"on_earth": episode.is_earth, "base": _base(episode)}
        images = {
            "photo": shrink_photo(query.photo),
            "density": draw_density(prediction, query.lat_lon, **marks),
        }
        if prediction.map is not None:
            pixels = (255 * drawn_image(prediction.map)).round().astype(np.uint8)
            images["map"] = EmbeddedImage.from_image(Image.fromarray(pixels))
        if (chain := _draw_chain(case)) is not None:
            images["chain"] = EmbeddedImage.from_figure(chain, dpi=75)
        entry: dict[str, Any] = {"key": case.key}
        for part, image in images.items():
            entry[part] = f"{len(index):03}-{part}{image.suffix}"
            (target / entry[part]).write_bytes(image.data)
        index.append(entry)
    (target / "cases.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def shrink_photo(photo: Photo) -> EmbeddedImage:
    """Make a small copy of a photo, without its tags: a report tells no more than it shows."""
    image = read_photo(photo, size_hint=PHOTO_SIDE)
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return EmbeddedImage.from_image(image, ".jpg")


def draw_density(
    prediction: Prediction, truth: Values | None, *, on_earth: bool, base: Tensor | None = None
) -> EmbeddedImage:
    """Draw a density as `icgeo.plots.plot_density` does, small and with large marks."""
    ax = Figure(figsize=(2.6, 1.35), layout="constrained").subplots()
    figure = plots.plot_density(prediction, truth, on_earth=on_earth, base=base, ax=ax)
    return EmbeddedImage.from_figure(figure, dpi=160)


def load_cases(folder: Path, rows: pd.DataFrame, *, each: int = EACH) -> pd.DataFrame:
    """Choose the cases of a run folder, with columns of the images that `save_cases` kept, or None.

    Of a case that was not kept there is the photo alone, if its file can still be read.
    """
    target = folder / "cases"
    try:
        index = json.loads((target / "cases.json").read_text(encoding="utf-8"))
        entries = {tuple(entry["key"]): entry for entry in index}
    except (OSError, ValueError, TypeError, KeyError):
        entries = {}
    cases = choose_cases(rows, each)
    keys = cases[KEY].itertuples(index=False, name=None)
    case_entries = [entries.get(key, {}) for key in keys]
    for part in ("photo", "map", "density", "chain"):
        # the last part of a name only: the index is data, and leads nowhere else
        paths = [target / Path(str(entry.get(part))).name for entry in case_entries]
        images: Any = [
            EmbeddedImage(one.read_bytes(), one.suffix) if one.is_file() else None for one in paths
        ]
        cases[part] = images
    photos = []
    for photo, source in zip(cases.photo, cases.source, strict=True):
        photos.append(photo)
        if photo is None and pd.notna(source):
            with suppress(PhotoError):
                photos[-1] = shrink_photo(source)
    return cases.assign(photo=photos)
