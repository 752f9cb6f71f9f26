"""Run folders, read as they are and never changed: rows, options, versions, cases."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pandas import DataFrame

from icgeo.config import UsageError
from icgeo.evaluation import read_rows
from icgeo.report.cases import load_cases


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds."""

    name: str
    rows: DataFrame
    options: Mapping[str, Any]
    versions: Mapping[str, Any]
    cases: DataFrame


def read_run(folder: Path) -> Run:
    """Read a run folder; one without a row yet, or with failures alone, is fine.

    Raises:
        UsageError: no run folder, or files that cannot be read.
    """
    if not any(folder.glob("predictions*.jsonl")):
        raise UsageError(
            f"expected a run folder with predictions.jsonl, found none in {folder}; make one with "
            "scripts/zero_shot.py, or name another"
        )
    try:
        rows = read_rows(folder)
        return Run(
            name=folder.resolve().name,
            rows=rows,
            options=_read_values(folder / "options.yaml", yaml.safe_load),
            versions=_read_values(folder / "versions.json", json.loads),
            cases=load_cases(folder, rows),
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {folder}: {error}; repair or remove the file") from error


def _read_values(path: Path, parse: Callable[[str], Any]) -> Mapping[str, Any]:
    """Read a file of named values; nothing if there is none."""
    if not path.is_file():
        return {}
    values = parse(path.read_text(encoding="utf-8"))
    if not isinstance(values, Mapping):
        raise ValueError(f"expected named values in {path}, got {type(values).__name__}")
    return values
