"""Matching of parts: its geometry against pyproj, and places found from perfect descriptors."""

import pytest
import torch
from pyproj import Proj

from icgeo import sphere
from icgeo.data.orbit import view_directions
from icgeo.models import matching
from icgeo.models.matching import Evidence, LocalEncoder, MatchSettings, match, mutual_matches
from icgeo.sphere.healpix import neighbours

GRID = 16


def perfect(lat_lon, fields_of_view, *, channels=512):
    """Describe cells by where they look: random Fourier features of the direction."""
    generator = torch.Generator().manual_seed(0)
    waves = 12.0 * torch.randn(3, channels // 2, generator=generator)
    looks = view_directions(sphere.to_xyz(lat_lon), fields_of_view, size=GRID).flatten(1, 2)
    phase = looks @ waves
    return torch.cat((phase.cos(), phase.sin()), dim=-1) / (channels / 2) ** 0.5


def located(query, query_fov, examples, fovs, **settings):
    """Return the most likely place of a query and the evidence for each place."""
    query, examples = torch.tensor(query), torch.tensor(examples)
    evidence = match(
        perfect(query[None], torch.tensor([query_fov])),
        perfect(examples, torch.tensor(fovs))[None],
        sphere.to_xyz(examples)[None],
        MatchSettings(**settings),
    )[0]
    return sphere.to_lat_lon(sphere.healpix.cell_xyz(64)[evidence.argmax()]), evidence


@pytest.mark.parametrize(
    ("query", "query_fov", "examples"),
    [
        ((10.0, 20.0), 44.4, [(15.0, 28.0), (2.0, 17.0)]),
        ((62.0, -175.0), 27.0, [(55.0, 172.0), (66.0, -160.0)]),  # over the antimeridian
        ((85.0, 100.0), 34.6, [(80.0, -150.0), (78.0, 60.0)]),  # beside the pole: north turns
    ],
)
def test_alike_parts_give_the_place(query, query_fov, examples):
    point, _ = located(query, query_fov, examples, [44.4, 57.0])
    assert sphere.distance_km(point, torch.tensor(query)) < 150  # a cell has 100 km


def test_a_second_example_settles_the_scale():
    """One example leaves its own field of view open; two that overlap the query do not."""
    query = (-30.0, 50.0)
    _, alone = located(query, 40.0, [(-20.0, 50.0)], [40.0])
    _, both = located(query, 40.0, [(-20.0, 50.0), (-38.0, 44.0)], [40.0, 27.0])
    entropy = [-(p * p.clamp_min(1e-30).log()).sum() for p in (alone.softmax(0), both.softmax(0))]
    assert entropy[1] < entropy[0]


def test_an_example_elsewhere_says_almost_nothing():
    _, evidence = located((10.0, 20.0), 30.0, [(-40.0, -120.0)], [30.0], weight=0.1)
    assert evidence.max() < 2


def test_examples_have_no_order_and_queries_do_not_depend_on_each_other():
    places = torch.tensor([(10.0, 20.0), (15.0, 28.0), (5.0, 12.0), (60.0, 70.0)])
    cells = perfect(places, torch.tensor([40.0, 30.0, 35.0, 50.0]))
    xyz, settings = sphere.to_xyz(places), MatchSettings()
    both = match(cells[:2], cells[None, 1:], xyz[None, 1:], settings)
    alone = match(cells[:1], cells[None, [3, 1, 2]], xyz[None, [3, 1, 2]], settings)
    torch.testing.assert_close(both[:1], alone, atol=1e-3, rtol=1e-4)
    own = torch.stack((xyz[1:], xyz[1:].flip(0)))
    each = match(cells[:2], torch.stack((cells[1:], cells[1:].flip(0))), own, settings)
    torch.testing.assert_close(each, both, atol=1e-3, rtol=1e-4)


def test_without_examples_every_place_is_as_likely():
    evidence = match(
        perfect(torch.tensor([(1.0, 2.0)]), torch.tensor([30.0])),
        torch.zeros(1, 0, GRID**2, 512),
        torch.zeros(1, 0, 3),
        MatchSettings(),
    )
    assert evidence.shape == (1, 12 * 64**2)
    assert evidence.abs().max() < 1e-5


@pytest.mark.parametrize(("lat", "lon"), [(48.0, 2.0), (-70.0, 179.0)])
def test_cells_fall_where_a_gnomonic_projection_puts_them(lat, lon):
    """Judged by pyproj on the sphere."""
    query, query_fov, example_fov = torch.tensor([(lat + 14.0, lon - 9.0)]), 40.0, 45.0
    looks = view_directions(sphere.to_xyz(query), torch.tensor([query_fov]), size=GRID)
    directions = sphere.to_lat_lon(looks.double()).reshape(-1, 2)
    gnomonic = Proj(proj="gnom", lat_0=lat, lon_0=lon, R=1)
    x, y = (torch.tensor(v) for v in gnomonic(directions[:, 1].numpy(), directions[:, 0].numpy()))
    half = torch.tan(torch.deg2rad(torch.tensor(example_fov)) / 2)
    expected = torch.stack((x, -y), dim=-1)
    inside = expected.abs().amax(-1) < half
    (lies,) = matching._in_example(
        matching._frames(sphere.to_xyz(query)),
        torch.tan(torch.deg2rad(torch.tensor([query_fov])) / 2),
        matching._frames(sphere.to_xyz(torch.tensor([(lat, lon)]))),
        matching._centres(GRID),
    )
    torch.testing.assert_close(lies[inside].double(), expected[inside], atol=1e-5, rtol=0)
    cells = matching._cell_at(lies[inside], half, GRID)
    column, row = ((expected[inside] / half + 1) / 2 * GRID).floor().unbind(-1)
    assert (cells == row * GRID + column).float().mean() > 0.99  # float32 between two cells
    assert 0.2 < inside.float().mean() < 0.9


def test_matches_are_mutual_probabilities():
    cells = perfect(torch.tensor([(0.0, 0.0), (3.0, 3.0), (60.0, 90.0)]), torch.full((3,), 40.0))
    matches = mutual_matches(cells[:1], cells[None, 1:], MatchSettings())
    assert matches.shape == (1, 2, GRID**2, GRID**2)
    assert 0 <= matches.min() <= matches.max() <= 1
    by_example = matches.amax((2, 3))[0]
    assert by_example[0] > 5 * by_example[1]


def test_an_encoder_is_saved_and_loaded_as_any_diffusers_model(tmp_path):
    torch.manual_seed(0)
    encoder = LocalEncoder(channels=16, width=8, deep_width=16).eval()
    photos = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        cells = encoder(photos)
        encoder.save_pretrained(tmp_path)
        again = LocalEncoder.from_pretrained(tmp_path)(photos)
    assert cells.shape == (3, 256, 16)
    torch.testing.assert_close(cells.norm(dim=-1), torch.ones(3, 256))
    assert torch.equal(cells, again)


def test_haze_and_exposure_change_descriptors_little():
    torch.manual_seed(0)
    encoder = LocalEncoder().eval()
    photo = torch.rand(1, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3) * 0.5 + 0.2
    with torch.no_grad():
        clear, hazy = encoder(photo), encoder(0.8 * photo + 0.1)
    assert (clear * hazy).sum(-1).mean() > 0.9


def test_the_blur_moves_likelihood_to_neighbours_alone():
    log_ratios = torch.full((1, 12 * matching.FINE**2), -60.0)
    log_ratios[0, 7] = 5.0
    blurred = matching._blurred(log_ratios, 0.4).exp()[0]
    around = neighbours(matching.FINE)[7]
    torch.testing.assert_close(blurred.sum(), log_ratios.exp().sum(), rtol=1e-4, atol=0)
    torch.testing.assert_close(blurred[7] / blurred.sum(), torch.tensor(0.6))
    torch.testing.assert_close(blurred[around] / blurred.sum(), torch.full((8,), 0.05))


def test_the_strongest_pairs_are_told_in_pixels():
    """Cells of 4 x 4 pixels, in row order; each cell of the query is told once."""
    matches = torch.zeros(2, 16, 16)
    matches[1, 6, 9], matches[0, 3, 0], matches[0, 6, 1] = 0.9, 0.5, 0.8
    strongest = Evidence.strongest(torch.zeros(4), matches, photo_size=16, count=2)
    assert strongest.probability.tolist() == pytest.approx([0.9, 0.5])
    assert strongest.query_xy.tolist() == [[10, 6], [14, 2]]
    assert strongest.example.tolist() == [1, 0]
    assert strongest.example_xy.tolist() == [[6, 10], [2, 2]]
