"""Attention over a prefix that only grows, for weights trained to see only what stands before.

A `CausalPass` takes the place of the cache that diffusers' `QwenImage21Transformer2DModel` hands
from its stock `forward` to the processors of its blocks. It says what a pass sees beside its own
tokens, and in a filling keeps their keys, after the rotary embedding, and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from icgeo.models.attention import KVCache, Rotary, RotatedKV, merged, one_softmax, rotate

SLOT = 2
"""Tokens a place of the encoder, in each direction."""

Tokens = Float[Tensor, "batch tokens channels"]


def in_groups(caches: Sequence[KVCache]) -> RotatedKV:
    """Let each group of queries see the cache of its own."""
    layers = sorted(caches[0].keys)
    keys = [torch.cat([cache.keys[layer] for cache in caches]) for layer in layers]
    return RotatedKV(keys, [torch.cat([c.values[layer] for c in caches]) for layer in layers])


class CausalPass:
    """What the tokens of a pass see, and the cache that they fill, if any.

    No dataclass, as `AttentionContext`.
    """

    def __init__(
        self,
        rotary: Rotary,
        seen: Sequence[RotatedKV],
        *,
        visible: Bool[Tensor, "tokens tokens"] | None = None,
    ) -> None:
        """Take the places and what is seen; `visible` says which tokens see which in a filling."""
        self.rotary, self.seen, self.visible = rotary, seen, visible
        self.cache = None if visible is None else KVCache()

    def get_layer(self, _: int) -> "CausalPass":
        """Return what goes to a block; its processor knows which it is."""
        return self


@dataclass(frozen=True)
class CausalProcessor:
    """Attention that sees and fills the caches of a `CausalPass`; else that of diffusers."""

    layer: int
    backend: str
    stock: Any

    def __call__(
        self,
        attn: Any,
        hidden_states: Tokens,
        rotary_emb: Tensor | None = None,
        layer_cache: Any = None,
        **options: Any,
    ) -> Tokens:
        """Return the output of the attention of a block."""
        if not isinstance(layer_cache, CausalPass):
            options |= {"rotary_emb": rotary_emb, "layer_cache": layer_cache}
            return self.stock(attn, hidden_states, **options)
        heads = (attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states))
        query, key, value = (x.unflatten(-1, (attn.heads, -1)) for x in heads)
        query, key = (norm(x).to(value) for norm, x in ((attn.norm_q, query), (attn.norm_k, key)))
        query, key = (rotate(x, layer_cache.rotary) for x in (query, key))
        out = self.attend(query, key, value, layer_cache)
        return attn.to_out[1](attn.to_out[0](rearrange(out, "n t h c -> n t (h c)")))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, to: CausalPass) -> Tensor:
        """Attend to what is seen and to the sequence itself, or in a filling to a part of it."""
        if to.cache is None and torch.is_grad_enabled():
            return one_softmax(query, key, value, rotated=to.seen, layer=self.layer)
        if to.cache is None:
            rotated, layer, backend = to.seen, self.layer, self.backend
            return merged(query, key, value, rotated=rotated, layer=layer, backend=backend)
        span = slice(0, key.shape[1] - SLOT**2)  # without what stands for the map
        to.cache.keys.setdefault(self.layer, key[:, span])  # once: checkpointing computes it again
        to.cache.values.setdefault(self.layer, value[:, span])
        keys = torch.cat([*(part.keys[self.layer] for part in to.seen), key], dim=1)
        values = torch.cat([*(part.values[self.layer] for part in to.seen), value], dim=1)
        prefix_length = keys.shape[1] - key.shape[1]
        mask = functional.pad(cast(Tensor, to.visible), (prefix_length, 0), value=True)
        query, keys, values = (rearrange(x, "n t h c -> n h t c") for x in (query, keys, values))
        out = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return rearrange(out, "n h t c -> n t h c")


def install(transformer: Any, *, backend: str = "native") -> None:
    """Give every block the processor that sees and fills prefixes."""
    for layer, block in enumerate(transformer.transformer_blocks):
        processor = block.attn._default_processor_cls()
        block.attn.set_processor(CausalProcessor(layer, backend, processor))
