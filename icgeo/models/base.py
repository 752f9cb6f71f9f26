"""What every model that draws maps can do."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from icgeo import maps
from icgeo.models.hub import LoadError
from icgeo.sampling import StepCallback
from icgeo.travel import frame_temperature

MODES = ("full", "joint", "pairwise")
"""Who sees whom among examples, query and map: see DESIGN.md and `icgeo.models.attention`."""


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says of itself in `icgeo.json`."""

    style: maps.MapStyle
    prompts: tuple[str, ...]
    default_prompt: str
    noise: maps.Noise = field(default_factory=maps.Noise)
    """How far the maps that it draws are from heatmap, for reading them."""
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
    example_guidance: float = 1.0
    """Classifier-free guidance by the examples; 1 is none, and without examples it does nothing."""
    embedded_guidance: float = 1.0
    """Guidance that a distilled model takes as an input, as FLUX.1 Kontext and FLUX.2 dev do."""
    photo_size: int = 256
    """Height and width of photos beside maps in pixels, where the model can choose."""

    def choosing(self, **choices: Any) -> "Settings":
        """Change what is not None; another layout is seen in `full`, which every one knows."""
        given = {name: value for name, value in choices.items() if value is not None}
        if given.get("layout", self.layout) != self.layout:
            given.setdefault("attention", "full")
        return replace(self, **given)

    def require_multiples(self, patch: int) -> None:
        """Refuse maps and photos that are no whole number of tokens of so many pixels.

        Raises:
            LoadError: with their sizes.
        """
        style, photo = self.style, self.photo_size
        if photo < 1 or photo % patch or style.height % patch or style.width % patch:
            raise LoadError(
                f"expected maps and photos of multiples of {patch} pixels, got {style.height} x "
                f"{style.width} and {photo}"
            )

    def power(self, prompt: str, shots: int) -> float:
        """Power that calibrates the density, interpolated in the logarithm of 1 + shots."""
        fitted = {int(k): power for k, power in self.calibration.get(prompt, {}).items()}
        if not fitted:
            return 1.0
        known = sorted(fitted)
        return float(np.interp(np.log1p(shots), np.log1p(known), [fitted[k] for k in known]))

    def temperature_in_sequence(self, prompt: str, frames: int) -> float:
        """Temperature of each frame's likelihood in a sequence; if not fitted, all count as one."""
        return frame_temperature(self.frame_correlation.get(prompt, 1.0), frames)

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read the settings of a checkpoint folder."""
        return cls.from_dict(json.loads(path.read_text()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Take what `to_dict` gave."""
        values = dict(values)
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
class Origin:
    """Where a model was loaded from, so that it can be had again."""

    model: str
    """A name, a folder, or a hub id."""
    revision: str | None = None
    """The commit that the hub id meant."""
    adapter: str | None = None
    """The LoRA in it: a folder, a file, or a hub id."""
    quantization: str | None = None


@dataclass(frozen=True)
class Context:
    """Examples as the model holds them, computed once."""

    shots: int
    kept: dict[str, Tensor]
    """What the architecture keeps of them: keys and values of each layer."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """What it depends on beside the examples: model, dtype, style, layout, attention."""
    chosen: Int[Tensor, "queries shots"] | None = None
    """Which of the kept pairs each query sees, in order; None means all of them."""

    def choosing(self, chosen: Int[Tensor, "queries shots"]) -> "Context":
        """Show each query pairs of its own, by their number; nothing is computed or copied.

        Raises:
            ValueError: a mode in which pairs are not kept each alone.
        """
        if self.fingerprint["attention"] != "pairwise":
            raise ValueError(
                "expected attention 'pairwise' to choose among the pairs of a context, got "
                f"{self.fingerprint['attention']!r}"
            )
        return replace(self, shots=chosen.shape[1], chosen=chosen)

    def repeated(self, times: int) -> "Context":
        """Serve as many queries again and again, behind each other."""
        if self.chosen is None:
            return self
        return replace(self, chosen=self.chosen.repeat(times, 1))

    def by_query(self) -> Iterator["Context"]:
        """Give the context of each query alone, after `choosing`."""
        for row in () if self.chosen is None else self.chosen:
            kept = {name: tensor[row.to(tensor.device)] for name, tensor in self.kept.items()}
            yield Context(len(row), kept, self.fingerprint)

    def require(self, fingerprint: dict[str, str]) -> None:
        """Refuse to be used by anything else than what made it.

        Raises:
            ValueError: it was made otherwise, with what differs.
        """
        different = [
            f"{name} {self.fingerprint.get(name)!r}, not {value!r}"
            for name, value in fingerprint.items()
            if self.fingerprint.get(name) != value
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
        other.require(self.fingerprint)
        mode = self.fingerprint["attention"]
        if mode == "joint":
            raise ValueError("expected attention 'pairwise' to extend a context, got 'joint'")
        if not (self.kept and other.kept):
            return self if self.kept else other
        kept = {name: torch.cat((x, other.kept[name])) for name, x in self.kept.items()}
        return Context(self.shots + other.shots, kept, self.fingerprint)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        kept = {name: tensor.contiguous() for name, tensor in self.kept.items()}
        save_file(kept, path, metadata={**self.fingerprint, "shots": str(self.shots)})

    @classmethod
    def load(cls, path: Path, *, device: str | torch.device = "cpu") -> "Context":
        """Read what `save` wrote."""
        with safe_open(path, framework="pt", device=str(device)) as file:
            fingerprint = dict(file.metadata())
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(int(fingerprint.pop("shots")), kept, fingerprint)


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
        callback_on_step_end: StepCallback | None = None,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped.

        `callback_on_step_end` is told at each step the maps as they look from there, and the time, from 1 down.
        """
        ...
