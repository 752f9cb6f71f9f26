"""Clips located: each frame alone, each given all others, and the whole.

Conventions: the rows of one clip stand under three locators, the locator's own name for frames
alone, `SMOOTHED` and `WHOLE`. The truth of the whole is the middle of the track.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pandas import DataFrame
from tqdm import tqdm

from icgeo.evaluation.episodes import Episode
from icgeo.evaluation.rows import Row, RowFile
from icgeo.evaluation.run import located_rows, to_row, write_results
from icgeo.prediction import SequenceLocator
from icgeo.sphere import spherical_mean, to_lat_lon, to_xyz

SMOOTHED, WHOLE = "smoothed", "whole clip"


def evaluate_sequences(
    runs: Sequence[tuple[SequenceLocator, Episode]],
    *,
    folder: Path,
    speed_kmh: float,
    frames_alone: bool = True,
) -> DataFrame:
    """Locate clips, whose frames are the queries of an episode, with all of its examples.

    `speed_kmh` is the limit of the camera; frames are located alone as well, or not. Stopped at any
    time and called again, it goes on after the last clip that was finished. All rows in the folder
    are returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = RowFile(folder / "predictions.jsonl")
    for locator, episode in tqdm(runs, desc="locating", unit="clip"):
        shots = len(episode.examples)
        # the last row of a clip: what was torn off may begin anywhere in it
        if (SMOOTHED, episode.id, episode.queries[-1].id, shots) not in file.rows:
            queries = episode.queries if frames_alone else ()
            frame_rows = located_rows(locator, episode, queries, shots)
            file.append([*frame_rows, *_sequence_rows(locator, episode, speed_kmh)])
    return write_results(folder, file.rows.values())


def _sequence_rows(locator: SequenceLocator, episode: Episode, speed_kmh: float) -> list[Row]:
    """Locate a clip: the row of the whole, then those of its frames given all of them."""
    photos = [query.photo for query in episode.queries]
    seconds = [query.seconds or 0.0 for query in episode.queries]
    clip = locator.locate_sequence(photos, episode.examples, speed_kmh=speed_kmh, seconds=seconds)
    first_query, shots = episode.queries[0], len(episode.examples)
    track = [query.lat_lon for query in episode.queries if query.lat_lon is not None]
    clip_query = replace(first_query, id=WHOLE, lat_lon=None)
    if len(track) == len(episode.queries):
        lat, lon = to_lat_lon(spherical_mean(to_xyz(torch.tensor(track).double()))).tolist()
        clip_query = replace(clip_query, lat_lon=(lat, lon))
    frames = zip(episode.queries, clip.frames, strict=True)
    return [
        to_row(WHOLE, episode, clip_query, shots, clip.whole),
        *(to_row(SMOOTHED, episode, query, shots, prediction) for query, prediction in frames),
    ]
