"""Locators on benchmarks: episodes, rows, scores."""

from icgeo.evaluation.benchmarks import Episode, Query, photo_episode, world_episode
from icgeo.evaluation.comparison import Comparison, compare, comparison_table
from icgeo.evaluation.rows import Row, RowFile
from icgeo.evaluation.run import SHOTS, evaluate
from icgeo.evaluation.scores import (
    RIVALS,
    Score,
    column,
    compare_medians,
    compare_nll,
    levels_by_world,
    report,
    scores,
    select,
    table,
)

__all__ = [
    "RIVALS",
    "SHOTS",
    "Comparison",
    "Episode",
    "Query",
    "Row",
    "RowFile",
    "Score",
    "column",
    "compare",
    "compare_medians",
    "compare_nll",
    "comparison_table",
    "evaluate",
    "levels_by_world",
    "photo_episode",
    "report",
    "scores",
    "select",
    "table",
    "world_episode",
]
