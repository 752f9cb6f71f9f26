"""Tests of adapting tiny: resuming, accumulation, round trip, overfitting, errors."""

import copy
import json
import math
import shutil
from dataclasses import replace
from functools import lru_cache, partial

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional

import icgeo
from icgeo import maps, sphere
from icgeo.config import UsageError
from icgeo.models.map_model import MapModel
from icgeo.models.settings import Settings
from icgeo.training import lora
from icgeo.training.adapters import (
    add_lora,
    learned,
    push_to_hub,
    save_adapter,
    target_modules,
    write_card,
)
from icgeo.training.calibration import ValidationResult, validate
from icgeo.training.episodes import PROMPTS, Gallery
from icgeo.training.lora import LoraOptions, LoraTraining, make_accelerator
from icgeo.training.losses import FlowLoss, Latents, encoded
from icgeo.training.photo_sets import PhotoSet, view_set
from icgeo.training.pretrain import STYLE, build_learner

FEW = LoraOptions(
    views=3,
    episodes=4,
    rank=2,
    alpha=6,
    steps=6,
    warmup=2,
    validate_every=3,
    save_every=2,
    tracker="none",
    mixed_precision="no",
)
UNKNOWN = PROMPTS[1]


pytestmark = pytest.mark.usefixtures("forget_accelerator")


@lru_cache(maxsize=2)
def built(seed):
    with torch.random.fork_rng():
        return build_learner(
            heads=2, single_layers=1, photo_channels=8, codec_places=400, seed=seed
        ).eval()


def small_model(seed=0):
    settings = Settings(STYLE, PROMPTS, default_prompt=PROMPTS[0])
    return MapModel(copy.deepcopy(built(seed)).requires_grad_(False), settings)


@pytest.fixture(scope="module")
def photo_set():
    generator = torch.Generator().manual_seed(0)
    world = torch.rand(3, 24, 48, generator=generator)
    return view_set(world, 12, size=64, generator=generator)


def validated_on(photo_set):
    episodes = [(photo_set[:2], photo_set[2:4])]
    return partial(validate, episodes=episodes, prompt=UNKNOWN, shots=(0, 2))


def training(photo_set, folder, options=FEW, *, model=None, has_validation=True):
    loss = FlowLoss(model or small_model(), UNKNOWN)
    latents = encoded(loss, photo_set, folder / "latents")
    return LoraTraining(
        loss,
        latents,
        Gallery.of(photo_set.lat_lon, latents["features"]),
        folder=folder,
        options=options,
        accelerator=make_accelerator(options, folder),
        validation=validated_on(photo_set) if has_validation else None,
    )


def weights_of(run):
    return [weight.detach().clone() for weight in run.weights] + run.average.shadow_params


def test_a_killed_run_ends_with_the_same_weights_bit_by_bit(photo_set, tmp_path, monkeypatch):
    whole = training(photo_set, tmp_path / "whole")
    whole.run()
    killed = training(photo_set, tmp_path / "killed")
    update = killed.update

    def until_five():
        if killed.step == 5:
            raise KeyboardInterrupt
        return update()

    monkeypatch.setattr(killed, "update", until_five)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    (tmp_path / "killed" / "checkpoints" / "00000006.partial").mkdir()  # torn while written
    resumed = training(photo_set, tmp_path / "killed")
    resumed.run()
    assert resumed.step == 6
    for one, other in zip(weights_of(whole), weights_of(resumed), strict=True):
        assert torch.equal(one, other)
    assert any(weight.abs().max() > 0 for weight in whole.weights)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert [line["step"] for line in logs[1]] == [3, 6]
    assert logs[0][1]["2 shots, NLL"] == logs[1][1]["2 shots, NLL"]
    assert [path.name for path in resumed.checkpoints] == ["00000006"]
    one, other = (
        load_file(tmp_path / name / "adapter" / "pytorch_lora_weights.safetensors")
        for name in ("whole", "killed")
    )
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_gradients_in_parts_are_those_of_the_whole(photo_set, tmp_path):
    found = []
    for accumulate in (1, 2):
        options = replace(FEW, accumulate=accumulate)
        run = training(photo_set, tmp_path / str(accumulate), options, has_validation=False)
        run.update()
        run.update()
        found.append([weight.detach().clone() for weight in run.weights])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_latents_are_computed_once_and_anew_for_other_photos(photo_set, tmp_path, monkeypatch):
    loss = FlowLoss(small_model(), UNKNOWN)
    first = encoded(loss, photo_set, tmp_path)
    calls = []
    monkeypatch.setattr(loss, "encode", lambda photos: calls.append(len(photos)) or first)
    again = encoded(loss, photo_set, tmp_path)
    assert not calls
    assert all(torch.equal(again[name], x) for name, x in first.tensors.items())
    encoded(loss, photo_set[:5], tmp_path)
    encoded(FlowLoss(small_model(seed=1), UNKNOWN), photo_set[:6], tmp_path)
    assert calls == [5]
    assert len(list(tmp_path.iterdir())) == 3


def test_hidden_pairs_and_the_own_map_do_not_matter(photo_set, tmp_path):
    """The loss of a target alone changes with what it sees, and with nothing else."""
    run = training(photo_set, tmp_path, has_validation=False)
    sample = next(run.parts(0))[0]
    visible = torch.zeros(3, 3, dtype=torch.bool)
    visible[0, 1] = True
    sample = replace(sample, visible=visible, t=torch.ones(3))

    def velocity(latents):
        found = []
        learner = run.loss.model.backbone
        hook = learner.transformer.register_forward_hook(lambda *args: found.append(args[-1][0]))
        run.loss(latents, [sample])
        hook.remove()
        return found[-1][0].detach()

    expected = velocity(run.latents)
    for pair, changes in ((0, False), (1, True), (2, False)):
        maps_of = run.latents["maps"].clone()
        maps_of[sample.pairs[pair]] += 1
        other = Latents({**run.latents.tensors, "maps": maps_of})
        same = torch.equal(velocity(other), expected)
        assert same is not changes, pair


def draw_maps(model):
    photos = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    photos = photos.to(torch.uint8)
    context = model.encode_context(photos[:2], torch.tensor([[0.0, 10.0], [20.0, 30.0]]))
    return model.draw_maps(context, photos[2:], prompt=UNKNOWN)


def adapted(folder, **options):
    """The model of a folder with a LoRA that does change it."""
    model = icgeo.load(folder)
    add_lora(model.backbone.transformer, **{"rank": 3, "alpha": 12, **options})
    generator = torch.Generator().manual_seed(1)
    for weight in learned(model.backbone.transformer):
        weight.data += torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    small_model().save(folder)
    return folder


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"dora": True}])
def test_an_adapter_comes_back_from_disk_exactly(checkpoint, tmp_path, options):
    """With alpha four times the rank, which files without metadata would lose."""
    model = adapted(checkpoint, **options)
    save_adapter(model.backbone.transformer, tmp_path / "adapter")
    again = icgeo.load(checkpoint, adapter=tmp_path / "adapter")
    assert torch.equal(draw_maps(model), draw_maps(again))
    plain = draw_maps(icgeo.load(checkpoint))
    assert (draw_maps(model) - plain).abs().max() > 1e-5


def test_merged_maps_are_those_unmerged(checkpoint):
    model = adapted(checkpoint)
    expected = draw_maps(model)
    model.backbone.transformer.fuse_lora()
    model.backbone.transformer.unload_lora()
    assert not any("lora" in name for name, _ in model.backbone.transformer.named_parameters())
    torch.testing.assert_close(draw_maps(model), expected, atol=2e-5, rtol=0)


def test_adapters_are_float32_on_a_base_of_bfloat16(checkpoint):
    model = icgeo.load(checkpoint, dtype="bfloat16")
    weights = add_lora(model.backbone.transformer, rank=2, alpha=2)
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert model.backbone.transformer.x_embedder.weight.dtype == torch.bfloat16
    assert draw_maps(model).isfinite().all()


def nearest_place(model, latents):
    """The place whose coded map is nearest to latents: over a grid of 5 degrees, then finer."""
    codec = model.backbone.codec

    def best(grid):
        coded = codec.encode_maps(maps.draw(grid, model.settings.style).float())
        return grid[(coded - latents).square().sum((1, 2)).argmin()]

    steps = torch.arange(-90.0, 90.1, 5), torch.arange(-180.0, 180.0, 5)
    place = best(torch.cartesian_prod(*steps).double())
    for width in (4.0, 0.8):
        near = torch.linspace(-width, width, 11).double()
        grid = place + torch.cartesian_prod(near, near)
        place = best(torch.stack((grid[:, 0].clamp(-90, 90), grid[:, 1]), dim=-1))
    return place


@pytest.mark.slow
def test_rank_8_memorises_8_episodes(tmp_path):
    """One photo that is asked for in each; the map drawn in one step decodes within 100 km."""
    generator = torch.Generator().manual_seed(3)
    places = torch.rand(16, 2, generator=generator).double() * 120 - 60
    photos = torch.randint(256, (16, 3, 8, 8), generator=generator).float()
    photos = functional.interpolate(photos, size=64, mode="bilinear").to(torch.uint8)
    model, photo_set = icgeo.load("tiny"), PhotoSet(photos, places)
    options = LoraOptions(
        views=2,
        episodes=8,
        rank=8,
        alpha=16,
        steps=150,
        share_at_t1=1.0,
        learning_rate=1e-2,
        average=0.9,
        warmup=10,
        tracker="none",
        mixed_precision="no",
    )
    run = training(photo_set, tmp_path, options, model=model, has_validation=False)
    samples = [
        replace(
            next(run.parts(0))[0],
            pairs=torch.tensor([2 * i, 2 * i + 1]),
            visible=torch.tensor([[False, True], [False, False]]),
            seed=i,
        )
        for i in range(8)
    ]
    run.parts = lambda step: [[replace(d, seed=8 * step + d.pairs[0].item()) for d in samples]]
    for _ in range(options.steps):
        run.update()
    errors = []
    for i in range(8):
        context = model.encode_context(photos[2 * i + 1 : 2 * i + 2], places[2 * i + 1, None])
        drawn = model.draw_maps(context, photos[2 * i : 2 * i + 1], prompt=UNKNOWN, samples=4)
        place = nearest_place(model, model.backbone.codec.encode_maps(drawn[0].mean(0)))
        errors.append(sphere.distance_km(place, places[2 * i]).item())
    assert sorted(errors)[4] < 100


def test_the_learning_rate_rises_and_falls():
    options = LoraOptions(steps=100, warmup=10, learning_rate=1.0)
    assert options.rate(0) == pytest.approx(0.1)
    assert options.rate(9) == options.rate(10) == 1
    assert options.rate(55) == pytest.approx(0.01 + 0.99 / 2)
    assert options.rate(99) < 0.02
    assert replace(options, schedule="constant").rate(99) == 1


def test_it_stops_where_validation_does_not_improve(photo_set, tmp_path, monkeypatch):
    options = replace(FEW, steps=8, validate_every=1, patience=2)
    run = training(photo_set, tmp_path, options)
    nll = iter([3.0, 1.0, 2.0, 1.5, 0.0])
    run.validation = lambda model: {0: ValidationResult(100.0, next(nll), 1.0)}
    saved = []
    monkeypatch.setattr(lora, "save_adapter", lambda *_, **__: saved.append(run.step))
    run.run()
    assert run.step == 4
    assert saved == [1, 2]
    assert run.best == 1


def test_losses_go_to_tensorboard(photo_set, tmp_path):
    training(photo_set, tmp_path, replace(FEW, tracker="tensorboard")).run()
    events = EventAccumulator(str(tmp_path / "lora"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for name in ("loss", "2 shots, NLL"):
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert points == [(line["step"], pytest.approx(line[name])) for line in lines]


def test_a_full_disk_loses_nothing(photo_set, tmp_path, monkeypatch):
    run = training(photo_set, tmp_path, has_validation=False)
    run.update()
    run.save()

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run.accelerator, "save_state", full)
    run.update()
    with pytest.raises(UsageError, match=r"No space left on device.*make room and start again"):
        run.save()
    assert [path.name for path in run.checkpoints] == ["00000001"]
    resumed = training(photo_set, tmp_path, has_validation=False)
    assert resumed.resume()
    assert resumed.step == 1


def test_a_checkpoint_of_another_model_is_refused(photo_set, tmp_path):
    run = training(photo_set, tmp_path, has_validation=False)
    run.save()
    other = training(photo_set, tmp_path, model=small_model(seed=1), has_validation=False)
    with pytest.raises(UsageError, match=r"expected a checkpoint of .* choose another run folder"):
        other.resume()
    shutil.rmtree(tmp_path / "checkpoints")
    assert not other.resume()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": ("to_z",)}, "target modules of Flux2Transformer2DModel, got 'to_z', which"),
        ({"targets": ("(",)}, "expected a regular expression, got"),
        ({"views": 13}, "at least 13 pairs to train on, the views of an episode, got 12"),
        ({"accumulate": 3}, "that 3 processes and parts share evenly, got 4"),
        ({"eight_bit": True}, "bitsandbytes"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(photo_set, tmp_path, options, words):
    with pytest.raises(UsageError, match=words) as raised:
        training(photo_set, tmp_path, replace(FEW, **options), has_validation=False)
    assert "\n" not in str(raised.value)


def test_options_out_of_range():
    with pytest.raises(UsageError, match="rank of at least 1, got 0"):
        LoraOptions(rank=0)
    with pytest.raises(UsageError, match=r"average decay in \[0, 1\), got 1"):
        LoraOptions(average=1)


def test_models_and_prompts_that_cannot_be_adapted():
    with pytest.raises(UsageError, match=r"a prompt of .*, got 'mars'"):
        FlowLoss(small_model(), "mars")
    with pytest.raises(UsageError, match="'pairwise' to adapt this model, got 'full'"):
        FlowLoss(small_model().choosing(attention="full"), UNKNOWN)
    with pytest.raises(UsageError, match=r"a transformer of .* to adapt, got Linear"):
        target_modules(torch.nn.Linear(2, 2))


def test_targets_can_be_chosen():
    transformer = small_model().backbone.transformer
    found = target_modules(transformer, ("to_q", r"add_[kv]_proj"))
    assert [name.rsplit(".", 1)[-1] for name in found] == ["to_q", "add_k_proj", "add_v_proj"]


def test_the_card_is_pushed_with_the_adapter(tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repository, **options):
            calls.append((repository, options))

        def upload_folder(self, **options):
            calls.append(options)

    monkeypatch.setattr("icgeo.models.hub.HfApi", Hub)
    with pytest.raises(UsageError, match="expected a model card"):
        push_to_hub(tmp_path, "someone/lora")
    facts = {
        "data": "12 photos of x.",
        "settings": {"rank": 2, "alpha": 4, "for_steps": 4},
        "results": "| a |",
    }
    choices = {"layout": "panel", "photo_size": 64}
    write_card(tmp_path, base="tiny", licence="apache-2.0", choices=choices, **facts)
    assert push_to_hub(tmp_path, "someone/lora") == "https://huggingface.co/someone/lora"
    assert calls[0] == ("someone/lora", {"private": True, "exist_ok": True})
    assert calls[1] == {"repo_id": "someone/lora", "folder_path": tmp_path, "revision": None}
    text = (tmp_path / "README.md").read_text()
    call = """adapter="path/of/this/folder", layout='panel', photo_size=64)"""
    assert (
        "## Settings\n\n- rank: 2\n- alpha: 4\n- for_steps: 4\n\n## Results\n\n| a |\n\n## Licence"
        in text
    )
    for part in ("base_model: tiny", "12 photos of x.", call, "license: apache", "`steps=4`"):
        assert part in text

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(Hub, "create_repo", fail)
    with pytest.raises(UsageError, match="cannot push to someone/lora: no network; it is in"):
        push_to_hub(tmp_path, "someone/lora")


def test_a_run_ends_without_numbers_that_are_not(photo_set, tmp_path):
    last = training(photo_set, tmp_path, replace(FEW, steps=1)).run()
    assert all(math.isfinite(value) for value in last.values())
