"""What one visitor of the page gives and gets: photos, a bank of examples, answers.

Conventions: everything is a value that is replaced, never changed, so that visitors cannot mix;
photos are kept in memory and no larger than `KEPT_SIDE`; locations are (latitude, longitude). The
drawing runs in a thread of its own and checks between two steps whether it is to stop.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from queue import SimpleQueue
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event
from typing import Any
from weakref import finalize

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Generator, Tensor

from icgeo.data import read_location, read_manifest, read_photo
from icgeo.data.base_maps import BaseMap, open_map
from icgeo.data.map_rasters import DRIVERS
from icgeo.data.map_tiles import KINDS
from icgeo.data.orbit import ViewOptions, land_mask, open_world, random_views, views_to_examples
from icgeo.data.pixels import square_pixels
from icgeo.data.places import takeout_names
from icgeo.data.table_files import TABLE_SUFFIXES
from icgeo.geolocator import Geolocator
from icgeo.models import MapModel
from icgeo.prediction import Example, Prediction
from icgeo.sphere import as_lat_lon

MAX_PIXELS = 50_000_000
"""Of one photo; phones take 12 to 50 million by default."""
MAX_PHOTOS = 256
"""In a bank, and to locate."""
KEPT_SIDE = 1024
BUILT_IN = {
    "Blue Marble": "blue-marble",
    "ETOPO1 relief": "etopo1",
    "Shaded relief": "shaded-relief",
}
"""Views from orbit of these worlds can be had without a photo of one's own."""
NO_MAP = "No map"
MAPS: dict[str, str | None] = {NO_MAP: None, **BUILT_IN}
"""Maps from which examples are cut."""
PHOTOS = Path(__file__).parents[2] / "assets" / "photos" / "photos.csv"
"""Real photos of known places, which a clone has and a wheel has not."""
REAL = "Photos of known places"
"""They were taken on the ground."""
SAME_PHOTO = 2.0
"""Mean difference of two thumbnails in levels of 256, up to which they show the same photo."""
FIRST = "First"
WAYS_TO_CHOOSE = {
    "Most alike": ("nearest", None),
    "Alike, as photographs": ("nearest", "efficientnet-lite0"),
    "Alike but diverse": ("diverse", None),
    FIRST: ("nearest", None),
}
"""Ways to choose, and by which features if not by those that suit the model; the first ones are cut
off before there is a choice."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A photo that a visitor gave, and where it was taken if that is known."""

    name: str
    photo: Image.Image
    place: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class ExampleList:
    """Photos in the order of their upload: with a place they are examples, without they wait."""

    shots: tuple[Shot, ...] = ()
    chosen: int | None = None
    """Number of the photo that is moved or removed next."""

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """The photos that have a place."""
        return tuple(Example(s.photo, *s.place) for s in self.shots if s.place is not None)

    @property
    def waiting(self) -> tuple[Shot, ...]:
        """The photos without a place."""
        return tuple(shot for shot in self.shots if shot.place is None)

    def adding(self, shots: Sequence[Shot]) -> "ExampleList":
        """Add photos.

        Raises:
            ValueError: more than the bank may hold.
        """
        check_count(len(self.shots) + len(shots))
        return ExampleList((*self.shots, *shots))

    def without_chosen(self) -> "ExampleList":
        """Remove the chosen photo, or else the last."""
        number = len(self.shots) - 1 if self.chosen is None else self.chosen
        return ExampleList(self.shots[:number] + self.shots[number + 1 :])

    def placing(self, lat: float, lon: float) -> "ExampleList":
        """Say where the chosen photo was taken, or else the first that waits.

        Raises:
            ValueError: there is none, or a place off the globe.
        """
        numbers = (number for number, shot in enumerate(self.shots) if shot.place is None)
        number = next(numbers, None) if self.chosen is None else self.chosen
        if number is None:
            raise ValueError(
                "expected a photo that waits for its place, found none; upload one, or click on "
                "an example to move it"
            )
        lat, lon = as_lat_lon([lat, lon]).tolist()
        new_shot = replace(self.shots[number], place=(lat, lon))
        return ExampleList((*self.shots[:number], new_shot, *self.shots[number + 1 :]))

    def without_photo(self, photo: Image.Image) -> "ExampleList":
        """Leave out examples that show this photo, which would give its place away."""
        thumbnail = _thumbnail(photo)
        gaps = ((shot, np.abs(thumbnail - _thumbnail(shot.photo)).mean()) for shot in self.shots)
        return ExampleList(tuple(shot for shot, gap in gaps if gap > SAME_PHOTO))


def _thumbnail(photo: Image.Image) -> Int[np.ndarray, "32 32 3"]:
    """Show a photo at a size at which compression no longer counts."""
    thumbnail = photo.convert("RGB").resize((32, 32), Image.Resampling.BOX, reducing_gap=2)
    return np.asarray(thumbnail, dtype=int)


def read_place(text: str) -> tuple[float, float]:
    """Read latitude and longitude in degrees, as maps give them to be copied.

    Raises:
        ValueError: something else.

    >>> read_place("-33.87, 151.21°")
    (-33.87, 151.21)
    """
    try:
        if "_" in text:  # a number of Python's
            raise ValueError
        lat, lon = (float(word) for word in text.replace("°", " ").replace(",", " ").split())
    except ValueError:
        raise ValueError(
            "expected latitude and longitude in degrees, such as 48.86, 2.35, got "
            f"{text[:40]!r}; type both, or click on the map"
        ) from None
    return lat, lon


@dataclass(frozen=True, eq=False)
class Request:
    """What one visitor asks: the values of the page's parts, in this order."""

    queries: Sequence[Shot]
    bank: ExampleList
    model: str
    choice: str
    shots: float
    steps: float
    samples: float
    map: str | None = None
    """A name of `MAPS`."""
    map_file: str | None = None
    """A map that the visitor gave, in place of that."""
    zoom: bool = False
    """Find the place on the map itself; else its views are examples."""
    north_up: bool = False
    """Photos are north up; else their headings are found."""

    @property
    def is_earth(self) -> bool:
        """Whether places are on the Earth: a picture of a planet does not say which it is."""
        return self.map_file is None or Path(self.map_file).suffix.lower() in {*DRIVERS, *KINDS}


@dataclass(frozen=True, eq=False)
class Answer:
    """The prediction of one photo, the picture of its context, and the files to download."""

    shot: Shot
    prediction: Prediction
    context: Image.Image | None
    files: list[str]
    chain: Image.Image | None = None
    """The levels of a zoom."""


@dataclass(frozen=True, eq=False)
class Visit:
    """Answers that one visitor got, the folder of their files, and the event that stops more."""

    cancelled: Event
    is_earth: bool = True
    folder: TemporaryDirectory[str] = field(default_factory=TemporaryDirectory)
    answers: tuple[Answer, ...] = ()


def forget(visit: Visit | None) -> None:
    """Stop what still runs for a visitor, and remove the files."""
    if visit is not None:
        visit.cancelled.set()
        visit.folder.cleanup()


def check_count(count: int) -> None:
    """Refuse more photos than one visitor may hold."""
    if count > MAX_PHOTOS:
        raise ValueError(f"expected at most {MAX_PHOTOS} photos, got {count}; clear them first")


def read_uploads(paths: Sequence[str | Path], *, held: int = 0) -> tuple[list[Shot], list[str]]:
    """Read photos, and manifests together with the photos that they name.

    Returns:
        what could be read, with the place of EXIF or manifest, and a line for each file that
        could not; nothing where a manifest could not, for its photos would have no place, or
        where there are too many with those that are `held`.
    """
    files = [Path(path) for path in paths]
    sidecars = {
        name
        for path in files
        for name in takeout_names(path.name)
        if name not in (path.name, f"{path.stem}.json")  # which may be a table, too
    }
    tables = [
        one for one in files if one.suffix.lower() in TABLE_SUFFIXES and one.name not in sidecars
    ]
    shots: list[Shot] = []
    problems: list[str] = []
    for table in tables:
        try:
            shots += _read_table(table, files)
        except ValueError as error:
            problems.append(_without_path(error, table))
    if problems:  # photos of a manifest that cannot be read would have no place
        return [], problems
    names = {shot.name for shot in shots}
    for path in (path for path in files if path not in tables and path.name not in names):
        try:
            place = read_location(path, max_pixels=MAX_PIXELS)
            shots.append(Shot(path.name, _read(path), place))
        except ValueError as error:
            problems.append(_without_path(error, path))
    try:
        check_count(held + len(shots))
    except ValueError as error:
        return [], [str(error)]
    return shots, problems


def _read(path: Path) -> Image.Image:
    photo = read_photo(path, max_pixels=MAX_PIXELS, size_hint=KEPT_SIDE)
    photo.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return photo


def _read_table(table: Path, files: Sequence[Path]) -> list[Shot]:
    """Read the rows of a manifest whose photos were uploaded beside it, by their file names."""
    records, paths = read_manifest(table), {path.name: path for path in files}
    if missing_names := [one.path.name for one in records if one.path.name not in paths]:
        raise ValueError(
            f"{table.name}: expected its photos beside it, {len(missing_names)} of {len(records)} "
            f"are missing, {missing_names[0]} first; choose the table and its photos together"
        )
    return [Shot(one.path.name, _read(paths[one.path.name]), one.lat_lon) for one in records]


def _without_path(error: ValueError, path: Path) -> str:
    """Say what is wrong with a file by its name: where the server keeps it is no one's business."""
    text = str(error).replace(f"{path.parent}/", "").replace("raise max_pixels", "upload another")
    return text if path.name in text else f"{path.name}: {text}"


def set_names() -> list[str]:
    """Name the sets that are there."""
    return [*BUILT_IN, *([REAL] if PHOTOS.is_file() else [])]


def built_in_set(name: str, *, seed: int) -> list[Shot]:
    """Take a set by its name: real photos of places, or views from orbit by a seed."""
    if name != REAL:
        return built_in_views(name, seed=seed)
    records = read_manifest(PHOTOS, require_location=True)
    return [Shot(one.path.name, _read(one.path), one.lat_lon) for one in records]


@lru_cache(maxsize=len(BUILT_IN))
def _world(name: str) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "1 height width"]]:
    return open_world(BUILT_IN[name], height=1024), land_mask(height=1024)


def built_in_views(name: str, *, seed: int, count: int = 16, first: int = 1) -> list[Shot]:
    """Take views from orbit of a world of `BUILT_IN` at known places, numbered from `first`."""
    world, land = _world(name)
    generator = Generator().manual_seed(seed)
    options = ViewOptions(size=192, field_of_view_deg=(30.0, 60.0), min_land=0.3)
    views = random_views(world, count, generator=generator, options=options, land=land)
    pairs = enumerate(views_to_examples(views.images, views.lat_lon), start=first)
    return [Shot(f"{name} {number}", Image.fromarray(one), place) for number, (one, place) in pairs]


_built_in_map = lru_cache(maxsize=len(BUILT_IN))(open_map)


@lru_cache(maxsize=2)
def open_given_map(path: str) -> BaseMap:
    """Open the map of a visitor; what is computed of it goes when two others have come."""
    base_map, folder = open_map(path), mkdtemp()
    finalize(base_map.grid, rmtree, folder, ignore_errors=True)
    return replace(base_map, cache=Path(folder))


@dataclass(frozen=True, eq=False)
class StoppableMap(BaseMap):
    """A map of which no view is cut any more once the event is set."""

    cancelled: Event = field(default_factory=Event)

    def views(self, *args: Any, **options: Any) -> Any:
        """Cut views as `BaseMap` does.

        Raises:
            CancelledError: the event was set.
        """
        if self.cancelled.is_set():
            raise CancelledError
        return super().views(*args, **options)


def open_request_map(request: Request, cancelled: Event | None = None) -> BaseMap | None:
    """Open the map that a visitor chose or gave, if there is one; the event stops its indexing.

    Raises:
        ValueError: it cannot be used.
    """
    name = MAPS[request.map or NO_MAP]
    if request.map_file:
        try:
            base_map = open_given_map(request.map_file)
        except ValueError as error:
            raise ValueError(_without_path(error, Path(request.map_file))) from None
    elif name is None:
        return None
    else:
        base_map = _built_in_map(name)
    of_map = (base_map.name, base_map.fingerprint, base_map.grid, base_map.cache)
    return StoppableMap(*of_map, cancelled or Event())


def build_locator(model: MapModel, request: Request, cancelled: Event | None = None) -> Geolocator:
    """Make what locates as a visitor asks; the event stops the indexing of a map."""
    select, features = WAYS_TO_CHOOSE[request.choice]
    options: dict[str, Any] = {
        "select": select,
        "features": features,
        "zoom": request.zoom and None,
    }
    options |= {name: int(getattr(request, name)) for name in ("steps", "samples", "shots")}
    locator = Geolocator(model, map=open_request_map(request, cancelled), **options)
    return replace(locator, heading=0.0) if request.north_up and locator.zooms else locator


def choose_examples(locator: Geolocator, photo: Image.Image, request: Request) -> list[Example]:
    """Choose the examples that a photo is shown, in order, of the visitor's and of the map's.

    A map that is zoomed on gives none.

    Raises:
        LoadError: the features need a package that is not installed.
    """
    bank = request.bank.examples
    views = None if locator.zooms else locator.map_views
    examples = [*bank, *(views.examples() if views else ())]
    if request.choice == FIRST:
        return examples[: int(request.shots)]
    if locator.zooms:
        locator = replace(locator, map=None, heading="any")
    return [examples[number] for number in locator.choose_for([photo], bank)[0].tolist()]


def count_unlike(locator: Geolocator, examples: Sequence[Example]) -> int:
    """Count the examples that are unlike all that the model was trained on, as far as it can tell.

    Of tiny, which knows views from orbit, these are photos taken on the ground.
    """
    pixels = square_pixels([example.image for example in examples], locator.loaded.photo_size)
    inside = locator.loaded.in_domain(pixels) if examples else None
    return 0 if inside is None else int((~inside).sum())


def locate_in_steps(
    locator: Geolocator, photo: Image.Image, examples: Sequence[Example], *, cancelled: Event
) -> Iterator[Float[Tensor, "3 height width"] | Prediction]:
    """Give the mean map as it looks from each step, and at the end the prediction.

    Whoever stops listening stops the drawing, too.

    Raises:
        CancelledError: the event was set.
        ValueError: an example is wrong.
    """
    steps: SimpleQueue[Tensor | None] = SimpleQueue()

    def on_step(maps: Tensor, t: float) -> None:
        if cancelled.is_set():
            raise CancelledError
        steps.put(maps[0].mean(dim=0).float().cpu())

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(locator.locate, [photo], examples, callback_on_step_end=on_step)
        answer.add_done_callback(lambda _: steps.put(None))
        try:
            yield from iter(steps.get, None)
            yield answer.result()[0]
        except GeneratorExit:
            cancelled.set()
            raise
