"""Pairs as pictures of one causal sequence: photo, map, photo, map, ..., the query's photo, words.

Pairs are encoded one behind the other, each given those before it. So a context grows at its end,
and nothing is ever left out of it or moved.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo.models.backbones.qwen import Prefix, QwenBackbone
from icgeo.models.causal import CausalPass, install
from icgeo.models.layouts.layout import AnyPhotos, Kept, Layout, Maps, Photos, Predict
from icgeo.models.prompts import instruction


def in_bytes(images: Float[Tensor, "*images 3 h w"]) -> UInt8[Tensor, "*images 3 h w"]:
    """Round images to 8 bits, as pictures for a stock pipeline are."""
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Interleaved(Layout):
    """The layout `interleaved`, for Qwen-Image 2.1."""

    backbone: QwenBackbone

    modes: ClassVar = ("causal",)
    fixed: ClassVar = ("text",)

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def references(self, shots: int) -> int:
        """Return the number of images: two an example, and the query's photo."""
        return 2 * shots + 1

    def text(self, prompt: str, shots: int) -> str:
        """Return the instruction for a prompt, to be read behind a photo; "" is nothing."""
        return instruction(prompt, shots=shots) if prompt else ""

    def encode_pairs(self, photos: AnyPhotos, drawn: Maps, after: Kept | None = None) -> Kept:
        """Encode examples behind those that are kept already; differentiable."""
        prefix = Prefix.from_tensors(after or {})
        for photo, own_map in zip(photos, in_bytes(drawn), strict=True):
            prefix = self.backbone.extended(prefix, (in_bytes(photo), own_map))
        return prefix.tensors()

    def encode_queries(self, tensors: Kept, photos: Photos) -> Photos:
        """Take query photos in pixels: how they are read depends on what stands before them."""
        return photos.to(self.backbone.device)

    def predictor(self, tensors: Kept, shots: int, queries: Photos) -> Predict:
        """Return the velocity of noisy maps; a photo is read once for each instruction."""
        backbone, grid = self.backbone, self.grid(shots)
        prefix, photos = Prefix.from_tensors(tensors), in_bytes(queries)
        passes: dict[str, CausalPass] = {}

        def predict(x: Tensor, t: float, text: str) -> Tensor:
            if text not in passes:
                passes[text] = backbone.asked(prefix, list(photos), text, grid)
            latents = rearrange(x, "q s n c -> (q s) n c").to(backbone.transformer.dtype)
            velocity = backbone.forward(latents, t, grid, passes[text])
            return rearrange(velocity, "(q s) n c -> q s n c", q=len(x)).float()

        return predict
