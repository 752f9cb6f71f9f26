"""Calibrate a trained model: the noise of its maps, the temperature of its densities, frames.

Each value is the one under which the truth is likeliest, on worlds that are neither trained nor
tested on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icgeo import maps, sphere
from icgeo.data.orbit import (
    ESCAPE_SPEED_KMH,
    random_views,
    to_uint8,
    track_views,
    views_to_examples,
)
from icgeo.geolocator import Geolocator
from icgeo.models.map_model import MapModel
from icgeo.options import EARTH, SHOTS
from icgeo.prediction import Example
from icgeo.sphere.density import Density
from icgeo.training.episodes import PROMPTS, EpisodeOptions, WorldBank, sample_episodes
from icgeo.training.photo_sets import PhotoSet
from icgeo.training.validation import (
    DrawnMaps,
    Split,
    best_temperature,
    draw_queries,
    negative_log_likelihood,
)
from icgeo.travel import FRAMES_ALIKE, frame_temperature, smooth

NOISES = tuple(maps.Noise(level, level, level) for level in (0.03, 0.05, 0.1, 0.15, 0.2, 0.3))
CORRELATIONS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
GAP_SECONDS = 60.0


def calibrate(
    model: MapModel, worlds: WorldBank, *, episodes: int = 24, clips: int = 40, seed: int
) -> MapModel:
    """Fit the noise, then the temperature for each prompt and number of shots, then frames.

    Args:
        model: the model, with any calibration.
        worlds: worlds that it was not trained on.
        episodes: number of episodes of 16 queries, for each prompt.
        clips: number of sequences of `icgeo.travel.FRAMES_ALIKE` frames, for each prompt.
        seed: seed of the episodes.
    """
    drawn: dict[str, dict[int, DrawnMaps]] = {}
    for prompt in PROMPTS:
        splits = _episodes(worlds, prompt, episodes, seed)
        drawn[prompt] = {k: draw_queries(model, splits, k, prompt=prompt) for k in SHOTS}
    style = model.settings.style
    noise = best_noise([drawn[prompt][max(SHOTS)] for prompt in PROMPTS], style)
    calibration = {
        prompt: {
            str(shots): best_temperature(known.read(style, noise), known.lat_lon)
            for shots, known in by_shots.items()
        }
        for prompt, by_shots in drawn.items()
    }
    settings = replace(model.settings, noise=noise, calibration=calibration)
    model = replace(model, settings=settings)
    correlation = {
        prompt: best_correlation(
            locate_sequences(model, worlds, prompt=prompt, clips=clips, seed=seed + 1)
        )
        for prompt in PROMPTS
    }
    return replace(model, settings=replace(settings, frame_correlation=correlation))


def _episodes(worlds: WorldBank, prompt: str, count: int, seed: int) -> list[Split]:
    """Return episodes of as many examples as any shots, and 16 queries."""
    options = EpisodeOptions(
        worlds=count,
        views=max(SHOTS) + 16,
        earth_share=float(prompt == EARTH),
        real_share=0.1,
        cap_share=0.0,
        near_share=0.0,
    )
    batch = sample_episodes(worlds, options, generator=Generator().manual_seed(seed))
    views = zip(to_uint8(batch.photos), sphere.to_lat_lon(batch.xyz.double()), strict=True)
    photo_sets = [PhotoSet(photos, lat_lon) for photos, lat_lon in views]
    return [(photo_set[: max(SHOTS)], photo_set[max(SHOTS) :]) for photo_set in photo_sets]


def best_noise(drawn: Sequence[DrawnMaps], style: maps.MapStyle) -> maps.Noise:
    """Return the noise of the maps under which the truth is likeliest, over sets of queries."""

    def cost(noise: maps.Noise) -> float:
        return sum(negative_log_likelihood(d.read(style, noise), d.lat_lon) for d in drawn)

    return min(NOISES, key=cost)


@dataclass(frozen=True, eq=False)
class LocatedSequence:
    """Frames of a track, each located alone, and where they were taken."""

    densities: list[Density]
    lat_lon: Float[Tensor, "frames 2"]

    def negative_log_likelihood(self, correlation: float) -> float:
        """Return the mean over frames, each located from all, whose errors correlate so far."""
        smoothed = smooth(
            self.densities,
            [GAP_SECONDS * number for number in range(len(self.densities))],
            speed_kmh=ESCAPE_SPEED_KMH,
            temperature=frame_temperature(correlation, len(self.densities)),
        )
        return negative_log_likelihood(smoothed, self.lat_lon)


def locate_sequences(
    model: MapModel, worlds: WorldBank, *, prompt: str, clips: int, seed: int
) -> list[LocatedSequence]:
    """Locate the frames of tracks: of the Earth without examples, of other worlds with 16."""
    locator = Geolocator(model, prompt=prompt)
    generator = Generator().manual_seed(seed)
    first, end = (0, worlds.real) if prompt == EARTH else (worlds.real, len(worlds.pictures))
    sequences = []
    for number in torch.randint(first, end, (clips,), generator=generator).tolist():
        picture = worlds.pictures[number].cpu().float() / 255
        track = track_views(picture, FRAMES_ALIKE, gap_seconds=GAP_SECONDS, generator=generator)
        frames = [photo for photo, _ in views_to_examples(track.images, track.lat_lon)]
        examples = []
        if prompt != EARTH:
            views = random_views(picture, max(SHOTS), generator=generator)
            examples = [
                Example(photo, *place)
                for photo, place in views_to_examples(views.images, views.lat_lon)
            ]
        densities = [prediction.density for prediction in locator.locate(frames, examples)]
        sequences.append(LocatedSequence(densities, track.lat_lon))
    return sequences


def best_correlation(sequences: Sequence[LocatedSequence]) -> float:
    """Return the correlation of frames under which their true locations are likeliest."""
    costs = [sum(one.negative_log_likelihood(c) for one in sequences) for c in CORRELATIONS]
    return CORRELATIONS[costs.index(min(costs))]
