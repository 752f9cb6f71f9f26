"""Tests of evaluation on Ray: the answers of one process, whatever dies."""

import os
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from test_run import Matcher, episode, without_times

from icgeo.config import UsageError
from icgeo.evaluation import evaluate
from icgeo.evaluation import ray_pipeline as on_ray
from icgeo.evaluation.ray_pipeline import Actors, evaluate_on_ray

FEW = {"shots": (0, 2), "batch_size": 2}
POOL = Actors(name="matcher", fewest=2, most=2, baselines=False)


def open_matchers(count):
    return [Matcher()] * count


@pytest.fixture
def episodes():
    return [episode("a", queries=5, seed=1), episode("b", queries=5, seed=2)]


class FakeData:
    """What is used of Ray Data, in this process: each step at once, one actor, `most` items."""

    most = None
    located = 0

    def __init__(self, items):
        self.items = items

    @classmethod
    def from_items(cls, items, *, override_num_blocks):
        assert override_num_blocks == len(items)
        return cls(items)

    def map(self, step):
        return FakeData([step(item) for item in self.items])

    def map_batches(self, actor, *, fn_constructor_args, batch_size, **_):
        assert batch_size == 1
        actor = actor(*fn_constructor_args)
        for item in self.items[: self.most]:
            actor({name: [value] for name, value in item.items()})
        FakeData.located = len(self.items[: self.most])
        return self

    def materialize(self):
        if self.most is not None:
            raise KeyboardInterrupt

    @staticmethod
    def ActorPoolStrategy(**_):
        return None


@pytest.fixture
def fake_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", FakeData)
    monkeypatch.setattr(FakeData, "located", 0)


def on_fake_ray(episodes, folder, pool=POOL):
    return evaluate_on_ray(
        partial(open_matchers, len(episodes)), episodes, folder=folder, pool=pool, **FEW
    )


@pytest.fixture
def whole(episodes, tmp_path):
    runs = [(Matcher(), one) for one in episodes]
    return without_times(evaluate(runs, folder=tmp_path / "whole", baselines=False, **FEW))


@pytest.mark.usefixtures("fake_ray")
def test_a_stopped_run_goes_on_with_the_answers_of_one_process(
    episodes, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "ray"
    monkeypatch.setattr(FakeData, "most", 2)
    with pytest.raises(KeyboardInterrupt):
        on_fake_ray(episodes, folder)
    monkeypatch.setattr(FakeData, "most", None)
    torn = next(folder.glob("predictions-*.jsonl"))
    torn.write_bytes(torn.read_bytes()[:-10])
    rows = on_fake_ray(episodes, folder)
    assert FakeData.located == 5, "of 6 batches one was whole"
    assert without_times(rows) == whole
    monkeypatch.setitem(sys.modules, "ray.data", None)  # nothing is left: no Ray is needed
    assert evaluate_on_ray(list, episodes, folder=folder, pool=POOL, **FEW).equals(rows)
    assert [path.name for path in folder.glob("*.jsonl")] == ["predictions.jsonl"]
    again = evaluate([(Matcher(), one) for one in episodes], folder=folder, baselines=False, **FEW)
    assert again.equals(rows)


@pytest.mark.usefixtures("fake_ray")
def test_what_one_process_has_located_is_known(episodes, whole, tmp_path):
    evaluate([(Matcher(), episodes[0])], folder=tmp_path / "ray", baselines=False, **FEW)
    assert without_times(on_fake_ray(episodes, tmp_path / "ray")) == whole
    assert FakeData.located == 3


@pytest.mark.usefixtures("fake_ray")
def test_locators_of_another_name_are_refused(episodes, tmp_path):
    with pytest.raises(UsageError, match="expected locators named 'icgeo' as the pool"):
        on_fake_ray(episodes, tmp_path, Actors())


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'icgeo\[ray\]'"), on_ray.local_ray():
        pass


@dataclass(frozen=True)
class Mortal(Matcher):
    """Kills its process in the middle of the run, once."""

    flag: Path = Path()

    def locate(self, photos, examples):
        self.asked.append(len(photos))
        if len(self.asked) == 3 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().locate(photos, examples)


def open_mortals(flag):
    return [Mortal(flag=flag)] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_actor_killed_on_ray_loses_nothing(episodes, whole, tmp_path, monkeypatch):
    """Two actors on this machine; one dies by SIGKILL with its third batch in hand."""
    pytest.importorskip("ray")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (here.parents[1], here))))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    flag = tmp_path / "killed"
    with on_ray.local_ray():
        rows = evaluate_on_ray(
            partial(open_mortals, flag), episodes, folder=tmp_path / "ray", pool=POOL, **FEW
        )
    assert flag.exists()
    assert without_times(rows) == whole
