"""GeoArena: which of two answers to the same photo is better, and what ratings follow.

Votes are cast on a page without knowing whose answers they are, or by the truth: the nearer answer
wins. Ratings are those of Bradley and Terry (1952) on the scale of Elo: base 10, 400 points, 1000
in the mean, a tie half a win for each.
"""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from pandas import DataFrame, concat
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from icgeo.evaluation.rows import read_rows
from icgeo.evaluation.scores import GUESS_KM
from icgeo.writing import append_lines

logger = logging.getLogger(__name__)

SCALE, START = 400.0, 1000.0
"""Points for odds of ten to one, and the mean of all ratings."""
PRIOR_POINTS = 2000.0
"""Deviation of the prior of a rating, wide, but finite for one that never lost."""
LEVEL = 0.95
TIE_KM = 1.0
"""Errors that differ by less are a tie."""


@dataclass(frozen=True)
class Vote:
    """Which of two locators answered a photo better."""

    photo: str
    """What tells queries apart: votes on the same one are not independent."""
    first: str
    second: str
    score: float
    """Of the first: 1 won, 0 lost, 0.5 a tie."""
    shots: int | None = None
    """Examples that both were shown, where the same photo is answered from several numbers."""

    def __post_init__(self) -> None:
        if self.score not in (0.0, 0.5, 1.0):
            raise ValueError(f"expected a score of 0, 0.5 or 1, got {self.score}")
        if self.first == self.second:
            raise ValueError(f"expected a vote between two locators, got {self.first!r} twice")


def ratings(
    votes: Sequence[Vote], *, resamples: int = 500, generator: np.random.Generator | None = None
) -> DataFrame:
    """Rate locators by votes, best first: `locator`, `rating`, `low`, `high`, `wins`, `votes`.

    95 % intervals are percentiles of a bootstrap over photos, each with all of its votes. `wins`
    counts a tie as a half.

    Raises:
        ValueError: no votes, or locators that no chain of votes compares.
    """
    if not votes:
        raise ValueError("expected votes to rate locators by, got none")
    table = DataFrame(map(vars, votes))
    names = sorted({*table["first"], *table["second"]})
    first, second = (table[name].map(names.index) for name in ("first", "second"))
    photo = table["photo"].factorize(sort=True)[0]
    photos = photo.max() + 1
    wins = np.zeros((photos, len(names), len(names)))
    np.add.at(wins, (photo, first, second), table["score"])
    np.add.at(wins, (photo, second, first), 1 - table["score"])
    total = wins.sum(0)
    count, part = connected_components(total + total.T > 0, directed=False)
    if count > 1:
        groups = [[n for n, at in zip(names, part, strict=True) if at == i] for i in range(count)]
        raise ValueError(
            f"expected votes that compare all locators, got {count} groups that meet in none: "
            f"{groups}; add votes between them"
        )
    generator = generator or np.random.default_rng(0)
    counts = generator.multinomial(photos, np.full(photos, 1 / photos), resamples)
    rating = bradley_terry(total)
    replicates = bradley_terry(np.tensordot(counts, wins, 1), start=rating)
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    columns = {"locator": names, "rating": rating, "low": low, "high": high}
    columns |= {"wins": total.sum(1), "votes": (total + total.T).sum(1).astype(int)}
    return DataFrame(columns).sort_values("rating", ascending=False, ignore_index=True)


def bradley_terry(
    wins: Float[np.ndarray, "*arenas players players"],
    *,
    start: Float[np.ndarray, " players"] | None = None,
) -> Float[np.ndarray, "*arenas players"]:
    """Return the likeliest ratings where `wins` counts those of each row over each column.

    Player a beats b with probability 1 / (1 + 10^((b - a) / 400)); a weak Gaussian prior around
    1000 keeps finite those that always win. Several arenas are solved at once, from `start`.
    """
    unit, shape = math.log(10) / SCALE, wins.shape[:-1]
    precision = 1 / (unit * PRIOR_POINTS) ** 2

    def loss(values: Float[np.ndarray, " all"]) -> tuple[float, Float[np.ndarray, " all"]]:
        logit = values.reshape(shape)
        gap = logit[..., :, None] - logit[..., None, :]
        cost = (wins * np.logaddexp(0, -gap)).sum() + precision * (values**2).sum() / 2
        pull = wins * expit(-gap)
        slope = pull.sum(-2) - pull.sum(-1) + precision * logit
        return cost, slope.ravel()

    initial_values = np.zeros(shape) + (0.0 if start is None else unit * (start - START))
    options = {"gtol": 1e-7, "ftol": 1e-15, "maxiter": 10_000, "maxfun": 20_000}
    result = minimize(loss, initial_values.ravel(), jac=True, method="L-BFGS-B", options=options)
    points = result.x.reshape(shape) / unit
    return points - points.mean(-1, keepdims=True) + START


def automatic_votes(rows: DataFrame, *, tie_km: float = TIE_KM) -> Iterator[Vote]:
    """Let the nearer answer win, for each query and number of shots and each two locators.

    A query without an answer counts as a guess, 10,008 km off, as in all scores.
    """
    scored_rows = rows[rows["true_lat"].notna() & rows["error"].isna()]
    scored_rows = scored_rows.assign(distance_km=scored_rows["distance_km"].fillna(GUESS_KM))
    for photo, shots, answers in by_query(scored_rows):
        for a, b in combinations(answers, 2):
            gap = b.distance_km - a.distance_km
            score = 0.5 if abs(gap) <= tie_km else float(gap > 0)
            yield Vote(photo, a.locator, b.locator, score, shots)


def by_query(rows: DataFrame) -> Iterator[tuple[str, int, list[Any]]]:
    """Gather the answers to each query at each number of shots."""
    for key, group in rows.groupby(["episode", "id", "shots"], sort=False):
        episode, query, shots = cast("tuple[str, str, int]", key)
        yield f"{episode}/{query}", int(shots), [*group.itertuples()]


def read_runs(folders: Iterable[str | Path]) -> DataFrame:
    """Read the rows of run folders as one frame.

    A locator of several folders is told apart by the folder: "folder: locator", with the whole
    path where folders have the same name.

    Raises:
        ValueError: a folder without rows.
    """
    frames = {Path(folder): read_rows(Path(folder)) for folder in folders}
    for folder, frame in frames.items():
        if frame.empty:
            raise ValueError(f"expected predictions*.jsonl with rows in {folder}, got none")
    locators = concat([frame["locator"].drop_duplicates() for frame in frames.values()])
    duplicates = locators[locators.duplicated()]
    names = [folder.resolve().name for folder in frames]
    for folder, frame in frames.items():
        name = folder.resolve().name
        label = name if names.count(name) == 1 else folder.as_posix()
        is_shared = frame["locator"].isin(duplicates)
        frame.loc[is_shared, "locator"] = f"{label}: " + frame["locator"][is_shared]
    return concat(frames.values(), ignore_index=True)


def read_votes(path: str | Path) -> list[Vote]:
    """Read votes from JSON lines; a line that a kill has torn is passed over.

    Raises:
        ValueError: a line that is no vote.
    """
    votes = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), start=1):
        try:
            votes += [Vote(**json.loads(line))] if line else []
        except json.JSONDecodeError:
            logger.warning("%s, line %d is torn", path, number)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected a vote, got {line[:80]}") from error
    return votes


def add_vote(path: str | Path, vote: Vote) -> None:
    """Append a vote to a file of JSON lines, and wait until it is on disk."""
    append_lines(Path(path), [json.dumps(asdict(vote))])


def ratings_table(table: DataFrame) -> str:
    """Write ratings as a table of Markdown."""
    rows: list[Any] = table.to_dict("records")
    lines = [
        "| | locator | rating | 95 % interval | wins | votes |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {i} | {row['locator']} | {row['rating']:.0f} | {row['low']:.0f} to {row['high']:.0f} "
        f"| {row['wins']:g} | {row['votes']} |"
        for i, row in enumerate(rows, start=1)
    ]
    return "\n".join(lines)
