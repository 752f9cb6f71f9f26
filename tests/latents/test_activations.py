"""Tests of activations: against hooks set by hand, and of what is kept on disk."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from icgeo import features, maps
from icgeo.data.pixels import square_pixels
from icgeo.evaluation.episodes import world_episode
from icgeo.latents import activations as module
from icgeo.latents.activations import ActivationStore, activations
from icgeo.latents.probes import probe_places
from icgeo.models import load
from icgeo.models.blocks import Edit, Taps, blocks_of, walk
from icgeo.models.matching import with_standardised

sys.path.append(str(Path(__file__).parents[1] / "models"))

import twins

STYLE = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)


@pytest.fixture(scope="module")
def model():
    return load("tiny")


@pytest.fixture(scope="module")
def episode():
    return world_episode("blue-marble", queries=10, shots=3)


@pytest.fixture(scope="module")
def pixels(episode):
    return square_pixels([query.photo for query in episode.queries], 64)


def nothing(model):
    return model.encode_context([], torch.empty(0, 2))


def test_the_activations_are_what_a_hook_on_the_stock_block_sees(model, pixels):
    context, seen = nothing(model), []
    single = model.backbone.transformer.single_transformer_blocks[2]  # behind one double block
    hook = single.register_forward_hook(lambda _, inputs, output: seen.append(output))
    drawn = model.draw_maps(context, pixels, prompt="earth")
    hook.remove()
    steps = walk(model, context, pixels, prompt="earth", taps=Taps((3,)))
    (step,) = steps
    assert torch.equal(step.activations[3], seen[0][:, 2:])  # behind the two words of the prompt
    assert torch.equal(step.maps, drawn[:, 0])
    words = Taps((3,), stream="text")
    (step,) = walk(model, context, pixels, prompt="earth", taps=words)
    assert torch.equal(step.activations[3], seen[0][:, :2])


def test_times_follow_the_model_s_own_flow(model, pixels):
    """Two even steps are those of `draw_maps`, and the last estimate is what it returns."""
    context, looks = nothing(model), []
    drawn = model.draw_maps(
        context,
        pixels,
        prompt="earth",
        steps=2,
        callback_on_step_end=lambda maps, t: looks.append((t, maps[:, 0])),
    )
    times = tuple(time for time, _ in looks)
    steps = list(walk(model, context, pixels, prompt="earth", taps=Taps((0,), times)))
    for step, (time, look) in zip(steps, looks, strict=True):
        assert step.time == time
        torch.testing.assert_close(step.maps, look, atol=1e-5, rtol=0)
    torch.testing.assert_close(steps[-1].maps, drawn[:, 0], atol=1e-5, rtol=0)


def test_an_edit_changes_what_follows_and_nothing_before(model, pixels):
    context = nothing(model)
    (plain,) = walk(model, context, pixels, prompt="earth", taps=Taps((1, 2, 5)))
    mirror = Edit(2, lambda x: x.flip(0))  # each photo gets the activations of another
    (step,) = walk(model, context, pixels, prompt="earth", taps=Taps((1, 2, 5)), edits=[mirror])
    assert torch.equal(step.activations[1], plain.activations[1])
    assert torch.equal(step.activations[2], plain.activations[2].flip(0))
    assert (step.maps - plain.maps).abs().max() > 0.1
    late = Edit(2, lambda x: 0 * x, time=0.5)
    (step,) = walk(model, context, pixels, prompt="earth", taps=Taps((5,)), edits=[late])
    assert torch.equal(step.maps, plain.maps)


def test_no_hook_is_left_behind(model, pixels):
    walking = walk(model, nothing(model), pixels, prompt="earth", taps=Taps((0,), (1.0, 0.5)))
    next(walking)
    walking.close()
    parts = [model.backbone.transformer, *blocks_of(model.backbone.transformer)]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def twin(name, folder, **options):
    model = load(twins.ALL[name](folder), style=STYLE, photo_size=64, **options)
    area = 2 * 64 * (64 + 128)
    return replace(model, settings=replace(model.settings, trained_area=area))


@pytest.mark.parametrize(
    ("name", "options", "tokens"),
    [
        ("klein", {"attention": "full"}, ("map", "photo", "example")),
        slow("klein", {"attention": "joint"}, ("map", "photo")),
        slow("klein", {"attention": "pairwise", "layout": "pair"}, ("map", "photo")),
        slow("dev", {"attention": "full"}, ("map", "photo", "example")),
        ("kontext", {}, ("map", "photo", "example")),
        slow("vace", {}, ("map", "photo", "example")),
        slow("ti2v", {}, ("map", "photo", "example")),
        ("qwen", {}, ("map",)),
    ],
)
def test_every_architecture_shows_its_blocks(name, options, tokens, tmp_path, episode):
    """Photos' tokens tell photos apart, and a change at the map's tokens moves the map."""
    model = twin(name, tmp_path, **options)
    size = model.photo_size
    pixels = square_pixels([query.photo for query in episode.queries[:2]], size)
    shown = square_pixels([one.image for one in episode.examples[:1]], size)
    places = torch.tensor([[one.lat, one.lon] for one in episode.examples[:1]])
    context, last = model.encode_context(shown, places), len(blocks_of(model.backbone.transformer))
    for which in tokens:
        taps = Taps((0, last - 1), (1.0, 0.5), which)
        first, second = walk(model, context, pixels, prompt="earth", taps=taps)
        for step in (first, second):
            assert set(step.activations) == {0, last - 1}
            assert all(part.isfinite().all() for part in step.activations.values())
        if which == "photo":
            a, b = first.activations[0]
            assert (a - b).abs().max() > 1e-4
    drawn = model.draw_maps(context, pixels, prompt="earth")
    (plain,) = walk(model, context, pixels, prompt="earth", taps=Taps((0,)))
    torch.testing.assert_close(plain.maps, drawn[:, 0], atol=1e-5, rtol=0)
    rows = plain.activations[0].shape[1]
    grid = model.layout.grid(1)
    assert rows <= grid[0] * grid[1]
    noise = torch.randn(plain.activations[0].shape, generator=torch.Generator().manual_seed(0))
    edit = Edit(last - 1, lambda x: x + noise)
    (moved,) = walk(model, context, pixels, prompt="earth", taps=Taps((0,)), edits=[edit])
    assert (moved.maps - plain.maps).abs().max() > 1e-4
    missing = [which for which in ("photo", "example") if which not in tokens]
    for which in missing:
        with pytest.raises(ValueError, match=f"got '{which}'"):
            next(walk(model, context, pixels, prompt="earth", taps=Taps((0,), tokens=which)))


@pytest.mark.parametrize(
    "name", ["qwen", slow("klein"), slow("kontext"), slow("vace"), slow("ti2v")]
)
def test_every_architecture_is_kept_and_probed(name, tmp_path, episode):
    model = twin(name, tmp_path)
    kept = {"folder": tmp_path / "kept", "examples": episode.examples[:1], "blocks": (0,)}
    store = activations(model, episode.queries[:6], **kept)
    probe = probe_places(store.read(0), store.lat_lon, split="random", folds=3)
    assert probe.distance_km.isfinite().all()
    assert store.read(0).std(0).max() > 0


def test_wrong_taps_are_refused(model, episode, tmp_path):
    for wrong, message in (
        ({"blocks": [6]}, "blocks from 0 to 5, got 6"),
        ({"times": [0.0]}, "times above 0 and up to 1"),
        ({"tokens": "words"}, "got 'words'"),
        ({"stream": "sound"}, "got 'sound'"),
        ({"tokens": "example"}, "attention='full'"),
    ):
        with pytest.raises(ValueError, match=message):
            activations(model, episode.queries, folder=tmp_path / "wrong", **wrong)


@pytest.mark.parametrize("name", ["batch_size", "shard_size"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused_before_anything_is_written(
    model, episode, tmp_path, name, size
):
    with pytest.raises(ValueError, match=f"expected {name} of at least 1 photo, got {size}; leave"):
        activations(model, episode.queries, folder=tmp_path / "wrong", **{name: size})
    assert not (tmp_path / "wrong").exists()


def test_the_store_holds_what_the_blocks_give(model, episode, pixels, tmp_path):
    steps = list(walk(model, nothing(model), pixels, prompt="earth", taps=Taps((1, 4), (1.0, 0.5))))
    kept = {"blocks": (1, 4), "times": (1.0, 0.5), "shard_size": 4, "batch_size": 3}
    pooled = activations(model, episode.queries, folder=tmp_path / "a", **kept)
    whole = activations(model, episode.queries, folder=tmp_path / "b", pool="none", **kept)
    for step in steps:
        for block in (1, 4):
            tokens = whole.read(block, step.time)
            torch.testing.assert_close(tokens, step.activations[block], atol=1e-4, rtol=1e-4)
            assert torch.equal(pooled.read(block, step.time), tokens.mean(1))
    assert len(pooled) == 10
    assert pooled.ids == [query.id for query in episode.queries]
    assert pooled.lat_lon.tolist() == [list(query.lat_lon) for query in episode.queries]
    parts = list(pooled.batches(1, 0.5, size=4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat(parts), pooled.read(1, 0.5))
    for block, time in ((2, 1.0), (1, 0.25), (1, None)):
        with pytest.raises(ValueError, match="expected a block of"):
            pooled.read(block, time)


def test_a_run_that_was_killed_goes_on_without_loss(model, episode, tmp_path, monkeypatch):
    kept = {"blocks": (0,), "shard_size": 3, "folder": tmp_path / "a"}
    whole = activations(model, episode.queries, **{**kept, "folder": tmp_path / "b"})
    calls = []

    def dying(*arguments, **options):
        calls.append(len(arguments[2]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return walk(*arguments, **options)

    monkeypatch.setattr(module, "walk", dying)
    with pytest.raises(KeyboardInterrupt):
        activations(model, episode.queries, **kept)
    with pytest.raises(ValueError, match="lacking their number; call activations again"):
        ActivationStore.open(tmp_path / "a")
    resumed = activations(model, iter(episode.queries), **kept)
    assert calls == [3, 3, 3, 3, 1]  # two shards were there
    assert torch.equal(resumed.read(0), whole.read(0))
    assert not list((tmp_path / "a").glob(".partial*"))


def test_what_it_was_made_of_is_checked(model, episode, tmp_path):
    kept = {"blocks": (0,), "folder": tmp_path}
    activations(model, episode.queries, **kept)
    for other in ({"prompt": "unknown world"}, {"seed": 1}, {"examples": episode.examples}):
        with pytest.raises(ValueError, match="choose another folder"):
            activations(model, episode.queries, **kept, **other)
    with pytest.raises(ValueError, match="expected the photos of"):
        activations(model, episode.queries[::-1], **kept)
    random = load("tiny")
    torch.nn.init.normal_(blocks_of(random.backbone.transformer)[3].attn.to_out.weight)
    with pytest.raises(ValueError, match="made with weights"):
        activations(random, episode.queries, **kept)


def test_processes_share_the_work(model, episode, tmp_path):
    kept = {"blocks": (0,), "shard_size": 3}
    alone = activations(model, episode.queries, folder=tmp_path / "a", **kept)
    parts = [
        activations(model, episode.queries, folder=tmp_path / "b", process=(number, 2), **kept)
        for number in (1, 0)
    ]
    assert parts[0] is None
    assert torch.equal(parts[1].read(0), alone.read(0))


def test_memory_is_flat(model, episode, tmp_path, monkeypatch):
    """Of a stream of photos no more than a shard is asked for before the shard is written."""
    waiting, most = [0], [0]

    def stream():
        for number in range(40):
            waiting[0] += 1
            most[0] = max(most)
            most.append(waiting[0])
            yield SimpleNamespace(id=str(number), photo=episode.queries[0].photo, lat_lon=None)

    save = module.save_file

    def saved(tensors, *arguments, **options):
        waiting[0] -= len(tensors["lat_lon"])
        assert sum(part.numel() for part in tensors.values()) == 5 * (192 + 2)
        return save(tensors, *arguments, **options)

    monkeypatch.setattr(module, "save_file", saved)
    store = activations(model, stream(), folder=tmp_path, blocks=(0,), shard_size=5)
    assert max(most) <= 6
    assert len(store) == 40
    assert store.lat_lon.isnan().all()


def test_layers_of_encoders(episode, tmp_path):
    encoder = features.open("tiny")
    arrays = [query.photo for query in episode.queries]
    store = activations(encoder, arrays, folder=tmp_path, shard_size=4)
    assert store.blocks == tuple(f"features.{number}" for number in range(6))
    with torch.no_grad():
        photos = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
        expected = encoder.layers["features.0"](with_standardised(photos))
    torch.testing.assert_close(
        store.read("features.0"), expected.mean((2, 3)), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ValueError, match="expected layers of"):
        encoder.encode_layers(arrays, ["features.9"])


def test_an_encoder_without_layers_is_told_of(episode, tmp_path):
    with pytest.raises(ValueError, match="with layers to look into, got 'pixels'"):
        activations(features.open("pixels"), episode.queries, folder=tmp_path / "none")


def test_a_block_at_a_time_is_a_feature(model, episode, pixels):
    own = features.open("tiny:3@0.5")
    found = own.encode([query.photo for query in episode.queries])
    (step,) = walk(model, nothing(model), pixels, prompt="earth", taps=Taps((3,), (0.5,)))
    tokens = torch.nn.functional.layer_norm(step.activations[3], (192,)).flatten(1)
    torch.testing.assert_close(found, torch.nn.functional.normalize(tokens, dim=-1))
    with pytest.raises(ValueError, match="blocks from 0 to 5, got 9"):
        features.open("tiny:9@1.0")


def test_the_index_says_what_is_inside(model, episode, tmp_path):
    activations(model, episode.queries, folder=tmp_path, blocks=(0,), times=(1.0, 0.5))
    index = json.loads((tmp_path / "activations.json").read_text())
    assert (index["blocks"], index["times"], index["shards"]) == ([0], [1.0, 0.5], 1)
    assert index["fingerprint"]["prompt"] == "earth"
    names = set(load_file(tmp_path / "000000.safetensors"))
    assert names == {"0@1", "0@0.5", "lat_lon"}
