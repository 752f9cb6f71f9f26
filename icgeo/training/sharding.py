"""Weights of which each process holds a part (FSDP2): gather, divide, and gather in time."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from icgeo.models.attention import AttentionContext


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor of which each process holds a part; all of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """Divide a whole tensor among processes as another one is, if it is."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor


def forget_gathered(model: nn.Module) -> None:
    """Let weights be gathered anew, since the parts that processes hold have changed."""
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def tie_kept(
    model: nn.Module, given: tuple[Any, ...], told: Mapping[str, Any], output: tuple[Tensor, ...]
) -> None:
    """Let the gradient of what a pass keeps go through its output too; a forward hook.

    FSDP gathers the weights of a block when a gradient reaches its output. The last block of a pass
    of examples has none: only its keys and values are used, and its weights would be gone.
    """
    attention_context = (told.get("joint_attention_kwargs") or {}).get("attention_context")
    if (
        isinstance(attention_context, AttentionContext)
        and attention_context.cache is not None
        and output[0].requires_grad
    ):
        keys = attention_context.cache.keys
        keys[max(keys)] = keys[max(keys)] + 0 * output[0].sum()
