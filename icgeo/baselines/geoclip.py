"""GeoCLIP: photos and places embedded in one space, and a gallery of places searched (2309.16020).

The location encoder is exact, and takes the weights of the package `geoclip`; the image side is a
small network on frozen features of any kind (CLIP ViT-L/14 in the paper).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad

from icgeo.baselines.head import HEAD_NSIDE, Loss, Places, TrainingSettings, Vectors, floored, trunk
from icgeo.config import UsageError
from icgeo.features import search
from icgeo.sphere import (
    EARTH_RADIUS_KM,
    Values,
    as_lat_lon,
    healpix,
    sample_uniform,
    sample_von_mises_fisher,
    to_lat_lon,
)
from icgeo.sphere.density import Density

SIGMAS = (1.0, 16.0, 256.0)
"""Standard deviations of the random frequencies, coarse to fine."""
FREQUENCIES, EMBEDDED = 256, 512
EARTH_SCALE = 66.50336
"""GeoCLIP's, of the projection to some 180 degrees."""
LEAST_TEMPERATURE = 0.01
"""As in CLIP: the learned factor on cosines is clipped at 100."""
SHORT_LIST, BLOCK = 64, 128
"""Places that are scored twice, of blocks of so many neighbours in the gallery."""
SEARCHED_AT_ONCE = 128
"""Photos; of more the products with 100,000 places leave the cache."""
WEIGHTS = "geoclip/model/weights/location_encoder_weights.pth"
GALLERY = "geoclip/model/gps_gallery/coordinates_100K.csv"


def equal_earth(lat_lon: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Project degrees to x, y of the unit sphere (Savric, Patterson and Jenny 2018, eqs. 1-3)."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    lat, lon = torch.deg2rad(lat_lon).unbind(-1)
    theta = torch.asin(math.sqrt(3) / 2 * torch.sin(lat))
    # in the order of GeoCLIP's own code: high frequencies show the last digit
    slope = 3 * (9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1)
    x = 2 * math.sqrt(3) * lon * torch.cos(theta) / slope
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return torch.stack((x, y), dim=-1)


class LocationEncoder(nn.Module):
    """Embeds places: Equal Earth, random Fourier features of several sigmas, an MLP of each."""

    def __init__(
        self, width: int = 1024, sigmas: tuple[float, ...] = SIGMAS, embedded: int = EMBEDDED
    ) -> None:
        super().__init__()
        for number, sigma in enumerate(sigmas):
            scale = nn.Module()
            scale.register_buffer("frequencies", sigma * torch.randn(FREQUENCIES, 2))
            layers: list[nn.Module] = []
            for channels in (2 * FREQUENCIES, width, width):
                layers += [nn.Linear(channels, width), nn.ReLU()]
            scale.layers = nn.Sequential(*layers, nn.Linear(width, embedded))
            self.add_module(f"scale{number}", scale)

    @classmethod
    def pretrained(cls) -> "LocationEncoder":
        """Load the weights that the package `geoclip` brings (MIT), without importing it.

        Raises:
            UsageError: the package is missing.
        """
        encoder = cls()
        weights = torch.load(package_file(WEIGHTS), map_location="cpu", weights_only=True)
        encoder.load_state_dict({_own_name(name): value for name, value in weights.items()})
        return encoder.eval().requires_grad_(False)

    def forward(self, lat_lon: Float[Tensor, "places 2"]) -> Float[Tensor, "places embedded"]:
        """Embed places in degrees."""
        plane = equal_earth(lat_lon) * EARTH_SCALE / 180
        embeddings = []
        scales: Iterable[Any] = self.children()
        for scale in scales:
            turns = (2 * math.pi * plane) @ scale.frequencies.T
            waves = torch.cat((turns.cos(), turns.sin()), dim=-1)
            embeddings.append(scale.layers(waves))
        return torch.stack(embeddings).sum(0)


def _own_name(name: str) -> str:
    """Translate the name of a weight: `LocEnc0.capsule.1.bias` is `scale0.layers.0.bias`."""
    module, part, number, *tail = name.split(".")
    scale = module.replace("LocEnc", "scale")
    if tail == ["b"]:
        return f"{scale}.frequencies"
    layer = int(number) - 1 if part == "capsule" else 6
    return ".".join((scale, "layers", str(layer), *tail))


def package_file(path: str) -> Path:
    """Return where a file of the installed package `geoclip` lies.

    It cannot be imported where torchvision is missing, of which its files know nothing.
    """
    try:
        files = metadata.distribution("geoclip").files or []
        return Path(str(next(file for file in files if str(file) == path).locate()))
    except (metadata.PackageNotFoundError, StopIteration) as missing:
        remedy = "pip install --no-deps geoclip"
        raise UsageError(f"the weights of GeoCLIP need its package: {remedy}") from missing


class Gallery:
    """Places whose embeddings are kept, at unit length; a search is one product with them.

    Where the processor has units for bfloat16 (`quick`), that product makes a short list, which is
    scored again in float32. A photo of which more places may be among the best, for all that
    bfloat16 can be wrong, is scored in float32 with all.
    """

    def __init__(
        self, encoder: nn.Module, lat_lon: Values, *, quick: bool | None = None, at_once: int = 8192
    ) -> None:
        self.lat_lon = as_lat_lon(lat_lon).float()
        with torch.inference_mode():
            parts = [encoder(part) for part in self.lat_lon.split(at_once)]
            self.embeddings = normalize(torch.cat(parts), dim=-1)
        if quick is None:
            # torch 2.6 cannot tell
            units: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            quick = any(units.get(unit) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
        self.quick = quick and len(self.lat_lon) >= BLOCK * SHORT_LIST
        if self.quick:
            coarse = self.embeddings.bfloat16()
            self._off = (self.embeddings - coarse.float()).norm(dim=-1).max()
            self._coarse = pad(coarse, (0, 0, 0, -len(coarse) % BLOCK))

    @torch.inference_mode()
    def top(
        self, photos: Float[Tensor, "photos embedded"], count: int = 5
    ) -> tuple[Float[Tensor, "photos count"], Float[Tensor, "photos count 2"]]:
        """Return the cosines of the places most alike, falling, and the places in degrees."""
        photos = normalize(photos, dim=-1)
        if not self.quick or count > SHORT_LIST // 4:
            cosines, numbers = search(self.embeddings, photos, count)
            return cosines, self.lat_lon[numbers]
        parts = [self._quick_top(part, count) for part in photos.split(SEARCHED_AT_ONCE)]
        cosines, numbers, is_unsure = (torch.cat(part) for part in zip(*parts, strict=True))
        if is_unsure.any():
            cosines[is_unsure], numbers[is_unsure] = search(
                self.embeddings, photos[is_unsure], count
            )
        return cosines, self.lat_lon[numbers]

    def _quick_top(self, photos: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosines and numbers of places, and whether others may be more alike."""
        rough_photos = photos.bfloat16()
        coarse = self._coarse @ rough_photos.T
        coarse[len(self.embeddings) :] = -math.inf  # what fills the last block
        blocks = rearrange(coarse, "(blocks n) photos -> blocks n photos", n=BLOCK)
        # the best places of all lie in the blocks whose best are best
        best_blocks = blocks.amax(1).topk(SHORT_LIST, dim=0).indices
        within = blocks.take_along_dim(best_blocks[:, None], dim=0)
        block_cosines, positions = rearrange(within, "blocks n photos -> photos (blocks n)").topk(
            SHORT_LIST
        )
        numbers = best_blocks.T.gather(1, positions // BLOCK) * BLOCK + positions % BLOCK
        exact_cosines = (self.embeddings[numbers] @ photos[..., None])[..., 0]
        cosines, order = exact_cosines.topk(count)
        numbers = numbers.gather(1, order)
        # Cauchy and Schwarz bound what the rounding of both does; that of the product is relative,
        # bfloat16's unit roundoff, and sums in float32 are off by less than 1e-4
        threshold = block_cosines[:, -1].float()
        off = self._off + (photos - rough_photos.float()).norm(dim=-1) * (1 + self._off)
        return cosines, numbers, cosines[:, -1] <= threshold + off + 2**-8 * threshold.abs() + 1e-4


@dataclass(frozen=True, kw_only=True)
class GeoClipSettings(TrainingSettings):
    """Settings of GeoCLIP."""

    width: int = 128
    """Of the layers of both encoders; 1024 in the paper."""
    embedded: int = 128
    """Numbers of an embedding; 512 in the paper."""
    sigmas: tuple[float, ...] = (0.5, 2.0, 8.0)
    """Of the frequencies; 1, 16 and 256 in the paper, for places 100 m apart."""
    queue: int = 1024
    """Places of earlier steps, that photos are told from; 4096 in the paper."""
    temperature: float = 0.07
    """At the start, for it is learned."""
    batch_noise_km: float = 0.15
    """Sigma of the noise on the places of photos, along each axis."""
    queue_noise_km: float = 1.0
    """The same on those that go to the queue."""


def jitter(
    xyz: Float[Tensor, "places 3"], sigma_km: float, generator: Generator
) -> Float[Tensor, "places 3"]:
    """Move places by noise of this sigma along each axis."""
    if not sigma_km:
        return xyz
    kappa = (EARTH_RADIUS_KM / sigma_km) ** 2
    # generators are of the CPU
    return sample_von_mises_fisher(xyz.cpu().double(), kappa, generator=generator).to(xyz)


class GeoClip(nn.Module):
    """Contrasts photos with the places of the batch and of a queue, which starts uniform."""

    queue: Tensor

    def __init__(self, features: Vectors, xyz: Places, settings: GeoClipSettings) -> None:
        super().__init__()
        self.settings = settings
        self.places = LocationEncoder(settings.width, settings.sigmas, settings.embedded)
        self.photos = trunk(features.shape[-1], settings.width, settings.embedded, depth=1)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))
        generator = torch.Generator().manual_seed(torch.initial_seed())
        self.register_buffer("queue", sample_uniform(settings.queue, generator=generator).float())
        self._cells: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        """Factor on cosines, one over the temperature."""
        return self.log_scale.clamp(max=-math.log(LEAST_TEMPERATURE)).exp()

    def embed_photos(self, features: Vectors) -> Float[Tensor, "photos embedded"]:
        """Embed photos at unit length."""
        return normalize(self.photos(features), dim=-1)

    def embed_places(self, xyz: Float[Tensor, "places 3"]) -> Float[Tensor, "places embedded"]:
        """Embed places at unit length."""
        return normalize(self.places(to_lat_lon(xyz)), dim=-1)

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the cross-entropy of each photo's place among those of batch and queue."""
        candidates = torch.cat((jitter(xyz, self.settings.batch_noise_km, generator), self.queue))
        logits = self.scale * self.embed_photos(features) @ self.embed_places(candidates).T
        new_places = jitter(xyz, self.settings.queue_noise_km, generator)
        self.queue = torch.cat((new_places, self.queue))[: len(self.queue)]
        return cross_entropy(logits, torch.arange(len(xyz), device=xyz.device))

    def densities(self, features: Vectors) -> list[Density]:
        """Return the softmax over the cells of a grid, for the places of any photos at all."""
        if self._cells is None:
            cells = healpix.cell_xyz(HEAD_NSIDE).float().to(self.queue.device)
            self._cells = torch.cat([self.embed_places(part) for part in cells.split(4096)])
        logits = self.scale * self.embed_photos(features) @ self._cells.T
        return [floored(mass) for mass in logits.double().softmax(-1)]

    def train(self, mode: bool = True) -> "GeoClip":
        """Switch to training or back; the grid is embedded anew afterwards."""
        self._cells = None
        return super().train(mode)


def image_encoder() -> nn.Sequential:
    """Load GeoCLIP's own layers behind CLIP ViT-L/14: its image features, 768, to embeddings.

    Raises:
        UsageError: the package is missing.
    """
    layers = nn.Sequential(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, EMBEDDED))
    path = package_file(WEIGHTS.replace("location_encoder", "image_encoder_mlp"))
    layers.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return layers.eval().requires_grad_(False)


def gallery_places() -> Float[Tensor, "places 2"]:
    """Read the 100,000 places of GeoCLIP's gallery, in degrees; raise UsageError without it."""
    lines = package_file(GALLERY).read_text().split()[1:]
    values = torch.tensor([float(number) for line in lines for number in line.split(",")])
    return rearrange(values, "(places side) -> places side", side=2)
