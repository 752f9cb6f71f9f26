"""Cases: the queries that went best and worst, kept with photo, drawn map and density.

Conventions: the folder `cases` of a run holds the images and `cases.json`, which says whose they
are. They are some hundred kB: rows hold no photo, and a report is read where the photos are not.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from icgeo import plots
from icgeo.data.photos import Photo, PhotoError, read_photo
from icgeo.evaluation import Episode, Query
from icgeo.evaluation.scores import GUESS_KM, methods
from icgeo.plots.theme import drawn_image
from icgeo.prediction import Locator, Prediction
from icgeo.report.charts import EmbeddedImage
from icgeo.sphere import Values

EACH = 3
PHOTO_SIDE = 240
_FOLDER, _INDEX = "cases", "cases.json"
_PARTS = ("photo", "map", "density")


def choose_cases(rows: pd.DataFrame, each: int = EACH) -> pd.DataFrame:
    """Return the best and the worst rows of each world and method, with its most shots.

    The column `kind` says best or worst by error, where a query without an answer counts as a
    guess. Where no truth is known it says surest or least sure, by the 90 % area.
    """
    answers = methods(rows[rows.error.isna()])
    groups = answers.groupby(["world", "locator"], sort=False)
    cases = [_extremes(group, each) for _, group in groups]
    return pd.concat(cases) if cases else answers.assign(kind="")


def _extremes(group: pd.DataFrame, each: int) -> pd.DataFrame:
    group = group[group.shots == group.shots.max()]
    known = group[group.nll.notna()]
    if known.empty:
        low, high, values = "surest", "least sure", group.area_90_km2.fillna(0)
    else:
        low, high, values = "best", "worst", known.distance_km.fillna(GUESS_KM)
    ordered = group.loc[values.sort_values(kind="stable").index]
    first, last = ordered[:each], ordered[each:][-each:][::-1]
    return pd.concat([first.assign(kind=low), last.assign(kind=high)])


def save_cases(
    folder: Path, rows: pd.DataFrame, runs: Iterable[tuple[Locator, Episode]], *, each: int = EACH
) -> None:
    """Locate the best and worst queries of a run again, and keep their images for `write_report`.

    `rows` are what `evaluate` returned of the `runs`, locators and their episodes; `each` is how
    many of the best and of the worst are kept of each world.
    """
    target = folder / _FOLDER
    target.mkdir(parents=True, exist_ok=True)
    cases = choose_cases(rows, each).set_index(["locator", "episode", "id"])["shots"].to_dict()
    index: list[dict[str, Any]] = []
    for locator, episode in runs:
        for query in episode.queries:
            key = (locator.name, episode.id, query.id)
            if key not in cases:
                continue
            entry: dict[str, Any] = {"key": [*key, cases[key]]}
            for part, image in _draw(locator, episode, query, cases[key]).items():
                entry[part] = f"{len(index):03}-{part}{image.suffix}"
                (target / entry[part]).write_bytes(image.data)
            index.append(entry)
    (target / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _draw(locator: Locator, episode: Episode, query: Query, shots: int) -> dict[str, EmbeddedImage]:
    prediction = locator.locate([query.photo], episode.examples[:shots])[0]
    images = {
        "photo": shrink_photo(query.photo),
        "density": draw_density(prediction, query.lat_lon, on_earth=episode.is_earth),
    }
    if prediction.map is not None:
        pixels = (255 * drawn_image(prediction.map)).round().astype(np.uint8)
        images["map"] = EmbeddedImage.from_image(Image.fromarray(pixels))
    return images


def shrink_photo(photo: Photo) -> EmbeddedImage:
    """Make a small copy of a photo, without its tags: a report tells no more than it shows.

    Raises:
        PhotoError: it cannot be read.
    """
    image = read_photo(photo, size_hint=PHOTO_SIDE)
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return EmbeddedImage.from_image(image, ".jpg")


def draw_density(
    prediction: Prediction, truth: Values | None = None, *, on_earth: bool
) -> EmbeddedImage:
    """Draw a density as `icgeo.plots.plot_density` does, small and with large marks."""
    figure = Figure(figsize=(2.6, 1.35), layout="constrained")
    plots.plot_density(prediction, truth, on_earth=on_earth, ax=figure.subplots())
    return EmbeddedImage.from_figure(figure, dpi=160)


def load_cases(folder: Path, rows: pd.DataFrame, *, each: int = EACH) -> pd.DataFrame:
    """Choose the cases of a run folder, with the images that `save_cases` kept.

    The columns `photo`, `map` and `density` hold images, or None. Of a case that was not kept there
    is the photo alone, if its file can still be read.
    """
    try:
        index = json.loads((folder / _FOLDER / _INDEX).read_text(encoding="utf-8"))
        entries = {tuple(entry["key"]): entry for entry in index}
    except (OSError, ValueError, TypeError, KeyError):
        entries = {}
    cases = choose_cases(rows, each)
    keys = cases[["locator", "episode", "id", "shots"]].itertuples(index=False, name=None)
    images: list[dict[str, Any]] = [
        _read_images(entries.get(key, {}), folder / _FOLDER, source)
        for key, source in zip(keys, cases.source, strict=True)
    ]
    for part in _PARTS:
        cases[part] = [one.get(part) for one in images]
    return cases


def _read_images(entry: dict[str, Any], folder: Path, source: Any) -> dict[str, EmbeddedImage]:
    # the last part of a name only: the index is data, and leads nowhere else
    paths = {part: folder / Path(str(entry[part])).name for part in _PARTS if part in entry}
    images = {part: EmbeddedImage.read(path) for part, path in paths.items() if path.is_file()}
    if "photo" not in images and pd.notna(source):
        with suppress(PhotoError):
            images["photo"] = shrink_photo(source)
    return images
