"""The command `icgeo`: locate photos, plan a run, open the demo, say what is installed.

Conventions: answers go to standard output, all else to standard error. Exit codes: 0, 1 where some
photo could not be read, 2 for wrong usage. The library is imported by the command that needs it.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icgeo import config
from icgeo.options import ONLY_ORBIT, Choice, DemoOptions, ModelOptions, knows_orbit_alone

if TYPE_CHECKING:
    from icgeo.geolocator import Geolocator
    from icgeo.prediction import Example
    from icgeo.results import Result


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ModelOptions):
    """Locate photos, given examples; exit code 1 where some of them cannot be read."""

    photos: Sequence[str] = ()
    """Paths of photos or of folders of them, or - for a list of paths on standard input, one on a
    line."""
    examples: Path | None = None
    """Photos whose locations are known: a CSV or Parquet file with columns image, latitude and
    longitude in degrees, or a folder of photos with GPS tags; by default none."""
    shots: int | None = None
    """Examples that each photo is shown, chosen for it; by default all of them."""
    choose: Choice = "nearest"
    """How they are chosen: those most alike, alike but diverse, or without looking at the photo."""
    features: str | None = None
    """By what photos are alike: tiny (views from orbit), pixels, efficientnet-lite0, or a model of
    transformers; by default what suits the model."""
    save: Path | None = None
    """File to write, by its suffix: .geojson (points, and the regions that hold half and 90 % of
    the probability), .parquet (GeoParquet of the points), .csv or .jsonl (a row a photo)."""
    json: bool = False
    """Print an object of JSON a line, areas in km2."""
    prompt: str | None = None
    """What the model is told: one of its own prompts; by default its first."""
    steps: int | None = None
    """Steps of the flow; by default the checkpoint's own."""
    samples: int | None = None
    """Maps drawn for each photo; by default the checkpoint's own."""
    point: Literal["best", "mode", "mean", "median"] = "best"
    """The single answer; best has the largest expected GeoScore."""
    batch_size: int = 64
    """Photos at a time."""
    seed: int = 0
    """Key of the noise."""
    allow_outside: bool = False
    """Accept examples outside the folder of their manifest."""


@dataclass(frozen=True)
class PlanOptions:
    """Say what memory and how many operations a run needs; no weights are loaded."""

    model: str = "tiny"
    """A name, a checkpoint folder, or a hub id."""
    revision: str | None = None
    """Of a hub id: a branch, a tag or a commit; by default its main branch."""
    local_files_only: bool = False
    """Download nothing: take a hub id from the cache, or fail."""
    shots: int = 16
    """Number of examples."""
    queries: int = 64
    """Photos that share the examples."""
    batch_size: int = 8
    """Photos at a time."""
    device: str = "cpu"
    """Whose memory it should fit: cpu, cuda or cuda:1."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the weights."""
    quantization: str | None = None
    """Of the weights: nf4, fp8 or int8."""
    attention: str | None = None
    """Who sees whom: full, joint or pairwise; by default the model's own."""
    layout: str | None = None
    """How examples are shown: references or panel; by default the model's own."""
    photo_size: int | None = None
    """Height and width of photos in pixels; by default the model's own."""
    steps: int | None = None
    """Steps of the flow; by default the checkpoint's own."""
    samples: int | None = None
    """Maps drawn for each photo; by default the checkpoint's own."""
    json: bool = False
    """Print one object of JSON, in bytes and floating-point operations a photo."""


@dataclass(frozen=True)
class InfoOptions:
    """Say what is installed: versions, devices, backends, extras."""

    json: bool = False
    """Print one object of JSON."""


def predict(options: PredictOptions) -> int:
    """Locate photos batch by batch, and print each answer when it is there."""
    from tqdm import tqdm

    from icgeo.results import require_format, save_results

    if not options.photos:
        raise config.UsageError("expected photos, or - for a list of paths on standard input")
    if options.shots is None and (options.features or options.choose != "nearest"):
        raise config.UsageError("expected --shots with --choose and --features: how many to choose")
    if options.save:
        require_format(options.save)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    examples = _examples(options)
    locator = _locator(options, examples)
    found, failed, count = [], 0, 0
    with tqdm(desc="locating", unit="photo", disable=None) as bar:
        for batch in _batches(_sources(options.photos), options.batch_size):
            for result in _locate(locator, batch, examples, with_features=_is_map(options.save)):
                with bar.external_write_mode(file=sys.stdout):
                    _show(result, as_json=options.json)
                count, failed = count + 1, failed + (result.error is not None)
                found += [result] if options.save else []
            bar.update(len(batch))
    if not count:
        sys.stderr.write("icgeo: no photo was given\n")
    if options.save:
        save_results(found, options.save)
    return 1 if failed else 0


def _is_map(path: Path | None) -> bool:
    return path is not None and path.suffix.lower() == ".geojson"


def _examples(options: PredictOptions) -> "list[Example]":
    from icgeo.prediction import as_examples

    try:
        return as_examples(options.examples, allow_outside=options.allow_outside)
    except (OSError, ValueError) as error:
        told = str(error).replace("(allow_outside)", "(--allow_outside)")
        raise config.UsageError(told) from error


def _locator(options: PredictOptions, examples: "Sequence[Example]") -> "Geolocator":
    """Load the model, and encode the examples: one that cannot be read is wrong usage."""
    from icgeo.geolocator import Geolocator
    from icgeo.models import load

    names = (
        "prompt", "steps", "samples", "point", "batch_size", "seed", "shots", "choose", "features",
    )  # fmt: skip
    try:
        model = load(options.model, **options.loading)
        chosen = {name: getattr(options, name) for name in names}
        locator = Geolocator(model, device=options.device, **chosen)
        locator.prepare(examples)
    except ValueError as error:
        raise config.UsageError(str(error)) from error
    if knows_orbit_alone(options):
        sys.stderr.write(f"icgeo: {ONLY_ORBIT}\n")
    return locator


def _sources(photos: Iterable[str]) -> Iterator[str]:
    """Give paths as they come; a list names folders too, as `find` does, which are no photos."""
    from icgeo.data.manifest import photos_in

    for photo in photos:
        if photo == "-":
            lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
            yield from (line for line in lines if line and not Path(line).is_dir())
        elif photo and Path(photo).is_dir():
            yield from map(str, photos_in(photo))
        else:
            yield photo


def _batches(sources: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(sources, size)):
        yield batch


def _locate(
    locator: "Geolocator",
    sources: Sequence[str],
    examples: "Sequence[Example]",
    *,
    with_features: bool,
) -> "Iterator[Result]":
    """Locate what can be read; results come in the order of the sources."""
    from icgeo.data.photos import PhotoError, read_for_model
    from icgeo.results import Result

    read: dict[int, Any] = {}
    failed: dict[int, Result] = {}
    for number, source in enumerate(sources):
        try:
            read[number] = read_for_model(source, locator.loaded.photo_size)
        except PhotoError as error:
            failed[number] = Result.failed(source, error)
    predictions = iter(locator.locate([*read.values()], examples) if read else ())
    for number, source in enumerate(sources):
        yield failed.get(number) or Result.of(
            source, next(predictions), with_features=with_features
        )


def _show(result: "Result", *, as_json: bool) -> None:
    if as_json:
        line = json.dumps(result.row)
    elif result.error:
        sys.stderr.write(f"icgeo: {result.error}\n")
        return
    else:
        line = "\t".join((result.row["source"], *_words(result.row)))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _words(row: dict[str, Any]) -> tuple[str, str, str]:
    from icgeo.prediction import rounded

    place = f"{row['lat']:.2f}, {row['lon']:.2f}" if row["located"] else "not located"
    area = f"90 % in {rounded(row['area_90_km2'])} km2"
    return place, area, f"legibility {row['legibility']:.2f}"


COSTS = (
    "parameters", "shots", "attention", "queries", "batch_size", "steps", "samples", "weight_bytes",
    "context_bytes", "activation_bytes", "total_bytes", "memory_bytes", "fits", "naive_flop",
    "stock_flop", "shared_flop",
)  # fmt: skip
"""What `icgeo plan --json` says of an `icgeo.models.cost.Plan`."""


def plan(options: PlanOptions) -> int:
    """Print what a run will cost."""
    import torch

    from icgeo.models.cost import plan as plan_of

    chosen = {**vars(options), "dtype": getattr(torch, options.dtype)}
    as_json = chosen.pop("json")
    found = plan_of(**chosen)
    told = json.dumps({name: getattr(found, name) for name in COSTS}) if as_json else str(found)
    sys.stdout.write(told + "\n")
    return 0


def demo(options: DemoOptions) -> int:
    """Start the page, until it is stopped."""
    if not all(importlib.util.find_spec(name) for name in ("gradio", "plotly")):
        raise config.UsageError("the page needs gradio and plotly: pip install 'icgeo[demo]'")
    from icgeo.app import launch

    try:
        launch(**vars(options))
    except OSError as error:
        raise config.UsageError(str(error)) from error
    return 0


def info(options: InfoOptions) -> int:
    """Print what is installed."""
    from icgeo.models.installed import installed

    found = installed()
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        import yaml

        yaml.safe_dump(found, sys.stdout, sort_keys=False, allow_unicode=True)
    return 0


COMMANDS = {
    "predict": config.Command(predict, PredictOptions, positional="photos"),
    "plan": config.Command(plan, PlanOptions),
    "demo": config.Command(demo, DemoOptions),
    "info": config.Command(info, InfoOptions),
}


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        return config.run_commands(
            COMMANDS,
            args,
            prog="icgeo",
            description="Locate photos by showing a model that draws maps a few solved cases.",
        )
    except BrokenPipeError:  # who reads the answers has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
