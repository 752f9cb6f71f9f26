"""How well a model locates, and under which noise, temperature and correlation the truth is likely.

Conventions: an episode is a set of examples, the first k of which are its k shots, and a set of
queries. A temperature T raises a density to the power 1 / T. What is fitted is the value under
which the truth is likeliest, on photos or worlds that are neither trained nor tested on.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.optimize import minimize
from torch import Generator, Tensor

from icgeo import maps, sphere
from icgeo.baselines import MOST_LOG_KAPPA, Spread
from icgeo.data import orbit
from icgeo.features import Features
from icgeo.geolocator import Geolocator
from icgeo.metrics import median_error
from icgeo.models.cost import fitting_batch
from icgeo.models.map_model import MapModel
from icgeo.models.matching import FINE, MatchSettings, Parts
from icgeo.options import EARTH, SHOTS, UNKNOWN
from icgeo.prediction import Example
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of
from icgeo.training.episodes import PROMPTS, EpisodeOptions, WorldBank, sample_episodes
from icgeo.training.photo_sets import PhotoSet
from icgeo.travel import FRAMES_ALIKE, frame_temperature, smooth

Maps = Float[Tensor, "queries 3 height width"]
Split = tuple[PhotoSet, PhotoSet]
"""The examples and the queries of an episode."""
LocatedSequence = tuple[list[Density], Float[Tensor, "frames 2"]]
"""Densities of the frames of a track, each located alone, and where they were taken."""
TEMPERATURES = tuple(1 / (0.2 * 15 ** (number / 27)) for number in range(35))
"""From 5 down to 1 / 6."""
NOISES = tuple(maps.Noise(level, level, level) for level in (0.03, 0.05, 0.1, 0.15, 0.2, 0.3))
CORRELATIONS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0)
FLOORS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
GAP_SECONDS = 60.0
DOMAIN_RIDGE = 0.03
Statistics = Float[Tensor, "_ statistics"]
"""Of photos, by the encoder of parts."""


@dataclass(frozen=True)
class ValidationResult:
    """How a model did with a number of shots."""

    median_km: float
    nll: float
    """Negative log-likelihood in nats per steradian, at the temperature."""
    temperature: float
    """The one under which the true locations are likeliest."""


def validation_episodes(
    bank: PhotoSet, queries: PhotoSet, *, shots: int, queries_each: int, seed: int
) -> Iterator[Split]:
    """Split queries into episodes, each with examples drawn from the bank."""
    generator = Generator().manual_seed(seed)
    for start in range(0, len(queries), queries_each):
        numbers = torch.randperm(len(bank), generator=generator)[:shots]
        yield bank[numbers], queries[start : start + queries_each]


def draw_queries(
    model: MapModel,
    episodes: Sequence[Split],
    shots: int,
    *,
    prompt: str,
    steps: int = 1,
    samples: int = 1,
) -> tuple[Maps, Float[Tensor, "queries 2"]]:
    """Return maps of all queries, each from the first examples of its episode, and their places.

    As many go through at a time as the memory holds.
    """
    batches = []
    for bank, queries in episodes:
        context = model.encode_context(bank.photos[:shots], bank.lat_lon[:shots])
        size = fitting_batch(model, shots, len(queries.photos), samples=samples)
        for photos in queries.photos.split(size):
            each = model.draw_maps(context, photos, prompt=prompt, steps=steps, samples=samples)
            batches.append(each.mean(dim=1))
    lat_lon = torch.cat([queries.lat_lon for _, queries in episodes])
    return torch.cat(batches).float().cpu(), lat_lon


def validate(
    model: MapModel,
    episodes: Sequence[Split],
    *,
    shots: Sequence[int],
    prompt: str,
    steps: int = 1,
    samples: int = 1,
) -> dict[int, ValidationResult]:
    """Validate a model for each number of shots, by one step of the flow if not told otherwise."""
    results = {}
    for count in shots:
        map_images, truth = draw_queries(
            model, episodes, count, prompt=prompt, steps=steps, samples=samples
        )
        densities = _densities(map_images, model.settings.style, model.settings.noise)
        temperature = best_temperature(densities, truth)
        points = best_points(torch.stack([density.mass for density in densities]).float())
        median_km = median_error(sphere.distance_km(points, truth))
        nll = negative_log_likelihood(densities, truth, temperature=temperature)
        results[count] = ValidationResult(median_km, nll, temperature)
    return results


def _densities(images: Maps, style: maps.MapStyle, noise: maps.Noise) -> list[Density]:
    return [reading.density for reading in maps.read(images, style, noise=noise)]


def fit_temperatures(
    model: MapModel, episodes: Sequence[Split], *, shots: Sequence[int], prompt: str
) -> MapModel:
    """Return a model with the temperatures of a prompt that fit episodes, by number of shots."""
    settings = model.settings
    results = validate(
        model, episodes, shots=shots, prompt=prompt, steps=settings.steps, samples=settings.samples
    )
    temperatures = {str(count): result.temperature for count, result in results.items()}
    calibration = {**settings.calibration, prompt: temperatures}
    return replace(model, settings=replace(settings, calibration=calibration))


def negative_log_likelihood(
    densities: Sequence[Density], truth: Float[Tensor, "queries 2"], *, temperature: float = 1.0
) -> float:
    """Return the mean of -log p(truth), in nats per steradian, for densities at a temperature."""
    pairs = zip(densities, truth, strict=True)
    log_prob = torch.stack([density.log_prob(place) for density, place in pairs])
    log_mass = torch.stack([density.mass for density in densities]).log()
    log_area = math.log(4 * math.pi / log_mass.shape[-1])
    power = 1 / temperature
    log_total = torch.logsumexp(power * (log_mass - log_area), -1) + log_area
    return (log_total - power * log_prob).mean().item()


def best_temperature(densities: Sequence[Density], truth: Float[Tensor, "queries 2"]) -> float:
    """Return the temperature under which the truth is likeliest; its power has 3 digits."""
    cost = partial(negative_log_likelihood, densities, truth)
    best = min(TEMPERATURES, key=lambda temperature: cost(temperature=temperature))
    return 1 / round(1 / best, 3)


def calibrate(
    model: MapModel, worlds: WorldBank, *, episodes: int = 24, clips: int = 40, seed: int
) -> MapModel:
    """Fit the noise, then the temperature for each prompt and number of shots, then frames.

    On `worlds` that the model was not trained on, for each prompt by `episodes` of 16 queries and
    `clips` of `icgeo.travel.FRAMES_ALIKE` frames.
    """
    style = model.settings.style
    by_prompt: dict[str, dict[int, tuple[Maps, Tensor]]] = {}
    for prompt in PROMPTS:
        splits = _world_episodes(worlds, prompt, episodes, seed)
        by_prompt[prompt] = {k: draw_queries(model, splits, k, prompt=prompt) for k in SHOTS}

    def cost(noise: maps.Noise) -> float:
        most = [by_shots[max(SHOTS)] for by_shots in by_prompt.values()]
        return sum(negative_log_likelihood(_densities(x, style, noise), truth) for x, truth in most)

    noise = min(NOISES, key=cost)
    calibration = {
        prompt: {
            str(shots): best_temperature(_densities(images, style, noise), lat_lon)
            for shots, (images, lat_lon) in by_shots.items()
        }
        for prompt, by_shots in by_prompt.items()
    }
    settings = replace(model.settings, noise=noise, calibration=calibration)
    model = replace(model, settings=settings)
    correlation = {
        prompt: best_correlation(_locate_sequences(model, worlds, prompt, clips, seed + 1))
        for prompt in PROMPTS
    }
    return replace(model, settings=replace(settings, frame_correlation=correlation))


def fit_matching(
    describe: Callable[[UInt8[Tensor, "photos 3 size size"]], Tensor],
    worlds: WorldBank,
    *,
    episodes: int = 5,
    evaluations: int = 60,
    start: MatchSettings | None = None,
    seed: int,
) -> MatchSettings:
    """Fit how alike parts become a likelihood: few and many examples, from anywhere and from near.

    The truth should be likeliest, given the evidence of parts alone, by Nelder and Mead (1965).

    `describe` gives the cells of photos their descriptors, and was not trained on these worlds; the
    likelihood of `episodes` of 16 queries of each kind is computed `evaluations` times at most.
    """
    sets: list[tuple[Parts, Tensor, Tensor]] = []
    for cap_share in (0.0, 1.0):
        splits = _world_episodes(worlds, UNKNOWN, episodes, seed, cap_share=cap_share)
        for examples, queries in splits:
            cells, query = describe(examples.photos), describe(queries.photos)
            xyz, truth = sphere.to_xyz(examples.lat_lon).float(), cell_of(queries.lat_lon, FINE)
            sets += [(Parts(cells[:k], xyz[:k]), query, truth) for k in (1, 4, 16)]

    start = start or MatchSettings()
    names = ("sharpness", "none_logit", "inliers", "weight", "blur")

    def settings_of(logarithms: Float[np.ndarray, " parameters"]) -> MatchSettings:
        values = dict(zip(names, np.exp(logarithms).tolist(), strict=True))
        shares = {name: min(values[name], 0.9) for name in ("inliers", "blur")}
        return replace(start, **{**values, **shares})

    def likelihoods(settings: MatchSettings) -> Float[Tensor, " queries"]:
        """Return the share of the evidence at the truth, over that of an even spread."""
        shares = [
            parts.evidence(query, settings).softmax(-1)[range(len(truth)), truth]
            for parts, query, truth in sets
        ]
        return 12 * FINE**2 * torch.cat(shares).double()

    def cost(settings: MatchSettings, floor: float) -> float:
        return -torch.log((1 - floor) * likelihoods(settings) + floor).mean().item()

    first = np.log([getattr(start, name) for name in names])
    simplex = np.vstack((first, first + 0.3 * np.eye(len(first))))
    limits = {"maxfev": evaluations, "initial_simplex": simplex}
    best = minimize(
        lambda x: cost(settings_of(x), start.floor), first, method="Nelder-Mead", options=limits
    )
    settings = settings_of(best.x)
    ratio = likelihoods(settings)
    floor = min(FLOORS, key=lambda f: -torch.log((1 - f) * ratio + f).mean().item())
    return replace(settings, floor=floor)


def fit_retrieval(
    features: Features, worlds: WorldBank, *, episodes: int = 24, bank: int = 256, seed: int
) -> Spread:
    """Fit how sure retrieval is: with few examples, with many, and with a bank of them.

    On worlds that the features were not trained on, by `episodes` of 16 queries and a bank each.
    """
    cosines, angles = [], []
    for examples, queries in _world_episodes(worlds, UNKNOWN, episodes, seed, examples=bank):
        similarities = features.encode(queries.photos) @ features.encode(examples.photos).T
        arc = sphere.angle(sphere.to_xyz(queries.lat_lon)[:, None], sphere.to_xyz(examples.lat_lon))
        for count in (1, 4, 16, bank):
            cosine, number = similarities[:, :count].max(-1)
            cosines.append(cosine.double())
            angles.append(arc.gather(1, number[:, None])[:, 0])
    return fit_spread(torch.cat(cosines), torch.cat(angles))


def fit_spread(
    evidence: Float[Tensor, " answers"],
    angle: Float[Tensor, " answers"],
    *,
    start: Sequence[float] = (1.0, 2.0, 1.0, -2.0),
    steepest: float = math.inf,
) -> Spread:
    """Fit how far answers are off, in radians, by what is known of each: a cosine, for example.

    `start` has values and slopes of the lines as the search begins, here those that suit cosines.
    The log-odds of the uniform share fall by at most `steepest` as that grows by 1; few answers
    would else make much of it impossible.
    """

    def cost(lines: Float[np.ndarray, "4"]) -> float:
        """Return the mean of -log p(truth), as `Spread.density` has it."""
        kappa = torch.exp((lines[0] + lines[1] * evidence).clamp_max(MOST_LOG_KAPPA))
        uniform = torch.sigmoid(lines[2] + max(lines[3], -steepest) * evidence)
        xyz = torch.stack((angle.cos(), angle.sin(), torch.zeros_like(angle)), dim=-1)
        log_prob = sphere.von_mises_fisher_log_prob(xyz, torch.eye(3).double()[0], kappa)
        return -torch.log((1 - uniform) * log_prob.exp() + uniform / (4 * math.pi)).mean().item()

    best = minimize(cost, [*start], method="Nelder-Mead", options={"maxfev": 2000})
    a, b, c, d = np.round(best.x, 2).tolist()
    return Spread((a, b), (c, max(d, -steepest)))


def _world_episodes(
    worlds: WorldBank,
    prompt: str,
    count: int,
    seed: int,
    *,
    cap_share: float = 0.0,
    examples: int = max(SHOTS),
) -> list[Split]:
    """Return episodes of so many examples and 16 queries."""
    shares = {"earth_share": float(prompt == EARTH), "real_share": 0.1, "near_share": 0.0}
    options = EpisodeOptions(count, views=examples + 16, cap_share=cap_share, **shares)
    batch = sample_episodes(worlds, options, generator=Generator().manual_seed(seed))
    views = zip(orbit.to_uint8(batch.photos), sphere.to_lat_lon(batch.xyz.double()), strict=True)
    photo_sets = [PhotoSet(photos, lat_lon) for photos, lat_lon in views]
    return [(photo_set[:examples], photo_set[examples:]) for photo_set in photo_sets]


def _locate_sequences(
    model: MapModel, worlds: WorldBank, prompt: str, clips: int, seed: int
) -> list[LocatedSequence]:
    """Locate the frames of tracks: of the Earth without examples, of other worlds with 16."""
    locator = Geolocator(model, prompt=prompt)
    generator = Generator().manual_seed(seed)
    first, end = (0, worlds.real) if prompt == EARTH else (worlds.real, len(worlds.pictures))
    sequences = []
    for number in torch.randint(first, end, (clips,), generator=generator).tolist():
        picture = worlds.pictures[number].cpu().float() / 255
        track = orbit.track_views(
            picture, FRAMES_ALIKE, gap_seconds=GAP_SECONDS, generator=generator
        )
        frames = [photo for photo, _ in orbit.views_to_examples(track.images, track.lat_lon)]
        examples = []
        if prompt != EARTH:
            views = orbit.random_views(picture, max(SHOTS), generator=generator)
            pairs = orbit.views_to_examples(views.images, views.lat_lon)
            examples = [Example(photo, *place) for photo, place in pairs]
        densities = [prediction.density for prediction in locator.locate(frames, examples)]
        sequences.append((densities, track.lat_lon))
    return sequences


def best_correlation(sequences: Sequence[LocatedSequence]) -> float:
    """Return the correlation of frames' errors under which their true locations are likeliest."""

    def cost(correlation: float) -> float:
        costs = []
        for densities, lat_lon in sequences:
            seconds = [GAP_SECONDS * number for number in range(len(densities))]
            temperature = frame_temperature(correlation, len(densities))
            limit = orbit.ESCAPE_SPEED_KMH
            smoothed = smooth(densities, seconds, speed_kmh=limit, temperature=temperature)
            costs.append(negative_log_likelihood(smoothed, lat_lon))
        return sum(costs)

    return min(CORRELATIONS, key=cost)


def fit_domain(
    inside: Sequence[Statistics],
    outside: Sequence[Statistics],
    unseen: Statistics,
    *,
    false_alarms: float = 0.015,
) -> Float[Tensor, " weights"]:
    """Fit which photos are of a model's kind: a linear rule on statistics (Fisher's discriminant).

    It is the ridge regression of 1 on what is inside, -1 outside. Sets of photos `inside` and
    `outside` the domain count the same, each; of the `unseen` ones in it the rule takes a share of
    `false_alarms` for others. Return the weights of the statistics and of 1: above 0 a photo is in.
    """
    sets, sides = [*inside, *outside], len(inside) * [1.0] + len(outside) * [-1.0]
    x = torch.cat(sets).double()
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    x = torch.cat(((x - mean) / spread, x.new_ones(len(x), 1)), dim=1)
    target, share = torch.zeros(2, len(x), dtype=torch.float64)
    numbers = torch.arange(len(x)).split([len(one) for one in sets])
    for rows, side in zip(numbers, sides, strict=True):
        target[rows] = side
        share[rows] = 1 / (len(rows) * sides.count(side))
    ridge = DOMAIN_RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    weights = torch.linalg.solve(x.T @ (share[:, None] * x) + ridge, x.T @ (share * target))
    slope = (weights[:-1] / spread).float()
    threshold = torch.quantile(unseen @ slope, false_alarms)
    return torch.cat((slope, -threshold[None]))
