"""What a checkpoint says of itself, and where it came from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from icgeo import maps
from icgeo.models.hub import LoadError, first_line
from icgeo.models.matching import MatchSettings
from icgeo.travel import frame_temperature

MODES = ("full", "joint", "pairwise")
"""Who sees whom among examples, query and map: see `icgeo.models.attention`. Weights trained to see
only what stands before have their own, `causal`."""
PHOTO_SHAPES = ("own", "square")
"""Photos keep their shape, cut to whole tokens, or are cut to their middle square."""
TEXTS = ("stock", "trimmed")
"""How an instruction is embedded: with its padding, as public weights were trained, or without."""


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says of itself in `icgeo.json`."""

    style: maps.MapStyle
    prompts: tuple[str, ...]
    default_prompt: str
    worlds: tuple[str, ...] = ()
    """Prompts that each name a world: which one it is follows from the examples."""
    noise: maps.Noise = field(default_factory=maps.Noise)
    """How far the maps that it draws are from heatmap, for reading them."""
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    """Temperature that calibrates the density, fitted on held-out worlds, by prompt and shots."""
    frame_correlation: dict[str, float] = field(default_factory=dict)
    """How far frames of a clip are wrong together, from 0 to 1, fitted likewise, by prompt."""
    matching: MatchSettings = field(default_factory=MatchSettings)
    """How alike parts of photos become a likelihood, if the checkpoint has an encoder of parts."""
    prior_weight: dict[str, float] = field(default_factory=dict)
    """What the drawn map counts beside the evidence of alike parts, by prompt; 1 if not given."""
    evidence_weight: dict[str, float] = field(default_factory=dict)
    """What that evidence counts beside the drawn map, likewise: both may err on the same parts."""
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
    text: str = "stock"
    """One of `TEXTS`, for pipelines that pad their text."""
    photo_shape: str = "square"
    """Of `PHOTO_SHAPES`."""
    shows_evidence: bool | str = False
    """Whether examples come with one more map for the query: what another way says of it, or the
    "base map" without a mark."""
    trained_attention: str | None = None
    """The mode that public weights were trained in; None for weights of this package."""
    trained_area: int = 1024**2
    """Pixels of an image that public weights were trained on: of a sheet or a panel at most."""
    documented_references: int | None = None
    """How many reference images the documentation of public weights names; None for any number."""

    def require_multiples(self, patch: int) -> None:
        """Raise LoadError for maps and photos that are not tokens of `patch` pixels a side."""
        style, photo = self.style, self.photo_size
        if photo < 1 or photo % patch or style.height % patch or style.width % patch:
            raise LoadError(
                f"expected maps and photos of multiples of {patch} pixels, got {style.height} x "
                f"{style.width} and {photo}"
            )

    def temperature(self, prompt: str, shots: int) -> float:
        """Return the temperature that calibrates the density; 1 if none was fitted.

        Its reciprocal is interpolated in the logarithm of 1 + shots.
        """
        points = sorted((int(k), 1 / t) for k, t in self.calibration.get(prompt, {}).items())
        if not points:
            return 1.0
        knots, powers = zip(*points, strict=True)
        return 1 / float(np.interp(np.log1p(shots), np.log1p(knots), powers))

    def temperature_in_sequence(self, prompt: str, frames: int) -> float:
        """Return the temperature of each frame's likelihood; if not fitted, all count as one."""
        return frame_temperature(self.frame_correlation.get(prompt, 1.0), frames)

    @classmethod
    def read(cls, folder: Path | None) -> "Settings | None":
        """Read the `icgeo.json` of a checkpoint folder, if it has one."""
        path = folder / "icgeo.json" if folder else None
        if not (path and path.is_file()):
            return None
        try:
            settings = cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
            for one in fields(cls):
                value, kind = getattr(settings, one.name), type(one.default)
                types = (int, float) if kind is float else kind
                if kind in (int, float, str) and not isinstance(value, types):
                    raise ValueError(f"{one.name} of {value!r}")
        except Exception as error:  # of foreign data, by whatever reads a part of them
            raise LoadError(
                f"expected the settings of a checkpoint in {path}, got {first_line(error)[:200]}; "
                "download it again"
            ) from error
        return settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Take what `to_dict` gave."""
        parts: dict[str, Any] = {
            "style": maps.MapStyle.from_dict(values["style"]),
            "prompts": tuple(values["prompts"]),
            "worlds": tuple(values.get("worlds", ())),
            "noise": maps.Noise(**values["noise"]),
            "matching": MatchSettings.from_dict(values.get("matching", {})),
        }
        return cls(**{**values, **parts})

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, ready for JSON."""
        return {**asdict(self), "style": self.style.to_dict()}


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
    weight_name: str | None = None
    """The file of the LoRA, where its folder has several."""
