"""LoRAs in a transformer: add, average, save as diffusers does, merge.

Conventions: adapters are float32 or finer, whatever the base is; they are saved with their metadata
(alpha, rank, targets), without which diffusers would take alpha for the rank.
With FSDP2 each process holds a part of each weight.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel, _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from icgeo.models.attention import AttentionContext
from icgeo.training.targets import pipeline_class, target_modules


def add_lora(
    transformer: nn.Module,
    *,
    rank: int,
    alpha: int,
    targets: Sequence[str] = (),
    dora: bool = False,
    rslora: bool = False,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Freeze a transformer and add a LoRA that changes nothing yet.

    Args:
        transformer: a model of diffusers.
        rank: of the change of each weight.
        alpha: the change is scaled by alpha / rank, or alpha / sqrt(rank) with `rslora`.
        targets: as `target_modules` takes them.
        dora: learn direction and magnitude apart (Liu et al. 2024, "DoRA").
        rslora: scale that is stable in the rank (Kalajdzievski 2023).
        seed: of the first weights.

    Returns:
        the weights that learn.

    Raises:
        UsageError: a target that matches nothing.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=target_modules(transformer, targets),
        use_dora=dora,
        use_rslora=rslora,
    )
    model: Any = transformer.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(config)
    for weight in learned(transformer):
        weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    return learned(transformer)


def learned(transformer: nn.Module) -> list[nn.Parameter]:
    """Return the weights that learn, in order."""
    return [weight for weight in transformer.parameters() if weight.requires_grad]


def write_state(transformer: nn.Module, path: Path) -> None:
    """Write the adapter's weights alone, exactly as they are."""
    state = get_peft_model_state_dict(transformer)
    save_file({name: x.contiguous() for name, x in state.items()}, path)


def read_state(transformer: nn.Module, path: Path) -> None:
    """Read what `write_state` wrote."""
    set_peft_model_state_dict(transformer, load_file(path))


def save_adapter(transformer: nn.Module, folder: Path, *, is_main: bool = True) -> None:
    """Save the adapter as a folder in the format of diffusers, at once or not at all.

    Args:
        transformer: holds the adapter, in parts if it is sharded: then all processes must call.
        folder: where to.
        is_main: whether this process writes.
    """
    state = {name: whole(x) for name, x in get_peft_model_state_dict(transformer).items()}

    def write(partial: Path) -> None:
        kind: Any = pipeline_class(transformer)
        kind.save_lora_weights(
            partial,
            transformer_lora_layers=state,
            **_collate_lora_metadata({"transformer": transformer}),
        )

    if is_main:
        replace_folder(folder, write)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside the one of that name, then take its place."""
    partial, old = (folder.with_name(f"{folder.name}.{end}") for end in ("partial", "old"))
    for path in (partial, old):
        shutil.rmtree(path, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def merge(transformer: nn.Module) -> None:
    """Add the change to the weights of the base, and forget the adapter."""
    model: Any = transformer
    model.fuse_lora()
    model.unload_lora()


def has_adapter(transformer: nn.Module) -> bool:
    """Return whether a LoRA is in a transformer."""
    return any(isinstance(part, BaseTunerLayer) for part in transformer.modules())


class Average(EMAModel):  # type: ignore[misc]  # diffusers is not followed
    """A running average of weights; its state is whole where each process holds a part."""

    shadow_params: list[Tensor]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, to all processes."""
        return {**super().state_dict(), "shadow_params": [whole(x) for x in self.shadow_params]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, whatever the number of processes was."""
        parts = self.shadow_params
        super().load_state_dict(state_dict)
        self.shadow_params = [
            divided(x, part) for x, part in zip(self.shadow_params, parts, strict=True)
        ]


@contextmanager
def averaged(
    average: EMAModel, weights: Sequence[nn.Parameter], transformer: nn.Module
) -> Iterator[None]:
    """Set the weights of a transformer to their average for a while."""
    average.store(weights)
    average.copy_to(weights)
    try:
        yield
    finally:
        average.restore(weights)
        forget_gathered(transformer)


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
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Tensor, ...]
) -> None:
    """Let the gradient of what a pass keeps go through its output too; a forward hook.

    FSDP gathers the weights of a block when a gradient reaches its output. The last block of a pass
    of examples has none: only its keys and values are used, and its weights would be gone.
    """
    attention_context = (kwargs.get("joint_attention_kwargs") or {}).get("attention_context")
    if (
        isinstance(attention_context, AttentionContext)
        and attention_context.cache is not None
        and output[0].requires_grad
    ):
        keys = attention_context.cache.keys
        keys[max(keys)] = keys[max(keys)] + 0 * output[0].sum()
