"""Locators on benchmarks: episodes, rows, scores."""

from icgeo.evaluation.benchmarks import (
    Episode,
    Query,
    benchmark_episodes,
    benchmark_queries,
    clip_episode,
    photo_episode,
    video_episode,
    world_episode,
)
from icgeo.evaluation.clips import evaluate_clips
from icgeo.evaluation.comparison import Comparison, compare, comparison_table
from icgeo.evaluation.rows import Row, RowFile, known_rows
from icgeo.evaluation.run import evaluate, finish, locate_share
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
from icgeo.evaluation.shards import Shard
from icgeo.evaluation.streams import Benchmark, Stream
from icgeo.options import SHOTS

__all__ = [
    "RIVALS",
    "SHOTS",
    "Benchmark",
    "Comparison",
    "Episode",
    "Query",
    "Row",
    "RowFile",
    "Score",
    "Shard",
    "Stream",
    "benchmark_episodes",
    "benchmark_queries",
    "clip_episode",
    "column",
    "compare",
    "compare_medians",
    "compare_nll",
    "comparison_table",
    "evaluate",
    "evaluate_clips",
    "finish",
    "known_rows",
    "levels_by_world",
    "locate_share",
    "photo_episode",
    "report",
    "scores",
    "select",
    "table",
    "video_episode",
    "world_episode",
]
