"""Locators on what they are measured on: episodes, rows, scores."""

from icgeo.evaluation.episodes import Episode as Episode
from icgeo.evaluation.episodes import Query as Query
from icgeo.evaluation.episodes import Stream as Stream
from icgeo.evaluation.episodes import benchmark_episodes as benchmark_episodes
from icgeo.evaluation.episodes import photo_episode as photo_episode
from icgeo.evaluation.episodes import read_examples as read_examples
from icgeo.evaluation.episodes import video_episode as video_episode
from icgeo.evaluation.episodes import world_episode as world_episode
from icgeo.evaluation.rows import Row as Row
from icgeo.evaluation.rows import read_rows as read_rows
from icgeo.evaluation.rows import to_frame as to_frame
from icgeo.evaluation.run import Shard as Shard
from icgeo.evaluation.run import choose_examples as choose_examples
from icgeo.evaluation.run import evaluate as evaluate
from icgeo.evaluation.scores import BASELINES as BASELINES
from icgeo.evaluation.scores import METRICS as METRICS
from icgeo.evaluation.scores import compare as compare
from icgeo.evaluation.scores import comparison_table as comparison_table
from icgeo.evaluation.scores import format_results as format_results
from icgeo.evaluation.scores import levels_by_world as levels_by_world
from icgeo.evaluation.scores import score as score
from icgeo.evaluation.scores import score_table as score_table
from icgeo.evaluation.scores import to_markdown as to_markdown
from icgeo.evaluation.sequences import evaluate_sequences as evaluate_sequences
