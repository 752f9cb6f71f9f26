"""Pairs as reference images: each photo and each map is an image of its own.

They stand in the order of stock pipelines: photo, map, photo, map, ..., the query's photo. So the
mode `full` computes what `Flux2KleinPipeline` computes for the same images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from icgeo.models.attention import AttentionContext, KVCache, install
from icgeo.models.backbones.flux import FluxBackbone, Ids
from icgeo.models.layouts.layout import Kept, Layout, Maps, Photos, Predict, Tokens, in_one_sequence
from icgeo.models.prompts import Embedding
from icgeo.models.settings import MODES


@dataclass(frozen=True)
class References(Layout):
    """The layout `references`, in any mode of attention."""

    backbone: FluxBackbone

    modes: ClassVar = MODES

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def references(self, shots: int) -> int:
        """Return the number of images: two an example, and the query's photo."""
        return 2 * shots + 1

    def ids(self, *images: int) -> Ids:
        """Places of the tokens of images: 0 is the map to draw, odd ones are photos, others maps.

        Those of example i, from 0, are 2 i + 1 and 2 i + 2, and the query's photo is behind them.
        """
        side = self.settings.photo_size // self.backbone.patch
        grids = (self.grid(0), (side, side))
        return torch.cat([self.backbone.ids(image, *grids[image % 2]) for image in images])

    def encode_pairs(self, photos: Photos, drawn: Maps) -> Kept:
        """Encode examples to what is kept of them."""
        with torch.no_grad():
            latents = [self.backbone.encode(images) for images in (photos, drawn)]
        return self.keep(*latents)

    def keep(
        self,
        photos: Float[Tensor, "examples photo_tokens channels"],
        drawn: Float[Tensor, "examples map_tokens channels"],
    ) -> Kept:
        """Keep the latents of examples, or their keys and values; differentiable."""
        pairs, cache = torch.cat((photos, drawn), dim=1), KVCache()
        if self.settings.attention == "full":
            return {"tokens": pairs}
        count = 1
        if self.settings.attention == "joint":
            pairs, count = rearrange(pairs, "k n c -> 1 (k n) c"), len(pairs)
        context, ids = AttentionContext(cache=cache), self.ids(*range(1, 2 * count + 1))
        self.backbone.forward(pairs, 0.0, ids, attention_context=context)
        return cache.tensors()

    def encode_queries(self, tensors: Kept, photos: Photos) -> Tokens:
        """Encode query photos."""
        return self.backbone.encode(photos)

    def encode_answers(self, tensors: Kept, photos: Photos, drawn: Maps) -> Tokens:
        """Encode the maps of queries."""
        return self.backbone.encode(drawn)

    def predictor(self, tensors: Kept, shots: int, queries: Tokens) -> Predict:
        """Return the velocity of noisy maps; what depends on neither noise nor time is done now."""
        if self.settings.attention != "full":
            return self.sharing(tensors, shots, queries)
        examples = rearrange(tensors.get("tokens", queries[:0]), "k n c -> 1 (k n) c")
        shown = torch.cat((examples.expand(len(queries), -1, -1), queries), dim=1)
        return in_one_sequence(self.backbone, shown, self.ids(*range(2 * shots + 2)))

    def sharing(
        self,
        tensors: Kept,
        shots: int,
        queries: Tokens,
        *,
        visible: Bool[Tensor, "images shots"] | None = None,
    ) -> Predict:
        """Encode the query photos once; examples and photos are then seen by every step.

        `visible` says which examples each query sees, in the mode `pairwise`; None means all.
        """
        backbone, examples, photo_cache = self.backbone, [], KVCache()
        place = backbone.transformer.pos_embed
        if shots:
            rows = None if visible is None else visible[None]
            cache = KVCache.from_tensors(tensors)
            rotary = place(self.ids(*range(1, 2 * shots + 1)))
            examples = [cache.rotated(rotary, groups=1, visible=rows)]
        ids = self.ids(2 * shots + 1)
        backbone.forward(
            queries, 0.0, ids, attention_context=AttentionContext(examples, photo_cache)
        )
        photos = photo_cache.rotated(place(ids), groups=len(queries))
        attention_context, map_ids = AttentionContext((*examples, photos)), self.ids(0)

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            tokens = rearrange(x, "q s n c -> (q s) n c").to(queries.dtype)
            velocity = backbone.forward(
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
        """Return the velocity of all maps of episodes, each given the pairs that it may see."""
        episodes = zip(photos, drawn, noisy, t[:, 0].tolist(), visible, prompts, strict=True)
        return torch.stack([self._episode(*parts) for parts in episodes])

    def _episode(
        self, photos: Tensor, drawn: Tensor, noisy: Tensor, t: float, visible: Tensor, prompt: str
    ) -> Tensor:
        sees = visible.any(dim=1)  # those without examples are told otherwise, in another pass
        tensors = self.keep(photos, drawn) if sees.any() else {}
        velocity = torch.zeros(noisy.shape, device=noisy.device)
        for rows, count in ((sees, len(photos)), (~sees, 0)):
            if rows.any():
                seen = visible[rows] if count else None
                predict = self.sharing(tensors if count else {}, count, photos[rows], visible=seen)
                text = self.text(prompt, count)
                velocity[rows] = predict(noisy[rows][:, None], t, text)[:, 0]
        return velocity
