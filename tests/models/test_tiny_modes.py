"""Modes of the stacked model, exact against single passes of diffusers' own forward; guidance."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers.models.transformers import transformer_flux2 as stock
from einops import rearrange
from torch.nn import functional

from icgeo import maps
from icgeo.models.backbones.tiny import EXAMPLE_IMAGE, QUERY_IMAGE, grid_ids, text_ids
from icgeo.models.map_model import MapModel
from icgeo.models.settings import MODES, Settings
from icgeo.training.episodes import PROMPTS
from icgeo.training.pretrain import STYLE, build_learner

SHOTS, QUERIES, TOKENS, TEXT = 3, 2, 8, 2
LAT_LON = torch.tensor([[10.0, 20.0], [-40.0, 179.0], [88.0, -3.0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _rotate_in_float64(monkeypatch):
    """Diffusers rotates in float32, whose rounding would hide what is tested."""

    def rotate(x, rotary, *, sequence_dim):
        assert sequence_dim == 1
        turn = torch.complex(*(part.double()[None, :, None, ::2] for part in rotary))
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn
        return torch.view_as_real(turned).flatten(-2)

    monkeypatch.setattr(stock, "apply_rotary_emb", rotate)


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough that what is seen matters."""
    learner = build_learner(heads=2, single_layers=2, photo_channels=8, codec_places=400)
    torch.manual_seed(1)
    for weight in learner.transformer.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    settings = Settings(STYLE, PROMPTS, default_prompt=PROMPTS[0])
    return MapModel(learner.double().eval().requires_grad_(False), settings)


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (SHOTS + QUERIES, 3, 64, 64), generator=generator, dtype=torch.uint8)


def single_pass(model, features, noisy, *, mode, t):
    """One pass over examples, query and text for each query; the mask is explicit."""
    learner = copy.deepcopy(model.backbone)
    transformer = learner.transformer
    drawn = learner.codec.encode_maps(maps.draw(LAT_LON, STYLE).double())
    pairs = rearrange(torch.cat((features[:SHOTS], drawn), dim=-1), "k n c -> 1 (k n) c")
    queries = torch.cat((features[SHOTS:], noisy), dim=-1)
    places = (SHOTS * [EXAMPLE_IMAGE], [QUERY_IMAGE])
    extract = {"kv_cache_mode": "extract", "num_ref_tokens": SHOTS * TOKENS}
    processors = (stock.Flux2KVAttnProcessor, stock.Flux2KVParallelSelfAttnProcessor)
    if mode == "full":
        extract = {}
        processors = (stock.Flux2AttnProcessor, stock.Flux2ParallelSelfAttnProcessor)
    for blocks, processor in zip(
        (transformer.transformer_blocks, transformer.single_transformer_blocks),
        processors,
        strict=True,
    ):
        for block in blocks:
            block.attn.set_processor(processor())
    found = transformer(
        hidden_states=torch.cat((pairs.expand(QUERIES, -1, -1), queries), dim=1),
        encoder_hidden_states=learner.prompts[1].expand(QUERIES, -1, -1),
        timestep=torch.full((QUERIES,), t, dtype=torch.float64),
        img_ids=torch.cat([grid_ids(2, 4, image=image) for part in places for image in part]),
        txt_ids=text_ids(TEXT),
        **extract,
    ).sample
    return found[:, -TOKENS:]


def hide(monkeypatch, mode):
    """Let diffusers' key-value attention see what the mode shows."""
    owner = [n if mode == "pairwise" else 0 for n in range(SHOTS) for _ in range(TOKENS)]
    owners = torch.tensor(TEXT * [-1] + owner + TOKENS * [-1])
    sees = (owners[:, None] == owners) | (owners[:, None] == -1)

    def attention(query, key, value, *_, **__):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=sees).transpose(1, 2)

    monkeypatch.setattr(stock, "_flux2_kv_causal_attention", attention)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_one_pass_of_the_stock_transformer(model, photos, mode, monkeypatch):
    model = model.choosing(attention=mode)
    features, _ = model.backbone.codec.encode_photos(photos.double() / 255)
    noisy = torch.randn(QUERIES, TOKENS, 36, generator=torch.Generator().manual_seed(2)).double()
    context = model.encode_context(photos[:SHOTS], LAT_LON)
    found = model.velocity(context, features[SHOTS:], PROMPTS[1])(noisy[:, None], 0.7)
    hide(monkeypatch, mode)
    expected = single_pass(model, features, noisy, mode=mode, t=0.7)
    torch.testing.assert_close(found[:, 0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_neither_company_nor_order_change_a_map(model, photos, mode):
    model = model.choosing(attention=mode)
    context = model.encode_context(photos[:SHOTS], LAT_LON)
    drawn = model.draw_maps(context, photos[SHOTS:], prompt=PROMPTS[1], samples=2, steps=2)
    turned = model.encode_context(photos[:SHOTS].flip(0), LAT_LON.flip(0))
    alone = model.draw_maps(turned, photos[-1:], prompt=PROMPTS[1], samples=2, steps=2)
    torch.testing.assert_close(alone[0], drawn[-1], atol=1e-6, rtol=0)  # maps are float32


def test_contexts_know_their_mode_and_full_ones_grow(model, photos):
    full = model.choosing(attention="full")
    whole = full.encode_context(photos[:3], LAT_LON)
    first = full.encode_context(photos[:1], LAT_LON[:1])
    grown = first.extended(full.encode_context(photos[1:3], LAT_LON[1:]))
    torch.testing.assert_close(grown.tensors, whole.tensors)
    with pytest.raises(ValueError, match="attention 'full', not 'pairwise'"):
        model.draw_maps(whole, photos[SHOTS:], prompt=PROMPTS[0])


@pytest.mark.parametrize("mode", MODES)
def test_guided_maps_lie_on_the_line_from_those_without_examples(model, photos, mode):
    """One step is linear in the velocity, and the codec is affine: so are the maps in the scale."""
    model = model.choosing(attention=mode)

    def draw(scale, shots):
        guided = replace(model, settings=replace(model.settings, example_guidance=scale))
        context = guided.encode_context(photos[:shots], LAT_LON[:shots])
        return guided.draw_maps(context, photos[SHOTS:], prompt=PROMPTS[0])

    without, shown, guided = draw(1.0, 0), draw(1.0, SHOTS), draw(2.5, SHOTS)
    assert (shown - without).abs().max() > 1e-3
    torch.testing.assert_close(guided, without + 2.5 * (shown - without), atol=1e-5, rtol=0)
    assert torch.equal(draw(2.5, 0), without)
