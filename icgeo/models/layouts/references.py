"""Pairs as reference images: each photo and each map is an image of its own.

They stand in the order of stock pipelines: photo, map, photo, map, ..., the query's photo. So the
mode `full` computes what `Flux2KleinPipeline` computes for the same images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icgeo import maps
from icgeo.models.attention import AttentionContext, KVCache, RotatedKV, install
from icgeo.models.backbones.backbone import Backbone
from icgeo.models.layouts.layout import Predict
from icgeo.models.prompts import Embedding


@dataclass(frozen=True)
class References:
    """The layout `references`, in any mode of attention."""

    backbone: Backbone
    style: maps.MapStyle
    attention: str
    photo_size: int
    backend: str = "native"

    modes: ClassVar = ("full", "joint", "pairwise")

    def __post_init__(self) -> None:
        install(self.backbone.pipeline.transformer, backend=self.backend)

    def _grid(self, *, of_map: bool) -> tuple[int, int]:
        size = (self.style.height, self.style.width) if of_map else 2 * (self.photo_size,)
        return size[0] // self.backbone.patch, size[1] // self.backbone.patch

    def _ids(self, image: int, *, of_map: bool) -> Int[Tensor, "tokens axes"]:
        return self.backbone.ids(image, *self._grid(of_map=of_map))

    def _pair_ids(self, shots: int) -> Int[Tensor, "tokens axes"]:
        pairs = [
            (self._ids(2 * i + 1, of_map=False), self._ids(2 * i + 2, of_map=True))
            for i in range(shots)
        ]
        return torch.cat([ids for pair in pairs for ids in pair])

    def reference_ids(self, shots: int) -> Int[Tensor, "tokens axes"]:
        """Places of the tokens of all examples and of the query's photo behind them."""
        asked = self._ids(2 * shots + 1, of_map=False)
        return torch.cat((self._pair_ids(shots), asked)) if shots else asked

    @property
    def map_ids(self) -> Int[Tensor, "tokens axes"]:
        """Places of the tokens of the map to draw."""
        return self._ids(0, of_map=True)

    def latent_shape(self, shots: int) -> tuple[int, int]:
        """Tokens and channels of what is drawn."""
        rows, columns = self._grid(of_map=True)
        return rows * columns, self.backbone.pipeline.transformer.config.in_channels

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid for what is drawn."""
        return self.backbone.times(self.latent_shape(shots)[0], steps)

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        return self.backbone.shift(self.latent_shape(shots)[0], steps)

    def answer(self, latents: Tensor) -> Tensor:
        """Cut out the map of what is drawn: it is nothing else."""
        return latents

    def encode_pairs(
        self,
        photos: Float[Tensor, "examples 3 size size"],
        drawn: Float[Tensor, "examples 3 height width"],
    ) -> dict[str, Tensor]:
        """Encode examples, in [0, 1], to what is kept of them."""
        with torch.no_grad():
            latents = [self.backbone.encode(images) for images in (photos, drawn)]
        return self.keep(*latents)

    def keep(
        self,
        photos: Float[Tensor, "examples photo_tokens channels"],
        drawn: Float[Tensor, "examples map_tokens channels"],
    ) -> dict[str, Tensor]:
        """Keep the latents of examples, or their keys and values; differentiable."""
        pairs, kept = torch.cat((photos, drawn), dim=1), KVCache()
        if self.attention == "full":
            return {"tokens": pairs}
        if self.attention == "pairwise":
            self.backbone.forward(
                pairs, 0.0, self._pair_ids(1), attention_context=AttentionContext(kept=kept)
            )
        else:
            joined = rearrange(pairs, "k n c -> 1 (k n) c")
            self.backbone.forward(
                joined,
                0.0,
                self._pair_ids(len(pairs)),
                attention_context=AttentionContext(kept=kept),
            )
        return kept.tensors()

    def encode_queries(
        self, kept: dict[str, Tensor], photos: Float[Tensor, "queries 3 size size"]
    ) -> Float[Tensor, "queries tokens channels"]:
        """Encode query photos in [0, 1]."""
        return self.backbone.encode(photos)

    def encode_answers(
        self,
        kept: dict[str, Tensor],
        photos: Float[Tensor, "queries 3 size size"],
        drawn: Float[Tensor, "queries 3 height width"],
    ) -> Float[Tensor, "queries tokens channels"]:
        """Encode the maps of queries in [0, 1], as targets."""
        return self.backbone.encode(drawn)

    def decode(
        self, latents: Float[Tensor, "queries samples tokens channels"]
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode latents to maps; in float32, unclipped."""
        tokens = rearrange(latents, "q s n c -> (q s) n c")
        images = self.backbone.decode(tokens, rows=self._grid(of_map=True)[0])
        return rearrange(images, "(q s) c h w -> q s c h w", q=len(latents))

    def predictor(
        self, kept: dict[str, Tensor], shots: int, asked: Float[Tensor, "queries tokens channels"]
    ) -> Predict:
        """Return the velocity of noisy maps; what depends on neither noise nor time is done now."""
        attend = self._full if self.attention == "full" else self.sharing
        return attend(kept, shots, asked)

    def _examples(
        self, kept: dict[str, Tensor], shots: int, visible: Bool[Tensor, "queries shots"] | None
    ) -> list[RotatedKV]:
        if not shots:
            return []
        rotary = self.backbone.pipeline.transformer.pos_embed(self._pair_ids(shots))
        shown = None if visible is None else visible[None]
        return [KVCache.from_tensors(kept).rotated(rotary, groups=1, visible=shown)]

    def sharing(
        self,
        kept: dict[str, Tensor],
        shots: int,
        asked: Float[Tensor, "queries tokens channels"],
        *,
        visible: Bool[Tensor, "queries shots"] | None = None,
    ) -> Predict:
        """Encode the query photos once; examples and photos are then seen by every step.

        Args:
            kept: keys and values of examples.
            shots: how many they are.
            asked: the query photos.
            visible: which examples each query sees, in the mode `pairwise`; None means all.
        """
        examples, kept_photos = self._examples(kept, shots, visible), KVCache()
        ids = self._ids(2 * shots + 1, of_map=False)
        self.backbone.forward(
            asked, 0.0, ids, attention_context=AttentionContext(examples, kept_photos)
        )
        rotary = self.backbone.pipeline.transformer.pos_embed(ids)
        of_photos = kept_photos.rotated(rotary, groups=len(asked))
        attention_context, map_ids = AttentionContext((*examples, of_photos)), self.map_ids

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            tokens = rearrange(x, "q s n c -> (q s) n c").to(asked.dtype)
            found = self.backbone.forward(
                tokens, t, map_ids, text=text, attention_context=attention_context
            )
            return rearrange(found, "(q s) n c -> q s n c", q=len(x)).float()

        return predict

    def _full(self, kept: dict[str, Tensor], shots: int, asked: Tensor) -> Predict:
        """Everything sees everything, at every step, as in stock pipelines."""
        ids = torch.cat((self.map_ids, self.reference_ids(shots)))
        shown = rearrange(kept.get("tokens", asked[:0]), "k n c -> 1 (k n) c")

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            count = x.shape[0] * x.shape[1]
            noisy = rearrange(x, "q s n c -> (q s) n c").to(asked.dtype)
            own = repeat(asked, "q n c -> (q s) n c", s=x.shape[1])
            tokens = torch.cat((noisy, shown.expand(count, -1, -1), own), dim=1)
            found = self.backbone.forward(tokens, t, ids, text=text)
            return found[:, : noisy.shape[1]].unflatten(0, x.shape[:2]).float()

        return predict
