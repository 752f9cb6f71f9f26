"""The figures of a run of an evaluation, written to its folder."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from icgeo.data.photos import PhotoError
from icgeo.evaluation import Episode, Query, levels_by_world, score
from icgeo.maps import MapStyle
from icgeo.plots.curves import plot_calibration, plot_shots
from icgeo.plots.maps import plot_context
from icgeo.plots.predictions import plot_gallery
from icgeo.prediction import Example, Locator, Prediction
from icgeo.selection import Selecting

_GALLERY_ROWS = 3
"""For each run."""


def save_figures(
    folder: Path, rows: DataFrame, runs: Sequence[tuple[Locator, Episode]], style: MapStyle
) -> None:
    """Write `context.png`, `gallery.png`, and where the truth is known `shots` and `calibration`.

    Args:
        folder: where to.
        rows: what `evaluate` returned.
        runs: locators and their episodes, whose first queries are located again.
        style: in which the model is shown its examples.
    """
    figures: dict[str, Figure] = {}
    if examples := _first_examples(*runs[0]):
        figures["context"] = plot_context(examples, style=style)
    if gallery := _draw_gallery(rows, runs):
        figures["gallery"] = gallery
    if len(scores := score(rows)):
        figures["shots"] = plot_shots(scores)
        figures["calibration"] = plot_calibration(levels_by_world(rows))
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)


def _first_examples(locator: Locator, episode: Episode) -> Sequence[Example]:
    """Return the examples that are chosen for the first query, or those of the episode."""
    if not (isinstance(locator, Selecting) and episode.examples):
        return episode.examples
    try:
        (numbers,) = locator.choose([episode.queries[0].photo], len(episode.examples)).tolist()
    except PhotoError:
        return ()
    return [locator.bank.examples[number] for number in numbers]


def _draw_gallery(rows: DataFrame, runs: Sequence[tuple[Locator, Episode]]) -> Figure | None:
    """Draw the first queries of each run that could be read, with all examples."""
    failed = set(rows[rows.error.notna()].set_index(["episode", "id"]).index)
    predictions: list[Prediction] = []
    queries: list[Query] = []
    on_earth: list[bool] = []
    for locator, episode in runs:
        first = [query for query in episode.queries if (episode.id, query.id) not in failed]
        first = first[:_GALLERY_ROWS]
        predictions += locator.locate([query.photo for query in first], episode.examples)
        queries += first
        on_earth += [episode.is_earth] * len(first)
    if not queries:
        return None
    photos, truths, titles = zip(*((q.photo, q.lat_lon, q.id) for q in queries), strict=True)
    return plot_gallery(predictions, photos, truths, titles=titles, on_earth=on_earth)
