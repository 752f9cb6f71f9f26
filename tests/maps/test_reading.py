"""Reading undoes drawing, whatever a model adds to the map, and admits when there is nothing."""

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import fourier_shift
from torch import Generator, Tensor

from icgeo.maps import LEGIBLE, MapStyle, Noise, Reading, draw, draw_density, read
from icgeo.maps.drawing import base_image
from icgeo.maps.operator import candidate_grid, dot, drawing_operator
from icgeo.sphere import angle, sample_uniform, sample_von_mises_fisher, to_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz

THREE = MapStyle()
KERNEL = MapStyle(sigma_deg=(6.0,))
MARKER = MapStyle.marker(height=64, width=128, sigma_deg=12.0)
WINDOW = MapStyle(height=48, width=40, sigma_deg=(20.0,)).window(165.0, -50.0, -160.0, -10.0)
EXTRA = [(90.0, 0.0), (-90.0, 0.0), (0.0, -180.0), (40.0, 179.99), (-89.0, 55.0)]


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def places(count: int, style: MapStyle = THREE, seed: int = 0) -> Tensor:
    """Random locations on the map, uniform over the sphere for the world."""
    if style.is_world_wide:
        return to_lat_lon(sample_uniform(count, generator=generator(seed)))
    west, south, _, north = style.extent
    shares = torch.rand(count, 2, generator=generator(seed), dtype=torch.float64)
    lat_lon = shares * torch.tensor([north - south, style.width_deg])
    return lat_lon + torch.tensor([south, west], dtype=torch.float64)


def error_pixels(readings: list[Reading], truth: Tensor, style: MapStyle) -> Tensor:
    """Great-circle errors in equatorial pixels."""
    points = torch.stack([reading.point for reading in readings])
    return torch.rad2deg(angle(to_xyz(points), to_xyz(truth))) / style.pixel_deg


def mass_near(density: Density, place: Tensor, radius_deg: float) -> float:
    near = angle(cell_xyz(density.nside), to_xyz(place)) < math.radians(radius_deg)
    return density.mass[near].sum().item()


def smooth_noise(maps: Tensor, sigma: float) -> Tensor:
    """Blobs five pixels wide, of standard deviation sigma."""
    white = torch.randn(maps.shape, generator=generator(1))
    rows = torch.fft.fftfreq(maps.shape[-2])[:, None]
    columns = torch.fft.rfftfreq(maps.shape[-1])
    keep = torch.exp(-2 * (math.pi * 2.5) ** 2 * (rows**2 + columns**2))
    smooth = torch.fft.irfft2(torch.fft.rfft2(white) * keep, s=maps.shape[-2:])
    return maps + sigma * smooth / smooth.std()


def white_noise(maps: Tensor, sigma: float) -> Tensor:
    return maps + sigma * torch.randn(maps.shape, generator=generator(1))


def jpeg(maps: Tensor) -> Tensor:
    """Through a file of quality 90."""
    pixels = (maps.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    files = [io.BytesIO() for _ in pixels]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, "JPEG", quality=90)
    decoded = np.stack([np.asarray(Image.open(file)) for file in files])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2) / 255


def colour_bias(maps: Tensor) -> Tensor:
    return 0.9 * maps + torch.tensor([0.05, -0.03, 0.02])[:, None, None]


def modes() -> tuple[Tensor, Tensor]:
    """Places of three modes for 8 maps, turned about the axis, and their masses."""
    lat_lon = torch.tensor([[50.0, 10.0], [-35.0, -70.0], [5.0, 120.0]], dtype=torch.float64)
    turns = torch.stack((torch.zeros(8), 22.3 * torch.arange(8)), dim=-1).double()
    return lat_lon + turns[:, None], torch.tensor([0.5, 0.3, 0.2])


@pytest.mark.slow
def test_ten_thousand_locations_are_read_back():
    """Within 0.1 of an equatorial pixel, the promise of the package."""
    style = MapStyle(height=32, width=64, sigma_deg=(30.0,))
    truth = places(10_000)
    for part in torch.split(truth, 2000):
        readings = read(draw(part, style), style, nside=4, steps=7)
        assert error_pixels(readings, part, style).max() < 0.1


MORE_STYLES = [
    KERNEL,
    MapStyle(height=128, width=256, sigma_deg=(6.0,)),
    MapStyle(projection="equal_area"),
    MapStyle(projection="equirectangular", extent=(0.0, -90.0, 360.0, 90.0)),
    replace(MARKER, height=128, width=256),
]


@pytest.mark.parametrize(
    "style",
    [
        THREE,
        MapStyle(height=32, width=64),
        MapStyle(projection="equal_area", sigma_deg=(6.0,)),
        MARKER,
        *(pytest.param(style, marks=pytest.mark.slow) for style in MORE_STYLES),
    ],
)
def test_a_location_is_read_back_anywhere_on_the_world(style: MapStyle):
    truth = torch.cat((places(25), torch.tensor(EXTRA, dtype=torch.float64)))
    readings = read(draw(truth, style), style)
    assert error_pixels(readings, truth, style).max() < 0.1
    assert min(reading.legibility for reading in readings) > 0.9


@pytest.mark.slow
def test_a_location_is_read_back_from_imagery():
    """A marker on a base map, of the world and of a window of Web Mercator."""
    world = replace(MARKER, base="blue-marble")
    for style in (world, replace(world, height=64, width=64).window(5.0, 35.0, 20.0, 50.0)):
        truth = places(4, style)
        readings = read(draw(truth, style), style)
        assert error_pixels(readings, truth, style).max() < 0.5
        assert min(reading.legibility for reading in readings) > LEGIBLE


def test_a_location_is_read_back_in_a_window_over_the_antimeridian():
    edges = [(-10.1, 165.1), (-49.9, -160.1), (-30.0, 180.0)]
    truth = torch.cat((places(40, WINDOW), torch.tensor(edges, dtype=torch.float64)))
    readings = read(draw(truth, WINDOW), WINDOW)
    assert error_pixels(readings, truth, WINDOW).max() < 0.1
    assert min(reading.legibility for reading in readings) > 0.9


@pytest.mark.parametrize("style", [THREE, KERNEL, MARKER])
@pytest.mark.parametrize(
    ("spoil", "largest"),
    [
        # a constant and a factor carry no direction
        (colour_bias, 0.1),
        # chroma at half resolution and blocks of 8 pixels
        (jpeg, 0.25),
        # the Fisher information of a kernel of 6 degrees gives 0.1 pixels for white noise in one
        # channel; smooth noise as wide as the kernel moves it by 0.06 of its sigma: 0.15 pixels
        (lambda maps: white_noise(maps, 0.06), 0.5),
        (lambda maps: smooth_noise(maps, 0.06), 0.8),
    ],
    ids=["bias", "jpeg", "white", "smooth"],
)
def test_a_location_survives_what_models_do(
    style: MapStyle, spoil: Callable[[Tensor], Tensor], largest: float
):
    truth = places(16, seed=2)
    readings = read(spoil(draw(truth, style)), style)
    assert error_pixels(readings, truth, style).max() < largest
    assert min(reading.legibility for reading in readings) > 0.25


@pytest.mark.parametrize("style", [THREE, KERNEL, MARKER])
@pytest.mark.parametrize(
    ("spoil", "largest"),
    [
        (lambda maps: maps, 0.02),
        (jpeg, 0.03),
        (lambda maps: white_noise(maps, 0.03), 0.05),
        # blobs as wide as the heatmap pass for modes and take mass
        (lambda maps: smooth_noise(maps, 0.03), 0.12),
    ],
    ids=["clean", "jpeg", "white", "smooth"],
)
def test_masses_of_modes_are_recovered(
    style: MapStyle, spoil: Callable[[Tensor], Tensor], largest: float
):
    """Within 5 % of the whole, but for noise that looks like heatmap."""
    where, masses = modes()
    maps = (draw(where, style) * masses[:, None, None, None]).sum(1)
    for one, reading in zip(where, read(spoil(maps), style), strict=True):
        cells = [mass_near(reading.density, place, 2.5 * min(style.sigma_deg)) for place in one]
        assert cells == pytest.approx(masses.tolist(), abs=largest)
        assert reading.legibility > 0.25


def photo(style: MapStyle) -> Tensor:
    """Something with colours, blobs, grain and clipping, but no map."""
    blobs = smooth_noise(torch.full((4, 3, style.height, style.width), 0.4), 0.2)
    return white_noise(blobs, 0.05).clamp(0, 1)


@pytest.mark.parametrize("style", [THREE, KERNEL, MARKER, WINDOW])
def test_maps_of_nothing_are_illegible(style: MapStyle):
    base = base_image(style).expand(4, 3, style.height, style.width)
    grey = torch.full_like(base, 0.5)
    nothing = [base, grey, white_noise(base, 0.06), white_noise(grey, 0.3)]
    # a window holds so few blobs that they pass for modes
    for maps in nothing if style is WINDOW else [*nothing, photo(style)]:
        for reading in read(maps, style):
            assert reading.legibility < LEGIBLE
            assert reading.point.isnan().all()
            assert torch.allclose(reading.density.mass, Density.uniform().mass)


def broad_truth() -> Density:
    """Two wide modes, as a model draws that does not know."""
    return Density.from_mixture([[20.0, -100.0], [-30.0, 140.0]], [12.0, 4.0], [0.4, 0.6], nside=16)


@pytest.mark.parametrize("style", [pytest.param(THREE, marks=pytest.mark.slow), KERNEL])
def test_a_diffuse_map_is_legible_and_wide(style: MapStyle):
    """The truth costs its entropy in nats; the reading 0.15 more, for a floor of noise assumed."""
    truth = broad_truth()
    reading = read(draw_density(truth, style)[None], style, noise=Noise(0.02, 0.01, 0.01))[0]
    assert reading.legibility > 0.8
    lat_lon = truth.sample(4000, generator())
    assert -reading.density.log_prob(lat_lon).mean() < truth.entropy() + 0.15
    assert reading.density.entropy() > truth.entropy() - 0.15


def test_the_mean_of_sampled_maps_reads_as_the_posterior():
    """Not clipped: 64 noisy samples leave values below 0. Their mean has a standard error of 2."""
    centre = to_xyz(torch.tensor([30.0, 60.0], dtype=torch.float64)).expand(64, 3)
    truth = to_lat_lon(sample_von_mises_fisher(centre, 20.0, generator=generator()))
    maps = white_noise(draw(truth, THREE), 0.2).mean(0)[None]
    assert maps.min() < 0
    density = read(maps, THREE)[0].density
    assert angle(to_xyz(density.mean()), to_xyz(truth).mean(0)).item() < math.radians(6)
    later = to_lat_lon(sample_von_mises_fisher(centre, 20.0, generator=generator(5)))
    assert density.log_prob(later).mean() > Density.uniform().log_prob(later).mean() + 1


def test_an_unknown_region_follows_the_prior():
    prior = Density.from_mixture([[45.0, 10.0]], [3.0], [1.0])
    blank, marked = torch.zeros(1, 3, 64, 128), draw([[-20.0, 130.0]], KERNEL)
    unmarked, marked = read(torch.cat((blank, marked)), KERNEL, prior=prior)
    # the floor alone sets it apart
    assert (unmarked.density.mass - prior.mass).abs().sum() < 3e-3
    assert angle(to_xyz(marked.point), to_xyz(torch.tensor([-20.0, 130.0]))) < math.radians(0.3)


def test_no_log_density_is_infinite():
    reading = read(draw([[0.0, 0.0]], KERNEL), KERNEL, floor=0.01)[0]
    least = math.log(0.01 / (4 * math.pi))
    assert reading.density.log_prob([[60.0, -170.0]]).item() == pytest.approx(least, abs=0.01)


@pytest.mark.parametrize("shift", [(1.0, -1.0), (0.4, 0.3), (-3.0, 2.5)])
def test_a_shift_against_the_coastlines_is_undone(shift: tuple[float, float]):
    style = replace(MARKER, height=128, width=256)
    truth = torch.tensor([[10.0, 20.0], [-25.0, 134.0], [0.0, -150.0]], dtype=torch.float64)
    readings = read(shifted(draw(truth, style), shift), style)
    assert error_pixels(readings, truth, style).max() < 0.1


def shifted(maps: Tensor, shift: tuple[float, float]) -> Tensor:
    """Moved down and right by Fourier interpolation."""
    moved = np.stack([[fourier_shift(np.fft.fft2(c), shift) for c in one] for one in maps.numpy()])
    return torch.from_numpy(np.fft.ifft2(moved).real.astype(np.float32))


@pytest.mark.parametrize("style", [THREE, WINDOW])
def test_a_map_reads_the_same_in_any_company(style: MapStyle):
    maps = white_noise(draw(places(5, style), style), 0.05)
    together = read(maps, style)
    alone = read(maps[3:4], style)[0]
    assert torch.allclose(alone.density.mass, together[3].density.mass, atol=1e-4)
    assert alone.legibility == pytest.approx(together[3].legibility, abs=1e-3)


STYLES = [
    THREE,
    MapStyle(height=32, width=64),
    MapStyle(height=128, width=256, sigma_deg=(6.0,)),
    MapStyle(projection="equal_area"),
    WINDOW,
]


@pytest.mark.parametrize("style", STYLES)
def test_the_operator_draws_as_draw_does(style: MapStyle):
    """float32 transforms of values up to 1 keep 1e-5."""
    operator, grid = drawing_operator(style, Noise()), candidate_grid(style)
    row, column = len(grid.lat) // 3, grid.columns - 3
    mass = torch.zeros(1, len(grid.lat), grid.columns)
    mass[0, row, column] = 1
    drawn = operator.draw(grid.phased(mass)[:, None])
    expected = draw(grid.lat_lon[row, column], style)
    opacity = operator.pool(expected[None, : len(style.sigma_deg)])
    assert torch.allclose(operator.visible(drawn), operator.visible(opacity), atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_the_operator_is_adjoint_and_its_energy_positive(style: MapStyle):
    operator, grid = drawing_operator(style, Noise()), candidate_grid(style)
    one, other = (
        grid.phased(torch.rand(1, len(grid.lat), grid.columns, generator=generator(i)))[:, None]
        for i in range(2)
    )
    there = dot(operator.normal(one), other)
    assert torch.allclose(there, dot(one, operator.normal(other)), rtol=1e-3)
    evidence = operator.evidence(operator.draw(one))
    assert torch.allclose(evidence.energy, dot(evidence.adjoint, one), rtol=1e-3)
    assert (evidence.energy > 0).all()


@pytest.mark.parametrize("style", STYLES)
def test_the_operator_holds_no_denormal_numbers(style: MapStyle):
    """A few of them make a matrix product ten times slower."""
    operator = drawing_operator(style, Noise())
    for blocks in (operator.drawing, operator.normal_blocks, operator.band_inverse):
        size = torch.view_as_real(blocks).abs()
        assert size[size > 0].min() > torch.finfo(torch.float32).tiny


def test_what_cannot_be_read_is_refused():
    maps = torch.zeros(1, 3, 64, 128)
    for wrong, options, message in (
        (maps[0], {}, "expected maps"),
        (maps[..., :64], {}, "resize"),
        (maps * torch.nan, {}, "finite"),
        (maps, {"floor": 0.0}, "floor"),
        (maps, {"prior": Density.uniform(8)}, "nside 64"),
    ):
        with pytest.raises(ValueError, match=message):
            read(wrong, KERNEL, **options)
    with pytest.raises(ValueError, match="widen the heatmap"):
        read(maps, MapStyle(sigma_deg=(0.5,)))
    with pytest.raises(ValueError, match="white noise"):
        Noise(white=0.0)
    elsewhere = Density.from_mixture([[60.0, 0.0]], [1e6], [1.0])
    bare = Density(elsewhere.mass.where(elsewhere.mass > 1e-3, 0.0))
    with pytest.raises(ValueError, match="mass on the map"):
        read(torch.zeros(1, 3, WINDOW.height, WINDOW.width), WINDOW, prior=bare)
