"""Tests of batches: one bad photo is one row, and no more photos are held than needed."""

import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
from test_run import Matcher, as_rows, episode, without_times

from icgeo.config import UsageError
from icgeo.data.photos import read_photo
from icgeo.evaluation import Stream, evaluate
from icgeo.evaluation.rows import known_rows


@dataclass(frozen=True)
class Fragile(Matcher):
    """Fails at photos with a red corner."""

    error: BaseException | None = None

    def locate(self, photos, examples):
        self.asked.append(len(photos))
        if any(read_photo(photo).getpixel((0, 0)) == (255, 0, 0) for photo in photos):
            raise self.error or RuntimeError("not\nfinite")
        return super().locate(photos, examples)


def with_red(run, number):
    queries = list(run.queries)
    photo = np.array(queries[number].photo)
    photo[0, 0] = (255, 0, 0)
    queries[number] = replace(queries[number], photo=photo)
    return replace(run, queries=queries)


def test_a_photo_at_which_the_locator_fails_is_a_row_with_the_reason(tmp_path, caplog):
    run = with_red(episode("a"), 3)
    rows = evaluate(
        [(Fragile(), run)], folder=tmp_path, shots=(1, 2), batch_size=5, baselines=False
    )
    errors = {(row.id, row.shots): row.error for row in as_rows(rows) if row.error}
    assert errors == dict.fromkeys([("a/3", 1), ("a/3", 2)], "RuntimeError: not finite")
    assert "RuntimeError: not finite" in caplog.text
    good = evaluate([(Matcher(), run)], folder=tmp_path / "b", shots=(1, 2), baselines=False)
    assert without_times(rows[rows.error.isna()]) == without_times(good[good.id != "a/3"])


def test_a_failed_photo_is_not_tried_again(tmp_path):
    locator, run = Fragile(), with_red(episode("a"), 0)
    first = evaluate([(locator, run)], folder=tmp_path, shots=(1,), baselines=False)
    locator.asked.clear()
    again = evaluate([(locator, run)], folder=tmp_path, shots=(1,), baselines=False)
    assert again.equals(first)
    assert not locator.asked


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UsageError("too little memory")])
def test_what_no_photo_is_to_blame_for_stops_the_run(tmp_path, error):
    with pytest.raises(type(error)):
        evaluate(
            [(Fragile(error=error), with_red(episode("a"), 3))],
            folder=tmp_path,
            shots=(1,),
            baselines=False,
        )
    assert not known_rows(tmp_path)


def test_a_stream_is_located_as_an_episode_and_not_held(tmp_path):
    run = episode("a", queries=24)
    made, alive = [], []

    def queries():
        for query in run.queries:
            photo = query.photo.copy()
            made.append(weakref.ref(photo))
            alive.append(sum(one() is not None for one in made))
            yield replace(query, photo=photo)

    stream = Stream(run.id, run.world, run.examples, queries())
    rows = evaluate(
        [(Matcher(), stream)], folder=tmp_path / "s", shots=(2,), batch_size=4, baselines=False
    )
    assert len(alive) == 24
    assert max(alive) <= 2 * 4 + 1
    whole = evaluate(
        [(Matcher(), run)], folder=tmp_path / "e", shots=(2,), batch_size=4, baselines=False
    )
    assert without_times(rows) == without_times(whole)
