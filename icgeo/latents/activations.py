"""Activations of models and frozen encoders, streamed to disk and read back a part at a time.

Conventions: a folder holds `activations.json`, which says what the activations depend on, and
shards of a fixed number of photos, `<number>.safetensors`, in the order of the photos: one tensor
[photos, channels] for each block and time, the places, and the names and a digest of the photos. A
shard is whole or not there, so that a run that was stopped goes on after the last one. Of several
processes, which all see the folder, number i of n takes every n-th shard from the i-th on.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from einops import reduce
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from icgeo.data.photos import Photo, content_key
from icgeo.data.pixels import square_pixels
from icgeo.features import FrozenFeatures
from icgeo.models import MapModel
from icgeo.models.blocks import Taps, blocks_of, walk
from icgeo.models.context import differences
from icgeo.prediction import Example
from icgeo.writing import write_atomically

INDEX = "activations.json"
Block = int | str
"""A block of a model by its number, or a layer of an encoder by its name."""
Pool = Literal["mean", "none"]
Tokens = Float[Tensor, "photos tokens channels"]
Compute = Callable[[Sequence[Photo]], Iterable[tuple[str, Tokens]]]
"""Gives the activations of photos, block by block, so that each is pooled before the next comes."""


@dataclass(frozen=True)
class _Item:
    id: str
    photo: Photo
    lat_lon: tuple[float, float]

    @property
    def key(self) -> str:
        """Tell it apart by its name, its place and what is on it."""
        return f"{self.id} {self.lat_lon} {content_key(self.photo)}"


@dataclass(frozen=True)
class ActivationStore:
    """Activations on disk."""

    folder: Path
    fingerprint: dict[str, str]
    """What they depend on beside the photos."""
    blocks: tuple[Block, ...]
    times: tuple[float, ...]
    """0.0 alone for encoders, which see photos without noise."""
    shards: int
    """Number of shards when all are there."""

    @classmethod
    def open(cls, folder: str | Path) -> "ActivationStore":
        """Open a folder that `activations` has filled.

        Raises:
            ValueError: it holds none, or not all of them.
        """
        folder = Path(folder)
        if not (folder / INDEX).is_file():
            raise ValueError(
                f"expected activations in {folder}, found no {INDEX}; make them with "
                "icgeo.latents.activations.activations"
            )
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        shards, blocks, times = (index.pop(name) for name in ("shards", "blocks", "times"))
        store = cls(folder, index["fingerprint"], tuple(blocks), tuple(times), shards or 0)
        missing = [path.name for path in store.files if not path.is_file()]
        if shards is None or missing:
            raise ValueError(
                f"expected all shards of activations in {folder}, lacking "
                f"{', '.join(missing[:3]) or 'their number'}; call activations again, which "
                "computes what is missing"
            )
        return store

    @property
    def files(self) -> list[Path]:
        """The shards in order."""
        return [_shard_path(self.folder, number) for number in range(self.shards)]

    def __len__(self) -> int:
        return len(self.lat_lon)

    @property
    def ids(self) -> list[str]:
        """Names of the photos in order."""
        metadata = (_read_metadata(path) for path in self.files)
        return [name for one in metadata for name in json.loads(one["ids"])]

    @property
    def lat_lon(self) -> Float[Tensor, "photos 2"]:
        """Where the photos were taken, in degrees; NaN where that is unknown."""
        return torch.cat([_read_tensor(path, "lat_lon") for path in self.files])

    def read(
        self, block: Block, time: float | None = None
    ) -> Float[Tensor, "photos *tokens channels"]:
        """Read all activations of a block at a time, the only one by default; in float32.

        `tokens` are there if they were not pooled.

        Raises:
            ValueError: a block or time that was not kept.
        """
        name = self._key(block, time)
        return torch.cat([_read_tensor(path, name) for path in self.files])

    def batches(
        self, block: Block, time: float | None = None, size: int = 4096
    ) -> Iterator[Float[Tensor, "photos *tokens channels"]]:
        """Read activations so many photos at a time, in order; one shard is held at most."""
        name = self._key(block, time)
        rest: list[Tensor] = []
        for path in self.files:
            rest = [torch.cat([*rest, _read_tensor(path, name)])]
            while len(rest[0]) >= size:
                yield rest[0][:size]
                rest = [rest[0][size:]]
        if rest and len(rest[0]):
            yield rest[0]

    def _key(self, block: Block, time: float | None) -> str:
        if time is None:
            (time,) = self.times if len(self.times) == 1 else (math.nan,)
        if block not in self.blocks or time not in self.times:
            raise ValueError(
                f"expected a block of {self.blocks} and a time of {self.times}, got block "
                f"{block!r} and time {time}"
            )
        return key_of(block, time)


def key_of(block: Block, time: float) -> str:
    """Name a block at a time, as in `features="tiny:3@1.0"`."""
    return f"{block}@{time:g}"


def activations(  # noqa: PLR0913
    model: MapModel | FrozenFeatures,
    photos: Iterable[Any],
    *,
    folder: str | Path,
    examples: Sequence[Example] = (),
    blocks: Sequence[Block] | None = None,
    times: Sequence[float] = (1.0,),
    tokens: str = "map",
    stream: str = "image",
    pool: Pool = "mean",
    prompt: str | None = None,
    seed: int = 0,
    same_noise: bool = False,
    batch_size: int = 64,
    shard_size: int = 1024,
    process: tuple[int, int] = (0, 1),
) -> ActivationStore | None:
    """Compute activations of photos and keep them in a folder; what is there is not computed again.

    No more than one shard is held, so that `photos` may be a generator without end in sight.

    Args:
        model: a model that draws maps, or an encoder that `icgeo.features.open` has opened.
        photos: queries of an episode (anything with id, photo and lat_lon), examples, or photos
            alone, whose places are unknown.
        folder: where the shards are; another call with the same arguments goes on there.
        examples: what the model is shown beside each photo; encoders are shown nothing.
        blocks: numbers of blocks, or names of an encoder's layers; all by default.
        times: of a model's flow, from 1, noise, to above 0.
        tokens: of a model: "map", "photo" or "example".
        stream: of a model: "image" or "text".
        pool: "mean" over tokens, or "none", which keeps each.
        prompt: what the model is told of the world; its default by default.
        seed: of the noise.
        same_noise: of a model: whether all photos begin with one noise.
        batch_size: photos in a pass.
        shard_size: photos in a file.
        process: number of this process, and how many there are. The result is None as long as
            shards of other processes are missing: wait for them, and open the folder.

    Raises:
        ValueError: the folder holds activations of something else; no such block, tokens or
            stream; an encoder without layers; `batch_size` or `shard_size` below 1.
        PhotoError: a photo cannot be read.
    """
    for name, size in {"batch_size": batch_size, "shard_size": shard_size}.items():
        if size < 1:
            raise ValueError(
                f"expected {name} of at least 1 photo, got {size}; leave it out for the default"
            )
    folder = Path(folder)
    if isinstance(model, MapModel):
        numbers = range(len(blocks_of(model.backbone.transformer))) if blocks is None else blocks
        taps = Taps(tuple(map(int, numbers)), tuple(times), tokens, stream, same_noise)
        settings, compute = _of_model(model, taps, examples, prompt, seed)
        blocks = taps.blocks
        times = taps.times
    else:
        layers = [str(block) for block in blocks or model.layers]
        settings, compute = _of_encoder(model, layers)
        blocks = layers
        times = (0.0,)
    settings |= {"pool": pool, "shard_size": shard_size}
    fingerprint = {name: str(value) for name, value in settings.items()}
    index = {"fingerprint": fingerprint, "blocks": list(blocks), "times": list(times)}
    _require_same(folder, index)
    items = (_as_item(number, photo) for number, photo in enumerate(photos))
    count = 0
    while shard := [*islice(items, shard_size)]:
        if count % process[1] == process[0]:
            path = _shard_path(folder, count)
            _fill(path, shard, compute, pool=pool, batch_size=batch_size)
        count += 1
    if not count:
        raise ValueError("expected at least one photo, got none")
    _write_index(folder, {**index, "shards": count})
    is_complete = all(_shard_path(folder, number).is_file() for number in range(count))
    return ActivationStore.open(folder) if is_complete else None


def weights_digest(modules: Iterable[nn.Module]) -> str:
    """Hash the beginning of each weight, which tells trained, adapted and random ones apart."""
    digest = blake2b(digest_size=8)
    for module in modules:
        for weight in module.state_dict().values():
            if isinstance(weight, Tensor) and weight.device.type != "meta":  # not offloaded
                digest.update(weight.detach().flatten()[:256].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _of_model(
    model: MapModel, taps: Taps, examples: Sequence[Example], prompt: str | None, seed: int
) -> tuple[dict[str, Any], Compute]:
    """Return what the activations of a model depend on, and what computes them."""
    taps.require(model)
    example_pixels = square_pixels([one.image for one in examples], model.photo_size)
    places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
    context = model.encode_context(example_pixels, places.reshape(-1, 2))
    words = prompt or model.settings.default_prompt

    def compute(photos: Sequence[Photo]) -> Iterator[tuple[str, Tokens]]:
        pixels = square_pixels(photos, model.photo_size)
        for step in walk(model, context, pixels, prompt=words, taps=taps, seed=seed):
            for number in taps.blocks:
                yield key_of(number, step.time), step.activations.pop(number)

    settings = {
        **model.fingerprint,
        "weights": weights_digest([model.backbone.transformer]),
        "examples": _digest([_as_item(0, example).key for example in examples]),
        "prompt": words,
        "tokens": taps.tokens,
        "stream": taps.stream,
        "same_noise": taps.same_noise,
        "seed": seed,
    }
    return settings, compute


def _of_encoder(encoder: FrozenFeatures, layers: Sequence[str]) -> tuple[dict[str, Any], Compute]:
    encoder.require_layers()

    def compute(photos: Sequence[Photo]) -> Iterator[tuple[str, Tokens]]:
        for layer, part in encoder.encode_layers(photos, layers).items():
            yield key_of(layer, 0.0), part

    weights = weights_digest(encoder.layers.values())
    return {"model": encoder.name, "dtype": str(encoder.dtype), "weights": weights}, compute


def _fill(
    path: Path, items: Sequence[_Item], compute: Compute, *, pool: Pool, batch_size: int
) -> None:
    """Compute a shard, or make sure that the one that is there is of the same photos."""
    digest = _digest([item.key for item in items])
    if path.is_file():
        if _read_metadata(path)["photos"] != digest:
            raise ValueError(
                f"expected the photos of {path} as number {path.stem} of their shards, got "
                "others; choose another folder, or remove the file"
            )
        return
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(items), batch_size):
        for name, part in compute([item.photo for item in items[start : start + batch_size]]):
            pooled = reduce(part, "n t c -> n c", "mean") if pool == "mean" else part
            parts.setdefault(name, []).append(pooled)
    tensors = {name: torch.cat(part).contiguous() for name, part in parts.items()}
    tensors["lat_lon"] = torch.tensor([item.lat_lon for item in items], dtype=torch.float64)
    metadata = {"photos": digest, "ids": json.dumps([item.id for item in items])}
    with write_atomically(path) as partial_path:
        save_file(tensors, partial_path, metadata=metadata)


def _as_item(number: int, photo: Any) -> _Item:
    if isinstance(photo, Example):
        return _Item(str(number), photo.image, (photo.lat, photo.lon))
    if hasattr(photo, "photo"):
        return _Item(photo.id, photo.photo, photo.lat_lon or (math.nan, math.nan))
    return _Item(str(number), photo, (math.nan, math.nan))


def _digest(keys: Sequence[str]) -> str:
    return blake2b("\n".join(keys).encode(), digest_size=16).hexdigest()


def _require_same(folder: Path, index: dict[str, Any]) -> None:
    """Make the folder, or raise ValueError if it is of something else."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / INDEX).is_file():
        _write_index(folder, {**index, "shards": None})
        return
    stored_index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    actual, expected = (
        {**one["fingerprint"], "blocks": str(one["blocks"]), "times": str(one["times"])}
        for one in (stored_index, index)
    )
    if difference := differences(actual, expected):
        raise ValueError(
            f"the activations in {folder} were made with {difference}; choose another folder"
        )


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    with write_atomically(folder / INDEX) as path:
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.safetensors"


def _read_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def _read_tensor(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
