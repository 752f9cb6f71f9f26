"""The model that draws maps: a backbone, a layout of examples, and settings.

What every model shares is here: noise keyed by content, guidance, steps, decoding. The denoising
loops of diffusers' pipelines can neither keep a context nor batch different queries.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from icgeo import maps, sampling, sphere
from icgeo.models.backbones import PipelineBackbone
from icgeo.models.backbones.tiny import TinyBackbone
from icgeo.models.context import Context
from icgeo.models.hub import LoadError
from icgeo.models.layouts.frames import Frames
from icgeo.models.layouts.interleaved import Interleaved
from icgeo.models.layouts.panel import Panel
from icgeo.models.layouts.references import Pair, References, Sheet
from icgeo.models.layouts.stacked import Stacked
from icgeo.models.matching import Evidence, LocalEncoder, Parts, mutual_matches
from icgeo.models.settings import PHOTO_SHAPES, TEXTS, Origin, Settings

PhotoPixels = UInt8[Tensor, "photos 3 high wide"]
Pixels = PhotoPixels | list[UInt8[Tensor, "3 _ _"]]
"""Photos of one shape, or a list of any shapes."""
Layout = Stacked | References | Panel | Frames | Interleaved
LAYOUTS: dict[str, type[Layout]] = {
    kind.__name__.lower(): kind
    for kind in (Stacked, References, Pair, Sheet, Panel, Frames, Interleaved)
}


@dataclass(frozen=True)
class MapModel:
    """A model that is shown examples and draws the maps of new photos."""

    backbone: TinyBackbone | PipelineBackbone
    settings: Settings
    name: str = ""
    """Which weights: source, revision, adapter, quantization."""
    attention_backend: str = "native"
    origin: Origin | None = None
    """Where it was loaded from."""

    def __post_init__(self) -> None:
        require_known(self.settings, self.backbone.layouts)
        if "photo_size" not in LAYOUTS[self.settings.layout].fixed:
            backbone: Any = self.backbone
            self.settings.require_multiples(backbone.multiple * backbone.patch)

    def choosing(self, **choices: Any) -> "MapModel":
        """Return the same model with other settings; None leaves one as it is.

        Raises:
            LoadError: an unknown mode or layout, maps that are no whole number of tokens, or a
                setting that this model has fixed.
        """
        return replace(self, settings=chosen_settings(self.settings, choices, self.photo_size))

    @cached_property
    def layout(self) -> Layout:
        """How examples are shown to it."""
        kind: Any = LAYOUTS[self.settings.layout]
        return kind(self.backbone, self.settings, self.attention_backend)

    @property
    def photo_size(self) -> int:
        """Height and width of the photos that it takes, in pixels."""
        return getattr(self.backbone, "photo_size", self.settings.photo_size)

    def departures(self, shots: int) -> tuple[str, ...]:
        """Return how a run with so many examples differs from what public weights were trained on.

        None for weights of this package, and for those that an adapter has changed.
        """
        settings, references = self.settings, self.layout.references(shots)
        limit = settings.documented_references or references
        if settings.trained_attention is None or (self.origin and self.origin.adapter):
            return ()
        departures = {
            f"attention {settings.attention}, where the weights were trained in "
            f"{settings.trained_attention}": settings.attention != settings.trained_attention,
            f"{references} reference images, where {limit} are documented": references > limit,
            f"places 1 to {references} of images, where the weights saw 1": references > 1
            and not self.backbone.takes_references,
            f"text {settings.text}, where they saw its padding": settings.text != "stock",
        }
        return tuple(words for words, is_so in departures.items() if is_so)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What a context depends on beside its examples."""
        return {
            "model": f"{self.backbone.digest} {self.name}".strip(),
            "dtype": str(self.backbone.transformer.dtype),
            "style": json.dumps(self.settings.style.to_dict()),
            "layout": self.settings.layout,
            "attention": self.settings.attention,
        }

    @torch.no_grad()
    def encode_context(
        self, photos: Pixels, lat_lon: Float[Tensor, "examples 2"], *, after: Context | None = None
    ) -> Context:
        """Encode examples once, for any number of queries, steps and samples.

        Photos of several shapes come as a list. In the mode `causal` they may stand `after` those
        of a context, which are not encoded again; in others, `Context.extended` joins two.

        Raises:
            ValueError: a context that another model has made, or another mode.
        """
        prefix: dict[str, Any] = {}
        if after is not None:
            after.require(self.fingerprint)
            if self.settings.attention != "causal":
                raise ValueError(
                    "expected attention 'causal' to encode examples behind others, got "
                    f"{self.settings.attention!r}; join two contexts with Context.extended"
                )
            prefix = {"after": after.tensors}
        if not len(photos):
            return after or Context(0, {}, self.fingerprint)
        map_pixels, layout, parts = maps.draw(lat_lon, self.settings.style), self.layout, None
        pixels: Any
        if isinstance(photos, Tensor):
            pixels = self._pixels(photos)
        else:
            pixels = [self._pixels(photo) for photo in photos]
        tensors = layout.encode_pairs(pixels, map_pixels, **prefix)
        if self.matcher and isinstance(photos, Tensor):
            parts = Parts(self.describe_parts(photos), sphere.to_xyz(lat_lon).float().cpu())
        shots = len(photos) + (after.shots if after else 0)
        return Context(shots, tensors, self.fingerprint, parts, unit=layout.unit)

    @property
    def can_choose(self) -> bool:
        """Whether a query may be shown any of the pairs that a context keeps, in any order."""
        return self.settings.attention == "pairwise" and self.layout.unit == 1

    @property
    def matcher(self) -> LocalEncoder | None:
        """The encoder of parts of photos, if it has one."""
        encoder: LocalEncoder | None = getattr(self.backbone, "matcher", None)
        return encoder

    @torch.no_grad()
    def describe_parts(self, photos: PhotoPixels) -> Float[Tensor, "photos cells channels"]:
        """Describe the cells of photos, on the CPU; the model has a `matcher`."""
        matcher: Any = self.matcher
        return matcher(self._pixels(photos).to(matcher.device, matcher.dtype)).cpu()

    @torch.no_grad()
    def evidence(
        self, context: Context, photos: UInt8[Tensor, "queries 3 high wide"]
    ) -> Float[Tensor, "queries places"] | None:
        """Return what alike parts of query photos and examples say of each place, if anything.

        Log-likelihood ratios in nats at the cells of `icgeo.models.matching.FINE`; None without
        examples, or if the model compares no parts.
        """
        context.require(self.fingerprint)
        if context.parts is None or not context.shots or not len(photos):
            return None
        cells = self.describe_parts(photos)
        return context.parts.evidence(cells, self.settings.matching, context.chosen)

    @torch.no_grad()
    def explain(
        self, context: Context, photo: UInt8[Tensor, "3 high wide"], *, count: int = 30
    ) -> Evidence | None:
        """Return the evidence of one photo, and its `count` cells that match best.

        Its examples are numbered as in the context; None where `evidence` is.
        """
        ratios, parts = self.evidence(context, photo[None]), context.parts
        if ratios is None or parts is None:
            return None
        cells = self.describe_parts(photo[None])
        examples = parts.cells[context.chosen]  # all of them for None, which adds a dimension
        (matches,) = mutual_matches(cells, examples, self.settings.matching)
        return Evidence.strongest(ratios[0], matches, photo_size=self.photo_size, count=count)

    @torch.no_grad()
    def in_domain(self, photos: PhotoPixels) -> Bool[Tensor, " photos"] | None:
        """Return which photos are of the kind that it was trained on; None if it cannot tell."""
        domain, matcher = getattr(self.backbone, "domain", None), self.matcher
        if domain is None or matcher is None or (self.origin and self.origin.adapter):
            return None
        statistics = matcher.statistics(self._pixels(photos).to(matcher.device, matcher.dtype))
        return statistics.cpu() @ domain[:-1] + domain[-1] > 0

    def _pixels(self, photos: Tensor) -> Tensor:
        """Scale photos to [0, 1], in float32 at least."""
        dtype = torch.promote_types(self.backbone.transformer.dtype, torch.float32)
        return photos.to(dtype) / 255

    @torch.no_grad()
    def draw_maps(
        self,
        context: Context,
        photos: UInt8[Tensor, "queries 3 high wide"],
        *,
        prompt: str,
        samples: int = 1,
        steps: int = 1,
        seed: int = 0,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped.

        `callback_on_step_end` is called at each step with the maps as they look from there, and the
        time, from 1 down. Where queries have examples of their own, some layouts draw one query
        after the other, and it is called for each of them.

        Raises:
            ValueError: a context that another model, dtype, style, layout or mode has made, or one
                without evidence where settings show it.
        """
        context.require(self.fingerprint)
        layout, shots = self.layout, context.shots
        if layout.shows_evidence(shots) != (context.evidence is not None):
            raise ValueError(
                "expected maps of evidence in a context of examples where settings show them, got "
                f"shows_evidence={self.settings.shows_evidence}, {shots} examples, evidence of "
                f"{0 if context.evidence is None else len(context.evidence)} queries"
            )
        decode = partial(layout.decode, shots=shots)
        parts = [(context, photos)]
        if context.chosen is not None and not layout.takes_groups:  # one after the other
            rows = torch.arange(len(photos)).split(1)
            parts = [(context.of_queries(row), photos[row]) for row in rows]
        outputs = []
        for part, photo in parts:
            examples = part.gathered()
            queries = layout.encode_queries(examples.tensors, self._pixels(photo))
            contents = [pixels.numpy().tobytes() for pixels in photo.cpu()]
            shape = layout.latent_shape(shots)
            noise = sampling.keyed_noise(contents, shape, samples=samples, seed=seed)
            latents = sampling.euler(
                self.velocity(examples, queries, prompt),
                noise.to(queries.device, torch.promote_types(queries.dtype, torch.float32)),
                layout.times(shots, steps),
                callback_on_step_end=sampling.decoded(callback_on_step_end, decode),
            )
            outputs.append(decode(latents))
        return torch.cat(outputs)

    def velocity(self, context: Context, queries: Tensor, prompt: str) -> sampling.Velocity:
        """Return the velocity of latents [queries, samples, ...]; differentiable.

        `queries` are photos as the layout encodes them, and `prompt` says what the world is.
        """
        velocity = self._velocity(context, queries, prompt)
        scale = self.settings.example_guidance
        if scale == 1 or not context.shots:
            return velocity
        empty_context = Context(0, {}, self.fingerprint)
        return sampling.guided(velocity, self._velocity(empty_context, queries, prompt), scale)

    def _velocity(self, context: Context, queries: Tensor, prompt: str) -> sampling.Velocity:
        layout, shots = self.layout, context.shots
        text = layout.text(prompt, shots)
        predict = layout.predictor(context.tensors, shots, queries)
        return sampling.guided(
            lambda x, t: predict(x, t, text),
            lambda x, t: predict(x, t, layout.text("", shots)),
            self.settings.guidance_scale,
        )

    @torch.no_grad()
    def codec_round_trip(
        self, lat_lon: Float[Tensor, "places 2"]
    ) -> Float[Tensor, "places 3 height width"]:
        """Draw locations and pass them through the codec: what it and the heatmap alone cost."""
        map_pixels = maps.draw(lat_lon, self.settings.style)
        photos = map_pixels.new_zeros(len(map_pixels), 3, self.photo_size, self.photo_size)
        return self.layout.decode(self.layout.encode_answers({}, photos, map_pixels)[:, None])[:, 0]

    def save(self, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Save a model whose backbone is of this package; the transformer in `dtype`."""
        backbone: Any = self.backbone
        backbone.save(folder, dtype=dtype)
        text = json.dumps(self.settings.to_dict(), indent=2)
        (folder / "icgeo.json").write_text(text + "\n")


def chosen_settings(
    settings: Settings, choices: Mapping[str, Any], photo_size: int | None = None
) -> Settings:
    """Change what is not None; a new layout takes its first mode, if it lacks the present one.

    `photo_size` is that of the weights, where they fix it. Raises LoadError for another choice of
    what the layout fixes.
    """
    changes = {name: value for name, value in choices.items() if value is not None}
    current = {**vars(settings), "photo_size": photo_size or settings.photo_size}
    for name in LAYOUTS[settings.layout].fixed:
        if (value := changes.pop(name, current[name])) != current[name]:
            raise LoadError(
                f"expected {name} of {current[name]!r}, which this model knows alone, got {value!r}"
            )
    if (layout := changes.get("layout", settings.layout)) in LAYOUTS:
        modes = LAYOUTS[layout].modes
        if layout != settings.layout and settings.attention not in modes:
            changes.setdefault("attention", modes[0])
    return replace(settings, **changes)


def require_known(settings: Settings, layouts: tuple[str, ...]) -> None:
    """Raise LoadError for a layout that is none of these, or settings that it does not know."""
    if settings.layout not in layouts:
        raise LoadError(f"expected layout of {layouts}, got {settings.layout!r}")
    kind = LAYOUTS[settings.layout]
    for name, choices in (("text", TEXTS), ("photo_shape", PHOTO_SHAPES)):
        if (value := getattr(settings, name)) not in choices:
            raise LoadError(f"expected {name} of {choices}, got {value!r}")
    if settings.attention not in kind.modes:
        raise LoadError(
            f"expected attention of {kind.modes} in the layout {settings.layout!r}, "
            f"got {settings.attention!r}"
        )
    if settings.shows_evidence and not kind.takes_evidence:
        raise LoadError(
            f"expected no evidence of another way in the layout {settings.layout!r}, which has no "
            "place for its map"
        )
    if settings.example_guidance != 1 and kind.is_one_picture:
        raise LoadError(
            "expected example_guidance of 1 where examples and query are one picture, "
            f"got {settings.example_guidance}"
        )
