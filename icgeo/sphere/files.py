"""Densities in files: FITS sky maps, GeoParquet and GeoTIFF.

Conventions: mass per HEALPix cell in NESTED order, float64; in FITS right ascension is longitude
and declination latitude; a GeoTIFF is north up and starts at the antimeridian.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.config import require
from icgeo.sphere.healpix import cell_lat_lon, grid, mass_of_pixels

Mass = Float[Tensor, " cells"]


def _is_fits(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith((".fits", ".fits.gz", ".parquet")):
        raise ValueError(
            f"expected a file name ending in .fits, .fits.gz or .parquet, got {str(path)!r}"
        )
    return not name.endswith(".parquet")


def save(mass: Mass, path: Path) -> None:
    """Write to a file that `load` reads, its format told by its ending."""
    nside = math.isqrt(len(mass) // 12)
    if _is_fits(path):
        from astropy.io import fits

        column = fits.Column("PROB", format="D", unit="pix-1", array=mass.numpy())
        table = fits.BinTableHDU.from_columns([column])
        table.header.update(PIXTYPE="HEALPIX", ORDERING="NESTED", COORDSYS="C", NSIDE=nside)
        table.header.update(INDXSCHM="IMPLICIT", FIRSTPIX=0, LASTPIX=len(mass) - 1)
        table.writeto(path, overwrite=True)
        return
    import geopandas

    cells = mass.nonzero().squeeze(-1)
    lat, lon = cell_lat_lon(cells, nside).unbind(-1)
    columns = {"uniq": (4 * nside**2 + cells).numpy(), "mass": mass[cells].numpy()}
    centres = geopandas.points_from_xy(lon, lat, crs="EPSG:4326")
    geopandas.GeoDataFrame(columns, geometry=centres).to_parquet(path)


def load(path: Path) -> Mass:
    """Read the mass of each cell, in NESTED order."""
    if not _is_fits(path):
        import pandas

        rows = pandas.read_parquet(path, columns=["uniq", "mass"])
        uniq = torch.tensor(rows["uniq"].to_numpy())
        nside = math.isqrt(int(uniq.min()) // 4)
        mass = torch.zeros(12 * nside**2, dtype=torch.float64)
        return mass.scatter_(0, uniq - 4 * nside**2, torch.tensor(rows["mass"].to_numpy()))
    from astropy.io import fits

    with fits.open(path) as tables:
        header, rows = tables[1].header, tables[1].data
        ordering = header.get("ORDERING", "").upper()
        if ordering not in ("NESTED", "RING") or "PROB" not in rows.names:
            raise ValueError(
                f"expected a flat HEALPix sky map with a column PROB, NESTED or RING, got columns "
                f"{rows.names} with ordering {ordering!r} in {path}; flatten multi-order maps first"
            )
        if (frame := str(header.get("COORDSYS", "C")).strip().upper()) not in ("C", "CELESTIAL"):
            raise ValueError(
                f"expected COORDSYS C (longitude and latitude), got {frame!r} in {path}; turn the "
                "map first, as with healpy.Rotator"
            )
        values = np.array(rows["PROB"], dtype=np.float64).ravel()
    if ordering == "RING":
        pixels = grid(math.isqrt(len(values) // 12)).nested_to_ring(np.arange(len(values)))
        values = values[pixels]
    return torch.from_numpy(values)


def save_geotiff(mass: Mass, path: Path, *, height: int | None) -> None:
    """Write an equirectangular GeoTIFF of the world, as `Density.to_geotiff` says."""
    height = 16 * math.isqrt(len(mass) // 12) if height is None else height
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"expected a file name ending in .tif or .tiff, got {str(path)!r}")
    if height < 1:
        raise ValueError(f"expected a height of at least 1 pixel, got {height}")
    rasterio = require("rasterio", "writing a GeoTIFF", "gis")
    corner = rasterio.Affine(180 / height, 0, -180, 0, -180 / height, 90)
    size = {"height": height, "width": 2 * height, "count": 1, "dtype": "float32"}
    layout = {"crs": "EPSG:4326", "transform": corner, "compress": "deflate", "predictor": 3}
    with rasterio.open(path, "w", driver="GTiff", **size, **layout) as raster:
        raster.write(mass_of_pixels(mass, height).float().numpy(), 1)
        raster.set_band_description(1, "mass")
        raster.set_band_unit(1, "1")
        raster.update_tags(AREA_OR_POINT="Area")
