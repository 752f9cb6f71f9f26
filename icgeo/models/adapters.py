"""Load a LoRA as its trainer stored it, whole or not at all.

Known are diffusers' format, and what diffusers converts to it; a folder of PEFT, whose
`adapter_config.json` says rank, alpha, rsLoRA and DoRA, and must be there; and layers by their
names in the transformer, without a prefix.
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from icgeo.data.photos import why_missing
from icgeo.models import hub
from icgeo.models.hub import LoadError
from icgeo.options import LoadOptions

logger = logging.getLogger(__name__)

LORA = "pytorch_lora_weights.safetensors"
"""How diffusers names a LoRA."""
PEFT_CONFIG, PEFT_PREFIX, STOCK_PREFIX = "adapter_config.json", "base_model.model.", "transformer."
TEXT = ("text_encoder", "lora_te", "bundle_emb")
"""How keys of text encoders and embeddings begin; icgeo embeds an instruction without them."""
_HALF = re.compile(r"(.*)\.(lora_|lokr_w)(A|B|down|up|1|2)(?=[._]|$)")
_KEY = re.compile(r"lora\w*[._](A|B|down|up)\.weight$|\.lokr_w[12](_[ab])?$|\.alpha$")
"""How keys end that diffusers converts; of others, it leaves out some."""
_LAYER = re.compile(r"\.(processor\.|lora_|lokr_|alpha$)")


def load_adapter(model: Any, options: LoadOptions) -> None:
    """Load the LoRA of some options into a pipeline, or a transformer alone.

    Raises:
        LoadError: no such file, several of them, a format that is not known, layers that are not
            in this transformer, or anything in the file that it did not take.
    """
    transformer = getattr(model, "transformer", model)
    path = adapter_file(options)
    try:
        weights, metadata = read_adapter(model, path, options)
        require_layers(transformer, layers := layers_of(weights))
        if metadata and layers:  # the file says which
            metadata["target_modules"] = sorted(layers)
        transformer.load_lora_adapter(
            weights, prefix=None, metadata=metadata, low_cpu_mem_usage=metadata is None
        )
        require_taken(transformer, weights, path)
    except LoadError:
        raise
    except Exception as error:  # whatever a library raises of a file that it does not know
        line = " ".join(" ".join(str(error).splitlines()[:2]).split())[:300]  # shapes are below
        if isinstance(error, KeyError):
            line = f"it lacks {line}"
        if isinstance(error, SafetensorError):
            line += "; was it cut, or is it a page, or a pointer of git-lfs? Download it again"
        raise LoadError(f"adapter {path} cannot be loaded: {line}") from error


def read_adapter(
    model: Any, path: Path, options: LoadOptions
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return weights by the names of a transformer's layers, and the settings they came with."""
    weights, metadata = read_weights(path)
    require_pairs(weights, path)
    prefix = PEFT_PREFIX if any(name.startswith(PEFT_PREFIX) for name in weights) else STOCK_PREFIX
    layer_weights = {name.removeprefix(prefix): x for name, x in weights.items()}
    diffusers_names = ((".lora.down.", ".lora_A."), (".lora.up.", ".lora_B."))  # of diffusers
    kohya_names = ((".lora_down.", ".lora_A."), (".lora_up.", ".lora_B."))
    for old, new in ((".default.", "."), *kohya_names, *diffusers_names):
        layer_weights = {name.replace(old, new): x for name, x in layer_weights.items()}
    modules = {name for name, _ in getattr(model, "transformer", model).named_modules()}
    if prefix != PEFT_PREFIX and not layers_of(layer_weights) & modules:
        layer_weights = convert(model, weights, path)
    elif len(layer_weights) < len(weights):
        raise LoadError(f"expected one adapter in {path}, got the same layers by two names")
    elif config := peft_config(path, weights, options):
        metadata = lora_metadata(config)
    return layer_weights if metadata else scaled(layer_weights), metadata


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the finite weights for a transformer in a file, and settings of diffusers."""
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    every = load_file(path)
    weights = {name: x for name, x in every.items() if not name.startswith(TEXT)}
    if text_count := len(every) - len(weights):
        message = "%s: %d of %d tensors are for text encoders, and left out"
        logger.warning(message, path, text_count, len(every))
    if not weights:
        raise LoadError(f"adapter {path} holds no weights for a transformer; is it another file?")
    for name, x in weights.items():
        if x.is_floating_point() and x.dtype.itemsize == 1:  # for which torch has no product
            weights[name] = x = x.bfloat16()
        if (x.numel() > 1 and not x.is_floating_point()) or not x.isfinite().all():
            raise LoadError(
                f"expected finite numbers in {path}, got {name} ({x.dtype}) with others"
            )
    settings = {n.removeprefix(STOCK_PREFIX): x for n, x in metadata.items()}
    return weights, {n: x for n, x in settings.items() if not n.startswith(TEXT)} or None


def convert(model: Any, weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Name weights by the transformer's layers, as diffusers does; refuse what it would leave out.

    It is shown one layer at a time: of several, it leaves out those that it does not know.
    """
    if unknown_names := sorted(name for name in weights if not _KEY.search(name)):
        raise not_read(unknown_names, path)
    convert_names = getattr(model, "lora_state_dict", dict)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, x in weights.items():
        layers.setdefault(_LAYER.split(name)[0], {})[name] = x
    try:
        state_dicts = {layer: convert_names(dict(part)) for layer, part in layers.items()}
    except Exception:  # what it does not convert alone, it refuses by name among all
        state_dicts = {next(iter(weights)): convert_names(dict(weights))}
    converted_layers = {
        n for n, part in state_dicts.items() if any(x.startswith(STOCK_PREFIX) for x in part)
    }
    if failed_layers := [name for name in state_dicts if name not in converted_layers]:
        raise not_read(failed_layers, path)
    return {
        n.removeprefix(STOCK_PREFIX): x for part in state_dicts.values() for n, x in part.items()
    }


def scaled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply weights by alpha over rank, where a layer has an alpha of its own."""
    for name in [name for name in weights if name.endswith(".alpha")]:
        half = f"{name.removesuffix('alpha')}lora_B.weight"
        if half in weights:
            weights[half] = weights[half] * (float(weights.pop(name)) / weights[half].shape[1])
    return weights


def require_taken(transformer: Any, weights: dict[str, Tensor], path: Path) -> None:
    """Raise LoadError unless an adapter is made of all weights of its file and no others."""
    from peft import get_peft_model_state_dict

    (name,), state = transformer.peft_config, transformer.state_dict()
    every = get_peft_model_state_dict(transformer, state, name, save_embedding_layers=False)
    if extra := sorted(weights.keys() - every.keys()):
        raise not_read(extra, path)
    if missing := sorted(every.keys() - weights.keys()):
        raise LoadError(f"expected {missing[0]} in {path}, got none; was it cut?")


def not_read(names: list[str], path: Path) -> LoadError:
    """Return the error of a file with something that would be left out."""
    return LoadError(
        f"adapter {path} has {names[0][:80]!r} and {len(names) - 1} others, which are not read; "
        "known are LoRA and LoKr of diffusers, of a folder of PEFT, and of the transformer's layers"
    )


def peft_config(path: Path, weights: Iterable[str], options: LoadOptions) -> Path | None:
    """Find the settings of PEFT beside weights, on the hub if these are of it; None without PEFT.

    Raises:
        LoadError: keys of PEFT without the settings.
    """
    config_path = path.with_name(PEFT_CONFIG)
    if any(name.startswith(STOCK_PREFIX) for name in weights):
        return None
    if config_path.is_file():
        return config_path
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
    paths = [file for file in path.rglob("*.safetensors") if not file.name.startswith(".")]
    files = {file.relative_to(path).as_posix(): file for file in paths}
    file_name = name or (LORA if LORA in files else None)
    if file_name is None and len(top_files := [x for x in paths if x.parent == path]) == 1:
        return top_files[0]
    if file_name not in files:
        hub.refuse_pickles(hub.files_in(path), path)
        names = ", ".join(sorted(files)[:5]) or "none"
        raise LoadError(
            f"expected {name or 'one safetensors file'} in {path}, got {len(files)} ({names}); "
            "name the one with weight_name"
        )
    return files[file_name]


def require_pairs(weights: Iterable[str], path: Path) -> None:
    """Raise LoadError for an adapter of which one half is missing, with the layer's name."""
    halves = {match.groups(): match[0] for name in weights if (match := _HALF.match(name))}
    for (layer, kind, half), name in sorted(halves.items()):
        other = {"A": "B", "B": "A", "down": "up", "up": "down", "1": "2", "2": "1"}[half]
        if (layer, kind, other) not in halves:
            raise LoadError(
                f"expected {kind}{other} beside {name} in {path}, got none; was it cut?"
            )


def lora_metadata(config: Path) -> dict[str, Any]:
    """Return what `peft.LoraConfig` takes of the settings in a folder of PEFT."""
    from peft import LoraConfig

    try:
        settings = dict(json.loads(config.read_text(encoding="utf-8-sig")))
    except (ValueError, TypeError, RecursionError) as error:
        line = hub.first_line(error)[:200]
        raise LoadError(f"expected settings of PEFT as JSON in {config}, got {line}") from error
    if settings.get("peft_type") != "LORA":
        raise LoadError(f"expected peft_type LORA, got {settings.get('peft_type')!r}")
    alpha = settings.get("lora_alpha", 8)
    if not isinstance(alpha, int | float) or not abs(alpha) < float("inf"):
        raise LoadError(f"expected a number as lora_alpha in {config}, got {str(alpha)[:80]!r}")
    if settings.get("bias", "none") != "none":
        raise LoadError(f"expected bias 'none' in {config}, got {str(settings['bias'])[:80]!r}")
    names = {field.name for field in fields(LoraConfig)} - {"peft_type", "task_type"}
    names -= {"exclude_modules", "layers_to_transform", "layers_pattern"}  # the file says which
    return {name: value for name, value in settings.items() if name in names}


def layers_of(weights: Iterable[str]) -> set[str]:
    """Return the layers that keys of a LoRA name."""
    return {name.split(".lora_")[0] for name in weights if ".lora_" in name}


def require_layers(transformer: Any, layers: Iterable[str]) -> None:
    """Raise LoadError for layers, or ends of their names, of which a transformer has none."""
    names = [f".{name}" for name, _ in transformer.named_modules()]
    ends = sorted(layers)  # libraries leave out what they do not find
    if missing := [end for end in ends if not any(name.endswith(f".{end}") for name in names)]:
        raise LoadError(
            f"expected layers of this model's transformer, got {missing[0][:80]} and "
            f"{len(missing) - 1} others that it has not; is the adapter of another architecture?"
        )
