"""Pairs as reference images: photo and map are images of their own, or one picture, map first.

Images stand in the order of stock pipelines: photo, map, photo, map, ..., the query's photo. So the
mode `full` computes what `Flux2KleinPipeline` computes for the same images. Photos may have any
shapes; what is kept of a pair then has as many tokens as it needs, padded to those of the longest.
In pictures a place has the row and column of the map to draw, and the query's map is blank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from icgeo.maps.drawing import base_image
from icgeo.models.attention import AttentionContext, KVCache, install
from icgeo.models.backbones.flux import FluxBackbone, Ids
from icgeo.models.layouts.layout import (
    AnyPhotos,
    Kept,
    Layout,
    Maps,
    Photos,
    Predict,
    Tokens,
    exactly,
    framed,
    in_one_sequence,
)
from icgeo.models.prompts import Embedding
from icgeo.models.settings import MODES

Size = Sequence[int]
"""Rows and columns of tokens."""
Grids = Int[Tensor, "examples 2"]
"""Rows and columns of the part of each example that may have any shape."""
Pairs = Float[Tensor, "examples tokens channels"]
Queries = Float[Tensor, "queries rows columns channels"]


@dataclass(frozen=True)
class References(Layout):
    """The layout `references`, in any mode of attention."""

    backbone: FluxBackbone

    modes: ClassVar = MODES
    encodes_apart: ClassVar = True
    takes_evidence: ClassVar = True

    def __post_init__(self) -> None:
        install(self.backbone.transformer, backend=self.attention_backend)

    def images(self, grids: Grids) -> list[Size]:
        """Return the sizes of the reference images of examples, in order: of photo and map."""
        return [size for grid in grids.tolist() for size in (grid, self.grid(0))]

    def lengths(self, grids: Grids) -> list[int]:
        """Return the number of tokens of each example."""
        rows, columns = self.grid(0)
        return (grids.prod(dim=1) + rows * columns).tolist()

    def references(self, shots: int) -> int:
        """Return the number of images, those of the query counted."""
        return len(self.images(torch.zeros(shots, 2, dtype=torch.int64))) + self.own_images(shots)

    def own_images(self, shots: int) -> int:
        """Return the number of images of a query: its photo, and maybe a map of evidence."""
        return 1 + self.shows_evidence(shots)

    def token_rows(self, tensors: Kept, shots: int, queries: Queries) -> dict[str, Tensor]:
        """Return which tokens are whose; but in `full`, the photo's are in a pass of their own."""
        length = math.prod(self.grid(shots))
        photo = torch.arange(math.prod(queries.shape[1:3]))
        if self.settings.attention != "full":
            return {"map": torch.arange(length), "photo": photo}
        count = sum(self.lengths(tensors["grids"])) if shots else 0
        examples = torch.arange(count) + length
        return {"map": torch.arange(length), "photo": photo + length + count, "example": examples}

    def ids(self, images: Sequence[Size], *, first: int) -> Ids:
        """Return the places of the tokens of images, numbered from `first`.

        The map to draw is image 0, those of examples count from 1, and the query's comes last.
        """
        pairs = enumerate(images, first)
        return torch.cat([self.backbone.ids(number, *size) for number, size in pairs])

    def encode_examples(self, photos: AnyPhotos, drawn: Maps) -> tuple[Pairs, Grids]:
        """Encode the images of examples, and return the grids of their photos."""
        grids = [self.encode_queries({}, photo[None])[0] for photo in photos]
        pairs = zip(grids, self.backbone.encode(drawn), strict=True)
        tokens = [torch.cat((photo.flatten(0, 1), one_map)) for photo, one_map in pairs]
        return pad_sequence(tokens, batch_first=True), torch.tensor([x.shape[:2] for x in grids])

    def encode_pairs(self, photos: AnyPhotos, drawn: Maps) -> Kept:
        """Encode examples to what is kept of them."""
        with torch.no_grad():
            tokens, grids = self.encode_examples(photos, drawn)
        return self._keep(tokens, grids)

    def keep(self, photos: Queries, drawn: Pairs) -> Kept:
        """Keep the latents of photos and maps, or their keys and values; differentiable."""
        grids = torch.tensor([photos.shape[1:3]] * len(photos))
        return self._keep(torch.cat((photos.flatten(1, 2), drawn), dim=1), grids)

    def _keep(self, pairs: Pairs, grids: Grids) -> Kept:
        if self.settings.attention == "full":
            return {"tokens": pairs, "grids": grids}
        if self.settings.attention == "pairwise":
            return {**self._alone(pairs, grids), "grids": grids}
        together = in_a_row(pairs, self.lengths(grids))
        return {**self._cached(together, self.images(grids)), "grids": grids}

    def _cached(self, tokens: Tokens, images: Sequence[Size]) -> Kept:
        """Compute keys and values of sequences that each hold such images, seen by no one else."""
        cache, ids = KVCache(), self.ids(images, first=1)
        context = AttentionContext(cache=cache)
        self.backbone.forward(tokens, 0.0, ids, attention_context=context)
        return cache.tensors()

    def _alone(self, pairs: Pairs, grids: Grids) -> Kept:
        """Compute keys and values of units that each see themselves; those of one shape at once."""
        starts: dict[str, list[int]] = {}
        for start in range(0, len(pairs), self.unit):
            starts.setdefault(str(grids[start : start + self.unit].tolist()), []).append(start)
        numbers: list[int] = []
        parts: list[Kept] = []
        for group in starts.values():
            shape = grids[group[0] : group[0] + self.unit]
            rows = [start + row for start in group for row in range(len(shape))]
            tokens = pairs[rows, : self.lengths(shape)[0]]
            units = rearrange(tokens, "(u r) n c -> u (r n) c", r=len(shape))
            tensors = self._cached(units, self.images(shape))
            split = "u (r n) ... -> (u r) n ..."
            tensors = {name: rearrange(x, split, r=len(shape)) for name, x in tensors.items()}
            numbers, parts = numbers + rows, [*parts, tensors]
        if len(parts) == 1:  # in order, and not copied
            return parts[0]
        order = torch.tensor(numbers).argsort().tolist()
        rows_of = {name: [row for part in parts for row in part[name]] for name in parts[0]}
        rows_of = {n: [x[i] for i in order] for n, x in rows_of.items()}
        return {n: pad_sequence(x, batch_first=True) for n, x in rows_of.items()}

    def encode_queries(self, tensors: Kept, photos: Photos) -> Queries:
        """Encode query photos, all of one shape."""
        tokens = self.backbone.encode(photos)
        return tokens.unflatten(1, (photos.shape[-2] // self.backbone.patch, -1))

    def own_tokens(self, tensors: Kept, queries: Queries) -> tuple[Tokens, list[Size]]:
        """Return the tokens and sizes of the images of queries: photo, and maybe evidence."""
        tokens, sizes = queries.flatten(1, 2), list[Size]([queries.shape[1:3]])
        if "evidence" in tensors:
            evidence = self.backbone.encode(tensors["evidence"])
            tokens, sizes = torch.cat((tokens, evidence), dim=1), [*sizes, self.grid(0)]
        return tokens, sizes

    def predictor(self, tensors: Kept, shots: int, queries: Queries) -> Predict:
        """Return the velocity of noisy maps; what depends on neither noise nor time is done now."""
        if self.settings.attention != "full":
            return self.sharing(tensors, shots, queries)
        references, sizes = self.own_tokens(tensors, queries)
        images: list[Size] = [self.grid(0), *sizes]
        if shots:
            examples = in_a_row(tensors["tokens"], self.lengths(tensors["grids"]))
            references = torch.cat((examples.expand(len(queries), -1, -1), references), dim=1)
            images[1:1] = self.images(tensors["grids"])
        return in_one_sequence(self.backbone, references, self.ids(images, first=0))

    def sharing(
        self,
        tensors: Kept,
        shots: int,
        queries: Queries,
        *,
        visible: Bool[Tensor, "images shots"] | None = None,
    ) -> Predict:
        """Encode the query photos once; examples and photos are then seen by every step.

        `visible` says which examples each query sees, in the mode `pairwise` and where all are of
        one shape; None means all.
        """
        backbone, examples, photo_cache = self.backbone, [], KVCache()
        place, images = backbone.transformer.pos_embed, list[Size]()
        if shots:
            images, rows = self.images(tensors["grids"]), None if visible is None else visible[None]
            rotary = place(self.ids(images, first=1))
            examples = [self._restored(tensors, rows).rotated(rotary, groups=1, visible=rows)]
        photo_tokens, sizes = self.own_tokens(tensors, queries)
        ids = self.ids(sizes, first=len(images) + 1)
        context = AttentionContext(examples, photo_cache)
        backbone.forward(photo_tokens, 0.0, ids, attention_context=context)
        photos = photo_cache.rotated(place(ids), groups=len(queries))
        attention = AttentionContext((*examples, photos))
        map_ids = self.ids([self.grid(0)], first=0)

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            tokens = rearrange(x, "q s n c -> (q s) n c").to(queries.dtype)
            velocity = backbone.forward(tokens, t, map_ids, text=text, attention_context=attention)
            return exactly(rearrange(velocity, "(q s) n c -> q s n c", q=len(x)))

        return predict

    def _restored(self, tensors: Kept, visible: Tensor | None) -> KVCache:
        """Return keys and values of examples, in a row if all see them all."""
        lengths = self.lengths(tensors["grids"])
        in_rows = self.settings.attention == "pairwise" and visible is None
        caches = {n: x for n, x in tensors.items() if n not in ("grids", "evidence")}
        return KVCache.from_tensors(
            {name: in_a_row(x, lengths) for name, x in caches.items()} if in_rows else caches
        )

    def leave_one_out(
        self,
        photos: Float[Tensor, "episodes views rows columns channels"],
        shown: Float[Tensor, "episodes views example_tokens channels"],
        noisy: Float[Tensor, "episodes views map_tokens channels"],
        t: Float[Tensor, "episodes views"],
        visible: Bool[Tensor, "episodes views views"],
        prompts: Sequence[str],
    ) -> Float[Tensor, "episodes views map_tokens channels"]:
        """Return the velocity of all maps of episodes, each given the pairs that it may see.

        `shown` is what `keep` takes of them beside photos.
        """
        episodes = zip(photos, shown, noisy, t[:, 0].tolist(), visible, prompts, strict=True)
        return torch.stack([self._episode(*parts) for parts in episodes])

    def _episode(
        self, photos: Tensor, pairs: Tensor, noisy: Tensor, t: float, visible: Tensor, prompt: str
    ) -> Tensor:
        has_pairs = visible.any(dim=1)  # those without examples are told otherwise, in another pass
        tensors = self.keep(photos, pairs) if has_pairs.any() else {}
        velocity = torch.zeros(noisy.shape, device=noisy.device)
        for rows, count in ((has_pairs, len(photos)), (~has_pairs, 0)):
            if rows.any():
                mask = visible[rows] if count else None
                predict = self.sharing(tensors if count else {}, count, photos[rows], visible=mask)
                text = self.text(prompt, count)
                velocity[rows] = predict(noisy[rows][:, None], t, text)[:, 0]
        return velocity


def in_a_row(
    examples: Float[Tensor, "examples tokens *rest"], lengths: Sequence[int]
) -> Float[Tensor, "1 all_tokens *rest"]:
    """Set the tokens of examples behind each other, without what pads them."""
    if min(lengths) == examples.shape[1]:
        return examples.flatten(0, 1)[None]
    rows = zip(examples, lengths, strict=True)
    return torch.cat([tokens[:length] for tokens, length in rows])[None]


@dataclass(frozen=True)
class Pair(References):
    """The layout `pair`, in any mode of attention; photos stand in squares as high as maps."""

    def images(self, grids: Grids) -> list[Size]:
        """Return the sizes of the pictures of examples, in order."""
        parts = [part for part in grids.split(self.unit) if len(part)]
        return [(int(part[:, 0].sum()), int(part[0, 1])) for part in parts]

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
        """Keep the latents of pictures, or their keys and values; differentiable.

        `photos` are those of the same pairs as queries, which have the same size.
        """
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
    frames = framed(photos, height, height)
    return torch.cat((drawn.to(frames), frames), dim=-1)
