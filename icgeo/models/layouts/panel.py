"""Pairs stitched to one panel: the one reference image that FLUX.1 Kontext takes.

A row is a photo and its map, blank in the last row. The model draws the whole panel again, and the
last map is read. Nothing can be kept, for every query is in the panel.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.maps.drawing import base_image
from icgeo.models.attention import install
from icgeo.models.backbones.flux import FluxBackbone
from icgeo.models.layouts.layout import (
    Kept,
    Layout,
    Maps,
    Photos,
    Predict,
    Tokens,
    in_one_sequence,
    scaled,
)


def panel_rows(photos: Photos, drawn: Maps) -> Float[Tensor, "maps 3 height row_width"]:
    """Set each photo, scaled to the height of its map, to the left of it."""
    return torch.cat((scaled(photos, drawn.shape[-2]), drawn), dim=-1)


def panels(
    rows: Float[Tensor, "shots 3 height width"], last: Float[Tensor, "queries 3 height width"]
) -> Float[Tensor, "queries 3 panel_height width"]:
    """Stack the same rows over each of the last ones."""
    top = rearrange(rows, "k c h w -> c (k h) w").expand(len(last), -1, -1, -1)
    return torch.cat((top, last), dim=-2)


@dataclass(frozen=True)
class Panel(Layout):
    """The layout `panel`; photos are as high as maps."""

    backbone: FluxBackbone

    is_one_picture: ClassVar = True
    encodes_ahead: ClassVar = False

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def grid(self, shots: int) -> tuple[int, int]:
        """Return the rows and columns of the tokens of a panel."""
        rows, columns = super().grid(shots)
        return (shots + 1) * rows, rows + columns

    def answer(self, latents: Float[Tensor, "*batch tokens channels"]) -> Tensor:
        """Cut the map out of what is drawn: right in the last row of the panel."""
        rows, columns = self.grid(0)
        last = rearrange(latents[..., -rows * columns :, :], "... (r s) c -> ... r s c", r=rows)
        return last[..., rows:, :]

    def encode_pairs(self, photos: Photos, drawn: Maps) -> Kept:
        """Keep the rows of examples, in pixels."""
        return {"rows": panel_rows(photos, drawn.to(photos))}

    def encode_queries(self, tensors: Kept, photos: Photos) -> Tokens:
        """Encode the panels of queries, with blank maps."""
        blank = base_image(self.settings.style).to(photos)
        return self.encode_answers(tensors, photos, blank.expand(len(photos), -1, -1, -1))

    def encode_answers(self, tensors: Kept, photos: Photos, drawn: Maps) -> Tokens:
        """Encode the panels of queries with their maps."""
        queries = panel_rows(photos, drawn.to(photos))
        return self.backbone.encode(panels(tensors.get("rows", queries[:0]), queries))

    def read_maps(self, latents: Tokens) -> Maps:
        """Decode panels, and cut out the last maps."""
        images = self.backbone.decode(latents, rows=latents.shape[1] // self.grid(0)[1])
        return images[..., -self.settings.style.height :, self.settings.style.height :]

    def predictor(self, tensors: Kept, shots: int, queries: Tokens) -> Predict:
        """Return the velocity of noisy panels, each beside its panel with a blank map."""
        grid = self.grid(shots)
        ids = torch.cat((self.backbone.ids(0, *grid), self.backbone.ids(1, *grid)))
        return in_one_sequence(self.backbone, queries, ids)
