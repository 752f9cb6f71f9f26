"""Figures: contexts, maps, predictions and their errors, the steps of drawing, curves.

Conventions: every function returns a `Figure` and shows nothing, needs no display and no download,
and draws into the `ax` or `figure` that it is given. The look stands in `icgeo.plots.theme`.
"""

from icgeo.plots.curves import plot_calibration, plot_shots
from icgeo.plots.denoising import plot_denoising, save_denoising
from icgeo.plots.error_map import plot_errors
from icgeo.plots.interactive import plot_interactive
from icgeo.plots.pairs import plot_context, plot_maps
from icgeo.plots.predictions import plot_density, plot_gallery, plot_prediction
from icgeo.plots.recall import plot_recall_by_area, plot_recall_by_radius
from icgeo.plots.run_figures import save_figures

__all__ = [
    "plot_calibration",
    "plot_context",
    "plot_denoising",
    "plot_density",
    "plot_errors",
    "plot_gallery",
    "plot_interactive",
    "plot_maps",
    "plot_prediction",
    "plot_recall_by_area",
    "plot_recall_by_radius",
    "plot_shots",
    "save_denoising",
    "save_figures",
]
