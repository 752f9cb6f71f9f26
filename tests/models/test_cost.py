"""Tests of plans: parameter counts of the public checkpoints, and the arithmetic of DESIGN.md."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import twins

import icgeo
from icgeo import maps
from icgeo.models import cost, hub
from icgeo.models.architectures import CONFIGURATIONS
from icgeo.models.cost import Plan, Tokens, plan_loaded

KLEIN = "black-forest-labs/FLUX.2-klein-4B"
PLAN = Plan(
    parameters=3_900_000_000,
    heads=24,
    width=3072,
    blocks=25,
    token_flop=26 * 3072**2 * 25,
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
    ("model", "billions"),
    [
        ("black-forest-labs/FLUX.2-klein-4B", 3.9),
        ("black-forest-labs/FLUX.2-klein-base-9B", 9.1),
        ("black-forest-labs/FLUX.2-dev", 32.2),
        ("black-forest-labs/FLUX.1-Kontext-dev", 11.9),
        ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", 2.15),
        ("Wan-AI/Wan2.1-VACE-14B-diffusers", 17.3),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 5.0),
        ("Qwen/Qwen-Image-2.1", 7.1),
    ],
)
def test_public_checkpoints_have_their_parameters(model, billions):
    """Counts as published: FLUX.2 of 4, 9 and 32 billion, Kontext of 12, TI2V of 5, Qwen of 7.

    VACE's names count the base model: the branch of control comes on top of 1.3 and 14 billion.
    """
    found = icgeo.plan(model)
    assert found.parameters / 1e9 == pytest.approx(billions, abs=0.06)
    assert found.width == 128 * found.heads
    # but for embeddings and modulation, each weight is a product and a sum for each token
    assert 0.4 < found.token_flop / (2 * found.parameters) < 1.05


@pytest.mark.parametrize("model", CONFIGURATIONS)
def test_public_checkpoints_are_planned_without_the_hub(model, monkeypatch):
    def ask(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "hf_hub_download", ask)
    plan = icgeo.plan(model, shots=4)
    assert plan.shared_flop <= plan.stock_flop <= plan.naive_flop
    with pytest.raises(AssertionError, match="was asked"):
        icgeo.plan(model, shots=4, revision="v1")


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
    with pytest.raises(icgeo.LoadError, match=r"8 shots, 8 queries .* need .* has 8\.0 GiB; show"):
        replace(PLAN, memory_bytes=8 * 2**30).require()


@pytest.mark.parametrize(
    ("model", "choices", "words"),
    [
        (
            KLEIN,
            {"layout": "frames"},
            r"expected layout of \('references', 'panel', 'pair', 'sheet'\)",
        ),
        (KLEIN, {"photo_size": 100}, "expected maps and photos of multiples of 16 pixels"),
        (KLEIN, {"photo_size": -64}, "expected maps and photos of multiples"),
        ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", {"layout": "references"}, "expected layout of"),
    ],
)
def test_what_cannot_be_loaded_is_not_planned(model, choices, words):
    with pytest.raises(icgeo.LoadError, match=words):
        icgeo.plan(model, **choices)
    assert icgeo.plan(KLEIN, layout="panel").attention == "full"


@pytest.mark.parametrize(
    ("model", "millions", "mebibytes"),
    [
        (KLEIN, 84.0, 384),
        ("black-forest-labs/FLUX.1-Kontext-dev", 83.8, 6 * 384),
        ("Wan-AI/Wan2.1-VACE-1.3B-diffusers", 126.9, 2478),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 704.7, 2738),
        ("Qwen/Qwen-Image-2.1", 337.7, 1536),
    ],
)
def test_the_vae_counts(model, millions, mebibytes):
    """As live bytes of diffusers' VAEs on the meta device, that decode a map of 256 x 512 pixels.

    Wan decodes a video of 8 latent frames, Kontext a panel of about 6 times as many pixels.
    """
    plan = icgeo.plan(model, shots=3)
    assert plan.codec_bytes / 4e6 == pytest.approx(millions, abs=0.06)
    scale = plan.tokens.picture / 2**17 / 6 if "Kontext" in model else 1
    assert plan.picture_bytes / 2**20 == pytest.approx(mebibytes * scale, rel=0.01)
    assert "a picture" in str(plan)
    assert icgeo.plan("tiny").codec_bytes == 0


def test_the_encoder_that_reads_queries_counts(monkeypatch):
    """Qwen3-VL-8B has 8.77 billion parameters; both fit 48 GiB, and 24 GiB in turns."""
    plan = icgeo.plan("Qwen/Qwen-Image-2.1", shots=4)
    assert plan.encoder_bytes / 2e9 == pytest.approx(8.77, abs=0.01)
    at_once = max(plan.activation_bytes, plan.picture_bytes)
    weights = plan.weight_bytes + plan.encoder_bytes + plan.codec_bytes
    assert plan.total_bytes == weights + plan.context_bytes + at_once
    assert plan.example_tokens == 4 * (22 * 22 + 16 * 32 + 14)
    assert (plan.tokens.text, plan.tokens.drawn) == (0, 512)
    assert "encoder" not in str(icgeo.plan(KLEIN))
    assert replace(plan, memory_bytes=48 * 2**30).fits
    small = replace(plan, memory_bytes=24 * 2**30)
    assert not small.fits
    assert "taking turns with the encoder (offload='model'), 20.7 GiB: fits" in str(small)
    with pytest.raises(icgeo.LoadError, match="or offload the encoder by offload='model'"):
        small.require()
    with pytest.raises(icgeo.LoadError, match="multiples of 32 pixels, got 256 x 512 and 80"):
        icgeo.plan("Qwen/Qwen-Image-2.1", photo_size=80)


def test_too_many_shots_are_refused_before_anything_is_computed(tmp_path, monkeypatch):
    model = icgeo.load(twins.klein(tmp_path))
    locator = icgeo.Geolocator(model)
    monkeypatch.setattr(cost, "device_memory", lambda _: 2**30)
    photo = np.zeros((8, 8, 3), dtype=np.uint8)

    def compute(*_, **__):
        raise AssertionError("examples are encoded")

    monkeypatch.setattr(type(model), "encode_context", compute)
    with pytest.raises(icgeo.LoadError, match=r"400 shots, .* GiB, .* fewer examples"):
        locator.locate([photo], [(photo, (0.0, 0.0))] * 400)


@pytest.mark.slow
def test_a_batch_is_as_large_as_the_memory_allows(tmp_path, monkeypatch):
    style = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)
    model = icgeo.load(twins.klein(tmp_path), photo_size=64, style=style)
    locator = icgeo.Geolocator(model, batch_size=64, samples=1, steps=1)
    assert locator.require_memory(1) == 64
    of_batch = [plan_loaded(model, 1, batch_size=n, samples=1).total_bytes for n in (8, 16)]
    monkeypatch.setattr(cost, "device_memory", lambda _: round(sum(of_batch) / 2 / 0.9))
    assert locator.require_memory(1) == 8
    photos = np.random.default_rng(0).integers(256, size=(10, 64, 64, 3), dtype=np.uint8)
    together = locator.locate([*photos[1:]], [(photos[0], (10.0, 20.0))])
    (alone,) = locator.locate(photos[9], [(photos[0], (10.0, 20.0))])
    torch.testing.assert_close(together[8].map, alone.map, atol=1e-5, rtol=0)


def test_layouts_that_keep_nothing_cost_the_same_in_every_way(tmp_path):
    kontext = icgeo.plan(twins.kontext(tmp_path / "kontext"), shots=3)
    panel = 4 * 288 * (576 + 288) // 16**2  # at most a megapixel
    assert (kontext.tokens.photo, kontext.tokens.drawn) == (panel, panel)
    assert kontext.naive_flop == kontext.stock_flop == kontext.shared_flop
    vace = icgeo.plan(twins.vace(tmp_path / "vace"), shots=3, quantization="int8")
    assert (vace.tokens.drawn, vace.context_bytes) == (8 * 512, 0)
    assert vace.weight_bytes == vace.parameters
    kept = icgeo.plan(tmp_path / "kontext", shots=3, layout="references", attention="pairwise")
    assert kept.shared_flop < kept.naive_flop / 2
    assert kept.example_tokens == 3 * (256 + 512)


@pytest.mark.parametrize(("layout", "references"), [("pair", 17), ("sheet", 5)])
def test_pictures_of_pairs_have_the_tokens_of_map_and_photo(tmp_path, layout, references):
    """16 shots; as many tokens as are encoded, in fewer images, and a blank map for the query."""
    folder = twins.klein(tmp_path)
    plan = icgeo.plan(folder, shots=16, layout=layout, attention="pairwise")
    model = icgeo.load(folder, layout=layout)
    assert model.layout.references(16) == references
    black = torch.zeros(1, 3, 256, 256)
    queries = model.layout.encode_queries({}, black)
    assert plan.tokens.photo == queries[0, ..., 0].numel() == 256 + 512
    pairs, _ = model.layout.encode_examples(black, torch.zeros(1, 3, 256, 512))
    assert plan.tokens.example == pairs.shape[1] == 256 + 512


@pytest.mark.parametrize("name", ["klein", "qwen"])
def test_a_loaded_model_has_the_plan_of_its_folder(tmp_path, name):
    folder = twins.ALL[name](tmp_path)
    told = icgeo.plan(folder, shots=2, dtype=torch.float32)
    found = plan_loaded(icgeo.load(folder), 2, batch_size=8)
    assert found == told


def test_tiny_and_folders_are_planned_without_weights(tmp_path):
    tiny = icgeo.plan("tiny", shots=16)
    assert tiny.parameters == icgeo.load("tiny").backbone.transformer.num_parameters()
    assert (tiny.example_tokens, tiny.tokens.photo, tiny.tokens.drawn) == (128, 0, 8)
    klein = twins.klein(tmp_path)
    for weights in klein.rglob("*.safetensors"):
        weights.unlink()
    plan = icgeo.plan(klein, shots=2)
    assert plan.parameters < 10**6
    assert plan.example_tokens == 2 * (256 + 512)
    with pytest.raises(icgeo.LoadError, match=r"expected model_index\.json"):
        icgeo.plan(tmp_path / "vae")


def test_a_plan_names_the_device_and_what_fits_it():
    plan = icgeo.plan("tiny")
    assert "the RAM of the CPU" in str(plan)
    assert "measured on the CPU" in str(plan)
    assert cost.measured_rate("cpu") == cost.measured_rate("cpu") > 1e8
    small = replace(plan, memory_bytes=plan.total_bytes)
    assert "does not fit" in str(small)
    quantized = icgeo.plan(KLEIN, quantization="nf4")
    assert not quantized.fits
    assert "needs a GPU for this quantization" in str(quantized)
    with pytest.raises(hub.LoadError, match="needs a GPU"):
        quantized.require()
