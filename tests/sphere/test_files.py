"""Densities in files, as healpy, astropy, GDAL and geopandas read them."""

import json
import math
import sys
from dataclasses import replace

import geopandas
import healpy
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from astropy.io import fits
from astropy_healpix import HEALPix, level_ipix_to_uniq, uniq_to_level_ipix
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import geometry_mask
from rasterio.windows import from_bounds

from icgeo.config import UsageError
from icgeo.prediction import Prediction
from icgeo.sphere import distance_km, sample_uniform, to_lat_lon
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz

HARD_PLACES = [(48.9, 2.4), (-17.0, 179.9), (89.7, 40.0), (-90.0, 0.0), (0.0, -180.0)]


WINDOWS = [(-180, 62, 180, 90), (-8, 38, 16, 62), (152, -42, 180, 6)]
"""West, south, east and north, of whole pixels of 4 degrees."""


def random_density(seed, nside=16):
    mean = to_lat_lon(sample_uniform(3, generator=torch.Generator().manual_seed(seed)))
    return Density.from_mixture(mean, [3.0, 20.0, 100.0], [0.5, 0.3, 0.2], nside=nside)


def predicted(density, *, located=True):
    lat, lon = density.mode().tolist() if located else (math.nan, math.nan)
    return Prediction(density, lat, lon, legibility=0.8, located=located, seconds=0.01)


def fine_points(density, finer=8):
    """Points and masses of healpy's pixels, `finer` times finer than the cells: (lon, lat, mass).

    healpy's own arithmetic throughout, so that it can judge ours.
    """
    nside = density.nside * finer
    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True, lonlat=True)
    mass = np.repeat(density.mass.numpy(), finer**2) / finer**2
    return (lon + 180) % 360 - 180, lat, mass


@pytest.mark.parametrize("place", HARD_PLACES)
def test_geojson_opened_by_gdal_agrees_with_the_density(place, tmp_path):
    """The mass inside each polygon that GDAL reads is the one that it tells, within 1 %."""
    density = Density.from_mixture([place, (10, 20)], [60.0, 8.0], [0.8, 0.2], nside=16)
    path = tmp_path / "prediction.geojson"
    path.write_text(predicted(density).to_geojson())
    assert pyogrio.read_info(path)["driver"] == "GeoJSON"
    frame = geopandas.read_file(path, engine="pyogrio")
    assert frame.crs == "EPSG:4326"
    assert frame.geometry.is_valid.all()
    assert frame.kind.tolist() == ["point", "region", "region"]
    point = frame.geometry[0]
    assert distance_km((point.y, point.x), density.mode()) < 1e-3
    lon, lat, mass = fine_points(density)
    for row in frame[1:].itertuples():
        inside = mass[shapely.intersects_xy(row.geometry, lon, lat)].sum()
        assert inside == pytest.approx(row.mass, rel=0.01)
        assert row.probability <= row.mass < row.probability + density.mass.max()
        assert row.area_km2 == pytest.approx(density.credible_area_km2(row.probability))


@given(st.integers(0, 2**31), st.sampled_from([1, 4, 16]))
@settings(max_examples=8)
def test_contours_are_valid_nested_and_turned_as_geojson_wants_them(seed, nside):
    frame = random_density(seed, nside).contours((0.3, 0.5, 0.9, 1.0))
    assert frame.geometry.is_valid.all()
    parts = shapely.get_parts(frame.geometry.array)
    assert shapely.is_ccw(shapely.get_exterior_ring(parts)).all()
    assert (np.abs(frame.total_bounds) <= [180, 90, 180, 90]).all()
    whole = frame.geometry.iloc[-1]
    assert whole.area == pytest.approx(360 * 180, rel=1e-3 if nside > 1 else 0.05)
    for inner, outer in zip(frame.geometry[:-1], frame.geometry[1:], strict=True):
        assert inner.difference(outer).area < 1e-6


def test_geojson_tells_what_applies_and_is_strict_json():
    features = json.loads(
        predicted(random_density(3)).to_geojson((0.9,)), parse_constant=pytest.fail
    )["features"]
    point, region = (feature["properties"] for feature in features)
    assert point == {"kind": "point", "located": True, "legibility": 0.8}
    assert set(region) == {"kind", "probability", "mass", "area_km2", "located", "legibility"}


def test_geojson_and_a_line_of_json_tell_of_a_photo_of_another_kind():
    other = replace(predicted(random_density(3)), in_domain=False)
    features = json.loads(other.to_geojson())["features"]
    assert [feature["properties"]["in_domain"] for feature in features] == 3 * [False]
    assert other.to_dict()["in_domain"] is False


def test_without_an_answer_there_are_regions_alone():
    """All masses of an unlocated photo's prior are alike, and its regions are still valid."""
    frame = predicted(Density.uniform(8), located=False).to_geodataframe()
    assert frame.kind.tolist() == ["region", "region"]
    assert not frame.located.any()
    assert frame.geometry.is_valid.all()


@pytest.mark.parametrize("height", [None, 45, 400])
def test_a_geotiff_opened_by_gdal_agrees_with_the_density(height, tmp_path):
    """Against healpy's finer pixels: in all, in windows and in the 90 % region, within 1 %."""
    density = Density.from_mixture(HARD_PLACES[:3], [100.0, 60.0, 200.0], nside=16)
    density.to_geotiff(tmp_path / "density.tif", height=height)
    lon, lat, mass = fine_points(density)
    with rasterio.open(tmp_path / "density.tif") as raster:
        assert raster.crs.to_epsg() == 4326
        assert raster.bounds == (-180, -90, 180, 90)
        assert raster.shape == (height or 256, 2 * (height or 256))
        pixels = raster.read(1).astype(float)
        assert pixels.sum() == pytest.approx(1, abs=1e-6)
        for west, south, east, north in WINDOWS:
            inside = (lon >= west) & (lon < east) & (lat >= south) & (lat < north)
            window = from_bounds(west, south, east, north, raster.transform)
            window = window.round_offsets().round_lengths()
            assert raster.read(1, window=window).sum() == pytest.approx(
                mass[inside].sum(), abs=0.01
            )
        region = density.contours((0.9,))
        covered = geometry_mask(
            region.geometry, raster.shape, raster.transform, invert=True, all_touched=False
        )
    if height != 45:  # whose pixels are larger than cells
        assert pixels[covered].sum() == pytest.approx(region.mass[0], abs=0.01)


@pytest.mark.slow
def test_regions_and_rasters_agree_at_the_default_resolution(tmp_path):
    """10 random densities, five at poles and on the antimeridian: masses by GDAL within 1 %."""
    generator = torch.Generator().manual_seed(0)
    means = to_lat_lon(sample_uniform(20, generator=generator)).unflatten(0, (10, 2))
    means[:5, 0] = torch.tensor(HARD_PLACES)
    kappas = 10 ** (1 + 2.5 * torch.rand(10, 2, generator=generator))
    for mean, kappa in zip(means, kappas, strict=True):
        density = Density.from_mixture(mean, kappa, [0.7, 0.3])
        (tmp_path / "a.geojson").write_text(predicted(density).to_geojson())
        density.to_geotiff(tmp_path / "a.tif")
        lon, lat, mass = fine_points(density)
        with rasterio.open(tmp_path / "a.tif") as raster:
            pixels, transform = raster.read(1).astype(float), raster.transform
        assert pixels.sum() == pytest.approx(1, abs=1e-6)
        for row in geopandas.read_file(tmp_path / "a.geojson")[1:].itertuples():
            inside = shapely.intersects_xy(row.geometry, lon, lat)
            assert mass[inside].sum() == pytest.approx(row.mass, rel=1e-9)
            covered = geometry_mask([row.geometry], pixels.shape, transform, invert=True)
            assert pixels[covered].sum() == pytest.approx(row.mass, rel=0.01)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.png", {}, r"ending in \.tif or \.tiff, got .*a\.png"),
        ("a.tif", {"height": 0}, "at least 1 pixel, got 0"),
    ],
)
def test_wrong_geotiffs_are_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Density.uniform(1).to_geotiff(tmp_path / name, **options)


def test_without_rasterio_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UsageError, match=r"icgeo\[gis\]"):
        Density.uniform(1).to_geotiff(tmp_path / "a.tif")


@pytest.mark.parametrize("nside", [1, 16])
def test_healpy_reads_the_fits_file(tmp_path, nside):
    density = random_density(4, nside)
    density.save(tmp_path / "density.fits")
    mass, header = healpy.read_map(tmp_path / "density.fits", nest=True, dtype=float, h=True)
    np.testing.assert_array_equal(mass, density.mass)
    assert dict(header)["TUNIT1"] == "pix-1"
    ring = healpy.read_map(tmp_path / "density.fits", nest=False, dtype=float)
    lon, lat = healpy.pix2ang(nside, ring.argmax(), lonlat=True)
    peaks = torch.isclose(density.mass, density.mass.max(), rtol=1e-12, atol=0)
    centres = to_lat_lon(cell_xyz(nside)[peaks])
    assert distance_km(centres, (lat, (lon + 180) % 360 - 180)).min() < 1e-3


def test_fits_is_a_sky_map(tmp_path):
    """The keywords of LIGO and Virgo's flat sky maps, read by astropy.

    ligo.skymap 2.5.4 reads such a file to the last bit (tried by hand; it needs lalsuite).
    """
    density = random_density(0)
    density.save(tmp_path / "density.fits")
    with fits.open(tmp_path / "density.fits") as tables:
        header = tables[1].header
        keywords = ("PIXTYPE", "ORDERING", "COORDSYS", "NSIDE", "INDXSCHM", "TTYPE1", "LASTPIX")
        values = [header[keyword] for keyword in keywords]
        assert values == ["HEALPIX", "NESTED", "C", 16, "IMPLICIT", "PROB", 3071]
        assert tables[1].data["PROB"].sum() == pytest.approx(1, abs=1e-12)
        # astropy-healpix finds the heaviest pixel, right ascension for longitude, at the mode
        lon, lat = HEALPix(16, order=header["ORDERING"].lower()).healpix_to_lonlat(
            tables[1].data["PROB"].argmax()
        )
    assert distance_km(density.mode(), (lat.deg, lon.wrap_at("180d").deg)) < 1e-6


def test_ring_sky_maps_of_others_are_read(tmp_path):
    density = random_density(1, nside=8)
    order = HEALPix(8, order="nested").ring_to_nested(np.arange(768))
    values = density.mass.numpy()[order].reshape(-1, 256)
    column = fits.Column("PROB", format="256D", array=values)
    table = fits.BinTableHDU.from_columns([column])
    table.header.update(PIXTYPE="HEALPIX", ORDERING="RING", NSIDE=8)
    table.writeto(tmp_path / "ring.fits")
    torch.testing.assert_close(Density.load(tmp_path / "ring.fits").mass, density.mass)


def test_maps_of_several_orders_are_written_as_ligo_does(tmp_path):
    """Each row's level and pixel by astropy-healpix, its mass by healpy's areas."""
    mass = torch.full((3072,), 1e-5, dtype=torch.float64)
    mass[100:117] = torch.arange(17, dtype=torch.float64)
    density = Density(mass)
    density.save(tmp_path / "a.multiorder.fits")
    with fits.open(tmp_path / "a.multiorder.fits") as tables:
        header, rows = tables[1].header, tables[1].data
        keywords = ("PIXTYPE", "ORDERING", "COORDSYS", "INDXSCHM", "MOCORDER", "TUNIT2")
        values = [header[keyword] for keyword in keywords]
        assert values == ["HEALPIX", "NUNIQ", "C", "EXPLICIT", 4, "sr-1"]
        level, pixel = uniq_to_level_ipix(rows["UNIQ"])
        masses = rows["PROBDENSITY"] * healpy.nside2pixarea(2**level)
    assert masses.sum() == pytest.approx(1)
    assert (np.diff(rows["UNIQ"]) > 0).all()
    assert len(rows) < 100, "equal cells are joined"
    fine = np.concatenate(
        [
            np.arange(p << 2 * (4 - k), (p + 1) << 2 * (4 - k))
            for k, p in zip(level, pixel, strict=True)
        ]
    )
    assert sorted(fine) == [*range(3072)], "every cell once"
    for k, p, one in zip(level, pixel, masses, strict=True):
        part = density.mass[p << 2 * (4 - k) : (p + 1) << 2 * (4 - k)]
        assert one == pytest.approx(part.sum().item(), rel=1e-12)


def write_uniq(path, uniq, **columns):
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("UNIQ", format="K", array=np.asarray(uniq)),
            *(fits.Column(name, format="D", array=np.asarray(x)) for name, x in columns.items()),
        ]
    )
    table.header.update(PIXTYPE="HEALPIX", ORDERING="NUNIQ", COORDSYS="C")
    table.writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize("column", ["PROB", "PROBDENSITY"])
@pytest.mark.parametrize("seed", range(3))
def test_maps_of_several_orders_are_read(tmp_path, seed, column):
    """Masses of random cells of orders 0 to 5, against those that healpy finds in discs."""
    generator = np.random.default_rng(seed)
    cells = [(0, pixel) for pixel in range(12)]
    for _ in range(200):
        level, pixel = cells.pop(generator.integers(len(cells)))
        more = [(level + 1, 4 * pixel + i) for i in range(4)] if level < 5 else [(level, pixel)]
        cells += more
    level, pixel = np.array(cells).T
    masses = generator.random(len(cells))
    masses /= masses.sum()
    values = masses if column == "PROB" else masses / healpy.nside2pixarea(2**level)
    path = write_uniq(tmp_path / "m.fits", level_ipix_to_uniq(level, pixel), **{column: values})
    density = Density.load(path)
    assert density.nside == 32
    centre = np.array(healpy.pix2vec(2**5, np.arange(12 * 4**5), nest=True)).T
    for direction in np.eye(3):
        inside = centre @ direction > 0.7
        share = [
            inside[p << 2 * (5 - k) : (p + 1) << 2 * (5 - k)].mean()
            for k, p in zip(level, pixel, strict=True)
        ]
        assert density.mass[inside].sum().item() == pytest.approx(np.dot(share, masses))


@pytest.mark.parametrize("nside", [1, 2, 32])
@pytest.mark.parametrize("name", ["a.multiorder.fits", "b.multiorder.fits.gz"])
def test_maps_of_several_orders_come_back(tmp_path, nside, name):
    for density in (random_density(5, nside), Density.uniform(nside)):
        density.save(tmp_path / name)
        back = Density.load(tmp_path / name)
        torch.testing.assert_close(back.mass, density.mass, rtol=1e-13, atol=0)


def test_finer_cells_than_can_be_held_are_summed_aloud(tmp_path, caplog):
    fine = 4 ** (13 + 1) + np.arange(4**3)  # a cell of level 10
    path = write_uniq(tmp_path / "m.fits", [*fine, *range(5, 16)], PROB=[1.0] * 64 + [2.0] * 11)
    density = Density.load(path)
    assert density.nside == 1024
    assert density.mass[0].item() == pytest.approx(64 / 86)
    assert "summed cells finer than nside 1024" in caplog.text


def test_parts_of_the_sky_are_read(tmp_path):
    columns = [
        fits.Column("PIXEL", format="K", array=[7, 100]),
        fits.Column("PROB", format="D", array=[1.0, 3.0]),
        fits.Column("DISTMU", format="D", array=[1.0, 3.0]),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(ORDERING="NESTED", NSIDE=4, INDXSCHM="EXPLICIT")
    table.writeto(tmp_path / "m.fits")
    density = Density.load(tmp_path / "m.fits")
    assert density.mass[[7, 100]].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("columns", "header", "words"),
    [
        ({}, {"ORDERING": "NUNIQ"}, r"sky map with a column PROB.*got columns \['UNIQ'\]"),
        ({"PROB": np.ones(12)}, {"ORDERING": "FOO"}, "with ordering 'FOO'"),
        ({"PROB": -np.ones(12)}, {}, "finite and not negative"),
        ({"UNIQ": np.arange(12), "PROB": np.ones(12)}, {}, "expected UNIQ numbers of cells"),
        ({"UNIQ": [4] * 12, "PROB": np.ones(12)}, {}, "expected cells that do not overlap"),
        ({"UNIQ": np.r_[4:15, 16], "PROB": np.ones(12)}, {}, "expected cells that do not overlap"),
        ({"PROB": np.ones(12)}, {"ORDERING": "NESTED", "NSIDE": 2}, "pixels of nside 2.*got 12"),
        ({"PROB": np.ones(12)}, {"ORDERING": "RING", "NSIDE": 2**29}, "nside at most 2048 .*ud_gr"),
        (
            {"PROB": np.ones(12), "PIXEL": np.r_[np.nan, 1.0:12.0]},
            {"ORDERING": "NESTED", "NSIDE": 1},
            "or a column PIXEL",
        ),
        (
            {"PROB": np.ones(2), "PIXEL": [5, 5]},
            {"ORDERING": "NESTED", "NSIDE": 1},
            "expected cells that do not overlap",
        ),
        ({"PROB": np.ones(27 * 4)}, {"ORDERING": "RING"}, "nside a power of two|power of two"),
    ],
)  # fmt: skip
def test_other_fits_tables_are_refused(columns, header, words, tmp_path):
    uniq = columns.pop("UNIQ", np.arange(4, 4 + len(columns.get("PROB", range(12)))))
    path = write_uniq(tmp_path / "multi.fits", uniq, **columns)
    with fits.open(path, mode="update") as tables:
        tables[1].header.update(header)
    with pytest.raises(ValueError, match=words) as refused:
        Density.load(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_what_a_sky_map_leaves_open_is_told(tmp_path, caplog):
    path = write_uniq(tmp_path / "m.fits", range(5, 16), PROB=[1.0] * 11, PROBDENSITY=[2.0] * 11)
    with fits.open(path, mode="update") as tables:
        tables.append(tables[1].copy())
        tables[1].header["COORDSYS"] = "ICRS"
    assert Density.load(path).mass[0] == 0
    for words in ("missing as without mass", "columns PROBDENSITY", "1 tables behind the first"):
        assert words in caplog.text


@pytest.mark.parametrize("name", ["no/m.fits", "no/m.multiorder.fits", "no/m.parquet"])
def test_a_folder_to_save_in_has_to_be_there(name, tmp_path):
    with pytest.raises(ValueError, match=r"expected a folder .*no to save m.* in; make it"):
        Density.uniform(1).save(tmp_path / name)
    (tmp_path / "m.fits").mkdir()
    with pytest.raises(ValueError, match="found a folder"):
        Density.load(tmp_path / "m.fits")


def test_a_picture_in_fits_is_refused_with_the_cause(tmp_path):
    fits.PrimaryHDU(np.zeros((4, 8))).writeto(tmp_path / "img.fits")
    with pytest.raises(ValueError, match="expected a sky map, a table in FITS, got images alone"):
        Density.load(tmp_path / "img.fits")


def test_unsigned_numbers_of_cells_are_read(tmp_path):
    density = random_density(0)
    density.save(tmp_path / "a.parquet")
    frame = geopandas.read_parquet(tmp_path / "a.parquet")
    frame["uniq"] = frame["uniq"].astype(np.uint64)
    frame.to_parquet(tmp_path / "a.parquet")
    torch.testing.assert_close(Density.load(tmp_path / "a.parquet").mass, density.mass)


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.multiorder.fits", "a.parquet"])
def test_files_that_break_off_are_refused(name, tmp_path):
    random_density(0).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 3000):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"expected (a sky map|GeoParquet).*, got"):
            Density.load(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="expected a file, found none; check the path"):
        Density.load(tmp_path / name)


def test_geoparquet_holds_the_cells_with_mass(tmp_path):
    mass = torch.zeros(768, dtype=torch.float64)
    mass[[3, 400]] = torch.tensor([0.25, 0.75], dtype=torch.float64)
    density = Density(mass)
    density.save(tmp_path / "density.parquet")
    frame = geopandas.read_parquet(tmp_path / "density.parquet")
    assert frame.crs == "EPSG:4326"
    assert frame.uniq.tolist() == [256 + 3, 256 + 400]
    assert frame.mass.tolist() == [0.25, 0.75]
    centres = [(point.y, point.x) for point in frame.geometry]
    assert distance_km(centres, to_lat_lon(cell_xyz(8)[[3, 400]])).max() < 1e-6


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.b.parquet"])
@pytest.mark.parametrize("nside", [1, 32])
def test_files_keep_the_density(tmp_path, name, nside):
    density = random_density(2, nside)
    for _ in range(2):
        density.save(tmp_path / name)
    back = Density.load(str(tmp_path / name))
    torch.testing.assert_close(back.mass, density.mass, rtol=1e-14, atol=0)
    assert back.nside == nside
