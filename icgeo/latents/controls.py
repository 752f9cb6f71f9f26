"""What a probe has to beat: networks that were never trained, and pictures without places.

Conventions: descriptions are [photos, channels]; shuffled places are an option of the probes.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from icgeo.data.photos import Photo
from icgeo.data.pixels import square_pixels

SIDE = 64
"""Pixels of a side at which pictures are described."""


def untrain(modules: Iterable[nn.Module], *, seed: int = 0) -> None:
    """Give the layers of networks the weights with which training would begin, in place.

    So what is left is the architecture, and norms without layers of their own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in modules:
            for part in module.modules():
                if callable(reset := getattr(part, "reset_parameters", None)):
                    reset()


def _pictures(photos: Sequence[Photo]) -> Float[Tensor, "photos 3 side side"]:
    return square_pixels(photos, SIDE).float() / 255


def colours(photos: Sequence[Photo]) -> Float[Tensor, "photos channels"]:
    """Describe photos by their colours alone: means, spreads and histograms of 8 bins a channel."""
    pixels = rearrange(_pictures(photos), "n c h w -> n c (h w)")
    bins = functional.one_hot((pixels * 8).long().clamp(0, 7), 8).float()
    shares = rearrange(reduce(bins, "n c p b -> n c b", "mean"), "n c b -> n (c b)")
    return torch.cat((pixels.mean(-1), pixels.std(-1), shares), dim=1)


def image_statistics(photos: Sequence[Photo]) -> Float[Tensor, "photos channels"]:
    """Describe photos by statistics without places: moments, contrasts by scale and direction."""
    pictures = _pictures(photos)
    rgb = rearrange(pictures, "n c h w -> n c (h w)")
    centred = (rgb - rgb.mean(-1, keepdim=True)) / rgb.std(-1, keepdim=True).clamp_min(1e-3)
    statistics = [rgb.mean(-1), rgb.std(-1), (centred**3).mean(-1), (centred**4).mean(-1)]
    for scale in (1, 2, 4, 8):
        pooled = functional.avg_pool2d(pictures, scale)
        statistics += [pooled.diff(dim=dim).abs().mean((-1, -2)) for dim in (-1, -2)]
    return torch.cat(statistics, dim=1)


def position_alone(photos: Sequence[Photo]) -> Float[Tensor, "photos channels"]:
    """Describe photos by where their parts stand on the picture, which is the same for all."""
    step = torch.linspace(-1, 1, 8)
    return torch.cartesian_prod(step, step).flatten().expand(len(photos), -1)


CONTROLS: dict[str, Callable[[Sequence[Photo]], Float[Tensor, "photos channels"]]] = {
    "colours alone": colours,
    "image statistics": image_statistics,
    "position on the picture": position_alone,
}
"""Descriptions of photos that know no places."""
