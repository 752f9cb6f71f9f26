"""Examples in, predictions out: what every locator takes and gives.

Conventions: locations are (latitude, longitude) in degrees, longitudes in [-180, 180). A prediction
of `located=False` has the prior as its density and NaN as its point, never an invented one.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from icgeo.config import UsageError
from icgeo.data.manifest import read_manifest, to_location
from icgeo.data.photos import Photo, as_photo
from icgeo.data.poses import Poses
from icgeo.data.table_files import IMAGE_COLUMNS, place_columns, plain
from icgeo.maps import LEGIBLE
from icgeo.sphere import AREA_KM2, as_lat_lon, to_lat_lon
from icgeo.sphere.density import Density

if TYPE_CHECKING:
    import geopandas


@dataclass(frozen=True, eq=False)
class Example:
    """A photo and where it was taken, in degrees.

    Raises:
        ValueError: a location off the globe.
    """

    image: Photo
    lat: float
    lon: float

    def __post_init__(self) -> None:
        lat, lon = as_lat_lon([self.lat, self.lon]).tolist()
        object.__setattr__(self, "lat", lat)
        object.__setattr__(self, "lon", lon)


@runtime_checkable
class Table(Protocol):
    """A pandas DataFrame, whose rows are examples as dicts are."""

    def to_dict(self, orient: Any) -> Any:
        """Return the rows as dicts for the orient "records"."""


Pair = tuple[Photo, tuple[float, float]] | tuple[Photo, float, float]
Examples = Sequence[Example | Pair | Mapping[str, Any]] | Table | str | Path | None
"""Examples, (photo, (latitude, longitude)) or (photo, latitude, longitude) tuples, dicts or a
DataFrame with image, lat and lon (or latitude and longitude), the path of a manifest or a folder,
or none."""


def as_examples(examples: Any, *, allow_outside: bool = False) -> list[Example]:
    """Make a list of examples of what stands for them (`Examples`).

    `allow_outside` accepts photos outside the manifest's folder.

    Raises:
        ValueError: something else, a location off the globe, or a manifest that cannot be used.
    """
    if examples is None:
        return []
    if isinstance(examples, str | Path):
        errors: Any = "skip" if Path(examples).is_dir() else "raise"  # some photos have no tags
        records = read_manifest(
            examples, allow_outside=allow_outside, require_location=True, errors=errors
        )
        return [Example(record.path, record.lat, record.lon) for record in records]  # type: ignore[arg-type]
    if isinstance(examples, Table):
        examples = examples.to_dict("records")
    if not isinstance(examples, Sequence) or isinstance(examples, bytes):
        raise ValueError(
            "expected a list of examples or the path of a manifest, got "
            f"{type(examples).__name__}; give [Example(image, lat, lon), ...]"
        )
    return [_as_example(number, example) for number, example in enumerate(examples)]


def _as_example(number: int, example: Any) -> Example:
    if isinstance(example, Example):
        return example
    try:
        if isinstance(example, Mapping):
            values: dict[str | None, Any] = {plain(key): value for key, value in example.items()}
            image = next(values[name] for name in IMAGE_COLUMNS if name in values)
            columns = place_columns(map(str, values))
            lat, lon = (values[name] for name in columns[:2])
            if any(columns[2:]):
                letters = [str(values.get(name, "")) for name in columns[2:]]
                lat, lon = to_location(str(lat), str(lon), letters) or (lat, lon)
        elif isinstance(example, tuple | list) and len(example) == 3:
            image, lat, lon = example
        else:
            image, (lat, lon) = example
    except UsageError:
        raise
    except (TypeError, ValueError, LookupError, StopIteration) as error:
        raise ValueError(
            "expected examples as Example(image, lat, lon), (photo, (latitude, longitude)), "
            '(photo, latitude, longitude) or {"image": photo, "lat": ..., "lon": ...}, got '
            f"{type(example).__name__} as number {number}; give a list of them"
        ) from error
    return Example(as_photo(image), lat, lon)


Chosen = Int[Tensor, "photos shots"]
"""Numbers of the examples that each photo is shown, in a bank."""

CREDIBLE_LEVELS = (0.5, 0.9)
"""Probabilities of the regions that are told of a prediction."""
MOST_AREA = 0.5
"""Share of the sphere that the 90 % region of an answer covers at most."""


def informs(density: Density) -> bool:
    """Return whether a density says so much that there is an answer."""
    return density.credible_area_km2(0.9) <= MOST_AREA * AREA_KM2


def rounded(km2: float, *, digits: int = 3) -> str:
    """Write an area with the digits that it is good for at most.

    >>> rounded(1_968_412.0)
    '1,970,000'
    """
    return f"{float(f'{km2:.{digits}g}'):,.0f}"


@dataclass(frozen=True, eq=False)
class ZoomLevel:
    """One level of a zoom on a map: what was shown of the map, and what that says."""

    name: str
    """"planet", "windows" or "place", and "examples" where those were a prior; "alike" and "place"
    of a zoom on examples."""
    poses: Poses
    """Where the photo may lie on the map: place, field of view and heading; the likeliest first."""
    views: UInt8[Tensor, "windows 3 size size"]
    """The map as seen from there."""
    probability: Float[Tensor, " windows"]
    """How likely each is; what is left is elsewhere."""
    likeness: Float[Tensor, " windows"]
    """Correlation of photo and map there, once they are aligned; 0 where they are not."""
    density: Density

    def given(self, density: Density) -> "ZoomLevel":
        """Weigh the poses by what examples say, where those make the density this one."""
        places = self.poses.lat_lon
        ratio = density.log_prob(places) - self.density.log_prob(places)
        share = self.probability * ratio.exp()
        share = share / share.sum().clamp_min(1)
        order = share.argsort(descending=True)
        parts = (self.poses[order], self.views[order], share[order], self.likeness[order])
        return ZoomLevel("examples", *parts, density)

    def to_dict(self) -> dict[str, Any]:
        """Give what fits in a line of JSON: the likeliest pose, and how sure the level is."""
        (lat, lon), pose = self.poses.lat_lon[0].tolist(), self.poses
        return {
            "name": self.name, "lat": lat, "lon": lon,
            "heading_deg": float(pose.heading_deg[0]),
            "field_of_view_deg": float(pose.field_of_view_deg[0]),
            "probability": float(self.probability[0]),
            "area_90_km2": self.density.credible_area_km2(0.9),
        }  # fmt: skip


def footprint(pose: Poses) -> Any:
    """Return the ground that a view shows: a polygon in degrees, cut at the antimeridian.

    Drawn up to the pole, where the view holds it.
    """
    import shapely

    lat_lon = to_lat_lon(pose.outline()[0])
    lon = np.unwrap(lat_lon[:, 1].numpy(), period=360)
    ring = np.stack((lon, lat_lon[:, 0].numpy()), axis=-1)
    closing = lon[0] + np.round((lon[-1] - lon[0]) / 360) * 360
    if abs(closing - lon[0]) > 180:  # around a pole
        pole = math.copysign(90, float(pose.lat_lon[0, 0]))
        ring = np.concatenate((ring, [[closing, ring[0, 1]], [closing, pole], [lon[0], pole]]))
    shape = shapely.make_valid(shapely.Polygon(ring))
    turns = [shapely.transform(shape, np.array([x, 0]).__add__) for x in (-720, -360, 0, 360, 720)]
    parts = shapely.intersection(turns, shapely.box(-180, -90, 180, 90))
    return shapely.union_all(parts, grid_size=1e-9)  # or turns around a pole would leave a seam


@dataclass(frozen=True, eq=False)
class Prediction:
    """Where a photo was taken, as far as its locator can tell.

    >>> here = Density.from_mixture([48.9, 2.4], kappas=300)
    >>> Prediction(here, 48.9, 2.4, legibility=0.98, located=True, seconds=0.1)
    Prediction(48.90, 2.40, 90 % in 1,970,000 km², legibility 0.98)
    """

    density: Density
    lat: float
    lon: float
    legibility: float
    """In [0, 1]: how much better the density explains the map drawn than the prior does."""
    located: bool
    seconds: float
    """Time that the query took, its share where several were located at once."""
    map: Float[Tensor, "3 height width"] | None = None
    """Mean of the maps drawn, float and unclipped; None if the locator draws none."""
    samples: Float[Tensor, "samples 3 height width"] | None = None
    """The maps drawn, if they were kept."""
    world: str | None = None
    """What the model took the world of the photo for, where it knows several."""
    in_domain: bool | None = None
    """Whether the photo is of the kind that the model was trained on; else its answer means
    nothing. None if the model cannot tell."""
    levels: tuple[ZoomLevel, ...] = ()
    """The chain of a zoom on a map, from the planet to the place; empty without one."""

    @property
    def heading_deg(self) -> float | None:
        """Compass direction of the upper edge of the photo, where a zoom found it."""
        return float(self.levels[-1].poses.heading_deg[0]) if self.levels else None

    @property
    def field_of_view_deg(self) -> float | None:
        """How wide the photo is, where a zoom found it."""
        return float(self.levels[-1].poses.field_of_view_deg[0]) if self.levels else None

    @classmethod
    def from_density(
        cls,
        density: Density,
        point: Float[Tensor, "2"] | None = None,
        *,
        legibility: float,
        located: bool | None = None,
        seconds: float,
        samples: Float[Tensor, "samples 3 height width"] | None = None,
        world: str | None = None,
    ) -> "Prediction":
        """Build a prediction of a density.

        The answer, where the photo is located, is `point` in degrees or else that of the largest
        expected GeoScore. If `located` is not given, it is where the map is legible and says where.
        The mean of the maps drawn, `samples`, becomes `map`.
        """
        if located is None:
            located = legibility >= LEGIBLE and informs(density)
        lat = lon = math.nan
        if located:
            lat, lon = (density.best_point() if point is None else point).tolist()
        mean = None if samples is None else samples.mean(dim=0)
        return cls(density, lat, lon, legibility, located, seconds, mean, samples, world)

    def given(self, other: "Prediction") -> "Prediction":
        """Take what another locator says of the same photo as a prior, by Bayes' rule.

        The answer is that of the largest expected GeoScore. The poses of a zoom are weighed anew
        in a level of their own, so that heading and footprint follow; all else stays as it is here.
        """
        density = self.density * other.density
        seconds = self.seconds + other.seconds
        prediction = Prediction.from_density(
            density, legibility=self.legibility, located=informs(density), seconds=seconds
        )
        levels = self.levels + tuple(level.given(density) for level in self.levels[-1:])
        return replace(prediction, levels=levels, in_domain=self.in_domain, world=other.world)

    def __repr__(self) -> str:
        if not self.located:
            return f"Prediction(not located, legibility {self.legibility:.2f})"
        area = rounded(self.density.credible_area_km2(0.9))
        place = f"{self.lat:z.2f}, {self.lon:z.2f}"
        return f"Prediction({place}, 90 % in {area} km², legibility {self.legibility:.2f})"

    def credible_region(self, p: float) -> "geopandas.GeoDataFrame":
        """Outline the smallest region of probability `p`, with `area_km2`, in EPSG:4326."""
        return self.density.credible_region(p)

    def to_geodataframe(
        self, levels: Sequence[float] = CREDIBLE_LEVELS
    ) -> "geopandas.GeoDataFrame":
        """Give the point and the credible regions as rows of a table in EPSG:4326.

        Columns `kind` ("point" or "region"), `probability`, `mass` and `area_km2` of regions,
        `located`, `legibility`, `in_domain`, `geometry`. A prediction that is not located
        has no point. After a zoom there is a row of kind "footprint", the ground that the photo
        shows, with how likely that is, `heading_deg` and `field_of_view_deg`.
        """
        import geopandas
        import pandas

        frames = [self.density.contours(levels).assign(kind="region")]
        if self.located:
            point = geopandas.points_from_xy([self.lon], [self.lat], crs="EPSG:4326")
            frames.insert(0, geopandas.GeoDataFrame({"kind": ["point"]}, geometry=point))
        angles: dict[str, Any] = {}
        if self.levels and self.located:
            angles = {name: getattr(self, name) for name in ("heading_deg", "field_of_view_deg")}
            row = {"kind": "footprint", "probability": float(self.levels[-1].probability[0])}
            shape = [footprint(self.levels[-1].poses[:1])]
            frames.append(geopandas.GeoDataFrame([row | angles], geometry=shape, crs="EPSG:4326"))
        facts = {name: getattr(self, name) for name in ("located", "legibility", "in_domain")}
        columns = ["kind", "probability", "mass", "area_km2", *facts, *angles, "geometry"]
        return pandas.concat(frames, ignore_index=True).assign(**facts)[columns]

    def to_geojson(self, levels: Sequence[float] = CREDIBLE_LEVELS) -> str:
        """Write `to_geodataframe` as the text of a GeoJSON FeatureCollection (RFC 7946).

        Longitude first, polygons cut at the antimeridian; properties that do not apply are left
        out. For a `dict`: `to_geodataframe().to_geo_dict()`.
        """
        return self.to_geodataframe(levels).to_json(na="drop", drop_id=True)

    def to_dict(self) -> dict[str, Any]:
        """Give what fits in a line of JSON; the point is None where there is none."""
        lat, lon = (self.lat, self.lon) if self.located else (None, None)
        facts = {name: getattr(self, name) for name in ("located", "legibility", "in_domain")}
        if self.levels:
            names = ("heading_deg", "field_of_view_deg")
            facts |= {name: getattr(self, name) if self.located else None for name in names}
        areas = {f"area_{p}_km2": self.density.credible_area_km2(p / 100) for p in (50, 90)}
        return {"lat": lat, "lon": lon, **facts, **areas, "seconds": self.seconds}


def add_seconds(predictions: Sequence[Prediction], seconds: float) -> list[Prediction]:
    """Add to the time of predictions, each its share of what was done for all of them."""
    share = seconds / max(1, len(predictions))
    return [replace(one, seconds=one.seconds + share) for one in predictions]


@dataclass(frozen=True, eq=False)
class SequencePrediction:
    """Where a video or an album was taken: frame by frame, and as a whole."""

    frames: list[Prediction]
    """One for each frame, in order, given all of them. Legibility, map and samples are its own; it
    is located if it is legible or the others tell enough of it."""
    whole: Prediction
    """Where a frame at random was taken: the mixture of the frames, as legible as the most legible
    of them, without a map, and in the domain if any is."""


@runtime_checkable
class Locator(Protocol):
    """Locates photos, given examples; the method and its baselines are alike in that."""

    @property
    def name(self) -> str:
        """How it is called in tables and figures."""

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo; the first examples of a longer list are those of a shorter one."""


@runtime_checkable
class ChoosingLocator(Locator, Protocol):
    """Locates photos that are each given examples of their own, too."""

    def locate_chosen(
        self, photos: Sequence[Photo], bank: Sequence[Example], chosen: Chosen
    ) -> list[Prediction]:
        """Locate each photo, given the examples of these numbers in the bank, in this order."""


def check_choices(photos: Sequence[Photo], bank: Sequence[Example], chosen: Chosen) -> None:
    """Refuse choices that do not fit the photos or the bank.

    Raises:
        ValueError: another number of photos than of choices, or a number outside the bank.
    """
    if len(chosen) != len(photos):
        raise ValueError(f"expected a choice for each of {len(photos)} photos, got {len(chosen)}")
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(bank):
        raise ValueError(
            f"expected examples numbered 0 to {len(bank) - 1}, as many as the bank holds, got "
            f"{int(chosen.min())} to {int(chosen.max())}"
        )


Locate = Callable[[Sequence[Photo], Sequence[Example]], list[Prediction]]


def locate_by_sets(
    locate: Locate, photos: Sequence[Photo], bank: Sequence[Example], chosen: Chosen
) -> list[Prediction]:
    """Locate photos, each given examples of its own; those with the same set, in order, at once.

    Raises:
        ValueError: as `check_choices`.
    """
    check_choices(photos, bank, chosen)
    sets = [tuple(examples) for examples in chosen.tolist()]

    def alike(numbers: list[int]) -> list[Prediction]:
        return locate([photos[i] for i in numbers], [bank[i] for i in sets[numbers[0]]])

    return in_groups(sets, alike)


def in_groups(
    keys: Sequence[Hashable], locate: Callable[[list[int]], list[Prediction]]
) -> list[Prediction]:
    """Locate photos with equal keys at once, by their numbers; return answers in their order."""
    groups: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    predictions: dict[int, Prediction] = {}
    for numbers in groups.values():
        predictions.update(zip(numbers, locate(numbers), strict=True))
    return [predictions[number] for number in range(len(keys))]


def locate_chosen(
    locator: Locator,
    photos: Sequence[Photo],
    bank: Sequence[Example],
    chosen: Chosen,
    **options: Any,
) -> list[Prediction]:
    """Locate photos, each given examples of its own, as well as the locator can."""
    if isinstance(locator, ChoosingLocator):
        return locator.locate_chosen(photos, bank, chosen, **options)
    return locate_by_sets(locator.locate, photos, bank, chosen)


@runtime_checkable
class SequenceLocator(Locator, Protocol):
    """Locates clips as well."""

    def locate_sequence(
        self,
        frames: Sequence[Photo],
        examples: Sequence[Example],
        *,
        speed_kmh: float | None,
        seconds: float | Sequence[float] | None = None,
    ) -> SequencePrediction:
        """Locate the frames of a clip, each given all of them, and the whole."""
