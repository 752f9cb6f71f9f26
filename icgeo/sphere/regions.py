"""Regions of the sphere, polygons and countries, and how much of each HEALPix cell they cover.

Conventions: degrees, longitude first, sides straight in longitude and latitude, as in GeoJSON
(RFC 7946). Countries are Natural Earth's at 1:50 million, simplified to about 0.1 degrees:
`icgeo/assets/countries.parquet`, made by `scripts/assets/basemap.py`.
"""

import unicodedata
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.sphere import Values, as_lat_lon
from icgeo.sphere.healpix import cell_outlines

if TYPE_CHECKING:
    import geopandas

NAMES = ("name", "geonames", "iso2", "iso3")
"""Columns by which a country goes: that of Natural Earth, of GeoNames, and by ISO 3166 if any."""
ALIASES = {
    **{"uk": "gb", "great britain": "gb", "czech republic": "cz", "turkiye": "tr", "burma": "mm"},
    **{"ivory coast": "ci", "holland": "nl", "swaziland": "sz", "cape verde": "cv", "uae": "ae"},
    **{"east timor": "tl", "dr congo": "cd"},
}
"""Other names of countries, and their codes in ISO 3166."""
OFFSHORE_DEG = 0.25
"""How far from a simplified coast a place still counts as on it: many ports are."""
COARSE = 16
"""Nside of the cells by which those far from a border are found."""


@lru_cache(maxsize=1)
def countries() -> "geopandas.GeoDataFrame":
    """Load the countries, with the columns `NAMES` and `geometry`; cached, do not write to it."""
    import geopandas

    with as_file(files("icgeo") / "assets" / "countries.parquet") as path:
        return geopandas.read_parquet(path)


def country_at(lat_lon: Values, *, nowhere: str = "no country") -> list[str]:
    """Return the country in which each location lies, by its name in Natural Earth.

    Seas are `nowhere`, from 0.25 degrees off a coast; borders are right to about 0.1 degrees.
    """
    places = rearrange(as_lat_lon(lat_lon).detach().cpu().double(), "... c -> (...) c").numpy()
    frame = countries()
    place, row = shapely.STRtree(frame.geometry.to_numpy()).query_nearest(
        shapely.points(places[:, ::-1]), max_distance=OFFSHORE_DEG, all_matches=False
    )
    names = np.full(len(places), nowhere, dtype=object)
    names[place] = frame["name"].to_numpy()[row]
    return names.tolist()


def cell_shares(region: Any, nside: int) -> Float[Tensor, " cells"]:
    """Return which share of the area of each cell lies in a region.

    Cells and borders are polygons in longitude and sine of latitude, where areas are true: at
    nside 64 a share is wrong by less than 0.001. Cached, do not write to it.

    Args:
        region: a polygon of shapely, a GeoSeries or GeoDataFrame of them in any projection, or the
            name or the ISO code of a country.
        nside: that of the cells.

    Raises:
        ValueError: no such country, no valid polygon, or one that is off the globe.
    """
    return _shares(as_polygon(region), nside)


@lru_cache(maxsize=1)
def _rows_by_name() -> dict[str, int]:
    """Return the row of each country by all its names and codes; those named first count most."""
    frame = countries()
    columns = (frame[column].dropna().items() for column in reversed(NAMES))
    return {plain(value): row for column in columns for row, value in column}


def _country(name: str) -> Any:
    """Return the polygon of a country."""
    frame, rows = countries(), _rows_by_name()
    key = ALIASES.get(plain(name), plain(name))
    if key in rows:
        return frame.geometry.iloc[rows[key]]
    hits = get_close_matches(key, rows, n=1, cutoff=0.75)
    hint = f"did you mean {frame['name'][rows[hits[0]]]!r}?" if hits else "such as FR or France."
    remedy = f"{hint} Small territories are not in the table: give a polygon"
    raise ValueError(f"expected the name or ISO code of a country, got {name[:80]!r}; {remedy}")


def plain(name: str) -> str:
    """Return a name in lower case, without accents and surrounding space."""
    letters = unicodedata.normalize("NFKD", name)
    return "".join(one for one in letters if not unicodedata.combining(one)).strip().casefold()


def as_polygon(region: Any) -> Any:
    """Return the polygon of a region, as `cell_shares` takes it, longitudes in [-180, 180]."""
    if isinstance(region, str):
        return _country(region)
    if hasattr(region, "to_crs"):
        region = _in_degrees(region.geometry).union_all()
    if getattr(region, "geom_type", None) not in ("Polygon", "MultiPolygon") or region.is_empty:
        kind = getattr(region, "geom_type", type(region).__name__)
        raise ValueError(f"expected a polygon, or a country's name or ISO code, got {kind}")
    if not region.is_valid:
        reason = shapely.is_valid_reason(region)
        raise ValueError(f"expected a valid polygon, got {reason}; mend it by shapely.make_valid")
    west, south, east, north = region.bounds
    if not (south >= -90 and north <= 90 and west >= -360 and east <= 360):
        raise ValueError(
            f"expected a polygon in degrees, longitude first, got bounds {region.bounds}; are "
            "latitude and longitude swapped?"
        )
    return _wrapped(region)


def _wrapped(region: Any) -> Any:
    """Return a polygon with its longitudes, which may go beyond 180, in [-180, 180]."""
    west, _, east, _ = region.bounds
    if west >= -180 and east <= 180:
        return region
    world = shapely.box(-180, -90, 180, 90)
    copies = [shapely.transform(region, np.array([x, 0]).__add__) for x in (-360, 0, 360)]
    return shapely.union_all(shapely.intersection(copies, world))


def _in_degrees(shapes: Any) -> Any:
    """Return shapes in degrees: sides that are straight in a projection bend."""
    import geopandas

    if shapes.crs is None or shapes.crs.is_geographic:
        return shapes if shapes.crs is None else shapes.to_crs("EPSG:4326")
    west, south, east, north = shapes.total_bounds
    step = max(east - west, north - south, 1e-9) / 200
    polygons = shapes.segmentize(step).to_crs("EPSG:4326").explode()
    return geopandas.GeoSeries([_unrolled(polygon) for polygon in polygons])


def _unrolled(polygon: Any) -> Any:
    """Return a polygon whose rings may cross the antimeridian or go around a pole."""
    exterior, *holes = (
        _wrapped(_filled(np.asarray(ring.coords)))
        for ring in (polygon.exterior, *polygon.interiors)
    )
    return exterior - shapely.union_all(holes)


def _filled(lon_lat: Any) -> Any:
    """Return what a ring encloses, longitudes going on where it crosses the antimeridian."""
    lon, lat = np.unwrap(lon_lat[:, 0], period=360), lon_lat[:, 1]
    if abs(lon[-1] - lon[0]) > 180:  # around the nearer pole, which is a side of the map
        pole = np.copysign(90, lat.mean())
        lon, lat = np.append(lon, (lon[-1], lon[0])), np.append(lat, (pole, pole))
    return shapely.Polygon(np.stack((lon, lat), axis=-1))


def _near(polygon: Any, nside: int) -> tuple[Tensor, Tensor]:
    """Return cells that lie in a polygon, and those that may touch its border."""
    coarse = min(nside, COARSE)
    owner, outline = cell_outlines(torch.arange(12 * coarse**2), coarse)
    west, south, east, north = shapely.bounds(outline).T
    x, y = (east - west) / 10, (north - south) / 10  # outlines are not exact
    boxes = shapely.box(west - x, south - y, east + x, north + y)
    is_whole = np.bincount(owner, ~shapely.contains_properly(polygon, boxes)) == 0
    is_near = np.bincount(owner, shapely.intersects(polygon, boxes)) > 0
    children = torch.arange((nside // coarse) ** 2)
    numbers = [np.flatnonzero(mask) for mask in (is_whole, is_near & ~is_whole)]
    cells = [torch.from_numpy(one)[:, None] * len(children) + children for one in numbers]
    return cells[0].flatten(), cells[1].flatten()


@lru_cache(maxsize=16)
def _shares(polygon: Any, nside: int) -> Float[Tensor, " cells"]:
    polygon = shapely.segmentize(polygon, 1.0)  # for a straight side bends in the projection
    shapely.prepare(polygon)
    whole_cells, cells = _near(polygon, nside)
    shares = torch.zeros(12 * nside**2, dtype=torch.float64)
    shares[whole_cells] = 1
    if not len(cells):
        return shares
    owner, outline = cell_outlines(cells, nside, finer=3)
    is_touched = shapely.intersects(polygon, outline)
    is_crossed = is_touched & ~shapely.contains_properly(polygon, outline)
    intersections = outline.copy()
    intersections[~is_touched] = None
    intersections[is_crossed] = shapely.intersection(polygon, outline[is_crossed])
    inside_area, total_area = (
        np.bincount(owner, np.nan_to_num(_area(parts)), len(cells))
        for parts in (intersections, outline)
    )
    shares[cells] = torch.from_numpy((inside_area / total_area).clip(0, 1))
    return shares


def _area(shapes: Any) -> Any:
    """Return areas in the cylindrical projection of Lambert, which keeps them."""

    def project(lon_lat: Any) -> Any:
        return np.stack((lon_lat[:, 0], np.sin(np.deg2rad(lon_lat[:, 1]))), axis=-1)

    return shapely.area(shapely.transform(shapes, project))
