"""Comparison of figures with pictures on disk, alike on machines with other fonts."""

from pathlib import Path

import numpy as np
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
