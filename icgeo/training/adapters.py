"""LoRAs in a transformer: which modules, add, average, save as diffusers does, publish.

Conventions: adapters are float32 or finer, whatever the base is; they are saved with their metadata
(alpha, rank, targets), without which diffusers would take alpha for the rank.
With FSDP2 each process holds a part of each weight.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.training_utils import EMAModel, _collate_lora_metadata
from huggingface_hub import ModelCard
from jinja2 import StrictUndefined, Template
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from icgeo.config import UsageError
from icgeo.models.architectures import spec_of
from icgeo.models.hub import upload


def target_modules(transformer: nn.Module, patterns: Sequence[str] = ()) -> list[str]:
    """Name the linear modules to adapt, in full.

    `patterns` are regular expressions of names or of their ends, such as "to_q"; none means those
    of the architecture.

    Raises:
        UsageError: an unknown architecture, or a pattern that matches nothing.
    """
    names = [name for name, part in transformer.named_modules() if isinstance(part, nn.Linear)]
    modules: dict[str, None] = {}
    for pattern in patterns or (spec_of(transformer).targets,):
        try:
            matcher = re.compile(rf"(.*\.)?({pattern})")
        except re.error as error:
            raise UsageError(f"expected a regular expression, got {pattern!r}: {error}") from error
        matches = [name for name in names if matcher.fullmatch(name)]
        if not matches:
            raise UsageError(
                f"expected target modules of {type(transformer).__name__}, got {pattern!r}, which "
                f"matches none of its {len(names)} linear modules, such as {names[0]!r}"
            )
        modules.update(dict.fromkeys(matches))
    return list(modules)


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
    """Freeze a transformer of diffusers, add a LoRA that changes nothing yet, return its weights.

    Settings as in `LoraOptions`; DoRA is of Liu et al. (2024), rsLoRA of Kalajdzievski (2023).
    """
    names = target_modules(transformer, targets)
    kind: dict[str, Any] = {"use_dora": dora, "use_rslora": rslora}
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, **kind)
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


def save_adapter(transformer: nn.Module, folder: Path, *, is_main: bool = True) -> None:
    """Save the adapter as a folder in the format of diffusers, at once or not at all.

    If the transformer is sharded, all processes must call; the one that `is_main` writes.
    """
    state = {name: whole(x) for name, x in get_peft_model_state_dict(transformer).items()}
    if not is_main:
        return
    partial_path, old_path = (
        folder.with_name(f"{folder.name}.{end}") for end in ("partial", "old")
    )
    for path in (partial_path, old_path):
        shutil.rmtree(path, ignore_errors=True)
    partial_path.mkdir(parents=True)
    pipeline: Any = getattr(diffusers, spec_of(transformer).pipelines[0])
    metadata = _collate_lora_metadata({"transformer": transformer})
    pipeline.save_lora_weights(partial_path, transformer_lora_layers=state, **metadata)
    if folder.exists():
        folder.rename(old_path)
    partial_path.rename(folder)
    shutil.rmtree(old_path, ignore_errors=True)


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
            distribute_tensor(x, part.device_mesh, part.placements)
            if isinstance(part, DTensor)
            else x
            for x, part in zip(self.shadow_params, parts, strict=True)
        ]

    @contextmanager
    def applied(self, transformer: nn.Module) -> Iterator[None]:
        """Set the weights of a transformer to their average for a while."""
        weights = learned(transformer)
        self.store(weights)
        self.copy_to(weights)
        try:
            yield
        finally:
            self.restore(weights)
            for part in transformer.modules():
                if isinstance(part, FSDPModule):  # what was gathered holds the average
                    part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor of which each process holds a part; all of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def tie_kept(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: tuple[Tensor, ...]
) -> None:
    """Let the gradient of what a pass keeps go through its output too; a forward hook.

    FSDP gathers the weights of a block when a gradient reaches its output. The last block of a pass
    of examples has none: only its keys and values are used, and its weights would be gone.
    """
    context = (kwargs.get("joint_attention_kwargs") or {}).get("attention_context")
    context = context or kwargs.get("kv_cache")
    if context is not None and context.cache is not None and output[0].requires_grad:
        keys = context.cache.keys
        keys[max(keys)] = keys[max(keys)] + 0 * output[0].sum()


def write_card(folder: Path, **facts: Any) -> None:
    """Write `README.md` beside an adapter, from what `assets/lora-card.md.jinja` says.

    `facts` are the `base` model, the `data` that it was trained on, `settings` of the run,
    `results` as a table, the `licence`, and `choices` that `icgeo.load` takes beside it.
    """
    text = files("icgeo").joinpath("assets", "lora-card.md.jinja").read_text(encoding="utf-8")
    layout: dict[str, Any] = {"trim_blocks": True, "keep_trailing_newline": True}
    card = Template(text, undefined=StrictUndefined, **layout).render(facts)
    (folder / "README.md").write_text(card, encoding="utf-8")


def push_to_hub(folder: Path, repository: str) -> str:
    """Put an adapter and its card on the hub, private; return the address, or raise UsageError."""
    if not (folder / "README.md").is_file():
        raise UsageError(f"expected a model card in {folder}, found none; finish the run first")
    ModelCard.load(folder / "README.md")  # a card that cannot be read is refused here
    return upload(folder, repository, private=True)
