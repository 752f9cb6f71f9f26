"""Locators on what they are measured on: episodes, rows, scores."""

from icgeo.evaluation.episodes import (
    Episode,
    Query,
    QuerySet,
    Stream,
    benchmark_episodes,
    benchmark_queries,
    photo_episode,
    read_examples,
    sequence_episode,
    video_episode,
    world_episode,
)
from icgeo.evaluation.rows import Row, RowFile, known_rows, read_rows, to_frame
from icgeo.evaluation.run import choose_examples, evaluate, finish, locate_share
from icgeo.evaluation.scores import (
    BASELINES,
    METRICS,
    Metric,
    compare,
    comparison_table,
    format_results,
    levels_by_world,
    score,
    score_table,
    to_markdown,
)
from icgeo.evaluation.sequences import evaluate_sequences
from icgeo.evaluation.shards import Shard
from icgeo.options import SHOTS

__all__ = [
    "BASELINES",
    "METRICS",
    "SHOTS",
    "Episode",
    "Metric",
    "Query",
    "QuerySet",
    "Row",
    "RowFile",
    "Shard",
    "Stream",
    "benchmark_episodes",
    "benchmark_queries",
    "choose_examples",
    "compare",
    "comparison_table",
    "evaluate",
    "evaluate_sequences",
    "finish",
    "format_results",
    "known_rows",
    "levels_by_world",
    "locate_share",
    "photo_episode",
    "read_examples",
    "read_rows",
    "score",
    "score_table",
    "sequence_episode",
    "to_frame",
    "to_markdown",
    "video_episode",
    "world_episode",
]
