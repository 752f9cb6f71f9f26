"""Reports: one self-contained HTML page of run folders."""

from icgeo.report.cases import Case, choose_cases, load_cases, save_cases
from icgeo.report.page import write_report
from icgeo.report.runs import Run, read_run

__all__ = [
    "Case",
    "Run",
    "choose_cases",
    "load_cases",
    "read_run",
    "save_cases",
    "write_report",
]
