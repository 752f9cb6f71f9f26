"""Reports: what a run saves to be shown, and one self-contained HTML page of run folders."""

from icgeo.report.html import write_report as write_report
from icgeo.report.latents import write_latents_report as write_latents_report
from icgeo.report.run_folder import read_run as read_run
from icgeo.report.run_folder import save_figures as save_figures
