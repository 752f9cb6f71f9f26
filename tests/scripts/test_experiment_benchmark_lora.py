"""Tests of the comparison with diffusers' loop: that its loss is the stock one, and both learn."""

from dataclasses import replace

import pytest
import torch
from script_runs import SCRIPTS, load_script

from icgeo.models.attention import uninstall
from icgeo.training.episodes import sample_episode
from icgeo.training.lora import LoraOptions
from icgeo.training.losses import FlowLoss

benchmark_lora = load_script("experiments/benchmark_lora")
OPTIONS = LoraOptions(views=3, rank=2, tracker="none", mixed_precision="no", learning_rate=1e-2)


@pytest.fixture(scope="module")
def run():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS / "experiments")
        yield benchmark_lora.random_run("small", OPTIONS, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def draw(run):
    found = sample_episode(run.gallery, OPTIONS, 0)
    return replace(found, visible=~torch.eye(3, dtype=torch.bool), has_text=True)


def test_the_stock_loss_is_that_of_the_mode_full(run, draw):
    """One sequence of the noisy map, all examples and the photo; here by the model's own way."""
    model = run.loss.model
    full = replace(model, settings=replace(model.settings, attention="full"))
    uninstall(run.transformer)
    with torch.no_grad():
        expected = FlowLoss(full, run.loss.prompt)(run.latents, [draw])
        found = benchmark_lora.stock_loss(run, draw, torch.tensor([0]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_pass_of_several_targets_is_several_passes(run, draw):
    uninstall(run.transformer)
    with torch.no_grad():
        alone = [benchmark_lora.stock_loss(run, draw, torch.tensor([i])) for i in range(3)]
        together = benchmark_lora.stock_loss(run, draw, torch.arange(3))
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)


def test_each_way_takes_a_step(run, draw):
    run.optimizer.param_groups[0]["lr"] = 1e-3
    for at_once in (None, 2):
        before = [weight.detach().clone() for weight in run.weights]
        benchmark_lora.take_step(run, draw, at_once=at_once)
        moved = [(x - y).abs().max().item() for x, y in zip(run.weights, before, strict=True)]
        assert max(moved) > 1e-5
