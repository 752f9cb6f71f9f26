"""From photos, a context and likely worlds to predictions: maps are drawn, read and fused."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo import maps, sampling
from icgeo.data.photos import Photo, content_key
from icgeo.data.pixels import augment, shaped_pixels, square_pixels
from icgeo.models import Context, MapModel
from icgeo.models.map_model import Pixels
from icgeo.options import LocateOptions
from icgeo.prediction import Example, Prediction, in_groups, informs
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density
from icgeo.travel import mixture

logger = logging.getLogger(__name__)

MOST_JUDGED, RARE = 32, 0.01
"""Examples by which worlds are judged at most, and the probability of a world that is no matter."""

POINTS: dict[str, Callable[[Sequence[Density]], Float[Tensor, "densities 2"]]] = {
    "best": lambda densities: best_points(torch.stack([one.mass for one in densities]).float()),
    "mode": lambda densities: torch.stack([one.mode() for one in densities]),
    "mean": lambda densities: torch.stack([one.mean() for one in densities]),
    "median": lambda densities: torch.stack([one.median() for one in densities]),
}


@dataclass(frozen=True, eq=False)
class MapDrawer:
    """A model that draws maps, and how: it knows of contexts, and of no bank, map or zoom."""

    model: MapModel
    options: LocateOptions

    def pixels(self, photos: Sequence[Photo]) -> Pixels:
        """Read photos; where they keep their shapes and have several, as a list."""
        model = self.model
        if model.settings.photo_shape == "square" or not photos:
            return square_pixels(photos, model.photo_size)
        backbone: Any = model.backbone
        patch, enlarge = backbone.multiple * backbone.patch, backbone.resizes
        pixels = shaped_pixels(photos, model.photo_size, patch=patch, enlarge=enlarge)
        is_one_shape = len({photo.shape for photo in pixels}) == 1
        return torch.stack(pixels) if is_one_shape else pixels

    def pairs(self, pairs: Sequence[Example]) -> tuple[Pixels, Float[Tensor, "examples 2"]]:
        """Give the photos of examples as the model sees them, and their places."""
        photos = self.pixels([pair.image for pair in pairs])
        places = torch.tensor([[p.lat, p.lon] for p in pairs], dtype=torch.float64)
        return photos, places.reshape(-1, 2)

    def judge(self, pairs: Sequence[Example]) -> dict[str, float]:
        """Return how likely each world is in which the examples may lie; see `worlds`."""
        settings = self.model.settings
        if self.options.prompt or not settings.worlds or not pairs:
            return {self.options.prompt or settings.default_prompt: 1.0}
        pairs = pairs[:: -(-len(pairs) // MOST_JUDGED)]
        key = content_keys(pairs)
        if key not in self._judged:
            photos, lat_lon = self.pairs(pairs)
            views, nothing = torch.stack([*photos])[None], Context(0, {}, self.model.fingerprint)
            log_likelihood = torch.zeros(len(settings.worlds))
            for number, world in enumerate(settings.worlds):
                densities, _, _ = self._draw(views, nothing, world)
                for density, place in zip(densities, lat_lon, strict=True):
                    log_likelihood[number] += float(density.log_prob(place))
            shares = log_likelihood.softmax(0)
            shares = torch.where(shares < RARE, 0, shares)
            by_world = zip(settings.worlds, (shares / shares.sum()).tolist(), strict=True)
            self._judged[key] = {world: share for world, share in by_world if share}
        return self._judged[key]

    @cached_property
    def _judged(self) -> dict[tuple[Any, ...], dict[str, float]]:
        return {}

    def locate(
        self,
        photos: Sequence[Photo],
        context: Context,
        worlds: Mapping[str, float],
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> list[Prediction]:
        """Locate a batch, the photos of each shape at once."""
        if departures := self.model.departures(context.shots):
            _warn_of_departures(departures)
        pixels = self.pixels(photos)
        if isinstance(pixels, Tensor):
            return self._locate_pixels(pixels, context, worlds, callback_on_step_end)

        def alike(numbers: list[int]) -> list[Prediction]:
            part, own = [pixels[i] for i in numbers], context.of_queries(torch.tensor(numbers))
            return self._locate_pixels(torch.stack(part), own, worlds, callback_on_step_end)

        return in_groups([photo.shape for photo in pixels], alike)

    def _locate_pixels(
        self,
        pixels: UInt8[Tensor, "photos 3 high wide"],
        context: Context,
        worlds: Mapping[str, float],
        callback_on_step_end: sampling.StepCallback | None,
    ) -> list[Prediction]:
        start = time.perf_counter()
        others = (
            augment(pixels, f"{self.options.seed}/{number}/")
            for number in range(self.options.augment)
        )
        views = torch.stack([pixels, *others])
        likeliest = max(worlds, key=worlds.__getitem__)
        drawn = {
            world: self._draw(
                views, context, world, callback_on_step_end if world == likeliest else None
            )
            for world in worlds
        }
        _, legibility, samples = drawn[likeliest]
        evidence = self.model.evidence(context, pixels) if self.options.matching else None
        # both know of the examples, which count once
        weights = self.model.settings.prior_weight if evidence is not None else {}
        by_photo = zip(
            *(
                [density.tempered(1 / weights.get(world, 1.0)) for density in densities]
                for world, (densities, _, _) in drawn.items()
            ),
            strict=True,
        )
        densities = [mixture(each, tuple(worlds.values())) for each in by_photo]
        if evidence is not None:
            settings = self.model.settings
            floor = settings.matching.floor
            weight = settings.evidence_weight.get(likeliest, 1.0)
            pairs = zip(densities, weight * evidence, strict=True)
            densities = [density.updated(ratios, floor=floor) for density, ratios in pairs]
        points = POINTS[self.options.point](densities)
        seconds = (time.perf_counter() - start) / len(pixels)
        predictions = [
            Prediction.from_density(
                densities[number],
                points[number],
                legibility=legibility[number],
                located=None if evidence is None else informs(densities[number]),
                seconds=seconds,
                samples=samples[number],
                world=likeliest if self.model.settings.worlds else None,
            )
            for number in range(len(pixels))
        ]
        return self.with_domain(predictions, pixels)

    def _draw(
        self,
        views: UInt8[Tensor, "views photos 3 high wide"],
        context: Context,
        prompt: str,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> tuple[list[Density], list[float], Float[Tensor, "photos samples 3 height width"]]:
        """Draw maps of photos, each in several views; return densities, legibility, and maps."""
        settings, count = self.model.settings, views.shape[1]
        by_photo = partial(rearrange, pattern="(v q) s c h w -> q (v s) c h w", v=len(views))
        drawn = self.model.draw_maps(
            context.of_queries(torch.arange(count).repeat(len(views))),
            rearrange(views, "v q c h w -> (v q) c h w"),
            prompt=prompt,
            samples=self.options.samples or settings.samples,
            steps=self.options.steps or settings.steps,
            seed=self.options.seed,
            callback_on_step_end=sampling.decoded(callback_on_step_end, by_photo),
        ).cpu()
        readings = maps.read(drawn.mean(dim=1), settings.style, noise=settings.noise)
        temperature = settings.temperature(prompt, context.shots)
        readings_of = [readings[number::count] for number in range(count)]
        densities = [mixture([view.density for view in each]) for each in readings_of]
        densities = [density.tempered(temperature) for density in densities]
        legibility = [sum(view.legibility for view in each) / len(each) for each in readings_of]
        return densities, legibility, by_photo(drawn)

    def with_domain(
        self, predictions: list[Prediction], pixels: UInt8[Tensor, "photos 3 high wide"]
    ) -> list[Prediction]:
        """Say of each photo whether the model was trained on its kind, as far as it can tell."""
        in_domain = self.model.in_domain(pixels)
        if in_domain is None:
            return predictions
        if not in_domain.all():
            _warn_of_other_photos()
        told = zip(predictions, in_domain.tolist(), strict=True)
        return [replace(prediction, in_domain=is_inside) for prediction, is_inside in told]


def content_keys(pairs: Sequence[Example]) -> tuple[Any, ...]:
    """Return a key of examples that follows their content, without reading files."""
    return tuple((content_key(pair.image), pair.lat, pair.lon) for pair in pairs)


@cache
def _warn_of_other_photos() -> None:
    """Warn once in a process."""
    logger.warning(
        "some photos are unlike all that the model was trained on (in_domain=False): its answers "
        "for them mean nothing, however sure they look"
    )


@cache
def _warn_of_departures(departures: Sequence[str]) -> None:
    """Warn once in a process of each."""
    logger.warning("what the weights were not trained on: %s", "; ".join(departures))
