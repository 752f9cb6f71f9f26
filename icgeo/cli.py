"""The command `icgeo`: locate photos, plan a run, open the demo, say what is installed.

Conventions: answers go to standard output, all else to standard error. Exit codes: 0, 1 where some
photo could not be read, 2 for wrong usage. The library is imported by the command that needs it.
A row of an answer holds `source`, the path of the photo, and what `Prediction.to_dict` says, or
`error`, why the photo could not be read.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote_from_bytes

from icgeo import config
from icgeo.config import UsageError
from icgeo.options import Choice, DemoOptions, LoadOptions, LocateOptions, ModelOptions, fields_of
from icgeo.writing import append_lines, partial_name, write_atomically

if TYPE_CHECKING:
    from icgeo.geolocator import Geolocator
    from icgeo.prediction import Example, Prediction

COSTS = (
    *("parameters", "shots", "attention", "queries", "batch_size", "steps", "samples"),
    *("weight_bytes", "encoder_bytes", "codec_bytes", "picture_bytes", "context_bytes"),
    *("activation_bytes", "total_bytes", "memory_bytes", "fits"),
    *("naive_flop", "stock_flop", "shared_flop"),
)
"""What `icgeo plan --json` says of an `icgeo.models.cost.Plan`."""
COLUMNS = (
    *("source", "lat", "lon", "located", "legibility", "in_domain", "area_50_km2", "area_90_km2"),
    *("seconds", "error"),
)
"""Of a file of answers."""
ZOOMED = ("heading_deg", "field_of_view_deg")
"""Further columns where a map is zoomed on."""
SUFFIXES = (".csv", ".geojson", ".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class PredictOptions(LocateOptions, LoadOptions):
    """Locate photos, given examples; exit code 1 where some of them cannot be read."""

    photos: Sequence[str] = config.positional(
        "Paths of photos or of folders of them, or - for a list of paths on standard input, one on "
        "a line."
    )
    examples: Path | None = None
    """Photos whose locations are known: a table (CSV, Parquet, JSON, GeoJSON, KML) with columns
    image, latitude and longitude in degrees, or a folder of photos that tell theirs; by default
    none."""
    select: Choice = "nearest"
    """How examples are chosen: those most alike, alike but diverse, or without looking at the
    photo."""
    save: Path | None = None
    """File to write, by its suffix: .geojson (points, and the regions that hold half and 90 % of
    the probability), .parquet (GeoParquet of the points), .csv or .jsonl (a row a photo)."""
    json: bool = False
    """Print an object of JSON a line, areas in km2."""
    panoramas: Literal["middle", "around"] = "middle"
    """What is looked at of an equirectangular panorama: its middle, or four views around its
    horizon, taken at one place."""
    allow_outside: bool = False
    """Accept examples outside the folder of their manifest."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ModelOptions):
    """Say what memory and how many operations a run needs; no weights are loaded."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Numbers that the weights are stored in, unless they are quantized."""
    shots: int = 16
    """Number of examples."""
    queries: int = 64
    """Photos that share the examples."""
    batch_size: int = 8
    """Photos at a time."""
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

    _check(options)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    locator, examples = _prepare(options)
    sources = _sources(options.photos)
    journal = Journal.open(options, options.save, sources, examples) if options.save else None
    failed_count = count = 0
    with tqdm(desc="locating", unit="photo", disable=None) as bar:
        while batch := list(islice(sources, options.batch_size)):
            answers = [*_locate(locator, batch, examples, around=options.panoramas == "around")]
            if journal:
                journal.append(answers)
            for row, prediction in answers:
                with bar.external_write_mode(file=sys.stdout):
                    _show(row, as_json=options.json)
                count, failed_count = count + 1, failed_count + (prediction is None)
            bar.update(len(batch))
    if journal:
        failed_count, count = failed_count + journal.failed, count + journal.known
        journal.finish()
    if not count:
        sys.stderr.write("icgeo: no photo was given; a folder without photos gives none\n")
    return 1 if failed_count or not count else 0


@dataclass(frozen=True)
class Journal:
    """Rows on disk as they come, beside the file to save: a run that was stopped goes on."""

    save: Path
    path: Path
    """Where the rows are until all are there."""
    known: int
    """Rows of an earlier run."""
    failed: int
    """Of these, photos that could not be read."""

    @classmethod
    def open(
        cls,
        options: PredictOptions,
        save: Path,
        sources: Iterator[str],
        examples: "Sequence[Example]",
    ) -> "Journal":
        """Begin, or go on behind the photos of an earlier run, which `sources` then leaves out.

        Raises:
            UsageError: a place that cannot be written to, or a run with other options, examples or
                photos, by the times and sizes of their files.
        """
        from icgeo.data.photos import content_key

        path = Path(f"{save}.part")
        example_keys = repr([(content_key(one.image), one.lat, one.lon) for one in examples])
        overrides = {
            "photos": None,
            "json": None,
            "examples": blake2b(example_keys.encode()).hexdigest(),
        }
        head = json.dumps({**vars(options), **overrides}, default=str) + "\n"
        text = path.read_bytes() if path.is_file() else b""
        first_line, *lines = text.splitlines(keepends=True) or [b""]
        if (
            not head.encode().startswith(first_line)
            and not {"photos", "save"} <= _parse(first_line).keys()
        ):
            raise UsageError(f"{path} is not of icgeo; move it, or give another --save")
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # torn
        # whole batches: an answer varies in its last digits with those beside it
        del lines[len(lines) // options.batch_size * options.batch_size :]
        rows = [_parse(line) for line in lines]
        expected = [head.encode(), *map(content_key, islice(sources, len(rows)))]
        if rows and [first_line, *(row.get("key") for row in rows)] != expected:
            raise UsageError(
                f"{path} holds the answers of a run with other options, examples or photos; remove "
                "it, or give another --save"
            )
        try:
            if first_line == head.encode():  # a full disk holds no second copy of what is there
                os.truncate(path, sum(map(len, (first_line, *lines))))
            else:
                path.write_bytes(head.encode())
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        if rows:
            sys.stderr.write(f"icgeo: going on behind {len(rows)} photos of {path}\n")
        return cls(save, path, len(rows), sum("error" in row for row in rows))

    def append(self, located: "Iterable[tuple[dict[str, Any], Prediction | None]]") -> None:
        """Add the rows of a batch, with the features that GeoJSON has of them."""
        from icgeo.data.photos import content_key

        is_geojson = self.save.suffix.lower() == ".geojson"
        rows = [
            {**row, "key": content_key(row["source"])}
            | ({"features": _features(row, prediction)} if is_geojson else {})
            for row, prediction in located
        ]
        try:
            append_lines(self.path, map(json.dumps, rows))
        except OSError as error:
            raise UsageError(
                f"cannot write {self.path}: {error.strerror or error}; the same command goes on "
                "behind what is there"
            ) from error

    def finish(self) -> None:
        """Save all rows in the format of the suffix; an old file stays until the new is whole."""
        from geopandas import GeoDataFrame, GeoSeries
        from pandas import DataFrame

        lines = self.path.read_text(encoding="utf-8").splitlines()[1:]
        rows = [_to_text(json.loads(line)) for line in lines]
        features = [feature for row in rows for feature in row.pop("features", ())]
        for row in rows:
            del row["key"]
        zoom_columns = [name for name in ZOOMED if any(name in row for row in rows)]
        frame = DataFrame(rows, columns=[*COLUMNS, *zoom_columns])
        try:
            with write_atomically(self.save) as partial_path:
                match self.save.suffix.lower():
                    case ".csv":
                        frame.to_csv(partial_path, index=False, lineterminator="\n")
                    case ".geojson":
                        collection = {"type": "FeatureCollection", "features": features}
                        partial_path.write_text(json.dumps(collection) + "\n")
                    case ".jsonl":
                        partial_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
                    case ".parquet":
                        points = GeoSeries.from_xy(frame["lon"], frame["lat"], crs="EPSG:4326")
                        points = points.where(frame["lat"].notna())
                        GeoDataFrame(frame, geometry=points).to_parquet(partial_path, index=False)
        except OSError as error:
            raise UsageError(f"cannot write {self.save}: {error.strerror or error}") from error
        self.path.unlink()


def _parse(line: bytes) -> dict[str, Any]:
    """Return the object in a line of JSON; an empty one of what another program wrote."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _features(row: dict[str, Any], prediction: "Prediction | None") -> list[dict[str, Any]]:
    """Return the features of `Prediction.to_geojson` with the source of the photo, or its error."""
    if prediction is None:
        return [{"type": "Feature", "properties": _to_text(row), "geometry": None}]
    features: list[dict[str, Any]] = json.loads(prediction.to_geojson())["features"]
    source = {"source": _to_text(row)["source"]}
    return [{**feature, "properties": source | feature["properties"]} for feature in features]


def _to_text(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row in Unicode: of a path that is none its address, with bytes in hexadecimal."""
    source = row["source"]
    if any("\udc80" <= letter <= "\udcff" for letter in source):
        source = "file:" + quote_from_bytes(os.fsencode(source))
    row = {**row, "source": source}
    if "error" in row:  # which names the photo
        row["error"] = row["error"].encode(errors="backslashreplace").decode()
    return row


def _check(options: PredictOptions) -> None:
    """Refuse, before any work, what cannot be answered or saved."""
    if not options.photos:
        raise UsageError("expected photos, or - for a list of paths on standard input")
    is_choosing = options.shots is not None or options.map is not None
    if not is_choosing and (options.features or options.select != "nearest"):
        raise UsageError("expected --shots with --select and --features: how many to choose")
    if (path := options.save) is None:
        return
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"expected a file that ends in {', '.join(SUFFIXES)}, got {path}")
    try:
        partial_name(path).exists()  # the longest name that is written
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another --save") from error
    if path.is_dir():
        raise UsageError(f"expected a file to save, got the folder {path}; add a name")
    if not path.parent.is_dir():
        raise UsageError(f"expected a folder {path.parent} to save {path.name} in; make it first")


def _prepare(options: PredictOptions) -> "tuple[Geolocator, list[Example]]":
    """Load the model, and encode the examples: one that cannot be read is wrong usage."""
    from icgeo.geolocator import Geolocator
    from icgeo.prediction import as_examples

    try:
        examples = as_examples(options.examples, allow_outside=options.allow_outside)
        locator = Geolocator(**fields_of(LoadOptions, options), **fields_of(LocateOptions, options))
        locator.prepare(examples or None)
    except (OSError, ValueError) as error:
        message = str(error).replace("(allow_outside)", "(--allow_outside)")
        raise UsageError(message) from error
    if (options.shots or 0) > len(examples) and options.map is None:
        sys.stderr.write(f"icgeo: {len(examples)} examples are all there are, and are shown\n")
    return locator, examples


def _sources(photos: Iterable[str]) -> Iterator[str]:
    """Give paths as they come; a list names folders too, as `find` does, which are no photos."""
    from icgeo.data.manifest import photos_in

    is_folder = os.path.isdir  # no error for a name that is too long: the photo's own tells it
    for photo in photos:
        if photo == "-":
            yield from (line for line in _listed() if line and not is_folder(line))
        elif photo and is_folder(photo):
            yield from map(str, photos_in(photo))
        else:
            yield photo


def _listed() -> Iterator[str]:
    """Give the lines of standard input, or what NULs part, without a byte order mark."""
    if sys.stdin is None:
        raise UsageError("expected a list of paths on standard input, which is closed")
    first_line = sys.stdin.buffer.readline()
    if first_line.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        raise UsageError("expected a list of paths on standard input, got a photo; give its path")
    lines = chain([first_line.removeprefix(b"\xef\xbb\xbf")], sys.stdin.buffer)
    if first_line.startswith((b"\xff\xfe", b"\xfe\xff")):  # of PowerShell
        text = (first_line + sys.stdin.buffer.read()).decode("utf-16", "replace")
        lines = chain(text.encode().splitlines())
    for line in lines:
        yield from (os.fsdecode(part) for part in line.rstrip(b"\r\n").split(b"\0"))


def _locate(
    locator: "Geolocator", sources: Sequence[str], examples: "Sequence[Example]", *, around: bool
) -> "Iterator[tuple[dict[str, Any], Prediction | None]]":
    """Locate what can be read, panoramas all `around` or their middle; a row for each source."""
    from icgeo.data.orbit import panorama_views
    from icgeo.data.photos import PhotoError, is_panorama_file, read_for_model

    photos: dict[str, Any] = {}
    errors: dict[str, str] = {}
    predictions: dict[str, Prediction] = {}
    for source in sources:
        try:
            if around and is_panorama_file(source):
                views = panorama_views(source)
                sequence = locator.locate_sequence(views, examples, speed_kmh=0)
                predictions[source] = sequence.whole
            else:
                photos[source] = read_for_model(source, locator.loaded.photo_size)
        except PhotoError as error:
            errors[source] = config.one_line(error)
    answers = locator.locate([*photos.values()], examples) if photos else []
    predictions |= zip(photos, answers, strict=True)
    for source in sources:
        if (prediction := predictions.get(source)) is None:
            yield {"source": source, "error": errors[source]}, None
        else:
            yield {"source": source, **prediction.to_dict()}, prediction


def _show(row: Mapping[str, Any], *, as_json: bool) -> None:
    from icgeo.prediction import rounded

    if as_json:
        line = json.dumps(row)
    elif "error" in row:
        sys.stderr.write(f"icgeo: {row['error']}\n")
        return
    else:
        place = f"{row['lat']:.2f}, {row['lon']:.2f}" if row["located"] else "not located"
        area = f"90 % in {rounded(row['area_90_km2'])} km2"
        source = row["source"]
        name = source if source.isprintable() else json.dumps(source)  # one line a photo
        cells = [name, place, area, f"legibility {row['legibility']:.2f}"]
        line = "\t".join(cells + ["not in domain"] * (row["in_domain"] is False))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def plan(options: PlanOptions) -> int:
    """Print what a run will cost."""
    import torch

    from icgeo.models.cost import plan as plan_run

    settings = {**vars(options), "dtype": getattr(torch, options.dtype)}
    as_json = settings.pop("json")
    cost = plan_run(**settings)
    text = json.dumps({name: getattr(cost, name) for name in COSTS}) if as_json else str(cost)
    sys.stdout.write(text + "\n")
    return 0


def demo(options: DemoOptions) -> int:
    """Start the page, until it is stopped."""
    if not all(importlib.util.find_spec(name) for name in ("gradio", "plotly")):
        raise UsageError("the page needs gradio and plotly: pip install 'icgeo[demo]'")
    from icgeo.app import launch

    try:
        launch(**vars(options))
    except OSError as error:
        raise UsageError(str(error)) from error
    return 0


def info(options: InfoOptions) -> int:
    """Print what is installed."""
    import yaml

    from icgeo.models.installed import installed

    facts = installed()
    as_yaml = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    sys.stdout.write(json.dumps(facts) + "\n" if options.json else as_yaml)
    return 0


COMMANDS: dict[type[Any], Callable[[Any], int]] = {
    PredictOptions: predict,
    PlanOptions: plan,
    DemoOptions: demo,
    InfoOptions: info,
}
"""What runs with which options; a command is called as its function is."""


def _silence() -> None:
    """Let nothing more be written to standard output, which Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    for name in ("stdout", "stderr"):
        # closed by who started the command, and wants the file alone
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
    try:
        commands = {command.__name__: options for options, command in COMMANDS.items()}
        about = {"prog": "icgeo", "version": metadata.version("icgeo")}
        text = "Locate photos by showing a model that draws maps a few solved cases."
        options = config.parse(commands, args, description=text, **about)
        config.prepare_process()
        code = COMMANDS[type(options)](options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        sys.stderr.write(f"icgeo: error: {config.one_line(error)}\n")
        return 2
    except BrokenPipeError:  # who reads the answers has enough of them
        _silence()
        return 1
    except OSError as error:  # a full disk
        _silence()
        sys.stderr.write(f"icgeo: error: cannot go on: {config.one_line(error)}\n")
        return 2
    except KeyboardInterrupt:
        return 130
