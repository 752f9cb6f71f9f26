"""Draw assets/overview.png: how it works in one figure, by what the model in the box does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icgeo import config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from icgeo.data.photos import Photo
    from icgeo.maps import MapStyle
    from icgeo.prediction import Example, Prediction

SHOTS = 3
TITLES = (
    (0.12, "Examples", "photo and map: a place is drawn as a heatmap"),
    (0.37, "Diffusion transformer", "FLUX.2, Kontext, Wan, tiny"),
    (0.585, "Map drawn", "one step: the posterior mean"),
    (0.85, "Density", "the map, read back on the sphere"),
)
"""Middle of each column as a share of the width, its title, and a line that explains it."""
ARROWS = (
    ((0.245, 0.57), (0.29, 0.57)),
    ((0.245, 0.12), (0.29, 0.36)),
    ((0.45, 0.5), (0.485, 0.5)),
    ((0.685, 0.5), (0.72, 0.5)),
)
"""From where to where, as shares: examples and photo to the model, to the map, to the density."""


@dataclass(frozen=True)
class Options:
    """Locate a view from orbit, and draw how that works."""

    world: str = "blue-marble"
    """World whose views are located; the model's prompt says that it is unknown."""
    bank: int = 256
    """Examples to choose from."""
    seed: int = 3
    """Seed of the views."""
    save: Path = Path("assets/overview.png")
    """The picture to write."""


def draw_overview(
    photo: "Photo", examples: "Sequence[Example]", prediction: "Prediction", style: "MapStyle"
) -> "Figure":
    """Lay out what goes in, the model, and what comes out, from left to right."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    from icgeo.maps import draw
    from icgeo.plots import plot_density
    from icgeo.plots.theme import BLUE, GREY, TEXT, TITLE, drawn_image, picture, show_image

    figure = Figure(figsize=(11, 4))
    maps = [*draw([[example.lat, example.lon] for example in examples], style), prediction.map]
    for row, image in enumerate([*(example.image for example in examples), photo]):
        bottom = 0.68 - 0.215 * row - 0.02 * (row == SHOTS)
        show_image(figure.add_axes((0.005, bottom, 0.073, 0.2)), picture(image))
        if row < SHOTS:
            show_image(figure.add_axes((0.083, bottom, 0.15, 0.2)), drawn_image(maps[row]))
    figure.text(0.09, 0.1, "A new photo", weight="bold", size=TITLE)
    figure.text(0.09, 0.05, "the examples were chosen for it", color=GREY, size=TEXT)
    show_image(figure.add_axes((0.488, 0.36, 0.194, 0.28)), drawn_image(maps[-1]))
    plot_density(prediction, ax=figure.add_axes((0.722, 0.27, 0.276, 0.46)))
    box: dict[str, Any] = {"transform": figure.transFigure, "color": BLUE}
    figure.add_artist(FancyBboxPatch((0.303, 0.3), 0.135, 0.4, boxstyle="round,pad=0.01", **box))
    for x, y, words in (
        (0.37, 0.57, "attends to keys and\nvalues of the examples,\nencoded once, kept"),
        (0.37, 0.38, "and to the photo"),
    ):
        figure.text(x, y, words, color="white", size=TEXT, ha="center", va="center")
    for start, end in ARROWS:
        figure.add_artist(
            FancyArrowPatch(
                start,
                end,
                transform=figure.transFigure,
                color=GREY,
                arrowstyle="-|>",
                mutation_scale=14,
            )
        )
    for x, title, words in TITLES:
        figure.text(x, 0.95, title, weight="bold", size=TITLE, ha="center")
        figure.text(x, 0.905, words, color=GREY, size=TEXT, ha="center")
    return figure


def main(options: Options) -> None:
    """Locate, and write the figure."""
    from icgeo.evaluation import world_episode
    from icgeo.geolocator import Geolocator
    from icgeo.options import UNKNOWN

    episode = world_episode(options.world, queries=1, shots=options.bank, seed=options.seed)
    locator = Geolocator(prompt=UNKNOWN, shots=SHOTS)
    photos = [query.photo for query in episode.queries]
    (numbers,) = locator.choose_for(photos, episode.examples).tolist()
    examples = [episode.examples[number] for number in numbers]
    (prediction,) = locator.locate(photos, examples)
    figure = draw_overview(photos[0], examples, prediction, locator.loaded.settings.style)
    figure.savefig(options.save, dpi=110)


if __name__ == "__main__":
    config.run(main, Options)
