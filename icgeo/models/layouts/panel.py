"""Pairs stitched to one panel: the one reference image that FLUX.1 Kontext takes.

A row is a photo and its map, blank in the last row. The model draws the whole panel again, and the
last map is read. Nothing can be kept, for every query is in the panel. It is scaled so that it has
about as many pixels as the images that the weights were trained on, whatever the number of rows.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from icgeo.maps.drawing import base_image
from icgeo.models.attention import install
from icgeo.models.backbones.flux import FluxBackbone
from icgeo.models.layouts.layout import (
    AnyPhotos,
    Kept,
    Layout,
    Maps,
    Photos,
    Predict,
    Tokens,
    framed,
    in_one_sequence,
    scaled,
)
from icgeo.models.settings import Settings


def panel_rows(photos: AnyPhotos, drawn: Maps) -> Float[Tensor, "maps 3 height row_width"]:
    """Set each photo, as large as a square of the height of its map holds it, to the left of it."""
    height = drawn.shape[-2]
    frames = framed(photos, height, height)
    return torch.cat((frames, drawn.to(frames)), dim=-1)


def panel_grid(settings: Settings, shots: int, *, patch: int) -> tuple[int, int]:
    """Return the rows and columns of tokens of a panel: of the trained area at most."""
    aspect = settings.style.width / settings.style.height
    height = math.sqrt(settings.trained_area / ((shots + 1) * (1 + aspect)))
    rows = max(1, int(height / patch))
    return (shots + 1) * rows, rows + max(1, round(aspect * rows))


@dataclass(frozen=True)
class Panel(Layout):
    """The layout `panel`; photos are as high as maps."""

    backbone: FluxBackbone

    is_one_picture: ClassVar = True
    takes_evidence: ClassVar = True

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def grid(self, shots: int) -> tuple[int, int]:
        """Return the rows and columns of the tokens of a panel."""
        return panel_grid(self.settings, shots, patch=self.backbone.patch)

    def token_rows(self, tensors: Kept, shots: int, queries: Tokens) -> dict[str, Tensor]:
        """Return which tokens are whose: the panel to draw, and behind it the one that is shown."""
        all_rows, columns = self.grid(shots)
        rows, count = all_rows // (shots + 1), all_rows * columns
        index = torch.arange(count)
        photo = rearrange(index[-rows * columns :], "(r s) -> r s", r=rows)[:, :rows] + count
        return {
            "map": self.answer(index[:, None].float(), shots).flatten().long(),
            "photo": photo.flatten(),
            "example": index[: -rows * columns] + count,
        }

    def answer(self, latents: Float[Tensor, "*batch tokens channels"], shots: int) -> Tensor:
        """Cut the map out of what is drawn: right in the last row of the panel."""
        all_rows, columns = self.grid(shots)
        rows = all_rows // (shots + 1)
        last = rearrange(latents[..., -rows * columns :, :], "... (r s) c -> ... r s c", r=rows)
        return last[..., rows:, :]

    def encode_pairs(self, photos: AnyPhotos, drawn: Maps) -> Kept:
        """Keep the rows of examples, in pixels."""
        return {"rows": panel_rows(photos, drawn)}

    def encode_queries(self, tensors: Kept, photos: Photos) -> Tokens:
        """Encode the panels of queries, with maps that are blank, or show evidence."""
        blank = base_image(self.settings.style).expand(len(photos), -1, -1, -1)
        return self.encode_answers(tensors, photos, tensors.get("evidence", blank))

    def encode_answers(self, tensors: Kept, photos: Photos, drawn: Maps) -> Tokens:
        """Encode the panels of queries with their maps."""
        queries = panel_rows(photos, drawn)
        rows = tensors.get("rows", queries[:0])
        height, width = (self.backbone.patch * side for side in self.grid(len(rows)))
        top = rearrange(rows, "k c h w -> c (k h) w").expand(len(queries), -1, -1, -1)
        panels = torch.cat((top, queries), dim=-2)
        return self.backbone.encode(scaled(panels, height, width))

    def read_maps(self, latents: Tokens, shots: int) -> Maps:
        """Decode panels, and cut out the last maps."""
        style, (rows, _) = self.settings.style, self.grid(shots)
        images = self.backbone.decode(latents, rows=rows)
        height = images.shape[-2] // (shots + 1)
        last = images[..., -height:, height:]
        size = (style.height, style.width)
        return functional.interpolate(last, size, mode="bilinear", antialias=True)

    def predictor(self, tensors: Kept, shots: int, queries: Tokens) -> Predict:
        """Return the velocity of noisy panels, each beside its panel with a blank map."""
        grid = self.grid(shots)
        ids = torch.cat((self.backbone.ids(0, *grid), self.backbone.ids(1, *grid)))
        return in_one_sequence(self.backbone, queries, ids)
