"""The grid against astropy-healpix's other paths and against the sphere that its outlines tile."""

import math

import numpy as np
import pytest
import shapely
import torch
from astropy_healpix import HEALPix
from hypothesis import given
from hypothesis import strategies as st

from icgeo.sphere import sample_uniform, to_lat_lon
from icgeo.sphere.healpix import (
    cell_lat_lon,
    cell_of,
    cell_of_pixels,
    cell_outlines,
    cell_side,
    cell_xyz,
    connected_parts,
    neighbours,
)

nsides = st.sampled_from([1, 2, 4, 16, 64, 1024])


def equal_area(lon_lat):
    """Lambert's cylinder: (longitude, sine of latitude), with area 4 pi."""
    lon, lat = np.radians(lon_lat).T
    return np.stack((lon, np.sin(lat)), axis=-1)


@pytest.mark.parametrize("nside", [1, 8, 64])
def test_centres_against_the_vectors_of_astropy_healpix(nside):
    expected = HEALPix(nside, order="nested").healpix_to_xyz(np.arange(12 * nside**2))
    expected = torch.from_numpy(np.stack(expected, axis=-1))
    torch.testing.assert_close(cell_xyz(nside), expected)


@given(nsides, st.integers(0, 2**31))
def test_points_inside_a_cell_are_found_in_it(nside, seed):
    rng = torch.Generator().manual_seed(seed)
    cells = torch.randint(12 * nside**2, (20,), generator=rng)
    offsets = torch.rand(2, 20, generator=rng, dtype=torch.float64)
    # rounding decides at the very sides
    offsets = 1e-6 + (1 - 2e-6) * offsets
    lat_lon = cell_lat_lon(cells, nside, offsets)
    assert (lat_lon[:, 1] >= -180).all()
    assert (lat_lon[:, 1] < 180).all()
    assert torch.equal(cell_of(lat_lon, nside), cells)


def test_any_batch_shape():
    lat_lon = to_lat_lon(sample_uniform(2, 3))
    assert cell_of(lat_lon, 8).shape == (2, 3)
    assert cell_of((10.0, 20.0), 8).shape == ()


@pytest.mark.parametrize("nside", [0, 3, -4])
def test_only_powers_of_two(nside):
    with pytest.raises(ValueError, match=f"power of two, got {nside}"):
        cell_xyz(nside)


def test_cells_of_pixels_are_those_under_their_centres():
    cells = cell_of_pixels(8, 18)
    assert cells.shape == (18, 36)
    assert cells[0, 0] == cell_of((85.0, -175.0), 8)
    assert cells[17, 35] == cell_of((-85.0, 175.0), 8)


@pytest.mark.parametrize("nside", [1, 2, 4, 8, 16, 32, 64])
def test_outlines_tile_the_map(nside):
    owner, polygons = cell_outlines(torch.arange(12 * nside**2), nside)
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    assert shapely.coverage_union_all(polygons).equals(shapely.box(-180, -90, 180, 90))
    area = np.bincount(owner, shapely.area(shapely.transform(polygons, equal_area)))
    # sides are drawn straight between few vertices: worst next to the poles, 1/16 of a cell
    np.testing.assert_allclose(area, 4 * math.pi / (12 * nside**2), rtol=0.063)


@pytest.mark.parametrize("nside", [1, 4, 64])
def test_outlines_hold_their_centres(nside):
    cells = torch.arange(12 * nside**2)
    owner, polygons = cell_outlines(cells, nside)
    lat, lon = cell_lat_lon(cells, nside).T.numpy()
    held = shapely.intersects_xy(polygons, lon[owner], lat[owner])
    # of a cell across the antimeridian the eastern half holds the centre, at -180
    assert (np.bincount(owner, held) == 1).all()


def test_parts_are_joined_by_sides_alone():
    """Shapely's outlines: cells that share a line are of one part, and parts share none."""
    nside = 4
    rng = torch.Generator().manual_seed(0)
    cells = torch.randperm(12 * nside**2, generator=rng)[:90].sort().values
    part = connected_parts(cells, nside)
    owner, outlines = cell_outlines(cells, nside)
    merged = [shapely.union_all(outlines[part[owner] == i]) for i in range(part.max() + 1)]
    assert len(merged) > 5
    for i, one in enumerate(merged):
        assert all(one.intersection(other).length == 0 for other in merged[:i])
        # cut at the antimeridian alone, a part is one piece
        pieces = shapely.get_parts(one)
        assert len(pieces) == 1 or one.bounds[::2] == (-180, 180)


def test_a_band_around_the_antimeridian_is_one_part():
    cells = torch.arange(12 * 16**2)
    band = cells[(cell_lat_lon(cells, 16)[:, 1].abs() > 150)]
    assert set(connected_parts(band, 16)) == {0}


@pytest.mark.parametrize("nside", [2, 16])
def test_neighbours_touch_their_cell(nside):
    """Centres are at most two sides away, and each the other's."""
    around = neighbours(nside)
    chord = (cell_xyz(nside)[around] - cell_xyz(nside)[:, None]).norm(dim=-1)
    assert chord.max() < 2 * cell_side(nside)
    pairs = {(a, b) for a, row in enumerate(around.tolist()) for b in row}
    assert pairs == {(b, a) for a, b in pairs}
    assert (around == torch.arange(12 * nside**2)[:, None]).sum() == 24
