"""What one visitor of the page holds: photos to locate, and a bank of examples.

Conventions: everything is a value that is replaced, never changed, so that visitors cannot mix;
photos are kept in memory and no larger than `KEPT_SIDE`; locations are (latitude, longitude).
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from icgeo.data import read_location, read_manifest, read_photo
from icgeo.data.orbit import ViewOptions, land_mask, open_world, random_views, views_to_examples
from icgeo.prediction import Example

MAX_UPLOAD = "20mb"
"""Of one file."""
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
PHOTOS = Path(__file__).parents[2] / "assets" / "photos" / "photos.csv"
"""Real photos of known places, which a clone has and a wheel has not."""
REAL = "Photos of known places"
VIEWS_IN_SET = 16
_VIEWS = ViewOptions(size=192, field_of_view_deg=(30.0, 60.0), min_land=0.3)
_TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, eq=False)
class Shot:
    """A photo that a visitor gave, and where it was taken if that is known."""

    name: str
    photo: Image.Image
    place: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class ExampleList:
    """Examples, and photos that still need a place."""

    examples: tuple[Example, ...] = ()
    waiting: tuple[Shot, ...] = ()

    def adding(self, shots: Sequence[Shot]) -> "ExampleList":
        """Add photos: with a place they are examples, without one they wait for it.

        Raises:
            ValueError: more than the bank may hold.
        """
        placed = [Example(s.photo, *s.place) for s in shots if s.place is not None]
        waiting = [shot for shot in shots if shot.place is None]
        check_count(len(self.examples) + len(self.waiting) + len(shots))
        return ExampleList((*self.examples, *placed), (*self.waiting, *waiting))

    def without_last(self) -> "ExampleList":
        """Take back what was added or placed last."""
        if self.waiting:
            return ExampleList(self.examples, self.waiting[:-1])
        return ExampleList(self.examples[:-1])

    def placing(self, lat: float | None, lon: float | None) -> "ExampleList":
        """Make the first photo that waits an example, taken there.

        Raises:
            ValueError: no photo waits, or a place off the globe.
        """
        if not self.waiting:
            raise ValueError("expected a photo that waits for its place, found none; upload one")
        if lat is None or lon is None:
            raise ValueError(
                "expected a latitude from -90 to 90 and a longitude from -180 to 180, in degrees; "
                "type both"
            )
        first, *others = self.waiting
        return ExampleList((*self.examples, Example(first.photo, lat, lon)), tuple(others))


def check_count(count: int) -> None:
    """Refuse more photos than one visitor may hold."""
    if count > MAX_PHOTOS:
        raise ValueError(f"expected at most {MAX_PHOTOS} photos, got {count}; clear them first")


def read_uploads(paths: Sequence[str | Path]) -> tuple[list[Shot], list[str]]:
    """Read photos, and manifests together with the photos that they name.

    Returns:
        what could be read, with the place of EXIF or manifest, and a line for each file that
        could not; nothing where a manifest could not, for its photos would have no place.
    """
    files = [Path(path) for path in paths]
    tables = [path for path in files if path.suffix.lower() in _TABLES]
    shots: list[Shot] = []
    problems: list[str] = []
    named: set[str] = set()
    for table in tables:
        try:
            listed = _read_table(table, files)
            named |= {shot.name for shot in listed}
            shots += listed
        except ValueError as error:
            problems.append(_without_path(error, table))
    if problems:  # its photos alone would have no place
        return [], problems
    for path in files:
        if path in tables or path.name in named:
            continue
        try:
            place = read_location(path, max_pixels=MAX_PIXELS)
            shots.append(Shot(path.name, _read(path), place))
        except ValueError as error:
            problems.append(_without_path(error, path))
    return shots, problems


def _read(path: Path) -> Image.Image:
    photo = read_photo(path, max_pixels=MAX_PIXELS, size_hint=KEPT_SIDE)
    photo.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return photo


def _read_table(table: Path, files: Sequence[Path]) -> list[Shot]:
    """Read the rows of a manifest whose photos were uploaded beside it, by their file names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            records = read_manifest(shutil.copy(table, folder))
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from error
        uploaded = {path.name: path for path in files}
        if missing := [r.path.name for r in records if r.path.name not in uploaded]:
            raise ValueError(
                f"{table.name}: expected its photos beside it, {len(missing)} of {len(records)} "
                f"are missing, {missing[0]} first; choose the table and its photos together"
            )
    return [
        Shot(
            record.path.name,
            _read(uploaded[record.path.name]),
            None if record.lat is None or record.lon is None else (record.lat, record.lon),
        )
        for record in records
    ]


def _without_path(error: ValueError, path: Path) -> str:
    """Say what is wrong with a file by its name: where the server keeps it is no one's business."""
    text = str(error)
    for part in (str(path), f"{path.parent}/"):
        text = text.replace(part, path.name if part == str(path) else "")
    text = text.replace("raise max_pixels", "upload another")
    return text if path.name in text else f"{path.name}: {text}"


def set_names() -> list[str]:
    """Name the sets that are there."""
    return [*BUILT_IN, *([REAL] if PHOTOS.is_file() else [])]


def built_in_set(name: str, *, seed: int) -> list[Shot]:
    """Take a set by its name: real photos of places, or views from orbit by a seed."""
    if name != REAL:
        return built_in_views(name, seed=seed)
    return [
        Shot(record.path.name, _read(record.path), (record.lat, record.lon))
        for record in read_manifest(PHOTOS, require_location=True)
        if record.lat is not None and record.lon is not None
    ]


@lru_cache(maxsize=len(BUILT_IN))
def _world(name: str) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "1 height width"]]:
    return open_world(BUILT_IN[name], height=1024), land_mask(height=1024)


def built_in_views(
    name: str, *, seed: int, count: int = VIEWS_IN_SET, first: int = 1
) -> list[Shot]:
    """Take views from orbit at known places of one of the worlds that come with the package.

    They are numbered from `first`.
    """
    world, land = _world(name)
    generator = Generator().manual_seed(seed)
    views = random_views(world, count, generator=generator, options=_VIEWS, land=land)
    pairs = views_to_examples(views.images, views.lat_lon)
    return [
        Shot(f"{name} {number}", Image.fromarray(pixels), place)
        for number, (pixels, place) in enumerate(pairs, start=first)
    ]
