"""Figures: contexts, maps, predictions and their errors, the steps of drawing, curves.

Conventions: every function returns a `Figure` and shows nothing, needs no display and no download,
and draws into the `ax` or `figure` that it is given. The look stands in `icgeo.plots.theme`.
"""

from icgeo.plots.curves import plot_calibration as plot_calibration
from icgeo.plots.curves import plot_recall_by_area as plot_recall_by_area
from icgeo.plots.curves import plot_recall_by_radius as plot_recall_by_radius
from icgeo.plots.curves import plot_shots as plot_shots
from icgeo.plots.evidence import plot_evidence as plot_evidence
from icgeo.plots.interactive import plot_answers as plot_answers
from icgeo.plots.interactive import plot_interactive as plot_interactive
from icgeo.plots.interactive import plot_places as plot_places
from icgeo.plots.latents import plot_alignment as plot_alignment
from icgeo.plots.latents import plot_blocks_and_times as plot_blocks_and_times
from icgeo.plots.latents import plot_moves as plot_moves
from icgeo.plots.latents import plot_steps as plot_steps
from icgeo.plots.maps import plot_context as plot_context
from icgeo.plots.maps import plot_denoising as plot_denoising
from icgeo.plots.maps import plot_maps as plot_maps
from icgeo.plots.predictions import plot_density as plot_density
from icgeo.plots.predictions import plot_gallery as plot_gallery
from icgeo.plots.predictions import plot_prediction as plot_prediction
from icgeo.plots.world import plot_errors as plot_errors
from icgeo.plots.zoom import plot_zoom as plot_zoom
