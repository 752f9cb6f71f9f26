"""Densities in files: FITS sky maps, GeoParquet and GeoTIFF.

Conventions: mass per HEALPix cell in NESTED order, float64; in FITS right ascension is longitude
and declination latitude; a GeoTIFF is north up and starts at the antimeridian.
"""

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy_healpix import uniq_to_level_ipix
from jaxtyping import Float
from torch import Tensor

from icgeo.config import one_line, require
from icgeo.sphere.healpix import cell_lat_lon, grid

Mass = Float[Tensor, " cells"]
Columns = dict[str, Any]
Bounds = tuple[float, float, float, float]
"""South, west, north, east in degrees."""
KNOWN = ("UNIQ", "PIXEL", "PROB", "PROBDENSITY")
"""Columns that are read."""
EQUATORIAL = ("C", "CELESTIAL", "Q", "EQUATORIAL", "ICRS")
"""Frames (COORDSYS) that have longitude and latitude, the last within 0.1 arc seconds."""
MOST_LEVEL = 10
"""Cells of several orders are spread over those of nside 2^10 at most."""

logger = logging.getLogger(__name__)


def _is_fits(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith((".fits", ".fits.gz", ".parquet")):
        raise ValueError(
            f"expected a file name ending in .fits, .fits.gz or .parquet, got {str(path)!r}"
        )
    return not name.endswith(".parquet")


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"expected a folder {path.parent} to save {path.name} in; make it first")


def save(mass: Mass, path: Path) -> None:
    """Write to a file that `load` reads, its format told by its ending."""
    _check_folder(path)
    nside = math.isqrt(len(mass) // 12)
    if not is_multi_order(path):
        header = {"ORDERING": "NESTED", "NSIDE": nside, "INDXSCHM": "IMPLICIT"}
        header |= {"FIRSTPIX": 0, "LASTPIX": len(mass) - 1}
        _write_fits([("PROB", "D", "pix-1", mass.numpy())], header, path)
    elif _is_fits(path):
        save_multi_order(*_join(mass), path, order=nside.bit_length() - 1)
    else:
        cells = mass.nonzero().squeeze(-1)
        save_multi_order((4 * nside**2 + cells).numpy(), mass[cells].numpy(), path)


def is_multi_order(path: Path) -> bool:
    """Return whether a file holds cells of several orders, by its name."""
    return ".multiorder.fits" in path.name.lower() or not _is_fits(path)


def save_multi_order(uniq: Any, mass: Any, path: Path, *, order: int = 0) -> None:
    """Write cells of several orders, as they are; FITS says that their map is of `order`, too."""
    _check_folder(path)
    levels = levels_of(uniq)
    if _is_fits(path):
        density = mass * 12 * 4.0**levels / (4 * math.pi)
        parts = [("UNIQ", "K", None, uniq), ("PROBDENSITY", "D", "sr-1", density)]
        header = {"ORDERING": "NUNIQ", "INDXSCHM": "EXPLICIT"}
        _write_fits(parts, header | {"MOCORDER": max(order, int(levels.max()))}, path)
        return
    import geopandas

    lat, lon = cell_lat_lon(*map(torch.from_numpy, (uniq - 4 ** (levels + 1), 2**levels))).numpy().T
    points = geopandas.points_from_xy(lon, lat, crs="EPSG:4326")
    geopandas.GeoDataFrame({"uniq": uniq, "mass": mass}, geometry=points).to_parquet(path)


def _write_fits(parts: list[tuple[str, str, str | None, Any]], header: Any, path: Path) -> None:
    from astropy.io import fits

    columns = [fits.Column(n, format=f, unit=unit, array=a) for n, f, unit, a in parts]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(PIXTYPE="HEALPIX", COORDSYS="C", **header)
    table.writeto(path, overwrite=True)


def load(path: Path) -> Mass:
    """Read the mass of each cell, in NESTED order; raise ValueError for what is no sky map."""
    header, rows = _read(path)
    if header["ORDERING"] != "NUNIQ":
        is_ring, value = header["ORDERING"] == "RING", "PROB" if "PROB" in rows else "PROBDENSITY"
        return _flat(rows.get("PIXEL"), rows[value], header.get("NSIDE"), is_ring=is_ring)
    levels, level = levels_of(rows["UNIQ"]), header.get("MOCORDER")
    map_level = min(max(int(levels.max()), level if isinstance(level, int) else 0), MOST_LEVEL)
    if levels.max() > map_level:
        logger.warning("summed cells finer than nside %d", 2**map_level)
    mass, coverage = spread(rows["UNIQ"], _masses(rows), map_level)
    if coverage.min() < 1 - 1e-9 and _is_fits(path):  # in Parquet these have no mass
        logger.warning("%s: took cells that are missing as without mass", path)
    if coverage.max() > 1 + 1e-9:
        raise ValueError("expected cells that do not overlap, got some twice; leave one out")
    return torch.from_numpy(mass)


def load_multi_order(path: Path) -> tuple[Any, Any]:
    """Read cells and their masses as they are; a Parquet file's missing cells have none."""
    header, rows = _read(path)
    if header["ORDERING"] != "NUNIQ":
        raise ValueError(f"expected a column UNIQ with ordering NUNIQ, got {[*rows]}"[:400])
    return rows["UNIQ"].astype(np.int64), _masses(rows)


def _masses(rows: Columns) -> Any:
    """Return masses of cells, up to a factor."""
    if "PROB" in rows:
        return rows["PROB"].astype(float)
    return rows["PROBDENSITY"] * 4.0 ** -levels_of(rows["UNIQ"])


def _read(path: Path) -> tuple[Columns, Columns]:
    """Read the header and the columns of a sky map; Parquet under the names that FITS has."""
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "none"
        raise ValueError(f"expected a file, found {kind}; check the path (~ stands for itself)")
    description, reader = "GeoParquet with columns uniq and mass", _parquet_columns
    if _is_fits(path):
        description, reader = "a sky map, a table in FITS", _fits_columns
    try:
        with warnings.catch_warnings(record=True) as records:
            warnings.simplefilter("always")
            header, rows = reader(path)
    except Exception as error:  # libraries raise nearly anything on foreign data
        raise ValueError(f"expected {description}, got {one_line(error)[:200]}") from error
    if any("truncated" in str(warning.message) for warning in records):
        raise ValueError(f"expected {description}, got a file that breaks off; fetch it again")
    if (frame := str(header.get("COORDSYS", "C")).strip().upper()) not in EQUATORIAL:
        raise ValueError(
            f"expected COORDSYS C (longitude and latitude), got {frame!r}; turn the map first, as "
            "with healpy.Rotator"
        )
    duplicates = {"PROBDENSITY"} if "PROB" in rows else set[str]()
    if names := [name for name in rows if name not in KNOWN or name in duplicates]:
        logger.warning("%s: left out the columns %s", path, ", ".join(names)[:200])
    ordering = header["ORDERING"] = str(header.get("ORDERING", "")).strip().upper()
    columns = {"NESTED": set[str](), "RING": set[str](), "NUNIQ": {"UNIQ"}}
    if not {"PROB", "PROBDENSITY"} & {*rows} or not columns.get(ordering, {"ORDERING"}) <= {*rows}:
        raise ValueError(
            "expected a HEALPix sky map with a column PROB or PROBDENSITY, NESTED, RING or NUNIQ "
            f"with UNIQ, got columns {[*rows]} with ordering {ordering!r}"[:400]
        )
    return header, rows


def _fits_columns(path: Path) -> tuple[Columns, Columns]:
    from astropy.io import fits

    # astropy would leave a file that it refuses open
    with path.open("rb") as stream, fits.open(stream, memmap=False) as tables:
        table, *more = [one for one in tables if isinstance(one, fits.BinTableHDU)] or [None]
        if table is None:
            raise ValueError("images alone; a picture of the sky is no sky map")
        if more:
            logger.warning("%s: left out %d tables behind the first", path, len(more))
        values = {name: np.array(table.data[name]).ravel() for name in table.columns.names}
        return dict(table.header), _numbers(values)


def _parquet_columns(path: Path) -> tuple[Columns, Columns]:
    import pandas

    rows = pandas.read_parquet(path, columns=["uniq", "mass"])
    columns = {"UNIQ": rows["uniq"].to_numpy(), "PROB": rows["mass"].to_numpy()}
    return {"ORDERING": "NUNIQ"}, _numbers(columns)


def _numbers(columns: Columns) -> Columns:
    """Check those columns that count."""
    arrays = [columns[name] for name in KNOWN if name in columns]
    if any(one.dtype.kind not in "fiu" or len(one) != len(arrays[0]) for one in arrays):
        raise ValueError(f"columns {[*columns]} that are no numbers, or of several lengths")
    if "UNIQ" in columns and columns["UNIQ"].dtype.kind == "u":
        columns["UNIQ"] = columns["UNIQ"].astype(np.int64)
    return columns


def _flat(pixels: Any, values: Any, nside: Any, *, is_ring: bool) -> Mass:
    """Put values of pixels, all of them or some, in NESTED order."""
    side = nside if isinstance(nside, int) else math.isqrt(len(values) // 12)
    if side > 2 * 2**MOST_LEVEL:
        raise ValueError(
            f"expected nside at most {2 * 2**MOST_LEVEL} without UNIQ, got {side}; make it coarser "
            "first, as with healpy.ud_grade"
        )
    cells = np.arange(12 * side**2)
    pixels = np.arange(len(values)) if pixels is None and len(values) == len(cells) else pixels
    is_known = pixels is not None and len(pixels) and (pixels == np.floor(pixels)).all()
    if not is_known or pixels.min() < 0 or pixels.max() >= len(cells):  # NaN is not known
        raise ValueError(
            f"expected values of all pixels of nside {side}, or a column PIXEL of numbers of them, "
            f"got {len(values)} values"
        )
    pixels = pixels.astype(int)
    if np.bincount(pixels).max() > 1:
        raise ValueError("expected cells that do not overlap, got some twice; leave one out")
    mass = np.bincount(pixels, values, len(cells))
    if is_ring:
        mass = mass[grid(side).nested_to_ring(cells)]
    return torch.from_numpy(mass)


def levels_of(uniq: Any) -> Any:
    """Return the level of each cell by its number in the scheme NUNIQ, 4 nside^2 + cell."""
    if uniq.dtype.kind not in "iu" or not len(uniq) or uniq.min() < 4 or uniq.max() >= 4**26:
        raise ValueError("expected UNIQ numbers of cells, 4 nside^2 + cell, got others")
    return uniq_to_level_ipix(uniq)[0].astype(int)


def spread(uniq: Any, mass: Any, level: int) -> tuple[Any, Any]:
    """Spread masses over the cells of one level; return also how much of each is covered."""
    levels = levels_of(uniq)
    finer, coarser = (levels - level).clip(0), (level - levels).clip(0)
    count = 4**coarser
    first = (uniq - 4 ** (levels + 1)) >> 2 * finer << 2 * coarser
    cells = np.repeat(first - count.cumsum() + count, count) + np.arange(count.sum())
    coverage = np.bincount(cells, np.repeat(4.0**-finer, count), 12 * 4**level)
    return np.bincount(cells, np.repeat(mass / count, count), 12 * 4**level), coverage


def _join(mass: Mass) -> tuple[Any, Any]:
    """Return the numbers (NUNIQ) and the masses of cells, four equal ones always as one."""
    values, is_whole = mass.numpy(), np.ones(len(mass), bool)
    level = math.isqrt(len(mass) // 12).bit_length() - 1
    parts = []
    while len(values):
        quads = values.reshape(-1, 4)
        joins = is_whole.reshape(-1, 4).all(1) & (quads == quads[:, :1]).all(1) & (level > 0)
        cells = np.flatnonzero(is_whole & ~joins.repeat(4))
        parts.append((cells + 4 ** (level + 1), values[cells]))
        if not joins.any():
            break
        values, is_whole, level = 4 * quads[:, 0], joins, level - 1
    uniq, masses = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = uniq.argsort()
    return uniq[order], masses[order]


def save_window(log_prob: Callable[[Any], Tensor], bounds: Bounds, height: int, path: Path) -> None:
    """Write densities per steradian of a window to a GeoTIFF, as `Density.to_geotiff` says."""
    south, west, north, east = bounds
    if not (-90 <= south < north <= 90 and -180 <= west < east <= 180):
        raise ValueError(
            "expected a window from south to north and west to east that does not cross the "
            f"antimeridian, got {bounds}; write its two halves"
        )
    width = max(1, round(height * (east - west) / (north - south)))
    lat = north - (torch.arange(height).double() + 0.5) * (north - south) / height
    lon = west + (torch.arange(width).double() + 0.5) * (east - west) / width
    places = torch.stack(torch.meshgrid(lat, lon, indexing="ij"), dim=-1)
    save_geotiff(log_prob(places).exp().float().numpy(), bounds, "density", "sr-1", path)


def save_geotiff(values: Any, bounds: Bounds, name: str, unit: str, path: Path) -> None:
    """Write pixels [height, width], and the name and the unit of what they are."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"expected a file name ending in .tif or .tiff, got {str(path)!r}")
    rasterio = require("rasterio", "writing a GeoTIFF", "gis")
    south, west, north, east = bounds
    height, width = values.shape
    corner = rasterio.Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
    size = {"height": height, "width": width, "count": 1, "dtype": "float32"}
    layout = {"crs": "EPSG:4326", "transform": corner, "compress": "deflate", "predictor": 3}
    with rasterio.open(path, "w", driver="GTiff", **size, **layout) as raster:
        raster.write(values, 1)
        raster.set_band_description(1, name)
        raster.set_band_unit(1, unit)
        raster.update_tags(AREA_OR_POINT="Area")
