"""Locators on benchmarks: episodes, rows, scores."""

from icgeo.evaluation.benchmarks import Episode, Query, photo_episode, world_episodes
from icgeo.evaluation.rows import Row, RowFile
from icgeo.evaluation.run import SHOTS, evaluate
from icgeo.evaluation.scores import (
    RIVALS,
    Score,
    column,
    compare_medians,
    scores,
    select,
    table,
)

__all__ = [
    "RIVALS",
    "SHOTS",
    "Episode",
    "Query",
    "Row",
    "RowFile",
    "Score",
    "column",
    "compare_medians",
    "evaluate",
    "photo_episode",
    "scores",
    "select",
    "table",
    "world_episodes",
]
