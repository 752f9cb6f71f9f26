"""What a layout of examples is: how they and a query are shown to a backbone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from icgeo.models.prompts import instruction, trimmed
from icgeo.models.settings import Settings

Photos = Float[Tensor, "photos 3 high wide"]
AnyPhotos = Photos | list[Float[Tensor, "3 _ _"]]
"""Photos of one shape, or a list of any shapes."""
Maps = Float[Tensor, "maps 3 height width"]
Tokens = Float[Tensor, "images tokens channels"]
"""Encoded images: of photos, or of what is drawn."""
Kept = dict[str, Tensor]
"""What is kept of examples, by name; empty without any."""
Predict = Callable[[Tensor, float, Any], Tensor]
"""Velocity of noisy latents [queries, samples, ...] at a time, given an embedded text."""


@dataclass(frozen=True)
class Layout:
    """A way to show examples and a query to a backbone; photos and maps are in [0, 1].

    Each has `encode_pairs`, `encode_queries` and `predictor` too.
    """

    backbone: Any
    settings: Settings
    attention_backend: str = "native"

    modes: ClassVar[tuple[str, ...]] = ("full",)
    """Modes of attention that it knows."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Settings that belong to the weights."""
    is_one_picture: ClassVar = False
    """Whether examples and query are drawn again as a whole."""
    encodes_apart: ClassVar = False
    """Whether what it shows of a pair is encoded without others, so that it is encoded once."""
    takes_evidence: ClassVar = False
    """Whether a map of evidence may be shown beside the query's photo, as `evidence` among what is
    kept of the examples."""
    takes_groups: ClassVar = False
    """Whether queries with examples, times and prompts of their own go through in one pass."""

    @property
    def unit(self) -> int:
        """Return how many examples are kept as one, for they share a picture."""
        return 1

    def grid(self, shots: int) -> tuple[int, int]:
        """Return the rows and columns of the tokens that are drawn: of a map and no more."""
        style, patch = self.settings.style, self.backbone.patch
        return style.height // patch, style.width // patch

    def latent_shape(self, shots: int) -> tuple[int, ...]:
        """Return the shape of what is drawn for a query: tokens and channels, or of a video."""
        return math.prod(self.grid(shots)), self.backbone.transformer.config.in_channels

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid of sampling."""
        return self.backbone.times(self.latent_shape(shots)[0], steps)

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        return self.backbone.shift(self.latent_shape(shots)[0], steps)

    def references(self, shots: int) -> int:
        """Return the number of reference images that a query is shown with so many examples."""
        return 1

    def token_rows(self, tensors: Kept, shots: int, queries: Tensor) -> dict[str, Tensor]:
        """Return which tokens of a query's sequence are of its map, its photo and the examples."""
        return {"map": torch.arange(math.prod(self.grid(shots)))}

    def shows_evidence(self, shots: int) -> bool:
        """Return whether a query with so many examples is shown a map of evidence."""
        return shots > 0 and bool(self.settings.shows_evidence)

    def text(self, prompt: str, shots: int) -> Any:
        """Embed the instruction for a prompt; "" is nothing."""
        words = ""
        if prompt:
            layout = self.settings.layout
            evidence = self.settings.shows_evidence if shots else False
            words = instruction(prompt, shots=shots, layout=layout, evidence=evidence)
        embedding = self.backbone.prompts(words)
        return trimmed(embedding) if self.settings.text == "trimmed" else embedding

    def describe(self, photos: Photos) -> Float[Tensor, "photos features"]:
        """Describe photos by their colours at 8 x 8 pixels."""
        return functional.adaptive_avg_pool2d(photos.float(), 8).flatten(1)

    def answer(self, latents: Tensor, shots: int) -> Tensor:
        """Cut the map out of what is drawn: it is nothing else."""
        return latents

    def encode_answers(self, tensors: Kept, photos: Photos, drawn: Maps) -> Tensor:
        """Encode what is to be drawn for queries: their maps."""
        return self.backbone.encode(drawn)

    def encode_apart(self, photos: Photos, drawn: Maps) -> Kept:
        """Encode pairs once for training: `photos` as queries, `maps` as answers."""
        layout: Any = self
        answers = layout.encode_answers({}, photos, drawn)
        return {"photos": layout.encode_queries({}, photos), "maps": answers}

    def decode(
        self, latents: Float[Tensor, "queries samples *latent"], shots: int = 0
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode what is drawn to maps; in float32, unclipped."""
        return self.read_maps(latents.flatten(0, 1), shots).unflatten(0, latents.shape[:2])

    def read_maps(self, latents: Float[Tensor, "maps *latent"], shots: int) -> Maps:
        """Decode the maps in what is drawn."""
        return self.backbone.decode(latents, rows=self.grid(0)[0])


def framed(photos: AnyPhotos, height: int, width: int) -> Float[Tensor, "photos 3 height width"]:
    """Scale each photo until a frame just holds it, and set it on grey in the middle."""
    frames = []
    for photo in photos:
        scale = min(height / photo.shape[-2], width / photo.shape[-1])
        rows, columns = (max(1, round(scale * side)) for side in photo.shape[-2:])
        left, top = (width - columns) // 2, (height - rows) // 2
        margins = (left, width - columns - left, top, height - rows - top)
        frames.append(functional.pad(scaled(photo[None], rows, columns)[0], margins, value=0.5))
    return torch.stack(frames)


def scaled(
    images: Float[Tensor, "images 3 _ _"], height: int, width: int
) -> Float[Tensor, "images 3 height width"]:
    """Scale images to a height and a width in pixels."""
    pixels = functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return pixels.clamp(0, 1)


def in_one_sequence(
    backbone: Any, references: Tokens, ids: Int[Tensor, "all_tokens axes"]
) -> Predict:
    """Return the velocity of noisy tokens that see the references of their query at every step."""

    def predict(x: Tensor, t: float, text: Any) -> Tensor:
        tokens = rearrange(x, "q s n c -> (q s) n c").to(references.dtype)
        reference_tokens = repeat(references, "q n c -> (q s) n c", s=x.shape[1])
        velocity = backbone.forward(torch.cat((tokens, reference_tokens), dim=1), t, ids, text=text)
        return exactly(velocity[:, : tokens.shape[1]].unflatten(0, x.shape[:2]))

    return predict


def exactly(x: Tensor) -> Tensor:
    """Return numbers in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
