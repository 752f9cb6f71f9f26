"""Pairs stacked in channels: the photo and map patches of a pair are joined in one token.

All examples share one position on the first axis, so their order means nothing. They are encoded
once, at t = 0, or in the mode `full` are tokens of the query's own sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from icgeo import sampling
from icgeo.models.attention import AttentionContext, KVCache
from icgeo.models.backbones.tiny import TinyBackbone
from icgeo.models.layouts.layout import Kept, Layout, Maps, Photos, Predict, Tokens
from icgeo.models.settings import MODES


@dataclass(frozen=True)
class Stacked(Layout):
    """The layout `stacked`, in any mode of attention."""

    backbone: TinyBackbone

    modes: ClassVar = MODES
    fixed: ClassVar = ("style", "layout", "photo_size", "photo_shape", "text")
    takes_groups: ClassVar = True
    encodes_apart: ClassVar = True

    def latent_shape(self, shots: int) -> tuple[int, ...]:
        """Return the tokens and channels of a map."""
        return self.backbone.codec.latent_shape

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid of sampling."""
        return sampling.time_grid(steps, shift=self.backbone.shift)

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        return self.backbone.shift

    def token_rows(self, tensors: Kept, shots: int, queries: Tensor) -> dict[str, Tensor]:
        """Return which tokens are whose; each joins the same part of both photo and map."""
        index = torch.arange(self.latent_shape(shots)[0])
        count = shots * len(index) if "tokens" in tensors else 0
        return {"map": index, "photo": index, "example": torch.arange(count) + len(index)}

    def text(self, prompt: str, shots: int) -> Float[Tensor, "1 length width"]:
        """Look up the embedding of a prompt; "" is no words at all."""
        prompts = self.backbone.prompts
        return prompts[[self.settings.prompts.index(prompt)]] if prompt else prompts[:1, :0]

    def encode_pairs(self, photos: Photos, drawn: Maps) -> Kept:
        """Encode examples to tokens or to their keys and values."""
        return self.keep(self.encode_queries({}, photos), self.encode_answers({}, photos, drawn))

    def keep(
        self,
        photos: Float[Tensor, "examples tokens features"],
        drawn: Float[Tensor, "examples tokens channels"],
    ) -> Kept:
        """Keep the tokens of examples, or their keys and values; differentiable."""
        if self.settings.attention == "full":
            return {"tokens": torch.cat((photos, drawn), dim=-1)}
        is_joint = self.settings.attention == "joint"
        return self.backbone.encode_examples(photos[None], drawn[None], joint=is_joint).tensors()

    def encode_queries(self, tensors: Kept, photos: Photos) -> Tokens:
        """Encode query photos."""
        return self.backbone.codec.encode_photos(photos.to(self.backbone.prompts))[0]

    def describe(self, photos: Photos) -> Float[Tensor, "photos features"]:
        """Describe photos, alike for overlapping views."""
        return self.backbone.codec.encode_photos(photos.to(self.backbone.prompts))[1]

    def encode_answers(self, tensors: Kept, photos: Photos, drawn: Maps) -> Tokens:
        """Encode the maps of queries."""
        return self.backbone.codec.encode_maps(drawn.to(self.backbone.prompts))

    def read_maps(self, latents: Tokens, shots: int) -> Maps:
        """Decode latents to maps; linear."""
        return self.backbone.codec.decode_maps(latents)

    def leave_one_out(
        self,
        photos: Float[Tensor, "episodes views tokens features"],
        drawn: Float[Tensor, "episodes views tokens channels"],
        noisy: Float[Tensor, "episodes views tokens channels"],
        t: Float[Tensor, "episodes views"],
        visible: Bool[Tensor, "episodes views views"],
        prompts: Sequence[str],
    ) -> Float[Tensor, "episodes views tokens channels"]:
        """Return the velocity of all maps of episodes, each given the pairs that it may see."""
        backbone = self.backbone
        cache = backbone.encode_examples(photos, drawn)
        return backbone.velocity(
            noisy,
            t,
            photos,
            text=torch.cat([self.text(prompt, 0) for prompt in prompts]),
            attention_context=backbone.place_examples(cache, groups=len(photos), visible=visible),
        )

    def predictor(self, tensors: Kept, shots: int, queries: Tokens) -> Predict:
        """Return the velocity of noisy maps; queries with examples of their own are groups."""
        backbone, examples, attention_context, groups = self.backbone, None, AttentionContext(), 1
        if "tokens" in tensors:
            examples = rearrange(tensors["tokens"], "k n c -> 1 (k n) c")
        elif tensors and shots:
            cache = KVCache.from_tensors(tensors)
            groups = max(1, len(cache.keys[0]) // shots)
            attention_context = backbone.place_examples(cache, groups=groups)

        def predict(x: Tensor, t: float, text: Tensor) -> Tensor:
            latents = rearrange(x, "(g q) s n c -> g (q s) n c", g=groups)
            velocity = backbone.velocity(
                latents,
                x.new_full(latents.shape[:2], t),
                repeat(queries, "(g q) n c -> g (q s) n c", g=groups, s=x.shape[1]),
                text=text.repeat(groups, 1, 1),
                attention_context=attention_context,
                examples=examples,
            )
            return rearrange(velocity, "g (q s) n c -> (g q) s n c", s=x.shape[1])

        return predict
