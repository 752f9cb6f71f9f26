"""TransLocator: photo and segmentation in two fused branches (Pramanick et al. 2022, 2204.13861).

Its features are no vectors of a frozen network but what it looks at: four planes of pixels, the
colours in [0, 1] and the number of each pixel's class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, one_hot

from icgeo.baselines.head import Loss, Places, TrainingSettings, Vectors, floored
from icgeo.data.photos import READ_SIDE, Photo
from icgeo.data.pixels import square_pixels
from icgeo.features import Photos
from icgeo.models import LoadError
from icgeo.sphere import to_lat_lon
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of, cell_xyz

Classes = Int[Tensor, "photos size size"]
Segment = Callable[[Sequence[Photo], int], Classes]
"""Tells the class of each pixel of the middle squares of photos, at a size."""
BATCH = 64
"""Photos that are segmented at a time."""
VIEW_CLASSES = ("water", "vegetation", "bare land", "rugged land", "ice or cloud")


def segment_view(photos: Sequence[Photo], size: int) -> Classes:
    """Tell water, land of three kinds, and ice or cloud apart in views from orbit, by colour.

    Nothing is learned: pale is ice or cloud, bluest is water, greenest is vegetation; other land is
    rugged where its brightness varies, and else bare.
    """
    colours = square_pixels(photos, size).float() / 255
    red, green, blue = colours.unbind(1)
    brightness = colours.mean(1)
    is_pale = (colours.amax(1) - colours.amin(1) < 0.12) & (brightness > 0.55)
    spread = avg_pool2d(brightness[:, None].square(), 3, 1, 1, count_include_pad=False)
    spread -= avg_pool2d(brightness[:, None], 3, 1, 1, count_include_pad=False).square()
    is_rugged = spread[:, 0].clamp_min(0).sqrt() > 0.04
    land = torch.where(green > red, 1, torch.where(is_rugged, 3, 2))
    return torch.where(is_pale, 4, torch.where(blue > torch.maximum(red, green), 0, land))


def ade20k(name: str) -> Segment:
    """Open any model of transformers that was trained on ADE20K's 150 classes: a folder or hub id.

    Such as "nvidia/segformer-b0-finetuned-ade-512-512".

    Raises:
        LoadError: no such model.
    """
    # transformers takes seconds to import: only who opens such a model waits for it
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name)  # type: ignore[no-untyped-call]
        loaded_model: Any = AutoModelForSemanticSegmentation.from_pretrained(
            name, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise LoadError(
            "expected the folder or hub id of a model of transformers for semantic segmentation, "
            f"got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    model = loaded_model.eval()

    @torch.inference_mode()
    def segment(photos: Sequence[Photo], size: int) -> Classes:
        images = list(rearrange(square_pixels(photos, READ_SIDE), "n c h w -> n h w c").numpy())
        logits = model(processor(images, return_tensors="pt")["pixel_values"]).logits
        return interpolate(logits, (size, size), mode="bilinear").argmax(1)

    return segment


@dataclass(frozen=True)
class SegmentedPixels:
    """Features of this way: colours and classes of pixels, one plane after the other."""

    segment: Segment = segment_view
    size: int = 64

    def encode(self, photos: Photos) -> Float[Tensor, "photos channels"]:
        """Return the planes of photos, flat: 4 size^2 numbers each."""
        if isinstance(photos, Tensor):
            photos = list(rearrange(photos, "n c h w -> n h w c").cpu().numpy())
        planes = []
        for start in range(0, len(photos), BATCH):
            batch = photos[start : start + BATCH]
            classes = self.segment(batch, self.size)[:, None]
            planes.append(torch.cat((square_pixels(batch, self.size) / 255, classes), dim=1))
        return rearrange(torch.cat(planes), "n c h w -> n (c h w)")


@dataclass(frozen=True, kw_only=True)
class TwoBranchSettings(TrainingSettings):
    """Settings of TransLocator; `configs/baselines/translocator.yaml` has the published ones."""

    width: int = 64
    """Of both branches; those of the paper are ViT-B, 768."""
    depth: int = 3
    """Layers of both branches; 12 in the paper."""
    heads: int = 2
    """Of attention; 12 in the paper."""
    patch: int = 16
    """Side of a patch in pixels; of 224 in the paper, of 64 here."""
    classes: int = len(VIEW_CLASSES)
    """Of the segmentation, and of scenes; 150 with ADE20K."""
    nsides: tuple[int, int, int] = (4, 8, 16)
    """Geocells, coarse to fine, are those of HEALPix: 192, 768 and 3072."""
    weights: tuple[float, float, float] = (0.5, 0.3, 0.2)
    """Of the losses of the granularities, coarse to fine."""
    scene_weight: float = 0.2
    """Of the loss of the scene."""


class TwoBranch(nn.Module):
    """Two vision transformers, one on colours and one on classes, fused after each layer.

    Cells of three granularities are told, and a scene: the commonest class (the paper has labels
    of Places365). The point is the mean place of the training photos in the likeliest fine cell.
    """

    seen: Tensor

    def __init__(self, features: Vectors, xyz: Places, settings: TwoBranchSettings) -> None:
        super().__init__()
        self.settings, width = settings, settings.width
        self.size = round((features.shape[-1] / 4) ** 0.5)
        if 4 * self.size**2 != features.shape[-1] or self.size % settings.patch:
            raise ValueError(
                f"expected four square planes of patches of {settings.patch} pixels, got "
                f"{features.shape[-1]} numbers a photo; encode photos by SegmentedPixels"
            )
        tokens = (self.size // settings.patch) ** 2 + 1
        self.palette = nn.Embedding(settings.classes, 3)
        side = settings.patch
        self.patches = nn.ModuleList(nn.Conv2d(3, width, side, stride=side) for _ in range(2))
        self.places = nn.Parameter(0.02 * torch.randn(2, tokens, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                nhead=settings.heads,
                dim_feedforward=4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(2 * settings.depth)
        )
        self.fusions = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(2 * width)
        sizes = [*(12 * nside**2 for nside in settings.nsides), settings.classes]
        self.heads = nn.ModuleList(nn.Linear(2 * width, count) for count in sizes)
        fine = cell_of(to_lat_lon(xyz.double().cpu()), settings.nsides[-1])
        sums = 1e-6 * cell_xyz(settings.nsides[-1])
        self.register_buffer("seen", sums.index_add(0, fine, xyz.double().cpu()).float())

    def logits(self, features: Vectors) -> list[Tensor]:
        """Return logits of the cells, coarse to fine, and of the scenes."""
        planes = rearrange(features, "n (c h w) -> n c h w", c=4, h=self.size)
        colours = rearrange(self.palette(planes[:, 3].long()), "n h w c -> n c h w")
        branches = []
        images = (2 * planes[:, :3] - 1, colours)
        for image, patch, place in zip(images, self.patches, self.places, strict=True):
            tokens = rearrange(patch(image), "n c h w -> n (h w) c")
            branches.append(nn.functional.pad(tokens, (0, 0, 1, 0)) + place)
        for number, fusion in enumerate(self.fusions):
            branches = [self.layers[2 * number + side](x) for side, x in enumerate(branches)]
            updates = fusion(torch.cat([x[:, :1] for x in branches], dim=-1)).chunk(2, dim=-1)
            pairs = zip(branches, updates, strict=True)
            branches = [torch.cat((x[:, :1] + update, x[:, 1:]), dim=1) for x, update in pairs]
        class_tokens = self.norm(torch.cat([x[:, 0] for x in branches], dim=-1))
        return [head(class_tokens) for head in self.heads]

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the weighted cross-entropies of the cells and of the scene."""
        *cells, scene = self.logits(features)
        classes = rearrange(features, "n (c p) -> n c p", c=4)[:, 3].long()
        class_counts = reduce(one_hot(classes, self.settings.classes), "n p k -> n k", "sum")
        total = self.settings.scene_weight * cross_entropy(scene, class_counts.argmax(-1))
        lat_lon = to_lat_lon(xyz.double())
        granularities = zip(cells, self.settings.nsides, self.settings.weights, strict=True)
        for logits, nside, weight in granularities:
            truth = cell_of(lat_lon, nside).to(logits.device)
            total = total + weight * cross_entropy(logits, truth)
        return total

    @torch.no_grad()
    def _fine(self, features: Tensor) -> Float[Tensor, "photos cells"]:
        """Log-probability of fine cells: the sum over those of all granularities that hold them."""
        *cells, _ = self.logits(features)
        count = cells[-1].shape[-1]
        parts = [x.log_softmax(-1).repeat_interleave(count // x.shape[-1], -1) for x in cells]
        return torch.stack(parts).sum(0)

    def densities(self, features: Vectors) -> list[Density]:
        """Return the product of the granularities (Mueller-Budack et al. 2018), floored."""
        return [floored(one) for one in self._fine(features).double().softmax(-1)]

    def points(self, features: Vectors) -> Float[Tensor, "photos 2"]:
        """Return the mean place of the training photos in the likeliest fine cell, in degrees."""
        return to_lat_lon(self.seen[self._fine(features).argmax(-1)].double())
