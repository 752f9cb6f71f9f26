"""Attention that keeps the examples: keys and values computed once, read by every query.

Works on the stock `forward` of diffusers' `Flux2Transformer2DModel`. An `ExamplePrefix` travels
through `joint_attention_kwargs`; while it records, each example sees its own pair only (mode
`pairwise` of DESIGN.md) and its rotated keys and values are kept; while it is read, queries see the
kept examples and themselves. The prefix is never copied per query: queries are folded into the
query length against the keys of their group, and both parts share one softmax.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

Heads = Float[Tensor, "batch tokens heads channels"]


@dataclass
class ExamplePrefix:
    """Keys and values of groups of examples, one entry a layer, and who may see them.

    A group is a set of examples that several queries share (an episode, a bank).
    """

    groups: int
    """How many groups the batch holds; the batch of examples or queries is `groups x count`."""
    keys: list[Float[Tensor, "groups tokens heads channels"]] = field(default_factory=list)
    values: list[Float[Tensor, "groups tokens heads channels"]] = field(default_factory=list)
    visible: Bool[Tensor, "groups queries examples"] | None = None
    """Which examples each query sees; None means all."""
    recording: bool = True

    def record(self, key: Heads, value: Heads) -> None:
        """Keep the keys and values of the next layer."""
        for kept, new in ((self.keys, key), (self.values, value)):
            kept.append(rearrange(new, "(g k) t h c -> g (k t) h c", g=self.groups))

    def reading(self, visible: Bool[Tensor, "groups queries examples"] | None) -> "ExamplePrefix":
        """Return the same prefix, to be read by queries."""
        return ExamplePrefix(self.groups, self.keys, self.values, visible, recording=False)


def attend_prefix(
    query: Heads, key: Heads, value: Heads, *, prefix: ExamplePrefix, layer: int
) -> Heads:
    """Attend to the kept examples of the own group and to the own tokens, in one softmax."""
    groups, own = prefix.groups, query.shape[1]
    scale = query.shape[-1] ** -0.5
    kept_key, kept_value = prefix.keys[layer], prefix.values[layer]
    folded = rearrange(query * scale, "(g q) t h c -> g h (q t) c", g=groups)
    scores = folded @ rearrange(kept_key, "g s h c -> g h c s")
    scores = rearrange(scores, "g h (q t) s -> g q h t s", t=own)
    if prefix.visible is not None:
        tokens = kept_key.shape[1] // prefix.visible.shape[-1]
        hidden = repeat(~prefix.visible, "g q k -> g q 1 1 (k s)", s=tokens)
        scores = scores.masked_fill(hidden, -torch.inf)
    own_scores = einsum(query * scale, key, "n t h c, n s h c -> n h t s")
    own_scores = rearrange(own_scores, "(g q) h t s -> g q h t s", g=groups)
    weights = torch.cat((scores, own_scores), dim=-1).softmax(dim=-1)
    from_kept, from_own = weights.split((scores.shape[-1], own), dim=-1)
    folded_weights = rearrange(from_kept, "g q h t s -> g h (q t) s")
    seen = folded_weights @ rearrange(kept_value, "g s h c -> g h s c")
    seen = rearrange(seen, "g h (q t) c -> (g q) t h c", t=own)
    return seen + einsum(
        rearrange(from_own, "g q h t s -> (g q) h t s"), value, "n h t s, n s h c -> n t h c"
    )


def attend(
    query: Heads, key: Heads, value: Heads, *, prefix: ExamplePrefix | None, layer: int
) -> Float[Tensor, "batch tokens width"]:
    """Attend within the sequence, and record or read the prefix where there is one."""
    if prefix is not None and prefix.recording:
        prefix.record(key, value)
    if prefix is None or prefix.recording or not prefix.keys:
        q, k, v = (rearrange(x, "n t h c -> n h t c") for x in (query, key, value))
        out = rearrange(functional.scaled_dot_product_attention(q, k, v), "n h t c -> n t h c")
    else:
        out = attend_prefix(query, key, value, prefix=prefix, layer=layer)
    return rearrange(out, "n t h c -> n t (h c)")


class DoubleStreamProcessor:
    """Attention of the double-stream blocks (`Flux2Attention`)."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        prefix: ExamplePrefix | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs of the image and of the text stream."""
        text = encoder_hidden_states.shape[1]
        image_parts = (attn.to_q, attn.to_k, attn.to_v)
        text_parts = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        query, key, value = (
            torch.cat(
                (
                    _heads(of_text(encoder_hidden_states), attn),
                    _heads(of_image(hidden_states), attn),
                ),
                1,
            )
            for of_text, of_image in zip(text_parts, image_parts, strict=True)
        )
        query, key = (
            torch.cat((text_norm(x[:, :text]), image_norm(x[:, text:])), dim=1)
            for x, text_norm, image_norm in (
                (query, attn.norm_added_q, attn.norm_q),
                (key, attn.norm_added_k, attn.norm_k),
            )
        )
        query, key = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (query, key))
        out = attend(query, key, value, prefix=prefix, layer=self.layer)
        return attn.to_out[1](attn.to_out[0](out[:, text:])), attn.to_add_out(out[:, :text])


class SingleStreamProcessor:
    """Attention and feed-forward of the single-stream blocks (`Flux2ParallelSelfAttention`)."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        prefix: ExamplePrefix | None = None,
    ) -> Tensor:
        """Return the output of the block."""
        sizes = (3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor)
        mixed, feed_forward = attn.to_qkv_mlp_proj(hidden_states).split(sizes, dim=-1)
        query, key, value = (_heads(x, attn) for x in mixed.chunk(3, dim=-1))
        query, key = (
            apply_rotary_emb(norm(x), image_rotary_emb, sequence_dim=1)
            for norm, x in ((attn.norm_q, query), (attn.norm_k, key))
        )
        out = attend(query, key, value, prefix=prefix, layer=self.layer)
        return attn.to_out(torch.cat((out, attn.mlp_act_fn(feed_forward)), dim=-1))


def _heads(x: Tensor, attn: Any) -> Heads:
    return rearrange(x, "n t (h c) -> n t h c", c=attn.head_dim)


def install(transformer: Flux2Transformer2DModel) -> None:
    """Give every block of the transformer the processor that keeps and reads examples."""
    double = list(transformer.transformer_blocks)
    for layer, block in enumerate(double):
        block.attn.set_processor(DoubleStreamProcessor(layer))
    for layer, block in enumerate(transformer.single_transformer_blocks, start=len(double)):
        block.attn.set_processor(SingleStreamProcessor(layer))
