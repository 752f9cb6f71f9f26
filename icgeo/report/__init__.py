"""Reports: one self-contained HTML page of run folders."""

from icgeo.report.html import write_report
from icgeo.report.run_folder import Run, choose_cases, load_cases, read_run, save_cases

__all__ = ["Run", "choose_cases", "load_cases", "read_run", "save_cases", "write_report"]
