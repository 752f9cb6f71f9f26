"""The command `icgeo predict`: locate photos batch by batch, print and save the answers."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icgeo.config import UsageError, positional
from icgeo.options import (
    ONLY_ORBIT,
    Choice,
    LoadOptions,
    LocateOptions,
    fields_of,
    knows_orbit_alone,
)

if TYPE_CHECKING:
    from icgeo.cli.results import Result
    from icgeo.geolocator import Geolocator
    from icgeo.prediction import Example


@dataclass(frozen=True, kw_only=True)
class PredictOptions(LocateOptions, LoadOptions):
    """Locate photos, given examples; exit code 1 where some of them cannot be read."""

    photos: Sequence[str] = positional(
        "Paths of photos or of folders of them, or - for a list of paths on standard input, one on "
        "a line."
    )
    examples: Path | None = None
    """Photos whose locations are known: a CSV or Parquet file with columns image, latitude and
    longitude in degrees, or a folder of photos with GPS tags; by default none."""
    select: Choice = "nearest"
    """How examples are chosen: those most alike, alike but diverse, or without looking at the
    photo."""
    save: Path | None = None
    """File to write, by its suffix: .geojson (points, and the regions that hold half and 90 % of
    the probability), .parquet (GeoParquet of the points), .csv or .jsonl (a row a photo)."""
    json: bool = False
    """Print an object of JSON a line, areas in km2."""
    allow_outside: bool = False
    """Accept examples outside the folder of their manifest."""


def predict(options: PredictOptions) -> int:
    """Locate photos batch by batch, and print each answer when it is there."""
    from tqdm import tqdm

    from icgeo.cli.results import require_format, save_results

    if not options.photos:
        raise UsageError("expected photos, or - for a list of paths on standard input")
    if options.shots is None and (options.features or options.select != "nearest"):
        raise UsageError("expected --shots with --select and --features: how many to choose")
    if options.save:
        require_format(options.save)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    examples = _examples(options)
    locator = _locator(options, examples)
    with_regions = options.save is not None and options.save.suffix.lower() == ".geojson"
    results, failed, count = [], 0, 0
    sources = _sources(options.photos)
    with tqdm(desc="locating", unit="photo", disable=None) as bar:
        while batch := list(islice(sources, options.batch_size)):
            for result in _locate(locator, batch, examples, with_regions=with_regions):
                with bar.external_write_mode(file=sys.stdout):
                    _show(result, as_json=options.json)
                count, failed = count + 1, failed + (result.error is not None)
                results += [result] if options.save else []
            bar.update(len(batch))
    if not count:
        sys.stderr.write("icgeo: no photo was given\n")
    if options.save:
        save_results(results, options.save)
    return 1 if failed else 0


def _examples(options: PredictOptions) -> "list[Example]":
    from icgeo.prediction import as_examples

    try:
        return as_examples(options.examples, allow_outside=options.allow_outside)
    except (OSError, ValueError) as error:
        message = str(error).replace("(allow_outside)", "(--allow_outside)")
        raise UsageError(message) from error


def _locator(options: PredictOptions, examples: "Sequence[Example]") -> "Geolocator":
    """Load the model, and encode the examples: one that cannot be read is wrong usage."""
    from icgeo.geolocator import Geolocator

    try:
        locator = Geolocator(**fields_of(LoadOptions, options), **fields_of(LocateOptions, options))
        locator.prepare(examples)
    except ValueError as error:
        raise UsageError(str(error)) from error
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


def _locate(
    locator: "Geolocator",
    sources: Sequence[str],
    examples: "Sequence[Example]",
    *,
    with_regions: bool,
) -> "Iterator[Result]":
    """Locate what can be read; results come in the order of the sources."""
    from icgeo.cli.results import Result
    from icgeo.data.photos import PhotoError, read_for_model

    photos: dict[int, Any] = {}
    failed: dict[int, Result] = {}
    for number, source in enumerate(sources):
        try:
            photos[number] = read_for_model(source, locator.loaded.photo_size)
        except PhotoError as error:
            failed[number] = Result.failed(source, error)
    predictions = iter(locator.locate([*photos.values()], examples) if photos else ())
    for number, source in enumerate(sources):
        yield (
            failed.get(number) or Result.of(source, next(predictions), with_regions=with_regions)
        )


def _show(result: "Result", *, as_json: bool) -> None:
    from icgeo.prediction import rounded

    row = result.row
    if as_json:
        line = json.dumps(row)
    elif result.error:
        sys.stderr.write(f"icgeo: {result.error}\n")
        return
    else:
        place = f"{row['lat']:.2f}, {row['lon']:.2f}" if row["located"] else "not located"
        area = f"90 % in {rounded(row['area_90_km2'])} km2"
        line = "\t".join((row["source"], place, area, f"legibility {row['legibility']:.2f}"))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
