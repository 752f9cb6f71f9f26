"""Draw assets/overview.png: how it works in one figure, by what the model in the box does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icgeo
from icgeo import config
from icgeo.options import UNKNOWN

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

    save: Path = Path("assets/overview.png")
    """The picture to write."""


def draw_words(figure: Any) -> None:
    """Draw the model as a box, arrows from column to column, and what each of them is."""
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    from icgeo.plots.theme import BLUE, GREY, TEXT, TITLE

    place: dict[str, Any] = {"transform": figure.transFigure}
    box = FancyBboxPatch((0.303, 0.3), 0.135, 0.4, boxstyle="round,pad=0.01", color=BLUE, **place)
    figure.add_artist(box)
    text_style: dict[str, Any] = {"color": "white", "size": TEXT, "ha": "center", "va": "center"}
    keys = "attends to keys and\nvalues of the examples,\nencoded once, kept"
    figure.text(0.37, 0.57, keys, **text_style)
    figure.text(0.37, 0.38, "and to the photo", **text_style)
    for ends in ARROWS:
        arrow = FancyArrowPatch(*ends, color=GREY, arrowstyle="-|>", mutation_scale=14, **place)
        figure.add_artist(arrow)
    figure.text(0.09, 0.1, "A new photo", weight="bold", size=TITLE)
    figure.text(0.09, 0.05, "the examples were chosen for it", color=GREY, size=TEXT)
    for x, title, words in TITLES:
        figure.text(x, 0.95, title, weight="bold", size=TITLE, ha="center")
        figure.text(x, 0.905, words, color=GREY, size=TEXT, ha="center")


def main(options: Options) -> None:
    """Locate, and draw what goes in, the model, and what comes out, from left to right."""
    from matplotlib.figure import Figure

    from icgeo.plots.theme import drawn_image, picture, show_image

    episode = icgeo.evaluation.world_episode("blue-marble", queries=1, shots=256, seed=3)
    locator = icgeo.Geolocator(prompt=UNKNOWN, shots=SHOTS)
    photos = [query.photo for query in episode.queries]
    (numbers,) = locator.choose_for(photos, episode.examples).tolist()
    examples = [episode.examples[number] for number in numbers]
    (prediction,) = locator.locate(photos, examples)
    figure = Figure(figsize=(11, 4))
    places, style = [[one.lat, one.lon] for one in examples], locator.loaded.settings.style
    maps = [*icgeo.maps.draw(places, style), prediction.map]
    for row, image in enumerate([*(example.image for example in examples), *photos]):
        bottom = 0.68 - 0.215 * row - 0.02 * (row == SHOTS)
        show_image(figure.add_axes((0.005, bottom, 0.073, 0.2)), picture(image))
        if row < SHOTS:
            show_image(figure.add_axes((0.083, bottom, 0.15, 0.2)), drawn_image(maps[row]))
    show_image(figure.add_axes((0.488, 0.36, 0.194, 0.28)), drawn_image(maps[-1]))
    icgeo.plots.plot_density(prediction, ax=figure.add_axes((0.722, 0.27, 0.276, 0.46)))
    draw_words(figure)
    figure.savefig(options.save, dpi=110)


if __name__ == "__main__":
    config.run(main, Options)
