"""Locators on benchmarks: episodes, rows, scores."""

from icgeo.evaluation.benchmarks import (
    Episode,
    Query,
    clip_episode,
    photo_episode,
    video_episode,
    world_episode,
)
from icgeo.evaluation.clips import evaluate_clips
from icgeo.evaluation.comparison import Comparison, compare, comparison_table
from icgeo.evaluation.rows import Row, RowFile, known_rows
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
    "clip_episode",
    "column",
    "compare",
    "compare_medians",
    "compare_nll",
    "comparison_table",
    "evaluate",
    "evaluate_clips",
    "known_rows",
    "levels_by_world",
    "photo_episode",
    "report",
    "scores",
    "select",
    "table",
    "video_episode",
    "world_episode",
]
