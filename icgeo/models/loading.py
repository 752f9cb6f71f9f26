"""Load a model by the architecture that its checkpoint names.

Weights of a pipeline come as asked: quantized, adapted, offloaded, without text encoders.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from icgeo import maps
from icgeo.models import hub
from icgeo.models.adapters import load_adapter
from icgeo.models.architectures import architecture_of
from icgeo.models.attention import BACKENDS
from icgeo.models.backbones.tiny import TinyBackbone
from icgeo.models.hub import LoadError, resolve_local
from icgeo.models.map_model import MapModel
from icgeo.models.prompts import Embedding, Prompts, cache_folder
from icgeo.models.settings import Origin, Settings
from icgeo.options import SETTINGS, LoadOptions

QUANTIZATIONS = {"nf4": "bitsandbytes", "fp8": "torchao", "int8": "torchao"}
"""Ways to store weights, and the packages that know them."""
DTYPES = ("float32", "bfloat16", "float16")


def load(
    model: str | Path = "tiny", *, style: maps.MapStyle | None = None, **options: Any
) -> MapModel:
    """Load a model, by the architecture that its checkpoint names.

    Args:
        model: "tiny", which is in the package; a folder of ours, or of a diffusers pipeline; or the
            id of a pipeline on the hub, such as "black-forest-labs/FLUX.2-klein-4B".
        style: how maps are drawn, where the model can choose.
        **options: the other fields of `icgeo.models.LoadOptions`: device, dtype, revision, adapter,
            offload, quantization, attention_backend, attention, layout and more.

    Raises:
        LoadError: no such model, no access, an unknown architecture, a missing package, or a
            choice that the model has not.
    """
    load_options = _checked_options(model, options)
    where: Any = {n: getattr(load_options, n) for n in ("revision", "local_files_only")}
    local_folder = resolve_local(model)
    folder = local_folder or hub.fetch(str(model), **where)
    hub.refuse_pickles([path for path in hub.files_in(folder) if len(path.parts) > 1], model)
    settings = Settings.read(folder)
    if settings and settings.layout == "stacked":
        map_model = _load_tiny(folder, settings, load_options)
    else:
        hub_id = None if local_folder else str(model)
        map_model = _load_pipeline(folder, settings, load_options, hub_id=hub_id)
    revision = None if local_folder else folder.name
    provenance = {n: getattr(load_options, n) for n in ("adapter", "quantization", "weight_name")}
    origin = Origin(str(model), revision, **provenance)
    return replace(map_model, origin=origin).choosing(
        style=style, **{name: getattr(load_options, name) for name in SETTINGS}
    )


def _checked_options(model: str | Path, options: Mapping[str, Any]) -> LoadOptions:
    """Take devices, dtypes and paths for their names, and refuse what no model can do."""
    names = {
        name: str(value).removeprefix("torch.")
        for name, value in options.items()
        if name in ("device", "dtype", "adapter") and value is not None
    }
    load_options = LoadOptions(model=str(model), **{**options, **names})
    choices = {"quantization": tuple(QUANTIZATIONS), "offload": ("model", "group"), "dtype": DTYPES}
    for name, values in choices.items():
        value = getattr(load_options, name)
        if value not in (None, *values):
            raise LoadError(f"expected {name} of {values}, got {value!r}")
    require_device(load_options.device)
    if load_options.offload and torch.device(load_options.device).type == "cpu":
        raise LoadError(
            f"expected an accelerator as device to offload from, got {load_options.device}"
        )
    return load_options


def require_device(device: torch.device | str) -> None:
    """Raise LoadError for a device that torch does not know, or a GPU that it does not see."""
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"expected a device such as cpu or cuda, got {str(device)!r}") from error
    count = torch.cuda.device_count()
    if torch_device.type == "cuda" and (torch_device.index or 0) >= count:
        devices = f"a GPU from cuda:0 to cuda:{count - 1}" if count else "cpu, for no GPU is seen"
        raise LoadError(
            f"expected the device {devices} by torch {torch.__version__}, got {device}; leave the "
            "device at cpu, or install a build of torch for the GPU"
        )


def _load_tiny(folder: Path, settings: Settings, options: LoadOptions) -> MapModel:
    for name in ("offload", "quantization"):
        if getattr(options, name):
            raise LoadError(f"expected no {name} for a model of this size, got one")
    try:
        backbone = TinyBackbone.load(folder, device=options.device, dtype=options.torch_dtype)
    except Exception as error:  # whatever the libraries raise of a folder that is damaged
        line = hub.first_line(error)[:400]
        raise LoadError(f"{folder} cannot be loaded: {line}; download it again") from error
    if options.adapter:
        load_adapter(backbone.transformer, options)
        # its map knows more than the examples
        settings = replace(settings, prior_weight={}, evidence_weight={})
    parts = (options.adapter, options.weight_name)
    return MapModel(backbone, settings, " ".join(str(part) for part in parts if part))


def _load_pipeline(
    folder: Path, settings: Settings | None, options: LoadOptions, *, hub_id: str | None
) -> MapModel:
    """Load a pipeline without its text encoders; the VAE in float32, for maps are measured."""
    index = hub.pipeline_index(folder, with_text=not hub_id)
    architecture = architecture_of(index, options.model)
    if hub_id and architecture.keeps_encoder:
        offline = options.local_files_only
        hub.fetch(hub_id, text=True, revision=folder.name, local_files_only=offline)
    settings = settings or architecture.settings(index)
    require_backend(options.attention_backend)
    quantization = quantization_config(options.quantization, dtype=options.torch_dtype)
    kind = getattr(diffusers, architecture.loader or index["_class_name"])
    try:
        pipeline = kind.from_pretrained(
            folder,
            dtype={"default": options.torch_dtype, "vae": torch.float32},
            use_safetensors=True,
            quantization_config=quantization,
            **({} if architecture.keeps_encoder else _without(kind, text=True)),
            **architecture.components(folder),
        )
    except Exception as error:  # whatever the libraries raise of a folder that is damaged
        line = hub.first_line(error)[:400]
        raise LoadError(f"{hub_id or folder} cannot be loaded: {line}") from error
    if options.adapter:
        load_adapter(pipeline, options)
    for part in (pipeline.transformer, pipeline.vae, getattr(pipeline, "text_encoder", None)):
        if part is not None:
            part.eval().requires_grad_(False)
    pipeline.vae.enable_slicing()  # an image at a time, whatever the batch
    if options.vae_tiling:
        pipeline.vae.enable_tiling()
    place(pipeline, offload=options.offload, device=options.device)
    prompts = _prompts(folder, kind, architecture.embed, options, hub_id=hub_id)
    backbone = architecture.backbone(pipeline, prompts, settings.embedded_guidance)
    names = ("model", "revision", "adapter", "weight_name", "quantization")
    name = " ".join(str(part) for part in (getattr(options, n) for n in names) if part)
    return MapModel(backbone, settings, name, options.attention_backend)


def _prompts(
    folder: Path, pipeline: Any, embed: Any, options: LoadOptions, *, hub_id: str | None
) -> Prompts:
    """Return what embeds instructions with text encoders that are loaded for the call alone."""
    dtype = options.torch_dtype

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> list[Embedding]:
        from accelerate.utils.memory import clear_device_cache

        source = folder
        if hub_id:  # of the same commit, if it is in the cache
            offline = options.local_files_only
            source = hub.fetch(hub_id, text=True, revision=folder.name, local_files_only=offline)
        try:
            text_pipeline = pipeline.from_pretrained(
                source, dtype=dtype, use_safetensors=True, **_without(pipeline, text=False)
            )
            embeddings = [embed(text_pipeline.to(options.device), text) for text in texts]
        except Exception as error:  # whatever tokenizers and text encoders raise
            line = hub.first_line(error)[:400]
            raise LoadError(f"the text encoder of {source} cannot embed: {line}") from error
        del text_pipeline
        clear_device_cache(garbage_collection=True)
        return embeddings

    return Prompts(encode, cache_folder(hub_id or folder, folder.name, dtype=dtype))


def _without(pipeline: Any, *, text: bool) -> dict[str, None]:
    """Name the components that are not loaded: those for text, or all others."""
    components, _ = pipeline._get_signature_keys(pipeline)
    names = {*components, *pipeline._optional_components} - {"scheduler"}
    return {n: None for n in names if n.startswith(("text_encoder", "tokenizer")) is text}


def require_backend(name: str) -> None:
    """Raise LoadError for a kernel of attention that is unknown, or whose package is missing."""
    if name not in BACKENDS:
        raise LoadError(f"expected an attention backend of {BACKENDS}, got {name!r}")
    try:
        with diffusers.attention_backend(name):
            pass
    except RuntimeError as error:
        raise LoadError(f"attention backend {name!r} cannot be used: {error}") from error


def quantization_config(name: str | None, *, dtype: torch.dtype) -> Any:
    """Return how the transformer's weights are stored; raise LoadError without the package."""
    if name is None:
        return None
    package = QUANTIZATIONS[name]
    if importlib.util.find_spec(package) is None:
        raise LoadError(f"quantization {name!r} needs {package}: pip install 'icgeo[quantization]'")
    if name == "nf4":
        config = diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    else:
        kinds = importlib.import_module("torchao.quantization")
        kind = kinds.Float8WeightOnlyConfig if name == "fp8" else kinds.Int8WeightOnlyConfig
        config = diffusers.TorchAoConfig(kind())
    return diffusers.PipelineQuantizationConfig(quant_mapping={"transformer": config})


def place(pipeline: Any, *, offload: str | None, device: str) -> None:
    """Move a pipeline to a device, or let its parts come there when they are needed."""
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(
            onload_device=torch.device(device),
            offload_type="block_level",
            num_blocks_per_group=2,
            use_stream=torch.device(device).type == "cuda",
        )
    else:
        pipeline.to(device)
