"""A locator in a folder: its model, settings and examples, with a card; on the hub likewise.

Conventions: `geolocator.json` names the model, either `model/` with the weights (safetensors) or a
hub id with its commit; beside it may lie `adapter/` (a LoRA) and `examples/` (PNG, and a manifest).
Examples are kept as the model sees them, to the pixel: to encode them again takes seconds, while
their keys and values would take gigabytes.
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from icgeo.config import UsageError
from icgeo.models import LoadError, MapModel, load
from icgeo.models.hub import BUILT_IN, fetch, files_in, located, refuse_pickles
from icgeo.models.settings import Origin, Settings
from icgeo.prediction import Example, as_examples

FORMAT = 1
"""Of the folder; another number is refused."""
INDEX, MODEL, ADAPTER, EXAMPLES = "geolocator.json", "model", "adapter", "examples/examples.csv"

CHOICES = ("attention", "style", "layout", "photo_size")
"""Settings that `icgeo.load` takes."""

_CARD = """---
library_name: icgeo
license: {licence}
{base}tags: [geolocation, icgeo]
---
# {name}

Locates photos by showing a model that draws maps a few solved cases, with `icgeo`:

```python
import icgeo

locator = icgeo.Geolocator.from_pretrained("owner/name")  # or the path of this folder
(prediction,) = locator.locate(["photo.jpg"])
print(prediction.lat, prediction.lon, prediction.credible_region(0.9))
```

## What is in it

- model: {model}
- adapter: {adapter}
- examples: {examples}

## Settings

Saved by icgeo {version}.

{settings}

## Limits and intended use

It is as good as its model and its examples: measure it on photos of the kind that you have before
you rely on it. Densities are calibrated for the kind of photos that the model was calibrated on,
if it was. Do not locate photos of people without their consent; the examples in this folder, if
any, are photos too, and are passed on with it.

## Licence

{licence}. That of the base model holds too.
"""


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    model: MapModel
    fields: Mapping[str, Any]
    """Of the locator, beside model and examples."""
    examples: list[Example] | None


def save(
    folder: Path,
    model: MapModel,
    fields: Mapping[str, Any],
    examples: Sequence[tuple[Image.Image, tuple[float, float]]],
    *,
    base: str | None = None,
    licence: str = "apache-2.0",
) -> None:
    """Write a locator to a folder.

    Args:
        folder: new, or empty.
        model: loaded by `icgeo.load`, or made by this package.
        fields: of the locator, plain values.
        examples: pictures as the model sees them, and (latitude, longitude) in degrees.
        base: the hub id to name in place of a local folder's weights, which are copied otherwise.
        licence: for the card.

    Raises:
        UsageError: a folder that holds something, or a model that cannot be saved.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"expected a new or empty folder, got {folder}; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    origin = _save_model(folder, model, base)
    _save_examples(folder / EXAMPLES, examples)
    index = {
        "format": FORMAT,
        **asdict(origin),
        "settings": model.settings.to_dict(),
        "locator": dict(fields),
        "examples": len(examples),
    }
    (folder / "README.md").write_text(_card(index, licence), encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save_model(folder: Path, model: Any, base: str | None) -> Origin:
    origin: Origin | None = getattr(model, "origin", None)
    is_ours = hasattr(getattr(model, "backbone", None), "save")
    if origin is None and is_ours:  # made here, by pretraining
        model.save(folder / MODEL, dtype=model.backbone.transformer.dtype)
        return Origin(MODEL)
    if origin is None:
        raise UsageError(f"expected a model of icgeo.load to save, got {type(model).__name__}")
    if origin.adapter:
        origin = replace(origin, adapter=_save_adapter(folder, origin.adapter))
    if base or origin.revision:
        return replace(origin, model=base or origin.model)
    with located(origin.model) as source:
        if source is None:
            raise UsageError(f"expected the weights in {origin.model}, which is no longer there")
        _copy(source, folder / MODEL)
    return replace(origin, model=MODEL)


def _save_adapter(folder: Path, adapter: str) -> str:
    source = Path(adapter)
    if not source.exists():
        return adapter  # on the hub
    if source.is_dir():
        _copy(source, folder / ADAPTER)
    else:
        (folder / ADAPTER).mkdir()
        shutil.copyfile(source, folder / ADAPTER / "pytorch_lora_weights.safetensors")
    return ADAPTER


def _copy(source: Path, target: Path) -> None:
    """Copy a model's files, and refuse pickles."""
    refuse_pickles(files_in(source), source)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.ckpt", ".*"))


def _save_examples(
    manifest: Path, examples: Sequence[tuple[Image.Image, tuple[float, float]]]
) -> None:
    if not examples:
        return
    manifest.parent.mkdir()
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", "latitude", "longitude"))
        for number, (picture, place) in enumerate(examples):
            name = f"{number:04}.png"
            picture.save(manifest.parent / name)
            writer.writerow((name, *place))


def _card(index: Mapping[str, Any], licence: str) -> str:
    named = index["model"] not in (MODEL, *BUILT_IN)
    commit = f" at commit {index['revision']}" if index["revision"] else ""
    told = {**index["locator"], **{k: v for k, v in index["settings"].items() if k in _SHOWN}}
    return _CARD.format(
        name=index["locator"].get("name", "icgeo"),
        licence=licence,
        base=f"base_model: {index['model']}\n" if named else "",
        model=f"`{index['model']}`{commit}" if named else "the weights in `model/`",
        adapter=index["adapter"] or "none",
        examples=index["examples"] or "none: give your own to `locate`",
        settings="\n".join(f"- {name}: {v}" for name, v in told.items() if v is not None),
        version=version("icgeo"),
    )


_SHOWN = ("layout", "attention", "guidance_scale", "example_guidance")


def read(
    source: str | Path,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    **loading: Any,
) -> Saved:
    """Read a locator from a folder, or from the hub.

    Args:
        source: folder, or hub id.
        revision: of the hub id: branch, tag or commit.
        local_files_only: download nothing.
        **loading: what `icgeo.load` takes, in place of what was saved: device, attention, ...

    Raises:
        LoadError: no such locator, or a model that cannot be loaded.
    """
    choices = {name: loading.pop(name) for name in CHOICES if name in loading}
    told = {"local_files_only": local_files_only, **loading}
    is_here = Path(source).is_dir()
    folder = Path(source)
    if not is_here:
        folder = fetch(str(source), revision=revision, local_files_only=local_files_only)
    index = _index(folder, source)
    model: Any = _load_model(folder, index, told)
    settings = Settings.from_dict(index["settings"])
    examples = folder / EXAMPLES
    return Saved(
        replace(model, settings=settings).choosing(**choices),
        index["locator"],
        _read_examples(examples) if examples.is_file() else None,
    )


def _index(folder: Path, source: str | Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise LoadError(
            f"expected {INDEX} in {source}, as Geolocator.save_pretrained writes it; a model alone "
            "is for Geolocator(model=...)"
        )
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if index.get("format") != FORMAT:
        raise LoadError(
            f"expected a locator of format {FORMAT} in {source}, got {index.get('format')!r}; "
            "install the version of icgeo that wrote it"
        )
    return index


def _load_model(folder: Path, index: Mapping[str, Any], told: Mapping[str, Any]) -> MapModel:
    is_here = index["model"] == MODEL
    adapter = index["adapter"]
    chosen = {
        "revision": index["revision"],
        "adapter": folder / ADAPTER if adapter == ADAPTER else adapter,
        "quantization": index["quantization"],
    }
    return load(folder / MODEL if is_here else index["model"], **{**chosen, **told})


def _read_examples(manifest: Path) -> list[Example]:
    """Read examples; in the hub's cache they are links to outside the folder."""
    return as_examples(manifest, allow_outside=True)
