"""Calibrate a trained model: the noise of its maps, the power of its densities, frames.

All are the values under which the truth is likeliest, on worlds that are neither trained on nor
judged.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from icgeo import maps, sphere
from icgeo.data.orbit import ESCAPE_SPEED_KMH, Views, random_views, to_uint8, track_views
from icgeo.geolocator import Geolocator
from icgeo.models.map_model import MapModel
from icgeo.options import EARTH, SHOTS
from icgeo.prediction import Example
from icgeo.sphere.density import Density
from icgeo.training.episodes import PROMPTS, EpisodeOptions, WorldBank, sample_episodes
from icgeo.travel import FRAMES_ALIKE, frame_power, smooth

NOISES = tuple(maps.Noise(level, level, level) for level in (0.03, 0.05, 0.1, 0.15, 0.2, 0.3))
POWERS = tuple(torch.logspace(math.log10(0.2), math.log10(3), 28).tolist())
CORRELATIONS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
GAP_SECONDS = 60.0


@dataclass(frozen=True)
class Drawn:
    """Maps that a model drew of photos whose places are known."""

    maps: Float[Tensor, "queries 3 height width"]
    lat_lon: Float[Tensor, "queries 2"]

    def read(self, style: maps.MapStyle, noise: maps.Noise) -> list[Density]:
        """Read the maps, given how noisy they are."""
        return [reading.density for reading in maps.read(self.maps, style, noise=noise)]


def draw_queries(
    model: MapModel, worlds: WorldBank, *, prompt: str, episodes: int, seed: int
) -> dict[int, Drawn]:
    """Draw the maps of 16 queries of each episode, for each number of shots."""
    options = EpisodeOptions(
        worlds=episodes,
        views=max(SHOTS) + 16,
        earth_share=float(prompt == EARTH),
        real_share=0.1,
        cap_share=0.0,
        near_share=0.0,
    )
    batch = sample_episodes(worlds, options, generator=Generator().manual_seed(seed))
    photos, lat_lon = to_uint8(batch.photos), sphere.to_lat_lon(batch.xyz.double())
    examples, queries = slice(None, max(SHOTS)), slice(max(SHOTS), None)
    found = {}
    for shots in SHOTS:
        drawn = [
            model.draw_maps(
                model.encode_context(pictures[examples][:shots], places[examples][:shots]),
                pictures[queries],
                prompt=prompt,
            ).mean(dim=1)
            for pictures, places in zip(photos, lat_lon, strict=True)
        ]
        found[shots] = Drawn(torch.cat(drawn).cpu(), lat_lon[:, queries].flatten(0, 1))
    return found


def negative_log_likelihood(
    densities: Sequence[Density], truth: Float[Tensor, "queries 2"], *, power: float = 1.0
) -> float:
    """Mean of -log p(truth), in nats per steradian, with the densities raised to a power."""
    log_prob = torch.stack(
        [density.log_prob(place) for density, place in zip(densities, truth, strict=True)]
    )
    log_mass = torch.stack([density.mass for density in densities]).log()
    cell_area = 4 * math.pi / log_mass.shape[-1]
    log_total = torch.logsumexp(power * (log_mass - math.log(cell_area)), -1) + math.log(cell_area)
    return (log_total - power * log_prob).mean().item()


def best_noise(drawn: Sequence[Drawn], style: maps.MapStyle) -> maps.Noise:
    """Noise of the maps under which the truth is likeliest, over several sets of queries."""

    def cost(noise: maps.Noise) -> float:
        return sum(negative_log_likelihood(d.read(style, noise), d.lat_lon) for d in drawn)

    return min(NOISES, key=cost)


def best_power(densities: Sequence[Density], truth: Float[Tensor, "queries 2"]) -> float:
    """Power of the densities under which the truth is likeliest."""
    costs = [negative_log_likelihood(densities, truth, power=power) for power in POWERS]
    return round(POWERS[costs.index(min(costs))], 3)


def calibrate(
    model: MapModel, worlds: WorldBank, *, episodes: int = 24, clips: int = 40, seed: int
) -> MapModel:
    """Fit the noise, then the power for each prompt and number of shots, then frames."""
    drawn = {
        prompt: draw_queries(model, worlds, prompt=prompt, episodes=episodes, seed=seed)
        for prompt in PROMPTS
    }
    style = model.settings.style
    noise = best_noise([drawn[prompt][max(SHOTS)] for prompt in PROMPTS], style)
    calibration = {
        prompt: {
            str(shots): best_power(known.read(style, noise), known.lat_lon)
            for shots, known in drawn[prompt].items()
        }
        for prompt in PROMPTS
    }
    settings = replace(model.settings, noise=noise, calibration=calibration)
    return calibrate_sequences(replace(model, settings=settings), worlds, clips=clips, seed=seed)


@dataclass(frozen=True, eq=False)
class LocatedSequence:
    """Frames of a track, each located alone, and where they were taken."""

    densities: list[Density]
    lat_lon: Float[Tensor, "frames 2"]

    def negative_log_likelihood(self, correlation: float) -> float:
        """Mean over its frames, each given all of them, if they are so far wrong together."""
        smoothed = smooth(
            self.densities,
            [GAP_SECONDS * number for number in range(len(self.densities))],
            speed_kmh=ESCAPE_SPEED_KMH,
            power=frame_power(correlation, len(self.densities)),
        )
        return negative_log_likelihood(smoothed, self.lat_lon)


def locate_sequences(
    model: MapModel, worlds: WorldBank, *, prompt: str, clips: int, seed: int
) -> list[LocatedSequence]:
    """Locate the frames of tracks: of the Earth without examples, of other worlds with 16."""
    locator = Geolocator(model, prompt=prompt)
    generator = Generator().manual_seed(seed)
    first, end = (0, worlds.real) if prompt == EARTH else (worlds.real, len(worlds.pictures))
    found = []
    for number in torch.randint(first, end, (clips,), generator=generator).tolist():
        picture = worlds.pictures[number].cpu().float() / 255
        track = track_views(picture, FRAMES_ALIKE, gap_seconds=GAP_SECONDS, generator=generator)
        known = None if prompt == EARTH else random_views(picture, max(SHOTS), generator=generator)
        located = locator.locate(_arrays(track), _examples(known))
        found.append(LocatedSequence([prediction.density for prediction in located], track.lat_lon))
    return found


def _examples(views: Views | None) -> list[Example]:
    if views is None:
        return []
    places = views.lat_lon.tolist()
    return [Example(image, *place) for image, place in zip(_arrays(views), places, strict=True)]


def _arrays(views: Views) -> list[np.ndarray]:
    return list(rearrange(views.images, "n c h w -> n h w c").numpy())


def best_correlation(clips: Sequence[LocatedSequence]) -> float:
    """Correlation of frames under which their true places are likeliest."""
    costs = [sum(clip.negative_log_likelihood(known) for clip in clips) for known in CORRELATIONS]
    return CORRELATIONS[costs.index(min(costs))]


def calibrate_sequences(
    model: MapModel, worlds: WorldBank, *, clips: int = 40, seed: int
) -> MapModel:
    """Fit how far frames of a clip are wrong together, for each prompt."""
    correlation = {
        prompt: best_correlation(
            locate_sequences(model, worlds, prompt=prompt, clips=clips, seed=seed + 1)
        )
        for prompt in PROMPTS
    }
    return replace(model, settings=replace(model.settings, frame_correlation=correlation))
