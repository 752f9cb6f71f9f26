"""Comparison of figures with pictures on disk, alike on machines with other fonts."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from PIL import Image

BASELINE = Path(__file__).parent / "baseline"


def saved(figure, path):
    """Save without any text, whose size would also move the panels."""
    for text in figure.findobj(Text):
        text.set_visible(False)
    for ax in figure.axes:
        if legend := ax.get_legend():
            legend.remove()
        ax.tick_params(labelbottom=False, labelleft=False)
    figure.savefig(path, dpi=42, metadata={"Software": None})
    return path


def tolerance(path):
    """Root mean square of 255 levels that a shift by a quarter of a pixel costs.

    So much may layouts and edges differ with other versions of matplotlib, Agg and FreeType.
    """
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(float)
    shift = (np.roll(pixels, 1, axis=1) - pixels) / 4
    return float(np.sqrt((shift**2).mean()))


def difference(figure, name, folder):
    """Say how a figure differs from the picture of that name; None if it does not.

    Baselines are made by running `test_pictures.py` as a script, and looked at.
    """
    path, expected = saved(figure, folder / f"{name}.png"), BASELINE / f"{name}.png"
    return compare_images(str(expected), str(path), tol=tolerance(expected))


def assert_nothing_clipped(figure):
    """Every text lies within the figure, and no two titles over each other."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [
        *(text for ax in figure.axes for text in (ax.findobj(Text) if ax.axison else [ax.title])),
        *(text for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()),
        *(text for legend in figure.legends for text in legend.get_texts()),
    ]
    beyond = [
        tick.label1
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    shown = [text for text in shown if text not in beyond]
    assert shown
    for text in shown:
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.width + 1, text
        assert box.y1 <= figure.bbox.height + 1, text
    titles = [ax.title.get_window_extent(renderer) for ax in figure.axes if ax.get_title()]
    for number, box in enumerate(titles):
        assert not any(box.overlaps(other) for other in titles[:number])
