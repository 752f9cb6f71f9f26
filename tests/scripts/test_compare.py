"""The comparison of all ways runs end to end, on little of everything."""

import pytest
from script_runs import load_script


@pytest.mark.slow
def test_ways_are_trained_and_stand_in_one_table(tmp_path, monkeypatch, capsys):
    compare = load_script("compare")
    monkeypatch.chdir(tmp_path)
    little = {"train_views": 40, "train_seconds": 0.3, "fit_seconds": 0.2, "earth_queries": 4}
    options = compare.Options(
        ways=("chance", "mean of examples", "retrieval", "vmf"),
        worlds=1,
        earth=1,
        queries=4,
        shots=(1, 2),
        **little,
    )
    compare.main(options)
    table = capsys.readouterr().out
    assert "trained on it, no example" in table
    assert table.count("| vmf ") >= 3 * 2 - 1
    assert "sub-region" in table
    run = tmp_path / "runs" / "compare"
    assert (run / "shots.png").stat().st_size > 10_000
    assert (run / "comparison.md").read_text().strip() == table.strip()


def test_every_photo_is_located_by_those_elsewhere():
    compare = load_script("compare")
    episodes = compare.photo_episodes(compare.Options(benchmark="photos"))
    assert len(episodes) == 72
    assert max(len(episode.examples) for episode in episodes) <= 71
    for episode in episodes[:5]:
        (query,) = episode.queries
        assert all((one.lat, one.lon) != query.lat_lon for one in episode.examples)


def test_a_half_of_the_photos_is_calibrated_without_the_other():
    compare = load_script("compare")
    episodes = compare.photo_episodes(compare.Options(benchmark="photos"))
    scored = {id(query.photo) for episode in episodes[::2] for query in episode.queries}
    kept = compare.among_themselves(episodes[1::2])
    assert [episode.id for episode in kept] == [episode.id for episode in episodes[1::2]]
    for before, episode in zip(episodes[1::2], kept, strict=True):
        assert 0 < len(episode.examples) < 36
        assert scored.isdisjoint(id(one.image) for one in episode.examples)
        left_out = [one for one in before.examples if one not in episode.examples]
        assert all(id(one.image) in scored for one in left_out)
