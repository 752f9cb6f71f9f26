"""Tests of plans: parameter counts of the public checkpoints, and the arithmetic of DESIGN.md."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import twins
from diffusers import (
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)

import icgeo
from icgeo.models import plan as plan_module
from icgeo.models.plan import Dimensions, Plan, Tokens, plan_loaded

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
DEV = {
    **KLEIN_4B,
    "num_layers": 8,
    "num_single_layers": 48,
    "num_attention_heads": 48,
    "joint_attention_dim": 15360,
    "guidance_embeds": True,
}
VACE_1_3B = {
    "num_attention_heads": 12,
    "ffn_dim": 8960,
    "num_layers": 30,
    "vace_layers": [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28],
}
TI2V_5B = {
    "num_attention_heads": 24,
    "ffn_dim": 14336,
    "num_layers": 30,
    "in_channels": 48,
    "out_channels": 48,
}
PLAN = Plan(
    dimensions=Dimensions(3_900_000_000, 24, 3072, 25, 26 * 3072**2 * 25),
    tokens=Tokens(example=768, photo=256, drawn=512, text=64),
    shots=8,
    attention="joint",
    queries=10**9,
    batch_size=8,
    steps=4,
    samples=8,
    weight_bytes=7_800_000_000,
    bytes_a_number=2,
    memory_bytes=24 * 2**30,
)


@pytest.mark.parametrize(
    ("kind", "config", "billions"),
    [
        (Flux2Transformer2DModel, KLEIN_4B, 3.9),
        (Flux2Transformer2DModel, KLEIN_9B, 9.1),
        (Flux2Transformer2DModel, DEV, 32.2),
        (FluxTransformer2DModel, {"guidance_embeds": True}, 11.9),
        (WanVACETransformer3DModel, VACE_1_3B, 2.15),
        (WanVACETransformer3DModel, {}, 17.3),
        (WanTransformer3DModel, TI2V_5B, 5.0),
    ],
)
def test_public_checkpoints_have_their_parameters(kind, config, billions):
    """Counts as published: FLUX.2 of 4, 9 and 32 billion, Kontext of 12, TI2V of 5.

    VACE's names count the base model: the branch of control comes on top of 1.3 and 14 billion.
    """
    with torch.device("meta"):
        transformer = kind(**config)
    assert transformer.num_parameters() / 1e9 == pytest.approx(billions, abs=0.06)
    found = Dimensions.of(transformer)
    assert found.parameters == transformer.num_parameters()
    assert found.width == 128 * config.get(
        "num_attention_heads", 40 - 16 * ("guidance_embeds" in config)
    )
    # but for embeddings and modulation, each weight is a product and a sum for each token
    assert 0.4 < found.token_flop / (2 * found.parameters) < 1.05


@pytest.mark.parametrize(("shots", "tflop"), [(8, (1848, 567, 155)), (16, (4268, 1190, 190))])
def test_operations_are_those_of_the_design(shots, tflop):
    plan = replace(PLAN, shots=shots)
    found = (plan.naive_flop, plan.stock_flop, plan.shared_flop)
    assert [x / 1e12 for x in found] == pytest.approx(tflop, rel=0.01)


def test_memory_decides_whether_it_fits():
    assert PLAN.context_bytes == 2 * 25 * 3072 * (8 * 768 + 8 * 256) * 2
    assert PLAN.fits
    assert not replace(PLAN, memory_bytes=8 * 2**30).fits
    assert "does not fit 8.0 GiB" in str(replace(PLAN, memory_bytes=8 * 2**30))


def test_what_does_not_fit_is_refused():
    PLAN.require()
    with pytest.raises(icgeo.LoadError, match=r"8 shots, 8 queries .* need .* has 8\.0; show"):
        replace(PLAN, memory_bytes=8 * 2**30).require()


def test_too_many_shots_are_refused_before_anything_is_computed(tmp_path, monkeypatch):
    model = icgeo.load(twins.klein(tmp_path))
    locator = icgeo.Geolocator(model)
    monkeypatch.setattr(plan_module, "device_memory", lambda _: 2**30)
    photo = np.zeros((8, 8, 3), dtype=np.uint8)

    def compute(*_, **__):
        raise AssertionError("examples are encoded")

    monkeypatch.setattr(type(model), "encode_context", compute)
    with pytest.raises(icgeo.LoadError, match=r"400 shots, .* GiB, .* fewer examples"):
        locator.locate([photo], [(photo, (0.0, 0.0))] * 400)


def test_layouts_that_keep_nothing_cost_the_same_in_every_way(tmp_path):
    kontext = icgeo.plan(twins.kontext(tmp_path / "kontext"), shots=3)
    panel = 4 * 256 * (512 + 256) // 16**2
    assert (kontext.tokens.photo, kontext.tokens.drawn) == (panel, panel)
    assert kontext.naive_flop == kontext.stock_flop == kontext.shared_flop
    vace = icgeo.plan(twins.vace(tmp_path / "vace"), shots=3, quantization="int8")
    assert (vace.tokens.drawn, vace.context_bytes) == (8 * 512, 0)
    assert vace.weight_bytes == vace.parameters
    kept = icgeo.plan(tmp_path / "kontext", shots=3, layout="references", attention="pairwise")
    assert kept.shared_flop < kept.naive_flop / 2
    assert kept.example_tokens == 3 * (256 + 512)


def test_a_loaded_model_has_the_plan_of_its_folder(tmp_path):
    folder = twins.klein(tmp_path)
    told = icgeo.plan(folder, shots=2, dtype=torch.float32)
    found = plan_loaded(icgeo.load(folder), 2, batch_size=8)
    assert found == told


def test_tiny_and_folders_are_planned_without_weights(tmp_path):
    tiny = icgeo.plan("tiny", shots=16)
    assert tiny.parameters == icgeo.load("tiny").learner.transformer.num_parameters()
    assert (tiny.example_tokens, tiny.tokens.photo, tiny.tokens.drawn) == (128, 0, 8)
    klein = twins.klein(tmp_path)
    for weights in klein.rglob("*.safetensors"):
        weights.unlink()
    plan = icgeo.plan(klein, shots=2)
    assert plan.parameters < 10**6
    assert plan.example_tokens == 2 * (256 + 512)
    with pytest.raises(icgeo.LoadError, match=r"expected model_index\.json"):
        icgeo.plan(tmp_path / "vae")
