"""A locator in a folder: its model, settings and examples, with a card; on the hub likewise.

`geolocator.json` names the model, either `model/` with the weights (safetensors) or a hub id with
its commit; beside it may lie `adapter/` (a LoRA) and `examples/`, kept as the model sees them, to
the pixel: their keys and values would take gigabytes, and seconds to make again.
"""

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from icgeo.config import UsageError
from icgeo.data.map_rasters import file_fingerprint
from icgeo.models import LoadError, LoadOptions, MapModel, load
from icgeo.models.adapters import LORA, PEFT_CONFIG
from icgeo.models.hub import BUILT_IN, fetch, files_in, refuse_pickles, resolve_local
from icgeo.models.map_model import Pixels
from icgeo.models.settings import Origin, Settings
from icgeo.options import SETTINGS
from icgeo.prediction import as_examples

FORMAT = 3
"""Of the folder; another number is refused."""
INDEX, MODEL, ADAPTER, EXAMPLES = "geolocator.json", "model", "adapter", "examples/examples.csv"


def save(
    folder: Path,
    model: MapModel,
    options: Mapping[str, Any],
    photos: Pixels,
    lat_lon: Float[Tensor, "examples 2"],
    *,
    base: str | None = None,
    licence: str = "apache-2.0",
) -> None:
    """Write a locator to a new or empty folder.

    `options` are the fields of the locator, `photos` its examples as the model sees them. `base` is
    a hub id to name in place of a local folder's weights, which are copied otherwise; the card
    states the `licence`.

    Raises:
        UsageError: a folder that holds something, or a model or an option that cannot be saved.
    """
    select, evidence, source = (options[name] for name in ("select", "evidence", "map"))
    if not isinstance(select, str):
        raise UsageError(f"expected a select by name to save, got {select}")
    if not isinstance(evidence, str | None):
        raise UsageError(f"expected no evidence of another way to save, got {evidence}")
    if not isinstance(source, str | Path | None):
        raise UsageError("expected a map by name or path to save, got one that is open")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"expected a new or empty folder, got {folder}; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    if evidence:  # it is set again by the option
        model = replace(model, settings=replace(model.settings, shows_evidence=False))
    index = {
        "format": FORMAT,
        **asdict(_save_model(folder, model, base)),
        "settings": model.settings.to_dict(),
        "locator": {**options, "map": source and str(source), "map_digest": _digest(source)},
        "examples": len(photos),
    }
    if len(photos):
        manifest = folder / EXAMPLES
        manifest.parent.mkdir()
        with manifest.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("image", "latitude", "longitude"))
            for number, (photo, place) in enumerate(zip(photos, lat_lon.tolist(), strict=True)):
                picture = Image.fromarray(rearrange(photo, "c h w -> h w c").numpy())
                picture.save(manifest.parent / f"{number:04}.png")
                writer.writerow((f"{number:04}.png", *place))
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
    if origin.adapter and Path(origin.adapter).exists():  # else it is on the hub
        adapter = Path(origin.adapter)
        weights = adapter / (origin.weight_name or "") if adapter.is_dir() else adapter
        _copy(weights, folder / ADAPTER)
        origin = replace(origin, adapter=ADAPTER, weight_name=None)
    if base or origin.revision:
        return replace(origin, model=base or origin.model)
    source = resolve_local(origin.model)
    if source is None:
        raise UsageError(f"expected the weights in {origin.model}, which is no longer there")
    _copy(source, folder / MODEL)
    return replace(origin, model=MODEL)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a model, or the one of a LoRA, and refuse pickles."""
    if source.is_file():
        target.mkdir()
        shutil.copyfile(source, target / LORA)
        if (config := source.with_name(PEFT_CONFIG)).is_file():
            shutil.copyfile(config, target / PEFT_CONFIG)
        return
    refuse_pickles(files_in(source), source)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.ckpt", ".*"))


def _card(index: Mapping[str, Any], licence: str) -> str:
    is_named = index["model"] not in (MODEL, *BUILT_IN)
    commit = f" at commit {index['revision']}" if index["revision"] else ""
    names = ("layout", "attention", "guidance_scale", "example_guidance")
    settings = {**index["locator"], **{name: index["settings"][name] for name in names}}
    card = resources.files("icgeo") / "assets" / "locator_card.md"
    return card.read_text(encoding="utf-8").format(
        name=index["locator"].get("name", "icgeo"),
        licence=licence,
        base=f"base_model: {index['model']}\n" if is_named else "",
        model=f"`{index['model']}`{commit}" if is_named else "the weights in `model/`",
        adapter=index["adapter"] or "none",
        examples=index["examples"] or "none: give your own to `locate`",
        settings="\n".join(f"- {name}: {v}" for name, v in settings.items() if v is not None),
        version=version("icgeo"),
    )


def read(source: str | Path, **options: Any) -> tuple[MapModel, dict[str, Any]]:
    """Read a locator from a folder, or from the hub: its model, and its other fields.

    `options` are fields of `Geolocator` in place of those saved; `revision` and `local_files_only`
    are of the hub id.

    Raises:
        LoadError: no such locator, or a model that cannot be loaded.
        UsageError: its map is another one now, or gone.
    """
    revision = options.pop("revision", None)
    settings = {name: options.pop(name) for name in ("style", *SETTINGS) if name in options}
    names = {field.name for field in fields(LoadOptions)} & options.keys()
    loading = {name: options.pop(name) for name in names}
    folder = Path(source)
    if not folder.is_dir():
        only_here = loading.get("local_files_only", False)
        folder = fetch(str(source), revision=revision, local_files_only=only_here)
    index = _read_index(folder, source)
    model_options = {name: index[name] for name in ("revision", "adapter", "quantization")}
    model_options["weight_name"] = index.get("weight_name")
    if model_options["adapter"] == ADAPTER:
        model_options["adapter"] = folder / ADAPTER
    weights = folder / MODEL if index["model"] == MODEL else index["model"]
    model: Any = load(weights, **{**model_options, **loading})
    model = replace(model, settings=Settings.from_dict(index["settings"])).choosing(**settings)
    manifest = folder / EXAMPLES
    # in the hub's cache they are links to outside the folder
    examples = as_examples(manifest, allow_outside=True) if manifest.is_file() else None
    values = index["locator"]
    digest = values.pop("map_digest", None)
    if digest and "map" not in options and digest != _digest(values["map"]):
        raise UsageError(
            f"expected the map {values['map']} with which the locator was saved, found another or "
            "none; give it by map=, or map=None"
        )
    other_fields = {"examples": examples, "device": loading.get("device", "cpu")}
    return model, {**values, **other_fields, **options}


def _digest(source: Any) -> str | None:
    """Return a key of the content of a map in a file; of a folder and of a name there is none."""
    if source is None or not Path(source).is_file():
        return None
    return file_fingerprint(Path(source), with_time=False)


def _read_index(folder: Path, source: str | Path) -> dict[str, Any]:
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
