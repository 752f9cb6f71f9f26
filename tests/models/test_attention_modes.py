"""The modes of attention, each exact against one masked pass through diffusers' own forward."""

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel
from diffusers.models.transformers import transformer_flux as stock1
from diffusers.models.transformers import transformer_flux2 as stock
from einops import rearrange, repeat
from peft import LoraConfig
from torch.nn import functional

from icgeo.models.attention import AttentionContext, KVCache, install, uninstall

SHOTS, PHOTO, MAP, TEXT = 3, 4, 6, 5
CHANNELS, WIDTH = 12, 24
QUERIES, SAMPLES = 2, 3


class Places(torch.nn.Module):
    """`Flux2PosEmbed` in float64: its float32 tables break the shift invariance by 1e-8."""

    def forward(self, ids):
        rates = 2000.0 ** -torch.arange(0, 1, 0.5, dtype=torch.float64)
        angles = rearrange(ids.double()[..., None] * rates, "n a f -> n (a f)")
        angles = angles.repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


@pytest.fixture(autouse=True)
def _rotate_in_float64(monkeypatch):
    """Diffusers rotates in float32, whose rounding would hide what is tested."""

    def rotate(x, rotary, *, sequence_dim):
        assert sequence_dim == 1
        cos, sin = (part.double()[None, :, None] for part in rotary)
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        return x * cos + torch.stack((-odd, even), dim=-1).flatten(-2) * sin

    for module in (stock, stock1):
        monkeypatch.setattr(module, "apply_rotary_emb", rotate)


@pytest.fixture(params=[False, True], ids=["plain", "lora"])
def transformer(request):
    torch.manual_seed(0)
    model = Flux2Transformer2DModel(
        in_channels=CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    ).double()
    model.pos_embed = Places()
    if request.param:
        names = ["to_q", "to_k", "to_v", "to_qkv_mlp_proj"]
        model.add_adapter(LoraConfig(r=2, target_modules=names, init_lora_weights=False))
        model.double()
    return model


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ids(image, tokens):
    """Places of an image of two rows."""
    rows = torch.arange(2), torch.arange(tokens // 2)
    return torch.cartesian_prod(torch.tensor([image]), *rows, torch.tensor([0]))


TEXT_IDS = torch.cartesian_prod(*3 * (torch.tensor([0]),), torch.arange(TEXT))
PAIRS_IDS = [torch.cat((ids(20 * i + 10, PHOTO), ids(20 * i + 20, MAP))) for i in range(SHOTS)]
PHOTO_IDS, MAP_IDS = ids(20 * SHOTS + 10, PHOTO), ids(0, MAP)


@pytest.fixture
def tokens():
    """Pairs, query photos, noisy maps and text."""
    return (
        draw(SHOTS, PHOTO + MAP, CHANNELS, seed=1).requires_grad_(),
        draw(QUERIES, PHOTO, CHANNELS, seed=2).requires_grad_(),
        draw(QUERIES, SAMPLES, MAP, CHANNELS, seed=3),
        draw(1, TEXT, WIDTH, seed=4),
    )


def run(transformer, hidden, t, places, *, text, attention_context=None, **options):
    return transformer(
        hidden_states=hidden,
        encoder_hidden_states=text.expand(len(hidden), -1, -1),
        timestep=torch.full((len(hidden),), t, dtype=torch.float64),
        img_ids=places,
        txt_ids=TEXT_IDS[: text.shape[1]],
        joint_attention_kwargs={"attention_context": attention_context}
        if attention_context
        else None,
        return_dict=False,
        **options,
    )[0]


def shared(transformer, tokens, mode, t=0.7):
    """Three passes: examples once, each query photo once, then every noisy map."""
    pairs, photos, noisy, text = tokens
    no_text = text[:, :0]
    examples, seen_photos = KVCache(), KVCache()
    if mode == "pairwise":
        run(
            transformer,
            pairs,
            0.0,
            PAIRS_IDS[0],
            text=no_text,
            attention_context=AttentionContext(cache=examples),
        )
    else:
        joined = rearrange(pairs, "k n c -> 1 (k n) c")
        places = torch.cat(PAIRS_IDS)
        run(
            transformer,
            joined,
            0.0,
            places,
            text=no_text,
            attention_context=AttentionContext(cache=examples),
        )
    seen = examples.rotated(transformer.pos_embed(torch.cat(PAIRS_IDS)), groups=1)
    keep = AttentionContext((seen,), cache=seen_photos)
    run(transformer, photos, 0.0, PHOTO_IDS, text=no_text, attention_context=keep)
    seen_photos = seen_photos.rotated(transformer.pos_embed(PHOTO_IDS), groups=QUERIES)
    hidden = rearrange(noisy, "q s n c -> (q s) n c")
    found = run(
        transformer,
        hidden,
        t,
        MAP_IDS,
        text=text,
        attention_context=AttentionContext((seen, seen_photos)),
    )
    return rearrange(found, "(q s) n c -> q s n c", q=QUERIES)


def who_sees_whom(mode):
    """The mask of one pass over text, examples, query photo and map."""
    kinds = torch.tensor(
        [-1] * TEXT
        + [i if mode == "pairwise" else 0 for i in range(SHOTS) for _ in range(PHOTO + MAP)]
        + [100] * PHOTO
        + [101] * MAP
    )
    asks, gives = kinds[:, None], kinds[None]
    is_example = (gives >= 0) & (gives < 100)
    return (asks == gives) & (asks >= 0) | (asks == 100) & is_example | (asks == -1) | (asks == 101)


def masked(transformer, tokens, mode, monkeypatch, t=0.7):
    """One pass of diffusers' own forward over text, examples, photo and map, with a mask."""
    pairs, photos, noisy, text = tokens
    sees = who_sees_whom(mode)

    def attention(query, key, value, *_, **__):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=sees).transpose(1, 2)

    monkeypatch.setattr(stock, "_flux2_kv_causal_attention", attention)
    for block in transformer.transformer_blocks:
        block.attn.set_processor(stock.Flux2KVAttnProcessor())
    for block in transformer.single_transformer_blocks:
        block.attn.set_processor(stock.Flux2KVParallelSelfAttnProcessor())
    examples = repeat(pairs, "k n c -> b (k n) c", b=QUERIES * SAMPLES)
    hidden = torch.cat(
        (
            examples,
            repeat(photos, "q n c -> (q s) n c", s=SAMPLES),
            rearrange(noisy, "q s n c -> (q s) n c"),
        ),
        dim=1,
    )
    places = torch.cat((*PAIRS_IDS, PHOTO_IDS, MAP_IDS))
    found = run(
        transformer,
        hidden,
        t,
        places,
        text=text,
        kv_cache_mode="extract",
        num_ref_tokens=SHOTS * (PHOTO + MAP) + PHOTO,
    )
    return rearrange(found, "(q s) n c -> q s n c", q=QUERIES)


@pytest.mark.parametrize("mode", ["joint", "pairwise"])
def test_shared_context_is_exact(transformer, tokens, mode, monkeypatch):
    install(transformer)
    found = shared(transformer, tokens, mode)
    with torch.no_grad():
        fused = shared(transformer, tokens, mode)
        expected = masked(transformer, tokens, mode, monkeypatch)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(fused, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["joint", "pairwise"])
def test_gradients_are_exact(transformer, tokens, mode, checkpointing, monkeypatch):
    inputs = [x for x in (*tokens[:2], *transformer.parameters()) if x.requires_grad]
    weight = draw(QUERIES, SAMPLES, MAP, CHANNELS, seed=9)
    install(transformer)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
        transformer.train()
    loss = (shared(transformer, tokens, mode) * weight).sum()
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    transformer.disable_gradient_checkpointing()
    loss = (masked(transformer, tokens, mode, monkeypatch) * weight).sum()
    expected = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert any(x is not None and x.abs().max() > 1e-3 for x in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            scale = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(mine / scale, theirs / scale, atol=1e-10, rtol=0)


@torch.no_grad()
def test_joint_with_the_photo_in_the_last_group_is_the_key_value_mode(transformer, tokens):
    """Where the query's photo belongs to the references, all masks are those of diffusers."""
    pairs, photos, noisy, text = (x[:1] if i == 1 else x for i, x in enumerate(tokens))
    shown = torch.cat((rearrange(pairs, "k n c -> 1 (k n) c"), photos), dim=1)
    places, kept = torch.cat((*PAIRS_IDS, PHOTO_IDS)), KVCache()
    install(transformer)
    run(
        transformer,
        shown,
        0.0,
        places,
        text=text[:, :0],
        attention_context=AttentionContext(cache=kept),
    )
    seen = kept.rotated(transformer.pos_embed(places), groups=1)
    found = run(
        transformer, noisy[0], 0.7, MAP_IDS, text=text, attention_context=AttentionContext((seen,))
    )
    for block in transformer.transformer_blocks:
        block.attn.set_processor(stock.Flux2KVAttnProcessor())
    for block in transformer.single_transformer_blocks:
        block.attn.set_processor(stock.Flux2KVParallelSelfAttnProcessor())
    expected = run(
        transformer,
        torch.cat((shown.expand(SAMPLES, -1, -1), noisy[0]), dim=1),
        0.7,
        torch.cat((places, MAP_IDS)),
        text=text,
        kv_cache_mode="extract",
        num_ref_tokens=shown.shape[1],
    )
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


class Places1(Places):
    """The same for FLUX.1, whose places have three axes."""

    def forward(self, ids):
        return super().forward(torch.nn.functional.pad(ids, (0, 1)))


@pytest.fixture(params=[False, True], ids=["plain", "lora"])
def kontext(request):
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    ).double()
    model.pos_embed = Places1()
    if request.param:
        names = ["to_q", "to_k", "to_v", "proj_mlp"]
        model.add_adapter(LoraConfig(r=2, target_modules=names, init_lora_weights=False))
        model.double()

    def run1(hidden, t, places, *, text, **attention):
        return model(
            hidden_states=hidden,
            encoder_hidden_states=text.expand(len(hidden), -1, -1),
            pooled_projections=torch.ones(len(hidden), 8, dtype=torch.float64),
            guidance=torch.full((len(hidden),), 2.5, dtype=torch.float64),
            timestep=torch.full((len(hidden),), t, dtype=torch.float64),
            img_ids=places[:, :3],
            txt_ids=torch.zeros(text.shape[1], 3),
            joint_attention_kwargs=attention,
            return_dict=False,
        )[0]

    return model, run1


def apart(transformer, run1, tokens, mode):
    """FLUX.1 in three passes: examples once, each query photo once, then every noisy map."""
    pairs, photos, noisy, text = tokens
    examples, of_photos = KVCache(), KVCache()
    if mode == "pairwise":
        run1(
            pairs,
            0.0,
            PAIRS_IDS[0],
            text=text[:, :0],
            attention_context=AttentionContext(cache=examples),
        )
    else:
        joined = rearrange(pairs, "k n c -> 1 (k n) c")
        places = torch.cat(PAIRS_IDS)
        run1(
            joined,
            0.0,
            places,
            text=text[:, :0],
            attention_context=AttentionContext(cache=examples),
        )
    rotary = transformer.pos_embed(torch.cat(PAIRS_IDS)[:, :3])
    seen = examples.rotated(rotary, groups=1)
    run1(
        photos,
        0.0,
        PHOTO_IDS,
        text=text[:, :0],
        attention_context=AttentionContext((seen,), cache=of_photos),
    )
    seen_photos = of_photos.rotated(transformer.pos_embed(PHOTO_IDS[:, :3]), groups=QUERIES)
    hidden = rearrange(noisy, "q s n c -> (q s) n c")
    found = run1(
        hidden, 0.0, MAP_IDS, text=text, attention_context=AttentionContext((seen, seen_photos))
    )
    return rearrange(found, "(q s) n c -> q s n c", q=QUERIES)


def together(run1, tokens, mode):
    """FLUX.1 in one masked pass of diffusers' own forward."""
    pairs, photos, noisy, text = tokens
    hidden = torch.cat(
        (
            repeat(pairs, "k n c -> b (k n) c", b=QUERIES * SAMPLES),
            repeat(photos, "q n c -> (q s) n c", s=SAMPLES),
            rearrange(noisy, "q s n c -> (q s) n c"),
        ),
        dim=1,
    )
    places = torch.cat((*PAIRS_IDS, PHOTO_IDS, MAP_IDS))
    found = run1(hidden, 0.0, places, text=text, attention_mask=who_sees_whom(mode))
    return rearrange(found[:, -MAP:], "(q s) n c -> q s n c", q=QUERIES)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["joint", "pairwise"])
def test_flux1_is_exact(kontext, tokens, mode, checkpointing):
    """Values and gradients.

    All at t = 0: a pass of FLUX.1 has one time, and only this one is that of the examples too.
    """
    transformer, run1 = kontext
    weight = draw(QUERIES, SAMPLES, MAP, CHANNELS, seed=9)
    inputs = [x for x in (*tokens[:2], *transformer.parameters()) if x.requires_grad]
    install(transformer)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
        transformer.train()
    found = apart(transformer, run1, tokens, mode)
    gradients = torch.autograd.grad((found * weight).sum(), inputs, allow_unused=True)
    with torch.no_grad():
        fused = apart(transformer, run1, tokens, mode)
    transformer.disable_gradient_checkpointing()
    uninstall(transformer)
    expected = together(run1, tokens, mode)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs, allow_unused=True)
    for mine in (found, fused):
        torch.testing.assert_close(mine, expected, atol=1e-10, rtol=0)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            scale = max(1.0, theirs.abs().max().item())
            torch.testing.assert_close(mine / scale, theirs / scale, atol=1e-10, rtol=0)
