"""Which modules of each architecture a LoRA adapts, and as which pipeline diffusers stores it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import diffusers
from torch import nn

from icgeo.config import UsageError

_SEPARATE = r"to_[qkv]|to_out\.0"
_DOUBLE = rf"transformer_blocks\.\d+\.attn\.({_SEPARATE}|add_[qkv]_proj|to_add_out)"


@dataclass(frozen=True)
class Target:
    """What a LoRA of an architecture is."""

    modules: str
    """Regular expression of the names of modules: attention, and where it is one product with it
    the feed-forward."""
    pipeline: str
    """Class of diffusers that stores and loads it."""


_WAN = rf"(vace_)?blocks\.\d+\.attn[12]\.({_SEPARATE})"
TARGETS = {
    "Flux2Transformer2DModel": Target(
        rf"{_DOUBLE}|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)",
        "Flux2KleinPipeline",
    ),
    "FluxTransformer2DModel": Target(
        rf"{_DOUBLE}|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)",
        "FluxKontextPipeline",
    ),
    "WanTransformer3DModel": Target(_WAN, "WanPipeline"),
    "WanVACETransformer3DModel": Target(_WAN, "WanVACEPipeline"),
}
"""By the class of the transformer."""


def target_of(transformer: nn.Module) -> Target:
    """Return what a LoRA of a transformer is.

    Raises:
        UsageError: an architecture without an entry.
    """
    names = [kind.__name__ for kind in type(transformer).mro()]  # FSDP makes a class of its own
    for name in names:
        if name in TARGETS:
            return TARGETS[name]
    raise UsageError(f"expected a transformer of {sorted(TARGETS)} to adapt, got {names[0]}")


def target_modules(transformer: nn.Module, wanted: Sequence[str] = ()) -> list[str]:
    """Name the linear modules to adapt, in full.

    Args:
        transformer: what is adapted.
        wanted: regular expressions of names or of their ends, such as "to_q"; none means the
            table's.

    Raises:
        UsageError: one of them matches nothing.
    """
    patterns = wanted or (target_of(transformer).modules,)
    linear = [name for name, part in transformer.named_modules() if isinstance(part, nn.Linear)]
    modules: dict[str, None] = {}
    for pattern in patterns:
        try:
            matcher = re.compile(rf"(.*\.)?({pattern})")
        except re.error as error:
            raise UsageError(f"expected a regular expression, got {pattern!r}: {error}") from error
        matching = [name for name in linear if matcher.fullmatch(name)]
        if not matching:
            raise UsageError(
                f"expected target modules of {type(transformer).__name__}, got {pattern!r}, which "
                f"matches none of its {len(linear)} linear modules, such as {linear[0]!r}"
            )
        modules.update(dict.fromkeys(matching))
    return list(modules)


def pipeline_class(transformer: nn.Module) -> type:
    """Return the class of diffusers that stores a LoRA of a transformer."""
    kind: type = getattr(diffusers, target_of(transformer).pipeline)
    return kind
