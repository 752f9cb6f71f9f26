"""Locate photos, and clips of them, by showing a model that draws maps a few solved cases."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from icgeo import checkpoint, features, maps, sampling
from icgeo.data.photos import Photo, as_photos, content_key
from icgeo.data.pixels import augment, square_pixels
from icgeo.features import Features
from icgeo.maps import LEGIBLE
from icgeo.models import Context, MapModel, load
from icgeo.models.hub import upload
from icgeo.prediction import (
    Example,
    Examples,
    Prediction,
    SequencePrediction,
    add_seconds,
    as_examples,
    check_choices,
    locate_by_sets,
)
from icgeo.selection import BY_FEATURES, STRATEGIES, Bank, make_strategy
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density
from icgeo.travel import frame_times, mixture, smooth

CONTEXTS_KEPT = 8
SAVED = (
    "steps", "samples", "seed", "prompt", "batch_size", "point", "augment", "name", "shots",
    "choose", "features",
)  # fmt: skip
"""Fields that `save_pretrained` writes; the rest is in the settings of the model."""
INFORMED = 0.1
"""Nats that the density of an illegible frame says at least where it is still located."""


def _best(densities: Sequence[Density]) -> Float[Tensor, "densities 2"]:
    return best_points(torch.stack([density.mass for density in densities]).float())


POINTS: dict[str, Callable[[Sequence[Density]], Float[Tensor, "densities 2"]]] = {
    "best": _best,
    "mode": lambda densities: torch.stack([density.mode() for density in densities]),
    "mean": lambda densities: torch.stack([density.mean() for density in densities]),
    "median": lambda densities: torch.stack([density.median() for density in densities]),
}


def predict(
    images: Photo | Sequence[Photo], examples: Examples = None, **options: Any
) -> list[Prediction]:
    """Locate photos in one call, in their order; `options` are the fields of `Geolocator`.

    Args:
        images: paths, pictures or arrays (uint8, or float in [0, 1]); one, or a list.
        examples: `Example`s, (photo, (latitude, longitude)) tuples, the path of a manifest or of a
            folder of photos with EXIF locations, or None.
        **options: as `Geolocator` takes them.

    Raises:
        PhotoError: a photo cannot be read.
        ValueError: an option, a location or a manifest is wrong.
    """
    return Geolocator(**options).locate(images, examples)


def predict_sequence(
    frames: Sequence[Photo],
    examples: Examples = None,
    *,
    speed_kmh: float | None,
    seconds: float | Sequence[float] | None = None,
    **options: Any,
) -> SequencePrediction:
    """Locate a video or an album in one call; `options` are the fields of `Geolocator`.

    As `Geolocator.locate_sequence` does it; `icgeo.data.video.read_video` gives the frames of a file.
    """
    locator = Geolocator(**options)
    return locator.locate_sequence(frames, examples, speed_kmh=speed_kmh, seconds=seconds)


@dataclass(frozen=True, eq=False)
class Geolocator:
    """A model with its settings; it keeps contexts, so that examples are encoded once."""

    model: str | Path | MapModel = "tiny"
    """"tiny", a checkpoint folder, a hub id, or a model already loaded."""
    style: maps.MapStyle | None = None
    """How maps are drawn; None means the model's own, and tiny knows no other."""
    steps: int | None = None
    """Steps of the flow; 1 gives the posterior mean. None means the checkpoint's own."""
    samples: int | None = None
    """Maps drawn for each query and averaged; None means the checkpoint's own."""
    seed: int = 0
    """Key of the noise."""
    attention: str | None = None
    """Who sees whom: "full", "joint" or "pairwise"; None means the model's own."""
    example_guidance: float | None = None
    """How far to lean towards what the examples say, by a second pass without them; 1 is none, None
    means the checkpoint's own."""
    prompt: str | None = None
    """What the model is told: one of the checkpoint's prompts; None means its default."""
    device: str = "cpu"
    """Where the model is loaded, if it is not yet, and features."""
    batch_size: int = 64
    """Queries at a time."""
    point: str = "best"
    """The single answer: largest expected GeoScore, mode, mean or median of the density."""
    augment: int = 0
    """Further views of each query (crops and exposures, never flips), averaged on the density."""
    name: str = "icgeo"
    """How it is called in tables and figures."""
    examples: Examples = None
    """What is shown where `locate` is given None; [] shows nothing."""
    shots: int | None = None
    """How many of the examples each photo is shown, chosen for it; None shows all of them."""
    choose: str = "nearest"
    """How they are chosen: one of `icgeo.selection.STRATEGIES`."""
    features: str | None = None
    """By what photos are alike: what `icgeo.features.open` takes; None means what suits the model,
    its own for tiny, efficientnet-lite0 for those of photographs."""
    allow_outside: bool = False
    """Accept examples outside the folder of their manifest."""

    def __post_init__(self) -> None:
        least_of = {"steps": 1, "samples": 1, "batch_size": 1} | dict.fromkeys(
            ("augment", "example_guidance", "shots"), 0
        )
        for field, least in least_of.items():
            value = getattr(self, field)
            if value is not None and not least <= value < math.inf:
                raise ValueError(f"expected {field} of at least {least}, got {value}")
        for field, names in (("point", POINTS), ("choose", STRATEGIES)):
            if (value := getattr(self, field)) not in names:
                raise ValueError(f"expected {field} to be one of {sorted(names)}, got {value!r}")
        settings = self.loaded.settings
        for field, known in (
            ("style", (settings.style,)),
            ("attention", (settings.attention,)),
            ("prompt", settings.prompts),
        ):
            value = getattr(self, field)
            if value is not None and value not in known:
                raise ValueError(f"expected {field} of {known} for this model, got {value!r}")

    @cached_property
    def loaded(self) -> MapModel:
        """The model, loaded once, with the guidance chosen."""
        model: Any = self.model
        if isinstance(model, str | Path):
            model = load(model, device=self.device, attention=self.attention, style=self.style)
        if self.example_guidance is None:
            return model
        settings = replace(model.settings, example_guidance=self.example_guidance)
        return replace(model, settings=settings)

    def _examples(self, examples: Examples) -> list[Example]:
        given = self.examples if examples is None else examples
        return as_examples(given, allow_outside=self.allow_outside)

    @cached_property
    def _contexts(self) -> dict[bytes, Context]:
        return {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        loading: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "Geolocator":
        """Read a locator that `save_pretrained` wrote, from a folder or from the hub.

        Args:
            source: folder, or hub id.
            revision: of the hub id: branch, tag or commit.
            local_files_only: download nothing.
            loading: what `icgeo.load` takes, in place of what was saved: device, attention, ...
            **options: fields of `Geolocator` in place of those saved.

        Raises:
            LoadError: no such locator, or a model that cannot be loaded.
        """
        told = {"revision": revision, "local_files_only": local_files_only, **(loading or {})}
        found = checkpoint.read(source, **told)
        return cls(found.model, **{**found.fields, "examples": found.examples, **options})

    def save_pretrained(
        self,
        folder: str | Path,
        examples: Examples = None,
        *,
        base: str | None = None,
        licence: str = "apache-2.0",
    ) -> Path:
        """Write model, settings and examples to a folder, with a model card.

        Weights of a local folder are copied, those of the hub named with their commit. Examples
        are written as the model sees them: whoever gets the folder sees them too.

        Args:
            folder: new, or empty.
            examples: in place of the locator's own; [] saves none.
            base: the hub id of the same weights, to name in place of a copy.
            licence: of what is saved.

        Raises:
            PhotoError: an example cannot be read.
            UsageError: a folder that holds something, or a model that cannot be saved.
        """
        pairs = self._examples(examples)
        photos = rearrange(self._pixels([pair.image for pair in pairs]), "n c h w -> n h w c")
        places = [(pair.lat, pair.lon) for pair in pairs]
        shown = [*zip(map(Image.fromarray, photos.numpy()), places, strict=True)]
        fields, path = {name: getattr(self, name) for name in SAVED}, Path(folder)
        checkpoint.save(path, self.loaded, fields, shown, base=base, licence=licence)
        return path

    def push_to_hub(
        self,
        repository: str,
        examples: Examples = None,
        *,
        private: bool = True,
        revision: str | None = None,
        **options: Any,
    ) -> str:
        """Put what `save_pretrained` writes on the hub (owner/name); return the address.

        A new repository is private; `revision` is the branch to write to, None the main one.

        Raises:
            UsageError: no access, or no network.
        """
        with TemporaryDirectory() as folder:
            path = self.save_pretrained(Path(folder) / "locator", examples, **options)
            return upload(path, repository, private=private, revision=revision)

    def require_memory(self, shots: int) -> None:
        """Refuse more examples than the memory of the device holds.

        Raises:
            LoadError: with what is needed, and what could be changed.
        """
        from icgeo.models.cost import plan_loaded  # with diffusers, which `loaded` has imported

        plan = plan_loaded(self.loaded, shots, batch_size=self.batch_size, samples=self.samples)
        if plan:
            plan.require()

    def context(self, examples: Examples) -> Context:
        """Encode examples, or find them among the contexts kept.

        Raises:
            LoadError: they do not fit the memory.
        """
        pairs = self._examples(examples)
        photos, lat_lon = self._pairs(pairs)
        key = blake2b(photos.numpy().tobytes() + lat_lon.numpy().tobytes()).digest()
        if key not in self._contexts:
            while len(self._contexts) >= CONTEXTS_KEPT:
                del self._contexts[next(iter(self._contexts))]
            self._contexts[key] = self.loaded.encode_context(photos, lat_lon)
        return self._contexts[key]

    def _pairs(
        self, pairs: Sequence[Example]
    ) -> tuple[UInt8[Tensor, "examples 3 size size"], Float[Tensor, "examples 2"]]:
        """Give photos and places of as many examples as the memory holds."""
        self.require_memory(len(pairs))
        photos = self._pixels([pair.image for pair in pairs])
        places = torch.tensor([[p.lat, p.lon] for p in pairs], dtype=torch.float64)
        return photos, places.reshape(-1, 2)

    def prepare(self, examples: Examples = None) -> None:
        """Encode examples now, so that the first photo does not wait; what is wrong is told now.

        Raises:
            LoadError: they do not fit the memory, or no such features.
            PhotoError: an example cannot be read.
        """
        pairs = self._examples(examples)
        if not self._chooses(pairs):
            self.context(pairs)
            return
        self.require_memory(self.shown_at_once(len(pairs)))
        if self.shots and self.choose in BY_FEATURES:
            _ = self._bank(pairs).index

    def shown_at_once(self, count: int) -> int:
        """Say how many of so many examples are kept at a time: those of a batch at most."""
        if self.shots is None or self.shots >= count:
            return count
        is_shared = self.loaded.settings.attention != "pairwise" or self.choose not in BY_FEATURES
        return self.shots if is_shared else min(count, self.shots * self.batch_size)

    def _chooses(self, pairs: Sequence[Example]) -> bool:
        return self.shots is not None and self.shots < len(pairs)

    @cached_property
    def _encoder(self) -> Features:
        name = self.features or features.suited(self.loaded.settings)
        return features.open(name, device=self.device)

    @cached_property
    def _banks(self) -> dict[tuple[Any, ...], Bank]:
        return {}

    def _bank(self, pairs: Sequence[Example]) -> Bank:
        """Keep the features of examples as long as the same are given."""
        if self.choose not in BY_FEATURES:
            return Bank(pairs)
        key = tuple((content_key(pair.image), pair.lat, pair.lon) for pair in pairs)
        if key not in self._banks:
            self._banks.clear()
            self._banks[key] = Bank(pairs, self._encoder)
        return self._banks[key]

    def choose_for(
        self, photos: Photo | Sequence[Photo], examples: Examples = None
    ) -> Int[Tensor, "photos shots"]:
        """Say which of the examples each photo is shown, by their numbers.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong.
        """
        photos, pairs = as_photos(photos), self._examples(examples)
        if not (self._chooses(pairs) and photos and self.shots):
            count = min(len(pairs), len(pairs) if self.shots is None else self.shots)
            return repeat(torch.arange(count), "k -> q k", q=len(photos))
        return make_strategy(self.choose, self).choose(self._bank(pairs), photos, self.shots)

    def locate(
        self,
        photos: Photo | Sequence[Photo],
        examples: Examples = None,
        *,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> list[Prediction]:
        """Locate photos, given examples: all of them, or for each photo as many as `shots` says.

        Args:
            photos: a path, a picture or an array, or a list of them.
            examples: as `predict` takes them.
            callback_on_step_end: told at each step of each batch the maps [queries, samples, 3, height, width] as
                they look from there, and the time, from 1 (noise) down. What it raises ends the
                call, as to cancel it.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong.
        """
        photos, pairs = as_photos(photos), self._examples(examples)
        if not self._chooses(pairs):
            return self._locate_alike(photos, pairs, callback_on_step_end=callback_on_step_end)
        start = time.perf_counter()
        chosen = self.choose_for(photos, pairs)
        seconds = time.perf_counter() - start
        return add_seconds(
            self.locate_chosen(photos, pairs, chosen, callback_on_step_end=callback_on_step_end),
            seconds,
        )

    def _locate_alike(
        self,
        photos: Sequence[Photo],
        pairs: Sequence[Example],
        *,
        callback_on_step_end: sampling.StepCallback | None = None,
        keep: bool = True,
    ) -> list[Prediction]:
        """Locate photos that are shown the same."""
        context = self.context(pairs) if keep else self.loaded.encode_context(*self._pairs(pairs))
        batches = _batched(photos, self.batch_size)
        return [
            found
            for batch in batches
            for found in self._locate(batch, context, callback_on_step_end)
        ]

    def locate_chosen(
        self,
        photos: Sequence[Photo],
        bank: Sequence[Example],
        chosen: Int[Tensor, "photos shots"],
        *,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> list[Prediction]:
        """Locate photos, each given examples of its own: those of these numbers in the bank.

        In the mode `pairwise` what a batch of queries is shown is encoded once, however many of
        them see it; in the others each set of examples is.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: another number of photos than of choices, or a number outside the bank.
        """
        check_choices(photos, bank, chosen)
        is_one = bool((chosen == chosen[:1]).all())
        if is_one or self.loaded.settings.attention != "pairwise":
            locate = partial(
                self._locate_alike, callback_on_step_end=callback_on_step_end, keep=is_one
            )
            return locate_by_sets(locate, photos, bank, chosen)
        batches = zip(_batched(photos, self.batch_size), chosen.split(self.batch_size), strict=True)
        found = [
            self._locate(batch, self._chosen(bank, own), callback_on_step_end)
            for batch, own in batches
        ]
        return [prediction for batch in found for prediction in batch]

    def _chosen(self, bank: Sequence[Example], chosen: Int[Tensor, "photos shots"]) -> Context:
        """Encode what a batch is shown, each example once."""
        used, numbers = chosen.unique(return_inverse=True)
        photos, lat_lon = self._pairs([bank[i] for i in used.tolist()])
        return self.loaded.encode_context(photos, lat_lon).choosing(numbers)

    def locate_sequence(
        self,
        frames: Sequence[Photo],
        examples: Examples = None,
        *,
        speed_kmh: float | None,
        seconds: float | Sequence[float] | None = None,
    ) -> SequencePrediction:
        """Locate a video or an album: each photo given all others, and the whole.

        Args:
            frames: photos in the order in which they were taken.
            examples: as for `locate`.
            speed_kmh: speed limit of the camera along the ground, with room: one that goes straight
                ahead at exactly the limit is taken for slower. 0 means one place. None means
                an album from anywhere: each photo is located alone.
            seconds: the gap between frames, or the time of each; needed for any limit but 0.

        Raises:
            PhotoError: a photo cannot be read.
            ValueError: an example is wrong, no frame, frames out of order, a limit without times.
        """
        limit = math.inf if speed_kmh is None else speed_kmh
        times = frame_times(seconds, len(frames), limit)
        alone = self.locate(frames, examples)
        start = time.perf_counter()
        densities = [prediction.density for prediction in alone]
        if limit != math.inf:
            settings = self.loaded.settings
            prompt = self.prompt or settings.default_prompt
            temperature = settings.temperature_in_sequence(prompt, len(frames))
            densities = smooth(densities, times, speed_kmh=limit, temperature=temperature)
        return self._clip(add_seconds(alone, time.perf_counter() - start), densities)

    def _clip(
        self, frames: Sequence[Prediction], densities: Sequence[Density]
    ) -> SequencePrediction:
        """Give frames their densities and points, and sum them up."""
        whole = Prediction(
            mixture(densities),
            math.nan,
            math.nan,
            legibility=max(frame.legibility for frame in frames),
            located=any(frame.located for frame in frames),
            seconds=sum(frame.seconds for frame in frames),
        )
        points = POINTS[self.point]([*densities, whole.density])
        parts = [
            _placed(frame, density, point, located=frame.located or _informs(density))
            for frame, density, point in zip(frames, densities, points[:-1], strict=True)
        ]
        return SequencePrediction(
            parts, _placed(whole, whole.density, points[-1], located=whole.located)
        )

    def _locate(
        self,
        photos: Sequence[Photo],
        context: Context,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> list[Prediction]:
        start = time.perf_counter()
        pixels = self._pixels(photos)
        others = (augment(pixels, f"{self.seed}/{number}/") for number in range(self.augment))
        views = torch.stack([pixels, *others])

        def by_query(drawn: Tensor) -> Tensor:
            return rearrange(drawn, "(v q) s c h w -> q (v s) c h w", v=len(views))

        seen = sampling.decoded(callback_on_step_end, by_query)
        shown = context.repeated(len(views))
        drawn = self._draw(rearrange(views, "v q c h w -> (v q) c h w"), shown, seen)
        settings = self.loaded.settings
        readings = maps.read(drawn.mean(dim=1), settings.style, noise=settings.noise)
        drawn = by_query(drawn)
        temperature = settings.temperature(self.prompt or settings.default_prompt, context.shots)
        found = [
            _combine(readings[query :: len(photos)], temperature=temperature)
            for query in range(len(photos))
        ]
        points = POINTS[self.point]([density for density, _ in found])
        seconds = (time.perf_counter() - start) / len(photos)
        return [
            _prediction(density, legibility, point, maps=drawn[query], seconds=seconds)
            for query, ((density, legibility), point) in enumerate(zip(found, points, strict=True))
        ]

    def _draw(
        self,
        pixels: UInt8[Tensor, "photos 3 size size"],
        context: Context,
        callback_on_step_end: sampling.StepCallback | None,
    ) -> Float[Tensor, "photos samples 3 height width"]:
        settings = self.loaded.settings
        return self.loaded.draw_maps(
            context,
            pixels,
            prompt=self.prompt or settings.default_prompt,
            samples=self.samples or settings.samples,
            steps=self.steps or settings.steps,
            seed=self.seed,
            callback_on_step_end=callback_on_step_end,
        ).cpu()

    def _pixels(self, photos: Sequence[Photo]) -> UInt8[Tensor, "photos 3 size size"]:
        return square_pixels(photos, self.loaded.photo_size)


def _batched(photos: Sequence[Photo], size: int) -> Iterator[Sequence[Photo]]:
    return (photos[start : start + size] for start in range(0, len(photos), size))


def _combine(views: Sequence[maps.Reading], *, temperature: float) -> tuple[Density, float]:
    """Average the densities of the views of one query and temper the result."""
    mass = torch.stack([view.density.mass for view in views]).mean(dim=0)
    density = Density.from_mass(mass)
    legibility = sum(view.legibility for view in views) / len(views)
    return (density if temperature == 1 else density.tempered(temperature)), legibility


def _prediction(
    density: Density,
    legibility: float,
    point: Float[Tensor, "2"],
    *,
    maps: Float[Tensor, "samples 3 height width"],
    seconds: float,
) -> Prediction:
    prediction = Prediction(
        density,
        math.nan,
        math.nan,
        legibility,
        located=legibility >= LEGIBLE,
        seconds=seconds,
        map=maps.mean(dim=0),
        samples=maps,
    )
    return _placed(prediction, density, point, located=prediction.located)


def _placed(
    prediction: Prediction, density: Density, point: Float[Tensor, "2"], *, located: bool
) -> Prediction:
    """Change what is said of the place."""
    lat, lon = point.tolist() if located else (math.nan, math.nan)
    return replace(prediction, density=density, lat=lat, lon=lon, located=located)


def _informs(density: Density) -> bool:
    return math.log(4 * math.pi) - density.entropy() >= INFORMED
