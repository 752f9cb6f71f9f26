"""Test of comparing choices of examples end to end, on a few views.

The nearest example by pixels answers in place of a model, whose maps take long to read.
"""

from functools import partial

import pandas
from script_runs import run

from icgeo import geolocator
from icgeo.baselines import NearestPixels
from icgeo.data.worlds import procedural_world
from icgeo.evaluation import banks, benchmarks


def test_choices_are_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    low = partial(procedural_world, height=64)
    monkeypatch.setattr(benchmarks, "procedural_world", low)
    monkeypatch.setattr(benchmarks, "open_world", lambda name: low("terrain", generator=1))
    monkeypatch.setattr(banks, "VIEWS_AT_ONCE", 4)
    monkeypatch.setattr(geolocator, "Geolocator", lambda *model, **options: NearestPixels())
    few = ("--queries", 1, "--shots", "[1,2]", "--bank", 4, "--held_out", 1, "--earth", 0)
    more = ("--banks", "[16]", "--bank_queries", 1, "--bank_worlds", 1)
    run("compare_selections", "--features", "[pixels]", *few, *more)
    folder = tmp_path / "runs" / "selections"
    tables = [(folder / f"{name}.md").read_text() for name in ("strategies", "banks")]
    printed = capsys.readouterr().out
    assert all(table in printed for table in tables)
    for name in ("strategies", "banks"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    sizes = pandas.read_parquet(folder / "banks.parquet")
    assert set(sizes.shots) == {16}
    assert set(sizes.world) == {
        f"{world}, {how}"
        for world in ("held-out families", "blue-marble")
        for how in ("drawn", "grid")
    }
