"""Instructions for pretrained models, and their embeddings.

Embeddings are computed once and kept on disk; text encoders do not stay in memory.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from icgeo.options import EARTH, UNKNOWN
from icgeo.writing import write_atomically

log = logging.getLogger(__name__)

_SHOWN = {
    ("references", True): (
        "The reference images come in pairs: first a photo, then a map on which a red dot marks "
        "the place where that photo was taken. The last reference image is a photo without a map. "
    ),
    ("references", False): "The reference image is a photo. ",
    ("pair", True): (
        "Each reference image is a map and, to its right, a photo; a red dot on the map marks the "
        "place where that photo was taken. In the last reference image the dot is missing. "
    ),
    ("pair", False): (
        "The reference image is a map on which a red dot is missing and, to its right, a photo. "
    ),
    ("sheet", True): (
        "Each row of the reference images is a map and, to its right, a photo; a red dot on the "
        "map marks the place where that photo was taken. In the last reference image, which is "
        "one row, the dot is missing. "
    ),
    ("panel", True): (
        "Each row of the picture is a photo and, to its right, a map on which a red dot marks the "
        "place where that photo was taken. In the last row the dot is missing. Keep all else. "
    ),
    ("panel", False): (
        "The picture is a photo and, to its right, a map on which a red dot is missing. Keep all "
        "else. "
    ),
    ("frames", True): (
        "The frames come in pairs: first a photo, then a map on which a red dot marks the place "
        "where that photo was taken. The frame before the last is a photo, the last is its map. "
    ),
    ("frames", False): "The first frame is a photo, the last is its map. ",
}
_SHOWN["sheet", False] = _SHOWN["pair", False]
TASK = (
    "Draw the map of the last photo: the same map, pixel for pixel, with one red dot at the place "
    "where the photo was taken, and nothing else."
)
_EVIDENCE = {
    "references": " Behind it another map shows a guess, which may be wrong.",
    "frames": " The frame between them is a map that shows a guess, which may be wrong.",
}
_BASE_MAP = {
    "references": " Behind it is the same map without a dot: the ground, seen from above.",
    "frames": " The frame between them is the same map without a dot: the ground, seen from above.",
}
_ON_THE_MAP = " On the last map a guess is drawn, which may be wrong."
_WORLD = {
    EARTH: " The map shows the whole Earth, north up, from 180 degrees west to 180 degrees east.",
    UNKNOWN: " The photos show an unknown planet; only the examples tell where things are.",
}


def instruction(
    prompt: str, *, shots: int, layout: str = "references", evidence: bool | str = False
) -> str:
    """Return the instruction for a model that is shown pairs in a layout, and maybe evidence.

    Evidence is another way's guess, or the "base map" alone.

    The task stands first, for CLIP reads no more than 77 tokens.
    """
    if prompt not in _WORLD:
        raise ValueError(f"expected a prompt of {sorted(_WORLD)}, got {prompt!r}")
    guess = _EVIDENCE.get(layout, _ON_THE_MAP) if evidence else ""
    if evidence == "base map":
        guess = _BASE_MAP.get(layout, "")
    return TASK + " " + _SHOWN[layout, shots > 0].strip() + guess + _WORLD[prompt]


Embedding = dict[str, Tensor]
"""Arguments of the transformer by name, each of batch 1, and `is_word` of those that pad: which
places of `encoder_hidden_states` hold words."""


def trimmed(embedding: Embedding) -> Embedding:
    """Leave out the padding; the words stay as they were embedded beside it."""
    is_word = embedding["is_word"][0]
    return {**embedding, "encoder_hidden_states": embedding["encoder_hidden_states"][:, is_word]}


@dataclass(frozen=True)
class Prompts:
    """Embeddings of instructions, from memory, from disk, or from the text encoder."""

    encode: Callable[[Sequence[str]], list[Embedding]]
    """Loads the text encoder, embeds, and forgets it."""
    folder: Path | None = None
    """Where they are kept on disk; None keeps them in memory alone."""
    known: dict[str, Embedding] = field(default_factory=dict)

    def __call__(self, instruction: str) -> Embedding:
        """Return the embedding of an instruction; "" is none, and is embedded with it."""
        if instruction in self.known:
            return self.known[instruction]
        texts = dict.fromkeys(("", instruction))
        for text in texts if self.folder else ():
            if (path := self._path(text)).is_file():
                try:
                    self.known[text] = load_file(path)
                except (SafetensorError, OSError, ValueError) as error:
                    log.warning("embedding again what %s cannot tell: %s", path, error)
        missing = [text for text in texts if text not in self.known]
        embeddings = self.encode(missing) if missing else []
        self.known.update(zip(missing, embeddings, strict=True))
        for text in missing if self.folder else ():
            path = self._path(text)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with write_atomically(path) as partial_path:
                    tensors = {name: x.contiguous().cpu() for name, x in self.known[text].items()}
                    save_file(tensors, partial_path)
            except OSError as error:
                log.warning("cannot keep the embedding of an instruction in %s: %s", path, error)
        return self.known[instruction]

    def _path(self, text: str) -> Path:
        name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return cast(Path, self.folder) / f"{name}.safetensors"


def cache_folder(source: str | Path, commit: str, *, dtype: torch.dtype) -> Path:
    """Return the folder that keeps the embeddings of a checkpoint; another for changed files.

    `source` is a folder, or a hub id of a `commit`.
    """
    if isinstance(source, str):
        key = f"{source}@{commit}"
    else:
        parts = [p for p in source.rglob("*") if p.parent.name.startswith(("text_", "token"))]
        stats = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(parts)]
        key = f"{source.resolve()} {stats}"
    name = hashlib.blake2b(f"{key} {dtype} padded".encode(), digest_size=16).hexdigest()
    return cached_assets_path("icgeo", namespace="prompts", subfolder=name)
