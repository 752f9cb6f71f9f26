"""Clips located: each frame alone, each given all others, and the whole.

Conventions: the rows of one clip stand under three locators, the locator's own name for frames
alone, `SMOOTHED` and `WHOLE`. The truth of the whole is the middle of the track.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from icgeo.evaluation.benchmarks import Episode
from icgeo.evaluation.locating import new_row, rows_of, scored
from icgeo.evaluation.rows import Row, RowFile
from icgeo.evaluation.run import write_results
from icgeo.evaluation.legacy import column, distances
from icgeo.metrics import Interval, paired_bootstrap
from icgeo.prediction import SequenceLocator
from icgeo.sphere import spherical_mean, to_lat_lon, to_xyz

SMOOTHED, WHOLE = "smoothed", "whole clip"


def evaluate_sequences(
    runs: Sequence[tuple[SequenceLocator, Episode]],
    *,
    folder: Path,
    speed_kmh: float,
    frames_alone: bool = True,
) -> list[Row]:
    """Locate clips, whose frames are the queries of an episode, with all of its examples.

    Stopped at any time and called again, it goes on after the last clip that was finished.

    Args:
        runs: locators, and the clips that they locate.
        folder: where the rows are kept.
        speed_kmh: speed limit of the camera.
        frames_alone: whether to locate frames alone as well.

    Returns:
        all rows in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = RowFile(folder / "predictions.jsonl")
    for locator, episode in tqdm(runs, desc="locating", unit="clip"):
        shots = len(episode.examples)
        # the last row of a clip: what was torn off may begin anywhere in it
        if (SMOOTHED, episode.id, episode.queries[-1].id, shots) in file.rows:
            continue
        alone = rows_of(locator, episode, episode.queries, shots) if frames_alone else []
        file.append([*alone, *sequence_rows(locator, episode, speed_kmh=speed_kmh)])
    rows = list(file.rows.values())
    write_results(folder, rows)
    return rows


def sequence_rows(locator: SequenceLocator, episode: Episode, *, speed_kmh: float) -> list[Row]:
    """Locate a clip: the row of the whole, then those of its frames given all of them."""
    clip = locator.locate_sequence(
        [query.photo for query in episode.queries],
        episode.examples,
        speed_kmh=speed_kmh,
        seconds=[query.seconds or 0.0 for query in episode.queries],
    )
    shots = len(episode.examples)
    frames = [new_row(SMOOTHED, episode, query, shots) for query in episode.queries]
    lat, lon = _middle(episode)
    whole = replace(frames[0], locator=WHOLE, id=WHOLE, true_lat=lat, true_lon=lon)
    return [scored(whole, clip.whole), *map(scored, frames, clip.frames)]


def _middle(episode: Episode) -> tuple[float | None, float | None]:
    places = [query.lat_lon for query in episode.queries if query.lat_lon is not None]
    if len(places) < len(episode.queries):
        return None, None
    lat, lon = to_lat_lon(spherical_mean(to_xyz(torch.tensor(places).double()))).tolist()
    return lat, lon


@dataclass(frozen=True)
class SequenceScore:
    """How frames alone, frames smoothed or whole clips did on the clips of a world."""

    world: str
    shots: int
    locator: str
    clips: int
    located: float
    """Fraction of the frames or clips that got an answer."""
    mean_km: float
    """Mean error; without an answer that of a guess."""
    mean_nll: float
    beyond_km: Interval
    """Mean error beyond that of the frames alone, paired, resampled by clips."""
    beyond_nll: Interval


def score_sequences(rows: Sequence[Row]) -> list[SequenceScore]:
    """Score frames alone, smoothed frames and clips, by world and shots."""
    groups = dict.fromkeys((row.world, row.shots) for row in rows)
    return [
        score
        for world, shots in groups
        for score in _scores_of([r for r in rows if (r.world, r.shots) == (world, shots)])
    ]


def _scores_of(rows: Sequence[Row]) -> list[SequenceScore]:
    """Score the rows of one world and number of shots; the first locator is that of frames alone.

    Clips have equally many frames, so that resampling the means of clips resamples clips whole.
    """
    first = next(row.locator for row in rows if row.locator not in (SMOOTHED, WHOLE))
    parts = {
        name: [row for row in rows if row.locator == name] for name in (first, SMOOTHED, WHOLE)
    }
    return [
        SequenceScore(
            world=own[0].world,
            shots=own[0].shots,
            locator=name,
            clips=len({row.episode for row in own}),
            located=fmean(bool(row.located) for row in own),
            mean_km=distances(own).mean().item(),
            mean_nll=column(own, "nll").mean().item(),
            beyond_km=_beyond(own, parts[first], "km"),
            beyond_nll=_beyond(own, parts[first], "nll"),
        )
        for name, own in parts.items()
    ]


def _beyond(rows: Sequence[Row], alone: Sequence[Row], what: str) -> Interval:
    first, second = (_by_sequence(part, what) for part in (rows, alone))
    return paired_bootstrap(
        list(first.values()),
        [second[clip] for clip in first],
        resamples=10_000,
        generator=torch.Generator().manual_seed(0),
    )


def _by_sequence(rows: Sequence[Row], what: str) -> dict[str, float]:
    """Mean error or NLL of each clip."""
    values = (distances(rows) if what == "km" else column(rows, "nll")).tolist()
    clips: dict[str, list[float]] = {}
    for row, value in zip(rows, values, strict=True):
        clips.setdefault(row.episode, []).append(value)
    return {clip: fmean(parts) for clip, parts in clips.items()}


def sequence_table(scores: Sequence[SequenceScore]) -> str:
    """Lay out scores as Markdown; differences to frames alone with their 95 % intervals."""
    head = "| world | shots | clips | what | located | mean km | NLL | km beyond alone | NLL |"
    lines = [head, "|---|---:|---:|---|---:|---:|---:|---:|---:|"]
    for score in scores:
        beyond = [
            "" if score.locator not in (SMOOTHED, WHOLE) else _interval(part, digits)
            for part, digits in ((score.beyond_km, 0), (score.beyond_nll, 2))
        ]
        cells = (
            score.world,
            score.shots,
            score.clips,
            score.locator if beyond[0] else "frames alone",
            f"{score.located:.0%}",
            f"{score.mean_km:.0f}",
            f"{score.mean_nll:.2f}",
            *beyond,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _interval(interval: Interval, digits: int) -> str:
    estimate, low, high = (
        f"{value:.{digits}f}" for value in (interval.estimate, interval.low, interval.high)
    )
    return f"{estimate} ({low} to {high})"
