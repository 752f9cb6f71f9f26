"""Pairs stitched to one panel: the one reference image that FLUX.1 Kontext takes.

A row of the panel is a photo and its map; in the last row the map is blank. The model draws the
whole panel again, and the last map is read. Nothing can be kept, for every query is in the panel.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from icgeo.maps.drawing import base_image
from icgeo.models.attention import install
from icgeo.models.backbones.backbone import ImageBackbone
from icgeo.models.layouts.layout import Predict, colours, instructed
from icgeo.models.prompts import Embedding
from icgeo.models.settings import Settings


def panel_rows(
    photos: Float[Tensor, "pairs 3 size size"], drawn: Float[Tensor, "pairs 3 height width"]
) -> Float[Tensor, "pairs 3 height row_width"]:
    """Set each photo, scaled to the height of its map, to the left of it."""
    side = drawn.shape[-2]
    scaled = functional.interpolate(photos, (side, side), mode="bilinear", antialias=True)
    return torch.cat((scaled.clamp(0, 1), drawn), dim=-1)


def panels(
    rows: Float[Tensor, "shots 3 height width"], last: Float[Tensor, "queries 3 height width"]
) -> Float[Tensor, "queries 3 panel_height width"]:
    """Stack the same rows over each of the last ones."""
    top = rearrange(rows, "k c h w -> c (k h) w").expand(len(last), -1, -1, -1)
    return torch.cat((top, last), dim=-2)


@dataclass(frozen=True)
class Panel:
    """The layout `panel`; photos are as high as maps."""

    backbone: ImageBackbone
    settings: Settings
    attention_backend: str = "native"

    modes: ClassVar = ("full",)
    fixed: ClassVar = ()
    is_one_picture: ClassVar = True
    takes_groups: ClassVar = False
    text = instructed
    describe = colours

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def _grid(self, shots: int) -> tuple[int, int]:
        height, width = self.settings.style.height, self.settings.style.width
        patch = self.backbone.patch
        return (shots + 1) * height // patch, (height + width) // patch

    def latent_shape(self, shots: int) -> tuple[int, int]:
        """Tokens and channels of a panel."""
        rows, columns = self._grid(shots)
        return rows * columns, self.backbone.transformer.config.in_channels

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid for a panel."""
        return self.backbone.times(self.latent_shape(shots)[0], steps)

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        return self.backbone.shift(self.latent_shape(shots)[0], steps)

    def answer(self, latents: Float[Tensor, "*batch tokens channels"]) -> Tensor:
        """Cut out the map of what is drawn: right in the last row of the panel."""
        rows, columns = self._grid(0)
        last = rearrange(latents[..., -rows * columns :, :], "... (r s) c -> ... r s c", r=rows)
        return last[..., self.settings.style.height // self.backbone.patch :, :]

    def encode_pairs(
        self,
        photos: Float[Tensor, "examples 3 size size"],
        drawn: Float[Tensor, "examples 3 height width"],
    ) -> dict[str, Tensor]:
        """Keep the rows of examples, in pixels."""
        return {"rows": panel_rows(photos, drawn.to(photos))}

    def encode_queries(
        self, tensors: dict[str, Tensor], photos: Float[Tensor, "queries 3 size size"]
    ) -> Float[Tensor, "queries tokens channels"]:
        """Encode the panels of queries, with blank maps."""
        blank = base_image(self.settings.style).to(photos)
        return self.encode_answers(tensors, photos, blank.expand(len(photos), -1, -1, -1))

    def encode_answers(
        self,
        tensors: dict[str, Tensor],
        photos: Float[Tensor, "queries 3 size size"],
        drawn: Float[Tensor, "queries 3 height width"],
    ) -> Float[Tensor, "queries tokens channels"]:
        """Encode the panels of queries with their maps, as targets."""
        queries = panel_rows(photos, drawn.to(photos))
        return self.backbone.encode(panels(tensors.get("rows", queries[:0]), queries))

    def decode(
        self, latents: Float[Tensor, "queries samples tokens channels"]
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode panels, and cut out the last maps."""
        rows = latents.shape[2] // self._grid(0)[1]
        images = self.backbone.decode(rearrange(latents, "q s n c -> (q s) n c"), rows=rows)
        drawn = images[..., -self.settings.style.height :, self.settings.style.height :]
        return rearrange(drawn, "(q s) c h w -> q s c h w", q=len(latents))

    def predictor(
        self,
        tensors: dict[str, Tensor],
        shots: int,
        queries: Float[Tensor, "queries tokens channels"],
    ) -> Predict:
        """Return the velocity of noisy panels, each beside its panel with a blank map."""
        grid = self._grid(shots)
        ids = torch.cat((self.backbone.ids(0, *grid), self.backbone.ids(1, *grid)))

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            noisy = rearrange(x, "q s n c -> (q s) n c").to(queries.dtype)
            blank = repeat(queries, "q n c -> (q s) n c", s=x.shape[1])
            velocity = self.backbone.forward(torch.cat((noisy, blank), dim=1), t, ids, text=text)
            return velocity[:, : noisy.shape[1]].unflatten(0, x.shape[:2]).float()

        return predict
