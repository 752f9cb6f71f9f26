"""What every model that draws maps can do, and how one is loaded."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from jaxtyping import Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from icgeo import maps
from icgeo.config import UsageError
from icgeo.travel import frame_power

BUILT_IN = ("tiny",)
PIPELINES = ("Flux2KleinPipeline", "Flux2KleinKVPipeline")
"""Classes of diffusers whose checkpoints can be loaded."""


class LoadError(UsageError):
    """A model that cannot be loaded as asked; the message says why, and what to do."""


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says of itself in `icgeo.json`."""

    style: maps.MapStyle
    prompts: tuple[str, ...]
    default_prompt: str
    noise: maps.Noise = field(default_factory=maps.Noise)
    """How far the maps that it draws are from ink, for reading them."""
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    """Power that calibrates the density, fitted on held-out worlds, by prompt and shots."""
    frame_correlation: dict[str, float] = field(default_factory=dict)
    """How far frames of a clip are wrong together, from 0 to 1, fitted likewise, by prompt."""
    layout: str = "stacked"
    attention: str = "pairwise"
    steps: int = 1
    samples: int = 1
    guidance_scale: float = 1.0
    """Classifier-free guidance by the instruction; 1 is none."""

    def power(self, prompt: str, shots: int) -> float:
        """Power that calibrates the density, interpolated in the logarithm of 1 + shots."""
        fitted = {int(k): power for k, power in self.calibration.get(prompt, {}).items()}
        if not fitted:
            return 1.0
        known = sorted(fitted)
        return float(np.interp(np.log1p(shots), np.log1p(known), [fitted[k] for k in known]))

    def power_in_clip(self, prompt: str, frames: int) -> float:
        """Power of the likelihood of each frame of a clip; if not fitted, all count as one."""
        return frame_power(self.frame_correlation.get(prompt, 1.0), frames)

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read the settings of a checkpoint folder."""
        values = json.loads(path.read_text())
        return cls(
            style=maps.MapStyle.from_dict(values.pop("style")),
            prompts=tuple(values.pop("prompts")),
            noise=maps.Noise(**values.pop("noise")),
            **values,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, ready for JSON."""
        return {**asdict(self), "style": self.style.to_dict(), "prompts": list(self.prompts)}


@dataclass(frozen=True)
class Context:
    """Examples as the model holds them, computed once."""

    shots: int
    kept: dict[str, Tensor]
    """What the architecture keeps of them: keys and values of each layer."""
    made_by: dict[str, str] = field(default_factory=dict)
    """What it depends on beside the examples: model, dtype, style, layout, attention."""

    def require(self, made_by: dict[str, str]) -> None:
        """Refuse to be used by anything else than what made it.

        Raises:
            ValueError: it was made otherwise, with what differs.
        """
        different = [
            f"{name} {self.made_by.get(name)!r}, not {value!r}"
            for name, value in made_by.items()
            if self.made_by.get(name) != value
        ]
        if different:
            raise ValueError(
                f"this context was made with {'; '.join(different)}; encode its examples again"
            )

    def extended(self, other: "Context") -> "Context":
        """Add the examples of another context; those of neither are computed again.

        Raises:
            ValueError: made otherwise, or by a mode in which examples see each other.
        """
        other.require(self.made_by)
        mode = self.made_by["attention"]
        if mode == "joint":
            raise ValueError("expected attention 'pairwise' to extend a context, got 'joint'")
        if not (self.kept and other.kept):
            return self if self.kept else other
        kept = {name: torch.cat((x, other.kept[name])) for name, x in self.kept.items()}
        return Context(self.shots + other.shots, kept, self.made_by)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        kept = {name: tensor.contiguous() for name, tensor in self.kept.items()}
        save_file(kept, path, metadata={**self.made_by, "shots": str(self.shots)})

    @classmethod
    def load(cls, path: Path, *, device: str | torch.device = "cpu") -> "Context":
        """Read what `save` wrote."""
        with safe_open(path, framework="pt", device=str(device)) as file:
            made_by = dict(file.metadata())
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(int(made_by.pop("shots")), kept, made_by)


@runtime_checkable
class MapModel(Protocol):
    """A model that is shown examples and draws the maps of new photos."""

    @property
    def settings(self) -> Settings:
        """What the checkpoint says of itself: map style, prompts, calibration, defaults."""
        ...

    @property
    def photo_size(self) -> int:
        """Height and width of the photos that it takes, in pixels."""
        ...

    def encode_context(
        self, photos: UInt8[Tensor, "examples 3 size size"], lat_lon: Float[Tensor, "examples 2"]
    ) -> Context:
        """Encode examples once, for any number of queries, steps and samples."""
        ...

    def draw_maps(
        self,
        context: Context,
        photos: UInt8[Tensor, "queries 3 size size"],
        *,
        prompt: str,
        samples: int = 1,
        steps: int = 1,
        seed: int = 0,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped."""
        ...


def load(
    model: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    attention: str | None = None,
    style: maps.MapStyle | None = None,
) -> MapModel:
    """Load a model, by the architecture that its checkpoint names.

    Args:
        model: "tiny", which is in the package; a folder of ours, or of a diffusers pipeline; or the
            id of a pipeline on the hub, such as "black-forest-labs/FLUX.2-klein-4B".
        device: where it runs.
        dtype: of the transformer; None means float32 on the CPU, bfloat16 elsewhere.
        revision: of the hub id.
        attention: who sees whom, where the model can choose: "full", "joint" or "pairwise".
        style: how maps are drawn, where the model can choose.

    Raises:
        LoadError: no such model, no access, an unknown architecture, or a choice that it has not.
    """
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    with located(model) as folder:
        if folder is not None and (folder / "icgeo.json").is_file():
            settings = Settings.read(folder / "icgeo.json")
            if settings.layout == "stacked":
                _refuse_choices(settings, attention=attention, style=style)
                # diffusers takes seconds to import: only who loads a model waits for it
                from icgeo.models.flux2 import StackedMapModel

                return StackedMapModel.load(folder, device=device, dtype=dtype)
        pipeline = pipeline_name(folder or str(model), revision=revision)
        if pipeline not in PIPELINES:
            raise LoadError(f"expected a pipeline of {PIPELINES} in {model}, got {pipeline!r}")
        from icgeo.models.references import ReferenceMapModel

        loaded = ReferenceMapModel.load(
            folder or str(model), device=device, dtype=dtype, revision=revision
        )
        return loaded.choosing(attention=attention, style=style)


@contextmanager
def located(model: str | Path) -> Iterator[Path | None]:
    """Give the folder of a model that is on this machine; None for another, maybe on the hub."""
    if str(model) in BUILT_IN:
        with as_file(files("icgeo") / "assets" / str(model)) as folder:
            yield folder
    else:
        yield Path(model) if Path(model).is_dir() else None


def _refuse_choices(settings: Settings, **choices: Any) -> None:
    for name, value in choices.items():
        own = getattr(settings, name)
        if value not in (None, own):
            raise LoadError(
                f"expected {name} of {own!r}, which this model knows alone, got {value!r}"
            )


def pipeline_name(source: str | Path, *, revision: str | None = None) -> str:
    """Read which pipeline of diffusers a folder or a hub id holds.

    Raises:
        LoadError: there is none, or it cannot be reached.
    """
    index = pipeline_part(source, "model_index.json", revision=revision)
    return str(json.loads(index.read_text())["_class_name"])


def pipeline_part(source: str | Path, *names: str, revision: str | None = None) -> Path:
    """Find one file of a pipeline, in its folder or on the hub.

    Raises:
        LoadError: there is none, or it cannot be reached.
    """
    if isinstance(source, str):
        return _download(source, "/".join(names), revision)
    path = source.joinpath(*names)
    if not path.is_file():
        raise LoadError(
            f"expected {'/'.join(names)}, or icgeo.json with layout 'stacked', in {source}"
        )
    return path


def _download(model: str, name: str, revision: str | None) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise LoadError(
            f"expected a name of {BUILT_IN}, a folder, or a hub id (owner/name), got {model!r}"
        )
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except GatedRepoError as error:
        remedy = "accept its licence on its page, then log in with `hf auth login`"
        raise LoadError(f"{model} is gated on the hub; {remedy}") from error
    except RepositoryNotFoundError as error:
        remedy = "check the spelling, or log in with `hf auth login` if it is private"
        raise LoadError(f"there is no {model} on the hub; {remedy}") from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{model} has no revision {revision!r} on the hub") from error
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            remedy = "connect to the network, or download it elsewhere and give its folder"
            raise LoadError(f"the hub cannot be reached for {model}; {remedy}") from error
        raise LoadError(f"{model} is no pipeline of diffusers: no {name}") from error
