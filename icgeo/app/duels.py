"""Pairs of answers that a visitor of the arena compares, and what the page says of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from pandas import DataFrame, isna

from icgeo.app.outputs import nearest_city
from icgeo.evaluation.arena import Vote, by_query, ratings, ratings_table, read_votes
from icgeo.plots.theme import place_name
from icgeo.sphere import distance_km

Place = tuple[float, float] | None
BETTER = {"A is better": 1.0, "Tie": 0.5, "B is better": 0.0}
"""What is said of two answers, as the score of the one called A."""


@dataclass(frozen=True)
class Side:
    """An answer to a photo, and who gave it."""

    locator: str
    place: Place


@dataclass(frozen=True)
class Duel:
    """A photo and two answers to it, called A and B."""

    query: str
    photo: Path
    a: Side
    b: Side
    truth: Place = None
    shots: int | None = None
    """Examples that both were shown."""

    def vote(self, score: float) -> Vote:
        """Note which was better: 1 for A, 0 for B, 0.5 for both alike."""
        return Vote(self.query, self.a.locator, self.b.locator, score, self.shots)

    @property
    def key(self) -> tuple[str, frozenset[str], int | None]:
        """What tells duels apart, whatever is called A."""
        return self.query, frozenset((self.a.locator, self.b.locator)), self.shots


def make_duels(rows: DataFrame, *, seed: int = 0) -> list[Duel]:
    """Pair all answers to each photo that is a file here, in a random order of duels and sides.

    Two that answered with nothing, or with the same place, are no duel.
    """
    duels: list[Duel] = []
    for query, shots, answers in by_query(rows[rows["source"].notna() & rows["error"].isna()]):
        if (photo := Path(answers[0].source)).is_file():
            truth = _place(answers[0].true_lat, answers[0].true_lon)
            sides = [Side(one.locator, _place(one.lat, one.lon)) for one in answers]
            pairs = ((a, b) for a, b in combinations(sides, 2) if a.place != b.place)
            duels += [Duel(query, photo, a, b, truth, shots) for a, b in pairs]
    generator = np.random.default_rng(seed)
    flips = zip(duels, generator.random(len(duels)) < 0.5, strict=True)
    duels = [replace(one, a=one.b, b=one.a) if flip else one for one, flip in flips]
    return [duels[number] for number in generator.permutation(len(duels))]


def _place(lat: float, lon: float) -> Place:
    return None if isna(lat) or isna(lon) else (float(lat), float(lon))


def left_to_vote(duels: Sequence[Duel], votes: Path) -> list[Duel]:
    """Leave out the duels that were voted on before."""
    keys = {(v.photo, frozenset((v.first, v.second)), v.shots) for v in _votes(votes)}
    return [duel for duel in duels if duel.key not in keys]


def describe(duel: Duel) -> str:
    """Say where both answers are, and how far apart, without names of locators."""
    lines = [f"**{name}**: {_where(side.place)}" for name, side in (("A", duel.a), ("B", duel.b))]
    if duel.a.place and duel.b.place:
        distance = distance_km(duel.a.place, duel.b.place).item()
        lines.append(f"They are {distance:,.0f} km apart.")
    return "\n\n".join(lines)


def _where(place: Place) -> str:
    return f"{place_name(*place, digits=2)}, near {nearest_city(place)}" if place else "no answer"


def reveal(duel: Duel, said: str, left: Sequence[Duel]) -> str:
    """Say whose the answers were, and how far off if the truth is known.

    While other answers to the same photo are `left` to compare, nothing is told: it would tell
    them, too.
    """
    if any(other.photo == duel.photo for other in left):
        return f"{said}. Whose answers they were is told after the last vote on this photo."
    sentences = []
    for name, side in (("A", duel.a), ("B", duel.b)):
        sentences.append(f"{name} was `{side.locator}`")
        if duel.truth and side.place:
            sentences[-1] += f", {distance_km(side.place, duel.truth).item():,.0f} km off"
    truth = f" The truth: {_where(duel.truth)}." if duel.truth else ""
    return f"{said}. {'; '.join(sentences)}.{truth}"


def standings(votes: Path) -> str:
    """Write the ratings that the votes so far give, or why they give none."""
    ballots = _votes(votes)
    try:
        return ratings_table(ratings(ballots, resamples=200))
    except ValueError as error:
        return f"No ratings yet: {error}."


def _votes(path: Path) -> list[Vote]:
    return read_votes(path) if path.exists() else []
