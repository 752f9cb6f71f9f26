"""What is computed of maps, kept on disk: cut views and their descriptors, as safetensors.

Conventions: files lie in the folder that a map names, or else in the assets of huggingface_hub's
cache (`HF_ASSETS_CACHE`), beside the kept instructions, and nothing of a user's own photos is among
them. They hold at most `MOST_BYTES` together; beyond, those that were used longest ago go. A file
that is damaged is made again.
"""

import logging
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from icgeo.data.base_maps import BaseMap
from icgeo.writing import write_atomically

MOST_BYTES = 2**30
"""Of all files together: a gibibyte."""

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


def kept(base_map: BaseMap, key: tuple[object, ...], make: Callable[[], Tensors]) -> Tensors:
    """Return tensors of a map from disk, or make them and keep them under a key of plain values.

    Of a map without a fingerprint nothing is kept.
    """
    if not base_map.fingerprint:
        return make()
    full_key = (base_map.fingerprint, base_map.bounds, *key)
    name = blake2b(repr(full_key).encode(), digest_size=16).hexdigest()
    try:
        folder = base_map.cache or cached_assets_path("icgeo", namespace="maps", subfolder="views")
    except (OSError, ValueError) as error:
        log.warning("cannot keep the views of a map: %s", error)
        return make()
    path = folder / f"{name}.safetensors"
    if path.is_file():
        try:
            tensors = load_file(path)
            path.touch()
            return tensors
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("making again what %s cannot tell: %s", path, error)
    tensors = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as partial_path:
            save_file(
                {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial_path
            )
        _forget_oldest(path.parent)
    except (OSError, SafetensorError) as error:
        log.warning("cannot keep the views of a map in %s: %s", path, error)
    return tensors


def _forget_oldest(folder: Path) -> None:
    """Remove the files used longest ago until the others are no more than allowed."""
    states = [(path, path.stat()) for path in folder.glob("*.safetensors")]
    total = sum(state.st_size for _, state in states)
    for path, state in sorted(states, key=lambda one: one[1].st_mtime_ns)[:-1]:
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= state.st_size
        log.info("removed %s: views of maps are kept up to %d bytes", path, MOST_BYTES)
