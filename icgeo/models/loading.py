"""Load a model by the architecture that its checkpoint names."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from icgeo import maps
from icgeo.layout import EARTH, UNKNOWN
from icgeo.models.base import MapModel, Origin, Settings
from icgeo.models.hub import (
    LoadError,
    fetch,
    files_in,
    located,
    pipeline_index,
    refuse_pickles,
)
from icgeo.options import LoadOptions

QUANTIZATIONS = ("nf4", "fp8", "int8")
OFFLOADS = ("model", "group")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Architecture:
    """What a class of diffusers' pipelines is loaded as; names are imported only when needed."""

    pipeline: str
    """The class that loads it."""
    module: str
    backbone: str
    embed: str
    layout: str = "references"
    attention: str = "joint"
    steps: int = 28
    guidance_scale: float = 1.0
    embedded_guidance: float = 1.0

    def settings(self, index: dict[str, Any]) -> Settings:
        """Give what a checkpoint without `icgeo.json` is taken for; not calibrated."""
        is_cached = index["_class_name"] == "Flux2KleinKVPipeline"  # its index does not say
        distilled = bool(index.get("is_distilled", is_cached))
        return Settings(
            style=maps.MapStyle.marker(),
            prompts=(EARTH, UNKNOWN),
            default_prompt=EARTH,
            layout=self.layout,
            attention=self.attention,
            steps=4 if distilled else self.steps,
            samples=4,
            guidance_scale=1.0 if distilled else self.guidance_scale,
            embedded_guidance=self.embedded_guidance,
        )


_KLEIN = Architecture(
    "Flux2KleinPipeline", "klein", "Flux2Backbone", "embed_klein", guidance_scale=4.0
)
_WAN = Architecture(
    "WanVACEPipeline", "wan", "WanBackbone", "embed_wan",
    layout="frames", attention="full", guidance_scale=5.0,
)  # fmt: skip
ARCHITECTURES = {
    "Flux2KleinPipeline": _KLEIN,
    "Flux2KleinKVPipeline": _KLEIN,
    "Flux2Pipeline": Architecture(
        "Flux2Pipeline", "klein", "Flux2Backbone", "embed_dev", embedded_guidance=4.0
    ),
    "FluxKontextPipeline": Architecture(
        "FluxKontextPipeline", "kontext", "KontextBackbone", "embed_kontext",
        layout="panel", attention="full", embedded_guidance=2.5,
    ),
    "WanVACEPipeline": _WAN,
    "WanPipeline": replace(_WAN, pipeline="WanPipeline"),
    "WanImageToVideoPipeline": replace(_WAN, pipeline="WanImageToVideoPipeline"),
}  # fmt: skip
"""By the class that a checkpoint names."""


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
    chosen = _checked_options(model, options)
    with located(model) as found:
        folder = found or fetch(
            str(model), revision=chosen.revision, local_files_only=chosen.local_files_only
        )
        refuse_pickles([path for path in files_in(folder) if len(path.parts) > 1], model)
        settings = own_settings(folder)
        if settings and settings.layout == "stacked":
            loaded: Any = _load_stacked(folder, chosen)
        else:
            hub_id = None if found else str(model)
            loaded = _load_pipeline(folder, settings, chosen, model=model, hub_id=hub_id)
        origin = Origin(
            str(model),
            revision=None if found else folder.name,
            adapter=chosen.adapter,
            quantization=chosen.quantization,
        )
        return replace(loaded, origin=origin).choosing(
            attention=chosen.attention,
            style=style,
            layout=chosen.layout,
            photo_size=chosen.photo_size,
        )


def _checked_options(model: str | Path, options: Mapping[str, Any]) -> LoadOptions:
    """Take devices, dtypes and paths for their names, and refuse what no model can do."""
    names = {
        name: str(value).removeprefix("torch.")
        for name, value in options.items()
        if name in ("device", "dtype", "adapter") and value is not None
    }
    chosen = LoadOptions(model=str(model), **{**options, **names})
    for name, known in (("quantization", QUANTIZATIONS), ("offload", OFFLOADS)):
        value = getattr(chosen, name)
        if value not in (None, *known):
            raise LoadError(f"expected {name} of {known}, got {value!r}")
    if chosen.dtype not in (None, *DTYPES):
        raise LoadError(f"expected a dtype of {DTYPES}, got {chosen.dtype!r}")
    require_device(chosen.device)
    if chosen.offload and torch.device(chosen.device).type == "cpu":
        raise LoadError(f"expected an accelerator as device to offload from, got {chosen.device}")
    return chosen


def require_device(device: torch.device | str) -> None:
    """Refuse a GPU that is not there.

    Raises:
        LoadError: torch knows no such device, or sees no GPU of that number.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise LoadError(f"expected a device such as cpu or cuda, got {str(device)!r}") from error
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise LoadError(
            f"expected one of the {torch.cuda.device_count()} GPUs that torch {torch.__version__} "
            f"sees, got {device}; leave the device at cpu, or install a build of torch for the GPU"
        )


def _load_pipeline(
    folder: Path,
    settings: Settings | None,
    options: LoadOptions,
    *,
    model: str | Path,
    hub_id: str | None,
) -> Any:
    index = pipeline_index(folder, with_text=not hub_id)
    architecture = architecture_of(index, model)
    # diffusers takes seconds to import: only who loads a model waits for it
    from icgeo.models.pipelines import PipelineMapModel
    from icgeo.models.weights import load_pipeline

    own = settings or architecture.settings(index)
    pipeline, prompts = load_pipeline(folder, architecture, options, hub_id=hub_id)
    module = importlib.import_module(f"icgeo.models.{architecture.module}")
    backbone = getattr(module, architecture.backbone)(pipeline, prompts)
    if hasattr(backbone, "guidance"):
        backbone = replace(backbone, guidance=own.embedded_guidance)
    told = (str(model), options.revision, options.adapter, options.quantization)
    name = " ".join(str(part) for part in told if part)
    return PipelineMapModel(backbone, own, name, options.attention_backend)


def own_settings(folder: Path | None) -> Settings | None:
    """Read the `icgeo.json` of a folder, if it has one."""
    path = folder / "icgeo.json" if folder else None
    return Settings.read(path) if path and path.is_file() else None


def architecture_of(index: dict[str, Any], source: str | Path) -> Architecture:
    """Find what loads a pipeline.

    Raises:
        LoadError: it is of an unknown class, or a Wan of two transformers.
    """
    name = index["_class_name"]
    if name not in ARCHITECTURES:
        raise LoadError(f"expected a pipeline of {sorted(ARCHITECTURES)} in {source}, got {name!r}")
    if index.get("boundary_ratio") is not None:
        raise LoadError(f"expected a Wan of one transformer in {source}, got one of two")
    if name in ("WanPipeline", "WanImageToVideoPipeline") and not index.get("expand_timesteps"):
        raise LoadError(
            f"expected a Wan that takes known frames, VACE or 2.2 TI2V-5B, in {source}, got "
            "one that does not"
        )
    return ARCHITECTURES[name]


def _load_stacked(folder: Path, options: LoadOptions) -> MapModel:
    from icgeo.models.flux2 import StackedMapModel
    from icgeo.models.weights import load_adapter

    for name in ("offload", "quantization"):
        if getattr(options, name):
            raise LoadError(f"expected no {name} for a model of this size, got one")
    loaded = StackedMapModel.load(folder, device=options.device, dtype=options.torch_dtype)
    if options.adapter:
        load_adapter(loaded.learner.transformer, options)
        loaded = replace(loaded, adapter=str(options.adapter))
    return loaded
