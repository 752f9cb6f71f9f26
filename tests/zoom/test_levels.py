"""What the levels of the zoom do, each alone."""

import math

import pytest
import torch
from torch.nn import functional

from icgeo import sphere
from icgeo.config import UsageError
from icgeo.data.base_maps import BaseMap, open_map
from icgeo.data.worlds import procedural_world
from icgeo.models import load
from icgeo.models.matching import MatchSettings
from icgeo.zoom.align import align
from icgeo.zoom.index import MapIndex, fields_of_view, turned
from icgeo.zoom.refine import WIDE, tried


@pytest.fixture(scope="module")
def picture():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 96, 96, generator=generator)
    smooth = functional.avg_pool2d(noise, 5, 1, 2)[0]
    return ((smooth / smooth.std() * 0.15 + 0.5).clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -4), (-2, 3)])
def test_alignment_finds_a_shift_in_spite_of_haze(picture, right, down):
    view = picture[:, 16:80, 16:80]
    query = picture[:, 16 + down : 80 + down, 16 + right : 80 + right]
    query = (query.float() * 0.6 + 90).to(torch.uint8)
    found = align(query, view)
    assert (found.warp[:, 2] * 32).tolist() == pytest.approx([right, down], abs=0.05)
    assert torch.allclose(found.warp[:, :2], torch.eye(2).double(), atol=0.01)
    assert found.likeness > 0.99


def test_what_has_nothing_in_common_is_not_aligned(picture):
    grey = torch.full((3, 64, 64), 99, dtype=torch.uint8)
    assert align(grey, picture[:, :64, :64]) is None


def test_alike_cells_find_the_shift():
    generator = torch.Generator().manual_seed(1)
    plane = functional.normalize(torch.randn(24, 24, 32, generator=generator), dim=-1)
    view = plane[4:20, 4:20].reshape(1, 256, 32)
    query = plane[6:22, 3:19].reshape(256, 32)  # 2 cells down, 1 to the left
    warps, nats = tried(query, view, MatchSettings(), WIDE)
    best = warps[nats[0].argmax()]
    assert best[:, 2].tolist() == pytest.approx([-1 / 8, 2 / 8])
    assert torch.allclose(best[:, :2], torch.eye(2), atol=1e-6)


def test_a_photo_is_turned_until_north_is_up():
    photo = torch.zeros(3, 64, 64, dtype=torch.uint8)
    photo[:, 24:40, 48:] = 200  # bright at the right edge
    # the upper edge looks east: what is right is in the south
    (up,) = turned(photo, torch.tensor([90.0]), torch.ones(1), size=32)
    middle = up[0].float()
    assert middle[24:, 12:20].mean() > 150
    assert middle[:16].mean() < 10


def test_the_scales_end_with_the_map():
    assert fields_of_view(0.35)[-1] >= 28 * 0.35
    assert min(fields_of_view(0.01)) >= 3.7
    assert fields_of_view(10.0) == [59.4]
    assert max(fields_of_view(0.01, extent_deg=12.0)) == 12.0


def test_a_view_of_the_map_is_the_likeliest_of_its_index():
    world = procedural_world("cells", generator=1, height=128)
    base_map, describe = open_map(world), load("tiny").describe_parts
    index = MapIndex.build(base_map, describe)
    place = torch.tensor([[-35.0, 120.0]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    (photo,), _ = base_map.views(place, 50 * one, 90 * one, size=64)
    how, likeness = index.search(photo, describe, heading_deg=None)
    tries, view = divmod(int(likeness.argmax()), likeness.shape[1])
    found = index.poses[view : view + 1]
    assert sphere.distance_km(found.lat_lon[0], place[0]).item() < 111.2 * 50 / 5
    turn = float(found.heading_deg[0] + how.heading_deg[tries])
    assert abs((turn - 90 + 180) % 360 - 180) <= 30
    assert (index.descriptors.norm(dim=-1) - 1).abs().max() < 1e-5
    # windows lie an eighth of their field of view apart: so many of them cover the sphere
    expected = sum(
        4 * math.pi / math.radians(field / 8) ** 2 for field in fields_of_view(180 / 128)
    )
    assert len(index.poses) == pytest.approx(expected, rel=0.3)


def test_a_map_without_data_is_refused():
    class Empty(BaseMap):
        def views(self, *args, size):
            images, masks = super().views(*args, size=size)
            return images, torch.zeros_like(masks)

    grid = open_map(procedural_world("cells", generator=1, height=128)).grid
    with pytest.raises(UsageError, match="whole views"):
        MapIndex.build(Empty("empty", "0", grid), load("tiny").describe_parts)
