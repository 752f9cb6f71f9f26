"""Tests of plans: parameter counts of the public checkpoints, and the arithmetic of DESIGN.md."""

from dataclasses import replace

import pytest
import torch
import twins
from diffusers import Flux2Transformer2DModel

import icgeo
from icgeo.models.plan import Plan

KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 7680,
    "in_channels": 128,
    "guidance_embeds": False,
}
KLEIN_9B = {
    **KLEIN_4B,
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
}
PLAN = Plan(
    parameters=3_900_000_000,
    width=3072,
    blocks=25,
    shots=8,
    example_tokens=8 * 768,
    photo_tokens=256,
    map_tokens=512,
    text_tokens=64,
    queries=10**9,
    batch_size=8,
    steps=4,
    samples=8,
    bytes_a_number=2,
    memory_bytes=24 * 2**30,
)


@pytest.mark.parametrize(("config", "billions"), [(KLEIN_4B, 3.9), (KLEIN_9B, 9.1)])
def test_public_checkpoints_have_their_parameters(config, billions):
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(**config)
    assert transformer.num_parameters() / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize(("shots", "tflop"), [(8, (1848, 567, 155)), (16, (4268, 1190, 190))])
def test_operations_are_those_of_the_design(shots, tflop):
    plan = replace(PLAN, shots=shots, example_tokens=shots * 768)
    found = (plan.naive_flop, plan.stock_flop, plan.shared_flop)
    assert [x / 1e12 for x in found] == pytest.approx(tflop, rel=0.01)


def test_memory_decides_whether_it_fits():
    assert PLAN.context_bytes == 2 * 25 * 3072 * (8 * 768 + 8 * 256) * 2
    assert PLAN.fits
    assert not replace(PLAN, memory_bytes=8 * 2**30).fits
    assert "does not fit 8.0 GiB" in str(replace(PLAN, memory_bytes=8 * 2**30))


def test_tiny_and_folders_are_planned_without_weights(tmp_path):
    tiny = icgeo.plan("tiny", shots=16)
    assert tiny.parameters == icgeo.load("tiny").learner.transformer.num_parameters()
    assert (tiny.example_tokens, tiny.photo_tokens, tiny.map_tokens) == (128, 0, 8)
    klein = twins.klein(tmp_path)
    for weights in klein.rglob("*.safetensors"):
        weights.unlink()
    plan = icgeo.plan(klein, shots=2)
    assert plan.parameters < 10**6
    assert plan.example_tokens == 2 * (256 + 512)
    with pytest.raises(icgeo.LoadError, match=r"expected transformer/config\.json"):
        icgeo.plan(tmp_path / "vae")
