"""Episodes of a photo set for adapting a model: which pairs, who sees whom, and at which times.

Conventions: everything of an episode follows from (seed, step, number), so that neither a restart
nor the number of processes changes it. Times are drawn before the shift that sampling applies too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import sphere
from icgeo.seeds import seeded_generator
from icgeo.training.episodes import draw_times, random_subsets
from icgeo.training.options import EpisodeSamplingOptions

FAR_KM = 2500.0
"""Beyond this a photo that looks alike is a hard negative."""


@dataclass(frozen=True)
class Gallery:
    """What episodes are chosen by."""

    xyz: Float[Tensor, "photos 3"]
    features: Float[Tensor, "photos channels"]
    """Of photos, of unit length; alike for photos that look alike."""

    @classmethod
    def of(
        cls, lat_lon: Float[Tensor, "photos 2"], features: Float[Tensor, "photos channels"]
    ) -> "Gallery":
        """Make a gallery of places in degrees and features of any length."""
        centred = features.double() - features.double().mean(0)
        return cls(sphere.to_xyz(lat_lon.double()), functional.normalize(centred, dim=-1))

    def __len__(self) -> int:
        return len(self.xyz)

    def km_from(self, photo: int) -> Float[Tensor, " photos"]:
        """Return great-circle distances."""
        return sphere.EARTH_RADIUS_KM * sphere.angle(self.xyz, self.xyz[photo])

    def likeness_to(self, photo: int) -> Float[Tensor, " photos"]:
        """Return the cosine of the features."""
        return self.features @ self.features[photo]


Choose = Callable[[Gallery, int, Generator], Int[Tensor, " pairs"]]


def _anchor(gallery: Gallery, generator: Generator) -> int:
    return int(torch.randint(len(gallery), (), generator=generator))


def choose_random(gallery: Gallery, count: int, generator: Generator) -> Int[Tensor, " pairs"]:
    """Choose any photos."""
    return torch.randperm(len(gallery), generator=generator)[:count]


def choose_alike(gallery: Gallery, count: int, generator: Generator) -> Int[Tensor, " pairs"]:
    """Choose a photo and those that look most alike, as retrieval would."""
    likeness = gallery.likeness_to(_anchor(gallery, generator))
    return likeness.argsort(descending=True)[:count]


def choose_near(gallery: Gallery, count: int, generator: Generator) -> Int[Tensor, " pairs"]:
    """Choose a photo, the nearest on the ground up to a half, and distractors from anywhere."""
    order = gallery.km_from(_anchor(gallery, generator)).argsort()
    near = (count + 1) // 2
    rest = order[near:][torch.randperm(len(order) - near, generator=generator)]
    return torch.cat((order[:near], rest[: count - near]))


def choose_confusing(gallery: Gallery, count: int, generator: Generator) -> Int[Tensor, " pairs"]:
    """Choose a photo and hard negatives: alike but far. Where too few are far, the farthest."""
    anchor = _anchor(gallery, generator)
    km = gallery.km_from(anchor)
    reach = min(FAR_KM, km.sort().values[-(count - 1)].item()) if count > 1 else FAR_KM
    likeness = gallery.likeness_to(anchor).masked_fill(km < reach, -2)
    likeness[anchor] = 3
    return likeness.argsort(descending=True)[:count]


CHOICES: dict[str, Choose] = {
    "random": choose_random,
    "alike": choose_alike,
    "near": choose_near,
    "confusing": choose_confusing,
}
"""How the pairs of an episode are chosen, by name."""


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


def sample_episode(gallery: Gallery, options: EpisodeSamplingOptions, *key: int) -> EpisodeSample:
    """Draw an episode; the same key gives the same."""
    generator = seeded_generator(*key, bits=56)
    views = options.views
    choice = options.choices[int(torch.randint(len(options.choices), (), generator=generator))]
    pairs = CHOICES[choice](gallery, views, generator)
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    visible = random_subsets(1, views, generator=generator)[0]
    is_alone = torch.rand(views, 1, generator=generator) < options.drop_examples
    return EpisodeSample(
        pairs=pairs,
        visible=visible & ~is_alone,
        t=draw_times(
            views,
            share_at_t1=options.share_at_t1,
            mean=options.time_mean,
            scale=options.time_scale,
            generator=generator,
        ),
        has_text=bool(torch.rand((), generator=generator) >= options.drop_text),
        seed=generator.initial_seed() + 1,
    )
