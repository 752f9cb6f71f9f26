"""From photos, and what each is shown, to predictions: maps are drawn, read and fused."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo import maps, sampling
from icgeo.data.photos import Photo
from icgeo.data.pixels import augment, shaped_pixels, square_pixels
from icgeo.models import Context, MapModel
from icgeo.models.map_model import Pixels
from icgeo.options import LocateOptions
from icgeo.prediction import (
    Example,
    Locator,
    Prediction,
    check_choices,
    in_groups,
    informs,
    locate_by_sets,
)
from icgeo.selection import Chosen, common_first, content_keys
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density
from icgeo.travel import mixture

logger = logging.getLogger(__name__)
_warn_once = cache(logger.warning)  # each warning once in a process

Photos = Sequence[Photo]
Pairs = Sequence[Example]
CONTEXTS_KEPT = 8
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
    """A model that draws maps, and how; it is told what to show, and knows no bank or zoom."""

    model: MapModel
    options: LocateOptions
    evidence: Locator | str | None = None
    """As `Geolocator` takes it."""
    callback_on_step_end: sampling.StepCallback | None = None
    """As `Geolocator.locate` takes it."""
    kept: dict[tuple[Any, ...], Context] = field(default_factory=dict)
    """Contexts, the latest few, by the examples that were shown to all photos of a call."""
    judged: dict[tuple[Any, ...], dict[str, float]] = field(default_factory=dict)
    """How likely worlds are, by examples."""

    def pixels(self, photos: Photos) -> Pixels:
        """Read photos; where they keep their shapes and have several, as a list."""
        model = self.model
        if model.settings.photo_shape == "square" or not photos:
            return square_pixels(photos, model.photo_size)
        backbone: Any = model.backbone
        patch, enlarge = backbone.multiple * backbone.patch, backbone.resizes
        pixels = shaped_pixels(photos, model.photo_size, patch=patch, enlarge=enlarge)
        is_one_shape = len({photo.shape for photo in pixels}) == 1
        return torch.stack(pixels) if is_one_shape else pixels

    def pairs(self, pairs: Pairs) -> tuple[Pixels, Float[Tensor, "examples 2"]]:
        """Give the photos of examples as the model sees them, and their places."""
        photos = self.pixels([pair.image for pair in pairs])
        places = torch.tensor([[p.lat, p.lon] for p in pairs], dtype=torch.float64)
        return photos, places.reshape(-1, 2)

    def judge(self, pairs: Pairs) -> dict[str, float]:
        """Return how likely each world is in which the examples may lie; see `worlds`."""
        settings = self.model.settings
        if self.options.prompt or not settings.worlds or not pairs:
            return {self.options.prompt or settings.default_prompt: 1.0}
        pairs = pairs[:: -(-len(pairs) // MOST_JUDGED)]
        key = content_keys(pairs)
        if key not in self.judged:
            photos, lat_lon = self.pairs(pairs)
            views, context = torch.stack([*photos])[None], Context(0, {}, self.model.fingerprint)
            log_likelihood = torch.zeros(len(settings.worlds))
            for number, world in enumerate(settings.worlds):
                densities, _, _ = self._draw(views, context, world)
                for density, place in zip(densities, lat_lon, strict=True):
                    log_likelihood[number] += float(density.log_prob(place))
            shares = log_likelihood.softmax(0)
            shares = torch.where(shares < RARE, 0, shares)
            by_world = zip(settings.worlds, (shares / shares.sum()).tolist(), strict=True)
            self.judged[key] = {world: share for world, share in by_world if share}
        return self.judged[key]

    def require_memory(self, shots: int) -> int:
        """Return how many photos go through at a time beside so many examples; see `Geolocator`."""
        from icgeo.models.cost import fitting_batch  # with diffusers, which the model has imported

        max_batch = self.options.batch_size
        size = fitting_batch(self.model, shots, max_batch, samples=self.options.samples)
        if size < max_batch:
            logger.info("%d photos at a time, for the memory holds no more", size)
        return size

    def context(self, pairs: Pairs) -> Context:
        """Encode examples and keep them, or find them among the contexts kept."""
        key = content_keys(pairs)
        if key not in self.kept:
            context = self.encode(pairs)
            while len(self.kept) >= CONTEXTS_KEPT:
                del self.kept[next(iter(self.kept))]
            self.kept[key] = context
        return self.kept[key]

    def encode(self, pairs: Pairs) -> Context:
        """Encode examples, in `causal` behind the longest context kept that begins with them."""
        photos, lat_lon = self.pairs(pairs)
        key = content_keys(pairs) if self.model.settings.attention == "causal" else ()
        for count in range(len(key), 0, -1):
            if prefix := self.kept.get(key[:count]):
                return self.model.encode_context(photos[count:], lat_lon[count:], after=prefix)
        return self.model.encode_context(photos, lat_lon)

    def locate_chosen(self, photos: Photos, bank: Pairs, chosen: Chosen) -> list[Prediction]:
        """Locate photos, each given examples of its own; see `Geolocator.locate_chosen`."""
        check_choices(photos, bank, chosen)
        if (chosen == chosen[:1]).all():
            examples = [bank[number] for number in chosen[:1].flatten().tolist()]
            return self._locate_alike(photos, examples, self.context)
        if self.model.can_choose:
            return self._locate_pairwise(photos, bank, chosen)
        if self.model.settings.attention == "causal":
            return self._locate_growing(photos, bank, common_first(chosen).tolist())
        locate = partial(self._locate_alike, encode=self.encode)
        return locate_by_sets(locate, photos, bank, chosen)

    def _locate_alike(
        self, photos: Photos, pairs: Pairs, encode: Callable[[Sequence[Example]], Context]
    ) -> list[Prediction]:
        """Locate photos that are shown the same."""
        size, worlds = self.require_memory(len(pairs)), self.judge(pairs)
        context = encode(pairs)
        predictions: list[Prediction] = []
        for start in range(0, len(photos), size):
            batch = photos[start : start + size]
            all_numbers = torch.arange(len(pairs)).expand(len(batch), -1)
            batch_context = replace(context, evidence=self.evidence_maps(batch, pairs, all_numbers))
            predictions += self._locate_batch(batch, batch_context, worlds)
        return predictions

    def _locate_pairwise(self, photos: Photos, bank: Pairs, choices: Chosen) -> list[Prediction]:
        """Locate by examples of which each is kept alone: a batch of photos encodes each once."""
        worlds = self.judge(bank)
        predictions: list[Prediction] = []
        for rows in choices.split(self.require_memory(choices.shape[1])):
            indices, numbers = rows.unique(return_inverse=True)
            self.require_memory(len(indices))
            pairs = self.pairs([bank[number] for number in indices.tolist()])
            context = self.model.encode_context(*pairs).choosing(numbers)
            batch = photos[len(predictions) : len(predictions) + len(rows)]
            context = replace(context, evidence=self.evidence_maps(batch, bank, rows))
            predictions += self._locate_batch(batch, context, worlds)
        return predictions

    def _locate_growing(
        self, photos: Photos, bank: Pairs, rows: list[list[int]]
    ) -> list[Prediction]:
        """Locate by sets of examples; what several begin with is encoded once, and added to."""
        self.require_memory(len(rows[0]))
        sets, predictions = sorted({tuple(row) for row in rows}), dict[int, Prediction]()
        for place, row in enumerate(sets):
            around = sets[max(0, place - 1) : place] + sets[place + 1 : place + 2]
            for count in range(len(row), 0, -1):
                if any(row[:count] == other_row[:count] for other_row in around):
                    self.context([bank[number] for number in row[:count]])
                    break
            numbers = [number for number, other_row in enumerate(rows) if tuple(other_row) == row]
            row_photos = [photos[i] for i in numbers]
            answers = self._locate_alike(row_photos, [bank[i] for i in row], self.encode)
            predictions.update(zip(numbers, answers, strict=True))
        return [predictions[number] for number in range(len(photos))]

    def evidence_maps(
        self, photos: Photos, bank: Pairs, chosen: Chosen
    ) -> Float[Tensor, "photos 3 height width"] | None:
        """Draw what the other way says of photos, if there is one and there are examples."""
        if not (self.evidence and chosen.shape[1]):
            return None
        style = self.model.settings.style
        if isinstance(self.evidence, str):
            return maps.base_image(style).expand(len(photos), -1, -1, -1)
        answers = locate_by_sets(self.evidence.locate, photos, bank, chosen)
        return torch.stack([maps.draw_density(answer.density, style) for answer in answers])

    def _locate_batch(
        self, photos: Photos, context: Context, worlds: Mapping[str, float]
    ) -> list[Prediction]:
        """Locate a batch, the photos of each shape at once."""
        if departures := self.model.departures(context.shots):
            _warn_once("what the weights were not trained on: %s", "; ".join(departures))
        pixels = self.pixels(photos)
        if isinstance(pixels, Tensor):
            return self._locate_pixels(pixels, context, worlds)

        def alike(numbers: list[int]) -> list[Prediction]:
            part = [pixels[i] for i in numbers]
            part_context = context.of_queries(torch.tensor(numbers))
            return self._locate_pixels(torch.stack(part), part_context, worlds)

        return in_groups([photo.shape for photo in pixels], alike)

    def _locate_pixels(
        self,
        pixels: UInt8[Tensor, "photos 3 high wide"],
        context: Context,
        worlds: Mapping[str, float],
    ) -> list[Prediction]:
        start, options, settings = time.perf_counter(), self.options, self.model.settings
        augmented_views = (augment(pixels, f"{options.seed}/{n}/") for n in range(options.augment))
        views = torch.stack([pixels, *augmented_views])
        best_world = max(worlds, key=worlds.__getitem__)
        callbacks = {best_world: self.callback_on_step_end}
        draws = {world: self._draw(views, context, world, callbacks.get(world)) for world in worlds}
        _, legibility, samples = draws[best_world]
        evidence = self.model.evidence(context, pixels) if options.matching else None
        # both know of the examples, which count once
        weights = settings.prior_weight if evidence is not None else {}
        by_world = [
            [density.tempered(1 / weights.get(world, 1.0)) for density in densities]
            for world, (densities, _, _) in draws.items()
        ]
        shares = tuple(worlds.values())
        densities = [mixture(each, shares) for each in zip(*by_world, strict=True)]
        if evidence is not None:
            weight, floor = settings.evidence_weight.get(best_world, 1.0), settings.matching.floor
            pairs = zip(densities, weight * evidence, strict=True)
            densities = [density.updated(ratios, floor=floor) for density, ratios in pairs]
        points = POINTS[options.point](densities)
        seconds = (time.perf_counter() - start) / len(pixels)
        predictions = [
            Prediction.from_density(
                densities[number],
                points[number],
                legibility=legibility[number],
                located=None if evidence is None else informs(densities[number]),
                seconds=seconds,
                samples=samples[number],
                world=best_world if settings.worlds else None,
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
        samples = self.model.draw_maps(
            context.of_queries(torch.arange(count).repeat(len(views))),
            rearrange(views, "v q c h w -> (v q) c h w"),
            prompt=prompt,
            samples=self.options.samples or settings.samples,
            steps=self.options.steps or settings.steps,
            seed=self.options.seed,
            callback_on_step_end=sampling.decoded(callback_on_step_end, by_photo),
        ).cpu()
        readings = maps.read(samples.mean(dim=1), settings.style, noise=settings.noise)
        temperature = settings.temperature(prompt, context.shots)
        readings_of = [readings[number::count] for number in range(count)]
        densities = [mixture([view.density for view in each]) for each in readings_of]
        densities = [density.tempered(temperature) for density in densities]
        legibility = [sum(view.legibility for view in each) / len(each) for each in readings_of]
        return densities, legibility, by_photo(samples)

    def with_points(self, predictions: list[Prediction]) -> list[Prediction]:
        """Take the point that the option `point` names, of densities with levels."""
        if self.options.point == "best":
            return predictions
        points = POINTS[self.options.point]([one.density for one in predictions]).tolist()
        return [
            replace(one, lat=lat, lon=lon) if one.located else one
            for one, (lat, lon) in zip(predictions, points, strict=True)
        ]

    def with_domain(
        self, predictions: list[Prediction], pixels: UInt8[Tensor, "photos 3 high wide"]
    ) -> list[Prediction]:
        """Say of each photo whether the model was trained on its kind, as far as it can tell."""
        in_domain = self.model.in_domain(pixels)
        if in_domain is None:
            return predictions
        if not in_domain.all():
            _warn_once(
                "some photos are unlike all that the model was trained on (in_domain=False): its "
                "answers for them mean nothing, however sure they look"
            )
        pairs = zip(predictions, in_domain.tolist(), strict=True)
        return [replace(prediction, in_domain=is_inside) for prediction, is_inside in pairs]
