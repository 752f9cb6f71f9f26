"""Pairs as reference images: each photo and each map is an image of its own.

They stand in the order of stock pipelines: photo, map, photo, map, ..., the query's photo. So the
mode `full` computes what `Flux2KleinPipeline` computes for the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext, KVCache, RotatedKV, install
from icgeo.models.backbones.backbone import ImageBackbone
from icgeo.models.layouts.layout import Predict, colours, instructed
from icgeo.models.prompts import Embedding
from icgeo.models.settings import MODES, Settings


@dataclass(frozen=True)
class References:
    """The layout `references`, in any mode of attention."""

    backbone: ImageBackbone
    settings: Settings
    attention_backend: str = "native"

    modes: ClassVar = MODES
    fixed: ClassVar = ()
    is_one_picture: ClassVar = False
    takes_groups: ClassVar = False
    text = instructed
    describe = colours

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def _grid(self, *, of_map: bool) -> tuple[int, int]:
        style = self.settings.style
        size = (style.height, style.width) if of_map else 2 * (self.settings.photo_size,)
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
        queries = self._ids(2 * shots + 1, of_map=False)
        return torch.cat((self._pair_ids(shots), queries)) if shots else queries

    @property
    def map_ids(self) -> Int[Tensor, "tokens axes"]:
        """Places of the tokens of the map to draw."""
        return self._ids(0, of_map=True)

    def latent_shape(self, shots: int) -> tuple[int, int]:
        """Tokens and channels of what is drawn."""
        rows, columns = self._grid(of_map=True)
        return rows * columns, self.backbone.transformer.config.in_channels

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
        pairs, cache = torch.cat((photos, drawn), dim=1), KVCache()
        if self.settings.attention == "full":
            return {"tokens": pairs}
        count = 1
        if self.settings.attention == "joint":
            pairs, count = rearrange(pairs, "k n c -> 1 (k n) c"), len(pairs)
        attention_context = AttentionContext(cache=cache)
        self.backbone.forward(
            pairs, 0.0, self._pair_ids(count), attention_context=attention_context
        )
        return cache.tensors()

    def encode_queries(
        self, tensors: dict[str, Tensor], photos: Float[Tensor, "queries 3 size size"]
    ) -> Float[Tensor, "queries tokens channels"]:
        """Encode query photos in [0, 1]."""
        return self.backbone.encode(photos)

    def encode_answers(
        self,
        tensors: dict[str, Tensor],
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
        self,
        tensors: dict[str, Tensor],
        shots: int,
        queries: Float[Tensor, "queries tokens channels"],
    ) -> Predict:
        """Return the velocity of noisy maps; what depends on neither noise nor time is done now."""
        attend = self._full if self.settings.attention == "full" else self.sharing
        return attend(tensors, shots, queries)

    def _examples(
        self, tensors: dict[str, Tensor], shots: int, visible: Bool[Tensor, "queries shots"] | None
    ) -> list[RotatedKV]:
        if not shots:
            return []
        rotary = self.backbone.transformer.pos_embed(self._pair_ids(shots))
        per_group = None if visible is None else visible[None]
        return [KVCache.from_tensors(tensors).rotated(rotary, groups=1, visible=per_group)]

    def sharing(
        self,
        tensors: dict[str, Tensor],
        shots: int,
        queries: Float[Tensor, "queries tokens channels"],
        *,
        visible: Bool[Tensor, "queries shots"] | None = None,
    ) -> Predict:
        """Encode the query photos once; examples and photos are then seen by every step.

        Args:
            tensors: keys and values of examples.
            shots: how many they are.
            queries: the encoded query photos.
            visible: which examples each query sees, in the mode `pairwise`; None means all.
        """
        examples, photo_cache = self._examples(tensors, shots, visible), KVCache()
        ids = self._ids(2 * shots + 1, of_map=False)
        self.backbone.forward(
            queries, 0.0, ids, attention_context=AttentionContext(examples, photo_cache)
        )
        rotary = self.backbone.transformer.pos_embed(ids)
        of_photos = photo_cache.rotated(rotary, groups=len(queries))
        attention_context, map_ids = AttentionContext((*examples, of_photos)), self.map_ids

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            tokens = rearrange(x, "q s n c -> (q s) n c").to(queries.dtype)
            velocity = self.backbone.forward(
                tokens, t, map_ids, text=text, attention_context=attention_context
            )
            return rearrange(velocity, "(q s) n c -> q s n c", q=len(x)).float()

        return predict

    def leave_one_out(
        self,
        photos: Float[Tensor, "episodes views photo_tokens channels"],
        drawn: Float[Tensor, "episodes views map_tokens channels"],
        noisy: Float[Tensor, "episodes views map_tokens channels"],
        t: Float[Tensor, "episodes views"],
        visible: Bool[Tensor, "episodes views views"],
        prompts: Sequence[str],
    ) -> Float[Tensor, "episodes views map_tokens channels"]:
        """Return the velocity of all maps of episodes, each given the pairs that it may see.

        An episode is one pass at its first time, and another one of those without examples, for
        they are told otherwise.
        """
        episodes = zip(photos, drawn, noisy, t[:, 0].tolist(), visible, prompts, strict=True)
        return torch.stack([self._episode(*parts) for parts in episodes])

    def _episode(
        self, photos: Tensor, drawn: Tensor, noisy: Tensor, t: float, visible: Tensor, prompt: str
    ) -> Tensor:
        sees = visible.any(dim=1)
        tensors = self.keep(photos, drawn) if sees.any() else {}
        velocity = torch.zeros(noisy.shape, device=noisy.device)
        for rows, count in ((sees, len(photos)), (~sees, 0)):
            if rows.any():
                predict = self.sharing(
                    tensors if count else {},
                    count,
                    photos[rows],
                    visible=visible[rows] if count else None,
                )
                text = self.text(prompt, count)
                velocity[rows] = predict(noisy[rows][:, None], t, text)[:, 0]
        return velocity

    def _full(self, tensors: dict[str, Tensor], shots: int, queries: Tensor) -> Predict:
        """Everything sees everything, at every step, as in stock pipelines."""
        ids = torch.cat((self.map_ids, self.reference_ids(shots)))
        examples = rearrange(tensors.get("tokens", queries[:0]), "k n c -> 1 (k n) c")

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            count = x.shape[0] * x.shape[1]
            noisy = rearrange(x, "q s n c -> (q s) n c").to(queries.dtype)
            photos = repeat(queries, "q n c -> (q s) n c", s=x.shape[1])
            tokens = torch.cat((noisy, examples.expand(count, -1, -1), photos), dim=1)
            velocity = self.backbone.forward(tokens, t, ids, text=text)
            return velocity[:, : noisy.shape[1]].unflatten(0, x.shape[:2]).float()

        return predict
