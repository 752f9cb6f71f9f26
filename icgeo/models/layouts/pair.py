"""Pairs as pictures: a map, and to its right its photo; one picture a pair, or sheets of several.

Places on the map of a picture have the rows and columns that they have on the map to draw. The
query's picture is alike, with a blank map, so that nothing but a marker is to be added.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.maps.drawing import base_image
from icgeo.models.layouts.layout import AnyPhotos, Kept, Maps, Photos, Tokens, framed
from icgeo.models.layouts.references import Grids, Pairs, Queries, References, Size


@dataclass(frozen=True)
class Pair(References):
    """The layout `pair`, in any mode of attention; photos stand in squares as high as maps."""

    def images(self, grids: Grids) -> list[Size]:
        """Return the sizes of the pictures of examples, in order."""
        return [
            (int(part[:, 0].sum()), int(part[0, 1])) for part in grids.split(self.unit) if len(part)
        ]

    def lengths(self, grids: Grids) -> list[int]:
        """Return the number of tokens of each example."""
        return grids.prod(dim=1).tolist()

    def encode_examples(self, photos: AnyPhotos, drawn: Maps) -> tuple[Pairs, Grids]:
        """Encode the pictures of examples; a token holds parts of one pair alone."""
        sheets = [
            rearrange(rows, "k c h w -> 1 c (k h) w")
            for rows in pictures(photos, drawn).split(self.unit)
        ]
        tokens = torch.cat([self.backbone.encode(sheet)[0] for sheet in sheets])
        rows = self.grid(0)[0]
        pairs = tokens.unflatten(0, (len(drawn), -1))
        return pairs, torch.tensor([[rows, pairs.shape[1] // rows]] * len(pairs))

    def encode_apart(self, photos: Photos, drawn: Maps) -> Kept:
        """Encode pairs once for training, `pairs` as examples too."""
        pairs, _ = self.encode_examples(photos, drawn)
        return {**super().encode_apart(photos, drawn), "pairs": pairs}

    def keep(self, photos: Queries, drawn: Pairs) -> Kept:
        """Keep pictures, or their keys and values; `photos` tell the size alone. Differentiable."""
        return self._keep(drawn, torch.tensor([photos.shape[1:3]] * len(photos)))

    def own_images(self, shots: int) -> int:
        """Return 1: evidence is drawn on the map beside the photo."""
        return 1

    def own_tokens(self, tensors: Kept, queries: Queries) -> tuple[Tokens, list[Size]]:
        """Return the tokens and size of the pictures of queries."""
        return super().own_tokens({}, queries)

    def encode_queries(self, tensors: Kept, photos: Photos) -> Queries:
        """Encode query photos beside maps that are blank, or show evidence."""
        blank = base_image(self.settings.style).expand(len(photos), -1, -1, -1)
        return super().encode_queries(tensors, pictures(photos, tensors.get("evidence", blank)))


@dataclass(frozen=True)
class Sheet(Pair):
    """The layout `sheet`: as many pairs on a picture as the trained area holds, one a row."""

    encodes_apart: ClassVar = False

    @property
    def unit(self) -> int:
        """Return how many pairs are on a sheet; the last one may have fewer."""
        style = self.settings.style
        return max(1, self.settings.trained_area // (style.height * (style.height + style.width)))


def pictures(photos: AnyPhotos, drawn: Maps) -> Float[Tensor, "maps 3 height pair_width"]:
    """Set the photo of each map to the right of it."""
    height = drawn.shape[-2]
    shown = framed(photos, height, height)
    return torch.cat((drawn.to(shown), shown), dim=-1)
