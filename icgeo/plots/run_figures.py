"""The figures of a run of an evaluation, written to its folder."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from pandas import DataFrame

from icgeo.data.photos import PhotoError
from icgeo.evaluation import Episode, Query, levels_by_world, score
from icgeo.maps import MapStyle
from icgeo.plots.context import plot_context
from icgeo.plots.curves import plot_calibration, plot_shots
from icgeo.plots.predictions import plot_gallery
from icgeo.prediction import Example, Locator, Prediction
from icgeo.selection import Selecting


def save_figures(
    folder: Path,
    rows: DataFrame,
    runs: Sequence[tuple[Locator, Episode]],
    style: MapStyle,
    *,
    shown: int = 3,
) -> None:
    """Write `context.png`, `gallery.png`, and where the truth is known `shots` and `calibration`.

    Args:
        folder: where to.
        rows: what `evaluate` gave.
        runs: locators and their episodes, whose first `shown` queries are located again.
        style: in which the model is shown its examples.
        shown: rows of the gallery for each run.
    """
    figures: dict[str, Figure] = {}
    if examples := _shown(*runs[0]):
        figures["context"] = plot_context(examples, style=style)
    if gallery := _gallery(rows, runs, shown):
        figures["gallery"] = gallery
    if len(scores := score(rows)):
        figures["shots"] = plot_shots(scores)
        figures["calibration"] = plot_calibration(levels_by_world(rows))
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)


def _shown(locator: Locator, episode: Episode) -> Sequence[Example]:
    """Give the examples of the first query."""
    if not (isinstance(locator, Selecting) and episode.examples):
        return episode.examples
    try:
        chosen = locator.choose([episode.queries[0].photo], len(episode.examples))
    except PhotoError:
        return ()
    return [locator.bank.examples[number] for number in chosen[0].tolist()]


def _gallery(rows: DataFrame, runs: Sequence[tuple[Locator, Episode]], shown: int) -> Figure | None:
    """Show the first queries of each run that can be read, with all examples."""
    failed = set(rows[rows.error.notna()].set_index(["episode", "id"]).index)
    predictions: list[Prediction] = []
    queries: list[Query] = []
    on_earth: list[bool] = []
    for locator, episode in runs:
        good = [query for query in episode.queries if (episode.id, query.id) not in failed][:shown]
        predictions += locator.locate([query.photo for query in good], episode.examples)
        queries += good
        on_earth += [episode.is_earth] * len(good)
    if not queries:
        return None
    return plot_gallery(
        predictions,
        [query.photo for query in queries],
        [query.lat_lon for query in queries],
        titles=[query.id for query in queries],
        on_earth=on_earth,
    )
