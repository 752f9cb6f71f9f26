"""Locators on benchmarks: episodes, rows, scores."""

from icgeo.evaluation.rows import Row, RowFile, known_rows, read_rows, to_frame  # isort: skip
from icgeo.evaluation.scores import METRICS, Metric, score  # isort: skip
from icgeo.evaluation.benchmarks import (
    Episode,
    Query,
    benchmark_episodes,
    benchmark_queries,
    photo_episode,
    sequence_episode,
    video_episode,
    world_episode,
)
from icgeo.evaluation.comparison import Comparison, compare, comparison_table
from icgeo.evaluation.run import evaluate, finish, locate_share
from icgeo.evaluation.legacy import (
    BASELINES,
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
from icgeo.evaluation.sequences import evaluate_sequences
from icgeo.evaluation.shards import Shard
from icgeo.evaluation.streams import Benchmark, Stream
from icgeo.options import SHOTS

__all__ = [
    "BASELINES",
    "METRICS",
    "SHOTS",
    "Benchmark",
    "Comparison",
    "Episode",
    "Metric",
    "Query",
    "Row",
    "RowFile",
    "Score",
    "Shard",
    "Stream",
    "benchmark_episodes",
    "benchmark_queries",
    "column",
    "compare",
    "compare_medians",
    "compare_nll",
    "comparison_table",
    "evaluate",
    "evaluate_sequences",
    "finish",
    "known_rows",
    "levels_by_world",
    "locate_share",
    "photo_episode",
    "read_rows",
    "report",
    "score",
    "scores",
    "select",
    "sequence_episode",
    "table",
    "to_frame",
    "video_episode",
    "world_episode",
]
