"""Load a LoRA as its trainer stored it, whole or not at all.

Known are diffusers' format, and what diffusers converts to it; a folder of PEFT, whose
`adapter_config.json` says rank, alpha, rsLoRA and DoRA, and must be there; and layers by their
names in the transformer, without a prefix.
"""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from icgeo.data.photos import why_missing
from icgeo.models import hub
from icgeo.models.hub import LoadError
from icgeo.options import LoadOptions

logger = logging.getLogger(__name__)

LORA = "pytorch_lora_weights.safetensors"
"""How diffusers names a LoRA."""
PEFT_CONFIG, PEFT_PREFIX = "adapter_config.json", "base_model.model."
TEXT = ("text_encoder", "lora_te")
"""How keys of text encoders begin; icgeo embeds an instruction without them."""


def load_adapter(model: Any, options: LoadOptions) -> None:
    """Load the LoRA of some options into a pipeline, or a transformer alone.

    Raises:
        LoadError: no such file, several of them, a format that is not known, or layers that are not
            in this transformer.
    """
    transformer = getattr(model, "transformer", model)
    path = adapter_file(options)
    try:
        with safe_open(path, framework="pt") as file:
            names = [*file.keys()]
        require_pairs(names, path)
        if config := peft_config(path, names, options):
            settings = json.loads(config.read_text(encoding="utf-8"))
            named = {name.removeprefix(PEFT_PREFIX): x for name, x in load_file(path).items()}
            load_named(transformer, named, metadata=lora_metadata(settings, layers_of(named)))
        elif layers_of(names) & {name for name, _ in transformer.named_modules()}:
            named = {name.replace(".default.", "."): x for name, x in load_file(path).items()}
            load_named(transformer, named)
        else:
            load_stock(model, path, names)
        for config in (getattr(transformer, "peft_config", None) or {}).values():
            require_layers(transformer, config.target_modules)
    except LoadError:
        raise
    except Exception as error:  # whatever a library raises of a file that it does not know
        line = hub.first_line(error)[:200]
        raise LoadError(f"adapter {path} cannot be loaded: {line}") from error
    if not getattr(transformer, "peft_config", None):
        raise LoadError(
            f"adapter {path} has no weights for this model's transformer; its keys begin with "
            f"{sorted(names)[0][:80]!r}, and known are those of diffusers, of a folder of PEFT, "
            "and names of the transformer's layers"
        )


def peft_config(path: Path, weights: Iterable[str], options: LoadOptions) -> Path | None:
    """Find the settings of PEFT beside weights, on the hub if these are of it; None without PEFT.

    Raises:
        LoadError: keys of PEFT without the settings.
    """
    beside = path.with_name(PEFT_CONFIG)
    if beside.is_file():
        return beside
    if not any(name.startswith(PEFT_PREFIX) for name in weights):
        return None
    reason = ""
    if not os.path.exists(str(options.adapter)):  # noqa: PTH110, false of names too long
        name = str(PurePosixPath(options.weight_name or LORA).parent / PEFT_CONFIG)
        only_here = options.local_files_only
        try:
            return hub.pipeline_part(str(options.adapter), name, local_files_only=only_here)
        except LoadError as error:
            reason = f" ({error})"
    raise LoadError(
        f"expected {PEFT_CONFIG} beside {path}, which tells rank and alpha, found none; put it "
        f"there{reason}"
    )


def adapter_file(options: LoadOptions) -> Path:
    """Find the one safetensors file of an adapter, in a folder or on the hub."""
    adapter = str(options.adapter)
    path, name = Path(adapter), options.weight_name
    if not os.path.exists(adapter):  # noqa: PTH110, false of names too long
        if adapter.endswith(".safetensors") or adapter.startswith((".", "/", "~")):
            raise LoadError(f"there is no such file: {adapter[:200]}; {why_missing(adapter)}")
        hub.refuse_pickles([name or LORA], adapter)
        return hub.pipeline_part(adapter, name or LORA, local_files_only=options.local_files_only)
    if path.is_file():
        hub.refuse_pickles([path.name], path)
        if name not in (None, path.name):
            raise LoadError(f"expected a folder with {name}, got the file {path}; leave one out")
        return path
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*.safetensors")}
    asked = name or (LORA if LORA in files else None)
    if asked is None and len(beside := [*path.glob("*.safetensors")]) == 1:
        return beside[0]
    if asked not in files:
        hub.refuse_pickles(hub.files_in(path), path)
        names = ", ".join(sorted(files)[:5]) or "none"
        raise LoadError(
            f"expected {name or 'one safetensors file'} in {path}, got {len(files)} ({names}); "
            "name the one with weight_name"
        )
    return files[asked]


def require_pairs(weights: Iterable[str], path: Path) -> None:
    """Raise LoadError for a LoRA of which one half is missing, with the layer's name."""
    names = set(weights)
    for half, other in (("lora_A", "lora_B"), ("lora_B", "lora_A"), ("lora_down", "lora_up")):
        for name in sorted(names):
            if f".{half}." in name and name.replace(f".{half}.", f".{other}.") not in names:
                raise LoadError(f"expected {other} beside {name} in {path}, got none; was it cut?")


def lora_metadata(settings: dict[str, Any], layers: set[str]) -> dict[str, Any]:
    """Return what `peft.LoraConfig` takes of the settings in a folder of PEFT, for some layers."""
    from peft import LoraConfig

    if settings.get("peft_type") != "LORA":
        raise LoadError(f"expected peft_type LORA, got {settings.get('peft_type')!r}")
    known = {field.name for field in fields(LoraConfig)} - {"peft_type", "task_type"}
    known -= {"exclude_modules", "layers_to_transform", "layers_pattern"}  # the file says which
    metadata = {name: value for name, value in settings.items() if name in known}
    return {**metadata, "target_modules": sorted(layers)}


def layers_of(weights: Iterable[str]) -> set[str]:
    """Return the layers that keys of a LoRA name."""
    return {name.split(".lora_")[0] for name in weights if ".lora_" in name}


def load_named(transformer: Any, weights: dict[str, Tensor], **options: Any) -> None:
    """Load a LoRA by the names of the transformer's layers; refuse one of other layers."""
    require_layers(transformer, layers_of(weights))
    transformer.load_lora_adapter(weights, prefix=None, **options)


def require_layers(transformer: Any, layers: Iterable[str]) -> None:
    """Raise LoadError for layers, or ends of their names, of which a transformer has none."""
    names = [f".{name}" for name, _ in transformer.named_modules()]
    ends = sorted(layers)  # libraries leave out what they do not find
    if missing := [end for end in ends if not any(name.endswith(f".{end}") for name in names)]:
        raise LoadError(
            f"expected layers of this model's transformer, got {missing[0][:80]} and "
            f"{len(missing) - 1} others that it has not; is the adapter of another architecture?"
        )


def load_stock(model: Any, path: Path, names: list[str]) -> None:
    """Load a LoRA by diffusers, which knows its own format and those of several trainers."""
    load = getattr(model, "load_lora_weights", None) or model.load_lora_adapter
    rest = [name for name in names if not name.startswith(TEXT)]
    if len(rest) == len(names):
        load(path, use_safetensors=True)
        return
    logger.warning(
        "%s: %d of %d tensors are for text encoders, and left out",
        path, len(names) - len(rest), len(names),
    )  # fmt: skip
    if rest:
        weights = load_file(path)
        load({name: weights[name] for name in rest})
