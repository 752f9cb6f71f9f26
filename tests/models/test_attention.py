"""Tests of the attention that keeps examples: exact against single passes, in float64."""

import copy

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import (
    Flux2AttnProcessor,
    Flux2KVAttnProcessor,
    Flux2KVParallelSelfAttnProcessor,
    Flux2ParallelSelfAttnProcessor,
)

from icgeo.models.attention import AttentionContext, RotatedKV, install, merged, one_softmax, rotate
from icgeo.models.backbones.tiny import EXAMPLE_IMAGE, QUERY_IMAGE, grid_ids, text_ids
from icgeo.training.pretrain import build_learner


@pytest.fixture(scope="module")
def built():
    return (
        build_learner(heads=2, single_layers=2, photo_channels=8, codec_places=400, seed=1)
        .double()
        .eval()
    )


@pytest.fixture
def learner(built):
    return copy.deepcopy(built)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(groups, count, seed):
    return draw(groups, count, 8, 24, seed=seed)


def latents(groups, count, seed):
    return draw(groups, count, 8, 36, seed=seed)


def set_stock(transformer, double, single):
    for block in transformer.transformer_blocks:
        block.attn.set_processor(double())
    for block in transformer.single_transformer_blocks:
        block.attn.set_processor(single())


def test_attention_is_one_softmax_over_all_that_is_seen():
    query, key, value = (draw(6, 5, 2, 4, seed=s) for s in (1, 2, 3))
    hidden = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    visible = hidden.bool().repeat_interleave(4, dim=-1).unflatten(0, (2, 3))
    seen = RotatedKV([draw(2, 12, 2, 4, seed=4)], [draw(2, 12, 2, 4, seed=5)], visible)
    found = one_softmax(query, key, value, rotated=[seen], layer=0)
    for n in range(6):
        group, place = divmod(n, 3)
        shown = visible[group, place]
        keys = torch.cat((seen.keys[0][group, shown], key[n]))
        values = torch.cat((seen.values[0][group, shown], value[n]))
        expected = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in (query[n], keys, values))
        ).transpose(0, 1)
        torch.testing.assert_close(found[n], expected, atol=1e-12, rtol=0)


def test_fused_parts_merge_to_one_softmax():
    query, key, value = (draw(6, 5, 2, 4, seed=s) for s in (1, 2, 3))
    seen = [
        RotatedKV(
            [draw(groups, 7, 2, 4, seed=4 + groups)], [draw(groups, 7, 2, 4, seed=9 + groups)]
        )
        for groups in (1, 2, 6)
    ]
    found = merged(query, key, value, rotated=seen, layer=0)
    expected = one_softmax(query, key, value, rotated=seen, layer=0)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@torch.no_grad()
def test_without_examples_it_is_the_stock_transformer(learner):
    noisy, photos, t = latents(1, 3, 1), features(1, 3, 2), torch.full((1, 3), 0.7).double()
    prompt = torch.tensor([1])
    found = learner.velocity(
        noisy, t, photos, text=learner.prompts[prompt], attention_context=AttentionContext()
    )
    set_stock(learner.transformer, Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor)
    stock = learner.transformer(
        hidden_states=torch.cat((photos, noisy), -1)[0],
        encoder_hidden_states=learner.prompts[prompt].expand(3, -1, -1),
        timestep=t[0],
        img_ids=grid_ids(2, 4, image=QUERY_IMAGE),
        txt_ids=text_ids(2),
    ).sample
    torch.testing.assert_close(found[0], stock, atol=1e-10, rtol=0)


@torch.no_grad()
def test_with_one_example_it_is_the_kv_mode_of_diffusers(learner):
    """`kv_cache_mode="extract"` lets references see themselves at t = 0 and the rest see all."""
    noisy, photos = latents(1, 1, 3), features(1, 1, 4)
    example, drawn = features(1, 1, 5), latents(1, 1, 6)
    t, prompt = torch.full((1, 1), 0.6).double(), torch.tensor([0])
    attention_context = learner.place_examples(learner.encode_examples(example, drawn), groups=1)
    found = learner.velocity(
        noisy, t, photos, text=learner.prompts[prompt], attention_context=attention_context
    )
    set_stock(learner.transformer, Flux2KVAttnProcessor, Flux2KVParallelSelfAttnProcessor)
    ids = [grid_ids(2, 4, image=image) for image in (EXAMPLE_IMAGE, QUERY_IMAGE)]
    tokens = [torch.cat((example, drawn), -1)[0], torch.cat((photos, noisy), -1)[0]]
    stock = learner.transformer(
        hidden_states=torch.cat(tokens, dim=1),
        encoder_hidden_states=learner.prompts[prompt],
        timestep=t[0],
        img_ids=torch.cat(ids),
        txt_ids=text_ids(2),
        kv_cache_mode="extract",
        num_ref_tokens=8,
    ).sample
    torch.testing.assert_close(found[0], stock, atol=1e-10, rtol=0)


@torch.no_grad()
def test_order_of_examples_and_company_of_queries_change_nothing(learner):
    examples, drawn, photos, noisy = (
        features(1, 5, 1),
        latents(1, 5, 2),
        features(1, 4, 3),
        latents(1, 4, 4),
    )
    t, prompt = torch.ones(1, 4).double(), torch.tensor([0])
    attention_context = learner.place_examples(learner.encode_examples(examples, drawn), groups=1)
    found = learner.velocity(
        noisy, t, photos, text=learner.prompts[prompt], attention_context=attention_context
    )
    order = torch.tensor([3, 1, 4, 0, 2])
    kept = learner.encode_examples(examples[:, order], drawn[:, order])
    turned = learner.place_examples(kept, groups=1)
    again = learner.velocity(
        noisy, t, photos, text=learner.prompts[prompt], attention_context=turned
    )
    torch.testing.assert_close(again, found, atol=1e-10, rtol=0)
    alone = learner.velocity(
        noisy[:, :1],
        t[:, :1],
        photos[:, :1],
        text=learner.prompts[prompt],
        attention_context=attention_context,
    )
    torch.testing.assert_close(alone, found[:, :1], atol=1e-10, rtol=0)


@torch.no_grad()
def test_examples_that_are_not_visible_are_as_if_absent(learner):
    examples, drawn = features(1, 4, 1), latents(1, 4, 2)
    photos, noisy, t = features(1, 2, 3), latents(1, 2, 4), torch.ones(1, 2).double()
    prompt = torch.tensor([1])
    visible = torch.tensor([[[True, False, True, False], [True, False, True, False]]])
    kept = learner.encode_examples(examples, drawn)
    visible_alone = learner.encode_examples(examples[:, ::2], drawn[:, ::2])
    all_kept = learner.place_examples(kept, groups=1, visible=visible)
    some = learner.place_examples(visible_alone, groups=1)
    masked, absent = (
        learner.velocity(
            noisy, t, photos, text=learner.prompts[prompt], attention_context=attention_context
        )
        for attention_context in (all_kept, some)
    )
    torch.testing.assert_close(masked, absent, atol=1e-10, rtol=0)


def test_gradients_flow_to_visible_examples_alone(learner):
    """In a leave-one-out episode no target may leak from its own pair."""
    photos = features(1, 3, 1)
    drawn = latents(1, 3, 2).requires_grad_()
    visible = ~torch.eye(3, dtype=torch.bool)[None]
    kept = learner.encode_examples(photos, drawn)
    velocity = learner.velocity(
        latents(1, 3, 3),
        torch.ones(1, 3).double(),
        photos,
        text=learner.prompts[[1]],
        attention_context=learner.place_examples(kept, groups=1, visible=visible),
    )
    velocity[0, 1].sum().backward()
    assert drawn.grad[0, 1].abs().max() == 0
    assert (drawn.grad[0, [0, 2]].abs().amax((1, 2)) > 0).all()


def test_installing_twice_is_installing_once(learner):
    install(learner.transformer)
    layers = [block.attn.processor.layer for block in learner.transformer.single_transformer_blocks]
    assert layers == [1, 2]


def test_rotation_is_that_of_diffusers():
    x = draw(2, 5, 3, 8, seed=1).float()
    angles = draw(5, 4, seed=2).repeat_interleave(2, dim=-1).float()
    rotary = (angles.cos(), angles.sin())
    expected = apply_rotary_emb(x, rotary, sequence_dim=1)
    torch.testing.assert_close(rotate(x, rotary), expected, atol=1e-6, rtol=0)
    halved = rotate(x.bfloat16(), rotary)
    torch.testing.assert_close(halved, apply_rotary_emb(x.bfloat16(), rotary, sequence_dim=1))
