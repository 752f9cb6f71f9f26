"""Attention over cached tokens: keys and values computed once, seen by every query.

Works on the stock `forward` of diffusers' `Flux2Transformer2DModel` and `FluxTransformer2DModel`:
an `AttentionContext` travels through `joint_attention_kwargs`. The modes of DESIGN.md follow:

- `pairwise`: each pair is a sequence; it is kept before the rotary embedding, so that any subset
  takes any places (`KVCache.rotated`);
- `joint`: all pairs are one sequence;
- `full`: nothing is kept, and everything is one sequence.

The mode `causal` is that of one architecture: `icgeo.models.causal`.

What is seen is never copied: queries and samples are folded into the query length against the keys
of their group, and all parts share one softmax.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from icgeo.models.hub import LoadError

BACKENDS = ("native", "xformers", "flash")
"""Kernels of attention that tell the log of the sum of exponentials too; all but the first need a
GPU and their own package."""

Heads = Float[Tensor, "batch tokens heads channels"]
Rotary = tuple[Float[Tensor, "tokens channels"], Float[Tensor, "tokens channels"]]


@dataclass(frozen=True)
class RotatedKV:
    """Rotated keys and values that a pass may look at, one entry a layer.

    Sequences of a pass belong to groups, in order: `batch = groups x queries`.
    """

    keys: list[Float[Tensor, "groups tokens heads channels"]]
    values: list[Float[Tensor, "groups tokens heads channels"]]
    visible: Bool[Tensor, "groups queries tokens"] | None = None
    """Which tokens each sequence sees; None means all."""


@dataclass
class KVCache:
    """Keys, before the rotary embedding, and values of sequences, one entry a layer."""

    keys: dict[int, Heads] = field(default_factory=dict)
    values: dict[int, Heads] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return all layers by name, as a file holds them."""
        return {f"{name}.{n}": x for name, part in vars(self).items() for n, x in part.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "KVCache":
        """Build the cache from what `tensors` returned."""
        layers = range(len(tensors) // 2)
        return cls(*({n: tensors[f"{name}.{n}"] for n in layers} for name in ("keys", "values")))

    def rotated(
        self,
        rotary: Rotary,
        *,
        groups: int,
        visible: Bool[Tensor, "groups queries sequences"] | None = None,
    ) -> RotatedKV:
        """Rotate the sequences of each of some `groups` to their places, one behind the other.

        `rotary` is of the tokens of a group; `visible` says which sequences each query sees.
        """
        keys, values = (
            [rearrange(part[n], "(g k) t h c -> g (k t) h c", g=groups) for n in sorted(part)]
            for part in (self.keys, self.values)
        )
        if visible is not None:
            visible = visible.repeat_interleave(self.keys[0].shape[1], dim=-1)
        return RotatedKV([rotate(key, rotary) for key in keys], values, visible)


class AttentionContext:
    """What the tokens of a pass see beside their own sequence, and the cache that they fill.

    No dataclass: FSDP looks into those for tensors and makes them anew for each block.
    """

    def __init__(self, rotated: Sequence[RotatedKV] = (), cache: KVCache | None = None) -> None:
        self.rotated, self.cache = rotated, cache


def rotate(x: Heads, rotary: Rotary) -> Heads:
    """Turn neighbouring channels by the angles of their places, in float32 at least.

    As `apply_rotary_emb` of diffusers, in a third of its passes over memory.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = (rearrange(part[:, ::2], "t c -> t 1 c").to(dtype) for part in rotary)
    rotated_x = torch.view_as_complex(x.to(dtype).unflatten(-1, (-1, 2))) * torch.complex(cos, sin)
    return torch.view_as_real(rotated_x).flatten(-2).to(x.dtype)


def one_softmax(
    query: Heads, key: Heads, value: Heads, *, rotated: Sequence[RotatedKV], layer: int
) -> Heads:
    """Attend by explicit scores: differentiable, and may hide tokens from some queries."""
    query, scores = query * query.shape[-1] ** -0.5, []
    for part in rotated:
        keys = rearrange(part.keys[layer], "g s h c -> g h c s")
        score = rearrange(query, "(g q) t h c -> g h (q t) c", g=len(keys)) @ keys
        scores.append(rearrange(score, "g h (q t) s -> (g q) h t s", t=query.shape[1]))
        if part.visible is not None:
            hidden = ~rearrange(part.visible, "g q s -> (g q) 1 1 s")
            scores[-1] = scores[-1].masked_fill(hidden, -torch.inf)
    scores.append(einsum(query, key, "n t h c, n s h c -> n h t s"))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1)
    *of_rotated, of_sequence = weights.split([part.shape[-1] for part in scores], dim=-1)
    out = einsum(of_sequence, value, "n h t s, n s h c -> n t h c")
    for part, weight in zip(rotated, of_rotated, strict=True):
        values = rearrange(part.values[layer], "g s h c -> g h s c")
        weight = rearrange(weight, "(g q) h t s -> g h (q t) s", g=len(values))
        out = out + rearrange(weight @ values, "g h (q t) c -> (g q) t h c", t=query.shape[1])
    return out


def merged(
    query: Heads,
    key: Heads,
    value: Heads,
    *,
    rotated: Sequence[RotatedKV],
    layer: int,
    backend: str = "native",
) -> Heads:
    """Attend to each part alone and merge by log-sum-exp, as Hydragen does (Juravsky et al. 2024).

    Each part runs in the fused kernel of the device; scores are never written out.
    """
    pairs = [(key, value), *((part.keys[layer], part.values[layer]) for part in rotated)]
    parts = []
    for pair in pairs:
        keys, values = (rearrange(x, "g s h c -> g h s c") for x in pair)
        queries = rearrange(query, "(g q) t h c -> g h (q t) c", g=len(keys))
        out, log_total = _fused(queries, keys, values, backend)
        out = rearrange(out, "g h (q t) c -> (g q) h t c", t=query.shape[1])
        parts.append((out, rearrange(log_total, "g h (q t) -> (g q) h t", t=query.shape[1])))
    shares = torch.stack([log_total for _, log_total in parts]).softmax(dim=0)[..., None]
    (total, _), *other_parts = parts
    total = total * shares[0].to(total.dtype)
    for (out, _), share in zip(other_parts, shares[1:].to(total.dtype), strict=True):
        total = torch.addcmul(total, out, share)
    return rearrange(total, "n h t c -> n t h c")


def _fused(
    query: Float[Tensor, "n heads tokens channels"],
    key: Float[Tensor, "n heads seen channels"],
    value: Float[Tensor, "n heads seen channels"],
    backend: str,
) -> tuple[Tensor, Float[Tensor, "n heads tokens"]]:
    """Attend with a fused kernel, and return the log of the sum of exponentials too."""
    parts: Any = (query, key, value)
    aten = torch.ops.aten
    if backend != "native":
        parts = tuple(rearrange(x, "n h t c -> n t h c") for x in parts)
    if backend == "xformers":
        from xformers.ops import memory_efficient_attention_forward_requires_grad as forward

        out, total = forward(*parts)
    elif backend == "flash":
        from flash_attn import flash_attn_func

        out, total, _ = flash_attn_func(*parts, return_attn_probs=True)
    elif query.device.type == "cpu":
        out, total = aten._scaled_dot_product_flash_attention_for_cpu(*parts)
    elif query.dtype in (torch.float16, torch.bfloat16):
        out, total = aten._scaled_dot_product_flash_attention(*parts)[:2]
    else:
        out, total = aten._scaled_dot_product_efficient_attention(*parts, None, True)[:2]
    out = out if backend == "native" else rearrange(out, "n t h c -> n h t c")
    return out, total[..., : query.shape[2]]


@dataclass(frozen=True)
class _Processor:
    layer: int
    backend: str = "native"

    def attend(
        self,
        query: Heads,
        key: Heads,
        value: Heads,
        rotary: Rotary | None,
        attention_context: AttentionContext | None,
    ) -> Float[Tensor, "batch tokens width"]:
        """Attend within the sequence and to the context's tensors; fill its cache, if any."""
        context = attention_context or AttentionContext()
        if context.cache is not None:  # once: gradient checkpointing computes it again
            context.cache.keys.setdefault(self.layer, key)
            context.cache.values.setdefault(self.layer, value)
        if rotary is not None:
            query, key = (rotate(x, rotary) for x in (query, key))
        parts = context.rotated
        if not parts:
            backend = AttentionBackendName(self.backend)
            out = dispatch_attention_fn(query, key, value, backend=backend)
        elif torch.is_grad_enabled() or any(part.visible is not None for part in parts):
            out = one_softmax(query, key, value, rotated=parts, layer=self.layer)
        else:
            out = merged(query, key, value, rotated=parts, layer=self.layer, backend=self.backend)
        return rearrange(out, "n t h c -> n t (h c)")


class StreamProcessor(_Processor):
    """Attention of double-stream blocks, and of the single-stream blocks of FLUX.1."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        attention_context: AttentionContext | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the outputs of the image and of the text stream, or of the one that there is."""
        projections = (attn.to_q, attn.to_k, attn.to_v)
        query, key, value = (_heads(part(hidden_states), attn) for part in projections)
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is None:  # the block adds its feed-forward
            return self.attend(query, key, value, image_rotary_emb, attention_context)
        added_projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        parts = [_heads(part(encoder_hidden_states), attn) for part in added_projections]
        query = torch.cat((attn.norm_added_q(parts[0]), query), dim=1)
        key = torch.cat((attn.norm_added_k(parts[1]), key), dim=1)
        value = torch.cat((parts[2], value), dim=1)
        out = self.attend(query, key, value, image_rotary_emb, attention_context)
        text, image = out.split([parts[0].shape[1], hidden_states.shape[1]], dim=1)
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


class ParallelStreamProcessor(_Processor):
    """Attention and feed-forward of the single-stream blocks of FLUX.2."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
        attention_context: AttentionContext | None = None,
    ) -> Tensor:
        """Return the output of the block."""
        sizes = (3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor)
        qkv, feed_forward = attn.to_qkv_mlp_proj(hidden_states).split(sizes, dim=-1)
        query, key, value = (_heads(x, attn) for x in qkv.chunk(3, dim=-1))
        query, key = attn.norm_q(query), attn.norm_k(key)
        out = self.attend(query, key, value, image_rotary_emb, attention_context)
        return attn.to_out(torch.cat((out, attn.mlp_act_fn(feed_forward)), dim=-1))


def _heads(x: Tensor, attn: Any) -> Heads:
    return rearrange(x, "n t (h c) -> n t h c", c=attn.head_dim)


def _blocks(transformer: Any) -> tuple[Any, ...]:
    return (*transformer.transformer_blocks, *transformer.single_transformer_blocks)


def install(transformer: Any, *, backend: str = "native") -> None:
    """Give every block of the transformer the processor that fills and sees caches."""
    for layer, block in enumerate(_blocks(transformer)):
        is_parallel = hasattr(block.attn, "to_qkv_mlp_proj")
        kind = ParallelStreamProcessor if is_parallel else StreamProcessor
        block.attn.set_processor(kind(layer, backend))


def uninstall(transformer: Any) -> None:
    """Give every block the processor that diffusers gives it."""
    for block in _blocks(transformer):
        block.attn.set_processor(block.attn._default_processor_cls())


def attention_kwargs(transformer: Any, context: AttentionContext) -> dict[str, Any]:
    """Return the `joint_attention_kwargs` by which a context reaches the processors.

    Raises:
        LoadError: other processors, which would not look at the context.
    """
    if context.rotated or context.cache is not None:
        require_processors(_blocks(transformer), _Processor)
    return {"attention_context": context}


def require_processors(blocks: Iterable[Any], kind: type) -> None:
    """Raise LoadError for processors of another kind, which would not look at the examples."""
    for block in blocks:
        if not isinstance(block.attn.processor, kind):
            raise LoadError(
                "expected the attention processors of icgeo, without which examples are ignored, "
                f"got {type(block.attn.processor).__name__}: a stock pipeline made of the same "
                "transformer has replaced them; load the model again, and give the pipeline a copy"
            )
