"""Run folders, read as they are and never changed: rows, options, versions, cases."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from icgeo.config import UsageError
from icgeo.evaluation import BASELINES, Row, known_rows
from icgeo.report.cases import Case, load_cases


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    name: str
    rows: list[Row]
    options: Mapping[str, Any]
    versions: Mapping[str, Any]
    cases: list[Case]

    @property
    def worlds(self) -> list[str]:
        """Worlds and benchmarks, in the order of the rows."""
        return list(dict.fromkeys(row.world for row in self.rows))

    @property
    def failures(self) -> list[Row]:
        """Rows of the method that hold nothing but a reason, one for each query."""
        failed = [
            row for row in self.rows if row.error is not None and row.locator not in BASELINES
        ]
        return list({(row.episode, row.id, row.error): row for row in failed}.values())

    def of_world(self, world: str) -> list[Row]:
        """Rows of one world."""
        return [row for row in self.rows if row.world == world]


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
        rows = list(known_rows(folder).values())
        return Run(
            name=folder.resolve().name,
            rows=rows,
            options=_mapping(folder / "options.yaml", yaml.safe_load),
            versions=_mapping(folder / "versions.json", json.loads),
            cases=load_cases(folder, rows),
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {folder}: {error}; repair or remove the file") from error


def _mapping(path: Path, parse: Any) -> Mapping[str, Any]:
    """Read a file of named values; nothing if there is none."""
    if not path.is_file():
        return {}
    values = parse(path.read_text(encoding="utf-8"))
    if not isinstance(values, Mapping):
        raise ValueError(f"expected named values in {path}, got {type(values).__name__}")
    return values
