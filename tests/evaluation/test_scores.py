"""Tests of scores, on rows whose numbers are known by hand."""

import math
from dataclasses import replace

import pytest
import torch

from icgeo.baselines import CROSS_CORRELATION, PARTS_ALONE, RETRIEVAL, Chance
from icgeo.evaluation import (
    METRICS,
    Row,
    compare,
    format_results,
    levels_by_world,
    score,
    score_table,
    to_frame,
)
from icgeo.evaluation.scores import methods
from icgeo.sphere import AREA_KM2


def row(number, distance, *, locator="icgeo", world="moon", shots=4, **values):
    known = {"nll": 1.0, "level": 0.5, "area_90_km2": AREA_KM2 / 4, "seconds": 0.02}
    return Row(
        locator=locator,
        episode=f"episode {number % 3}",
        world=world,
        id=str(number),
        shots=shots,
        lat=1.0,
        lon=2.0,
        true_lat=1.0,
        true_lon=2.0,
        distance_km=distance,
        **(known | values),
    )


def only_score(rows):
    (one,) = score(to_frame(rows)).itertuples()
    return one


def compared(a, b, **options):
    """The median error of rows a against that of rows b: estimate, low and high."""
    rows = [*a, *(replace(one, locator="base") for one in b)]
    found = compare(to_frame(rows), "base", metrics=("median_km",), **options)
    return tuple(found[found.locator == "icgeo"].iloc[0, -3:])


ERRORS = (100.0, 500.0, 1000.0, 2000.0, 9000.0)


def test_a_score_has_the_numbers_of_its_rows():
    levels = (0.1, 0.5, 0.85, 0.95, 1.0)
    rows = [row(i, ERRORS[i], level=level) for i, level in enumerate(levels)]
    one = only_score(rows)
    assert one.median_km == METRICS["median_km"].interval(to_frame(rows)).estimate == 1000
    assert one.within_750km == pytest.approx(2 / 5)
    assert one.covered == pytest.approx(3 / 5)
    assert (one.located, one.failed) == (1, 0)
    assert 100 <= one.median_km_low <= 1000 <= one.median_km_high <= 9000


def test_a_missing_answer_counts_as_a_guess():
    one = only_score([row(0, 10.0), row(1, None), row(2, None)])
    assert one.median_km == pytest.approx(math.pi / 2 * 6371)
    assert one.located == pytest.approx(1 / 3)
    assert one.within_200km == pytest.approx(1 / 3)


def test_photos_that_failed_are_counted_only():
    failed = Row("icgeo", "episode 0", "moon", "bad.jpg", 4, error="empty file")
    one = only_score([row(0, 10.0), failed])
    assert (one.queries, one.failed) == (1, 1)
    assert len(score(to_frame([failed]))) == 0
    assert format_results(to_frame([failed])) == "skipped bad.jpg: empty file"


def test_what_rows_of_earlier_versions_lack_is_left_out_of_their_scores():
    one = only_score([row(0, 1.0, seconds=None), row(1, 2.0, seconds=0.5), row(2, 3.0)])
    assert one.seconds == pytest.approx((0.5 + 0.02) / 2)
    assert math.isnan(only_score([row(0, 1.0, area_90_km2=None)]).area_share)


def test_scores_are_by_world_and_locator():
    rows = [row(0, 1.0), row(1, 3.0), row(2, 5.0, locator="other"), row(3, 7.0, world="mars")]
    columns = ["world", "locator", "queries", "failed", "mean_km"]
    assert score(to_frame(rows))[columns].to_numpy().tolist() == [
        ["moon", "icgeo", 2, 0, 2.0], ["moon", "other", 1, 0, 5.0], ["mars", "icgeo", 1, 0, 7.0]
    ]  # fmt: skip


def test_the_tables_are_markdown_and_fit_100_columns():
    rows = [row(i, km, world="blue-marble, random") for i, km in enumerate(ERRORS)]
    for name in (Chance.name, RETRIEVAL, CROSS_CORRELATION, PARTS_ALONE):
        rows += [replace(one, locator=name, distance_km=2 * one.distance_km) for one in rows[:5]]
    table, _, below = score_table(score(to_frame(rows))).split("\n\n")
    for lines in (table.splitlines(), below.splitlines()):
        assert len(lines) == 3
        assert len({len(line) for line in lines}) == 1
        assert len(lines[0]) <= 100
        assert set(lines[1]) == {"-", ":", "|", " "}

    def cells(text):
        header, _, values = (
            [one.strip() for one in li.split("|")[1:-1]] for li in text.split("\n")
        )
        return dict(zip(header, values, strict=True))

    assert cells(table) == {
        "world": "blue-marble, random",
        "shots": "4",
        "median km": "1000",
        "mean km": "2520",
        "< 2500 km": "80%",
        "NLL": "1.00",
        "90 % area": "25.0%",
        "covered": "100%",
    }
    assert cells(below)["icgeo"] == "1000, 1.00"
    assert cells(below)[RETRIEVAL] == "2000, 1.00"
    assert Chance.name not in cells(below)


def test_comparing_resamples_both_alike():
    """What is 50 km farther everywhere is so in every resample, so the interval has no width."""
    near = [row(i, 100.0 + 37 * i) for i in range(30)]
    farther = [row(i, 150.0 + 37 * i) for i in range(30)]
    assert compared(near, farther[::-1]) == pytest.approx((-50, -50, -50))
    far = [row(i, 2 * (100.0 + 37 * i)) for i in range(30)]
    estimate, _, high = compared(near, far)
    assert estimate == pytest.approx(-torch.arange(30).mul(37.0).add(100).mean().item())
    assert high < 0


def test_of_a_single_episode_queries_are_resampled():
    near = [replace(row(i, 100.0 + 37 * i), episode="one") for i in range(30)]
    far = [replace(one, distance_km=one.distance_km + 50 * (n % 3)) for n, one in enumerate(near)]
    _, low, high = compared(far, near)
    assert 0 <= low < high <= 100


def test_a_missing_answer_compares_as_a_guess():
    """The median distance of a uniform guess is a quarter of a great circle, 10,007.5 km."""
    nobody = [row(i, None) for i in range(9)]
    somebody = [row(i, 10_007.5) for i in range(9)]
    assert compared(nobody, somebody)[0] == pytest.approx(0, abs=0.1)


def test_only_the_same_queries_compare():
    with pytest.raises(ValueError, match="expected rows of the same queries, got 2 and 3"):
        compared([row(0, 1.0), row(5, 1.0)], [row(i, 1.0) for i in range(3)])


def test_methods_are_what_is_no_baseline():
    rows = [row(0, 1.0), row(1, 2.0, shots=8), row(2, 3.0, locator=Chance.name)]
    assert methods(to_frame(rows)).id.tolist() == ["0", "1"]


def test_levels_are_those_of_the_method_with_most_shots():
    rows = [row(0, 1.0, level=0.1), row(0, 1.0, shots=8, level=0.2)]
    rows += [row(0, 1.0, shots=8, level=0.9, locator=Chance.name)]
    rows += [row(1, 1.0, world="mars", level=0.3)]
    found = {name: levels.tolist() for name, levels in levels_by_world(to_frame(rows)).items()}
    assert found == {"moon, 8 shots": [0.2], "mars, 4 shots": [0.3]}


def test_the_report_lists_answers_whose_truth_is_unknown():
    def answer(number, lat=12.3):
        return Row(
            "icgeo", "photos", "photos", f"{number}.jpg", 4, lat=lat, lon=-70.0, area_90_km2=1234.5
        )

    lines = format_results(to_frame([answer(i) for i in range(5)]), most=3).splitlines()
    assert lines[0] == "0.jpg: 12.30, -70.00, 90 % within 1,234 km2"
    assert lines[-1] == "and 2 more in predictions.parquet"
    assert len(lines) == 4
    assert format_results(to_frame([answer(0, lat=None)])) == "0.jpg: not located"
