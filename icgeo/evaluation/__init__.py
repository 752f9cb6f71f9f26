"""Locators on what they are measured on: episodes, rows, scores."""

from icgeo.evaluation.episodes import (
    Episode,
    Query,
    Stream,
    benchmark_episodes,
    photo_episode,
    read_examples,
    video_episode,
    world_episode,
)
from icgeo.evaluation.rows import Row, read_rows, to_frame
from icgeo.evaluation.run import Shard, choose_examples, evaluate
from icgeo.evaluation.scores import (
    BASELINES,
    METRICS,
    compare,
    comparison_table,
    format_results,
    levels_by_world,
    score,
    score_table,
    to_markdown,
)
from icgeo.evaluation.sequences import evaluate_sequences

__all__ = [
    "BASELINES",
    "METRICS",
    "Episode",
    "Query",
    "Row",
    "Shard",
    "Stream",
    "benchmark_episodes",
    "choose_examples",
    "compare",
    "comparison_table",
    "evaluate",
    "evaluate_sequences",
    "format_results",
    "levels_by_world",
    "photo_episode",
    "read_examples",
    "read_rows",
    "score",
    "score_table",
    "to_frame",
    "to_markdown",
    "video_episode",
    "world_episode",
]
