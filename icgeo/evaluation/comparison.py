"""Locators against one of them, on the same queries, for each number of shots."""

from collections.abc import Sequence
from dataclasses import dataclass

from icgeo.evaluation.rows import Row
from icgeo.evaluation.legacy import (
    column,
    compare_medians,
    compare_nll,
    distances,
    markdown,
    select,
)
from icgeo.metrics import Interval, mean_nll, median_error

HEADER = ("locator", "shots", "median km", "difference (95 %)", "NLL", "difference (95 %)")


@dataclass(frozen=True)
class Comparison:
    """How a locator did with a number of shots, and by how much that is above the base."""

    locator: str
    shots: int
    median_km: float
    mean_nll: float
    """In nats per steradian."""
    km_above: Interval
    """With 95 % interval, by the bootstrap over episodes."""
    nll_above: Interval


def compare(rows: Sequence[Row], base: str) -> list[Comparison]:
    """Compare each locator with the one named `base`, which comes first, over all worlds together.

    Raises:
        ValueError: a locator was not asked the same queries as the base.
    """
    locators = dict.fromkeys((base, *(row.locator for row in rows)))
    shots = sorted({row.shots for row in rows})
    return [_compared(rows, base, locator, count) for count in shots for locator in locators]


def _compared(rows: Sequence[Row], base: str, locator: str, shots: int) -> Comparison:
    own, others = (select(rows, shots=shots, locator=name) for name in (locator, base))
    return Comparison(
        locator,
        shots,
        median_km=median_error(distances(own)),
        mean_nll=mean_nll(column(own, "nll")),
        km_above=compare_medians(own, others),
        nll_above=compare_nll(own, others),
    )


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Lay out as Markdown; a difference below 0 is better than the base."""
    lines = [HEADER]
    lines += [
        (
            one.locator,
            str(one.shots),
            f"{one.median_km:.0f}",
            _cell(one.km_above, "+z.0f"),
            f"{one.mean_nll:.2f}",
            _cell(one.nll_above, "+z.2f"),
        )
        for one in comparisons
    ]
    return markdown(lines)


def _cell(interval: Interval, form: str) -> str:
    return f"{interval.estimate:{form}} ({interval.low:{form}} to {interval.high:{form}})"
