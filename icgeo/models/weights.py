"""Load the weights of a pipeline as asked: quantized, adapted, offloaded, without text encoders."""

import importlib
import importlib.util
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig

from icgeo.models.hub import LoadError, fetch, files_in, pipeline_part, refuse_pickles
from icgeo.models.prompts import Prompts, folder_of, text_encoder, without

if TYPE_CHECKING:
    from icgeo.models.loading import Architecture
    from icgeo.options import LoadOptions

PACKAGES = {"nf4": "bitsandbytes", "fp8": "torchao", "int8": "torchao"}
LORA = "pytorch_lora_weights.safetensors"
"""How diffusers names a LoRA."""
GROUP_BLOCKS = 2
"""Blocks that are on the device at a time when groups are offloaded."""


def load_pipeline(
    folder: Path, architecture: "Architecture", options: "LoadOptions", *, hub_id: str | None = None
) -> tuple[Any, Prompts]:
    """Load a pipeline without its text encoders, and what embeds instructions when needed.

    The VAE stays in float32, for maps are measured. Text encoders of a checkpoint on the hub are
    fetched when an instruction is new.

    Raises:
        LoadError: files that cannot be read, or a package that is not installed.
    """
    require_backend(options.attention_backend)
    quantized = quantization_config(options.quantization, dtype=options.torch_dtype)
    kind = getattr(diffusers, architecture.pipeline)
    try:
        pipeline = kind.from_pretrained(
            folder,
            dtype={"default": options.torch_dtype, "vae": torch.float32},
            use_safetensors=True,
            quantization_config=quantized,
            **without(kind, text=True),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise LoadError(f"{hub_id or folder} cannot be loaded: {_first_line(error)}") from error
    if options.adapter:
        load_adapter(pipeline, options)
    for part in (pipeline.transformer, pipeline.vae):
        part.eval().requires_grad_(False)
    if options.vae_tiling:
        pipeline.vae.enable_tiling()
    place(pipeline, offload=options.offload, device=options.device)
    module = importlib.import_module(f"icgeo.models.{architecture.module}")
    encode = text_encoder(
        partial(_with_text, folder, hub_id, local_files_only=options.local_files_only),
        kind,
        getattr(module, architecture.embed),
        device=options.device,
        dtype=options.torch_dtype,
        use_safetensors=True,
    )
    kept = folder_of(hub_id or folder, folder.name, dtype=options.torch_dtype)
    return pipeline, Prompts(encode, kept)


def _with_text(folder: Path, hub_id: str | None, *, local_files_only: bool) -> Path:
    """Give the folder that has the text encoders too; of the same commit, if it is in the cache."""
    if hub_id is None:
        return folder
    return fetch(hub_id, text=True, revision=folder.name, local_files_only=local_files_only)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def require_backend(name: str) -> None:
    """Check that a kernel of attention can be used here.

    Raises:
        LoadError: it is unknown, or its package is missing.
    """
    from icgeo.models.attention import BACKENDS

    if name not in BACKENDS:
        raise LoadError(f"expected an attention backend of {BACKENDS}, got {name!r}")
    try:
        with diffusers.attention_backend(name):
            pass
    except RuntimeError as error:
        raise LoadError(f"attention backend {name!r} cannot be used: {error}") from error


def quantization_config(
    name: str | None, *, dtype: torch.dtype
) -> PipelineQuantizationConfig | None:
    """Return how the weights of the transformer are quantized; computation stays in `dtype`.

    Raises:
        LoadError: its package is not installed.
    """
    if name is None:
        return None
    package = PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        raise LoadError(f"quantization {name!r} needs {package}: pip install 'icgeo[quantization]'")
    if name == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    else:
        kinds = importlib.import_module("torchao.quantization")
        kind = kinds.Float8WeightOnlyConfig if name == "fp8" else kinds.Int8WeightOnlyConfig
        config = TorchAoConfig(kind())
    return PipelineQuantizationConfig(quant_mapping={"transformer": config})


def load_adapter(model: Any, options: "LoadOptions") -> None:
    """Load the LoRA of some options into a pipeline, or into a transformer alone.

    Raises:
        LoadError: it cannot be found, is a pickle, or is of another architecture.
    """
    adapter = options.adapter
    found = Path(str(adapter))
    if not found.exists():
        found = pipeline_part(str(adapter), LORA, local_files_only=options.local_files_only)
    refuse_pickles(files_in(found) if found.is_dir() else [found.name], found)
    is_pipeline = hasattr(model, "load_lora_weights")
    try:
        load = model.load_lora_weights if is_pipeline else model.load_lora_adapter
        load(found, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise LoadError(f"adapter {adapter} cannot be loaded: {_first_line(error)}") from error
    if not getattr(model.transformer if is_pipeline else model, "peft_config", None):
        raise LoadError(f"adapter {adapter} has no weights for this model's transformer")


def place(pipeline: Any, *, offload: str | None, device: str | torch.device) -> None:
    """Move a pipeline to a device, or let its parts come there when they are needed."""
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(
            onload_device=torch.device(device),
            offload_type="block_level",
            num_blocks_per_group=GROUP_BLOCKS,
            use_stream=torch.device(device).type == "cuda",
        )
    else:
        pipeline.to(device)
