"""The leakage guard: near places and near duplicates are found, others are not."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyproj import Geod

from icgeo.config import UsageError
from icgeo.data import BenchmarkRecord
from icgeo.data.leakage import MAX_BITS, Leak, LeakageGuard
from icgeo.data.orbit import open_world, random_views
from icgeo.prediction import Example
from icgeo.sphere import EARTH_RADIUS_KM, sample_uniform, to_lat_lon


@cache
def views() -> list[Image.Image]:
    """Real pictures: 24 views of the Earth from orbit, all over it."""
    world = open_world("blue-marble")
    found = random_views(world, 24, generator=torch.Generator().manual_seed(0)).images
    return [
        Image.fromarray(image.movedim(0, -1).numpy()).resize((320, 240), Image.Resampling.BICUBIC)
        for image in found
    ]


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def placed(id: str, lat: float = 0.0, lon: float = 0.0, image: Any = b"") -> BenchmarkRecord:
    return BenchmarkRecord(id, image, lat, lon)


class TestPlaces:
    def test_pairs_are_those_of_all_distances(self):
        """Against every distance on a sphere by pyproj, at poles and at the antimeridian too."""
        torch.manual_seed(0)
        ends = [[90, 0], [-90, 7], [0, 180], [0, -179.95], [89.95, 33], [-89.95, -100]]
        places = np.concatenate([to_lat_lon(sample_uniform(500)).numpy(), np.array(ends)])
        examples, queries = places[::2], places[1::2]
        guard = LeakageGuard(
            [placed(str(j), *place) for j, place in enumerate(queries)],
            within_km=900.0,
            max_bits=None,
        )
        records = [placed(str(i), *place) for i, place in enumerate(examples)]
        found = {(leak.example, leak.query): leak.distance_km for leak in guard.leaks(records)}
        sphere = Geod(a=1000 * EARTH_RADIUS_KM, b=1000 * EARTH_RADIUS_KM)
        i, j = (index.ravel() for index in np.indices((len(examples), len(queries))))
        *_, metres = sphere.inv(examples[i, 1], examples[i, 0], queries[j, 1], queries[j, 0])
        expected = {
            (str(a), str(b)): m / 1000 for a, b, m in zip(i, j, metres, strict=True) if m <= 900e3
        }
        assert found == pytest.approx(expected, abs=1e-6)
        assert len(expected) > 200
        kept = {record.id for record in guard.filter(records)}
        assert kept == {str(a) for a in range(len(examples))} - {a for a, _ in expected}

    def test_the_limit_counts_as_near(self):
        query = placed("q", 48.0, 2.0)
        assert list(LeakageGuard([query], within_km=0, max_bits=None).leaks([query])) == [
            Leak("q", "q", 0.0, None)
        ]
        far = placed("far", 48.0, 2.02)  # 1.49 km
        assert not list(LeakageGuard([query], max_bits=None).leaks([far]))

    def test_examples_without_an_id_go_by_their_number(self):
        guard = LeakageGuard([placed("q", 5.0, 6.0)], max_bits=None)
        examples = [Example(b"", lat, 6.0) for lat in (50.0, 5.0, 4.0)]
        assert [leak.example for leak in guard.leaks(examples)] == ["1"]
        assert list(guard.filter(examples)) == [examples[0], examples[2]]

    def test_nothing_to_compare(self):
        assert list(LeakageGuard([]).leaks([placed("a", image=encoded(views()[0]))])) == []
        assert list(LeakageGuard([placed("q", image=encoded(views()[0]))]).leaks([])) == []

    def test_limits_are_checked(self):
        for wrong in ({"within_km": -1.0}, {"max_bits": 64}, {"within_km": float("nan")}):
            with pytest.raises(UsageError, match="expected within_km of 0 or more and max_bits"):
                LeakageGuard([], **wrong)


def copies(image: Image.Image) -> dict[str, bytes]:
    width, height = image.size
    return {
        "re-encoded": encoded(image, quality=60),
        "as PNG": encoded(image, "PNG"),
        "half": encoded(image.resize((width // 2, height // 2))),
        "large": encoded(image.resize((width * 2, height * 2))),
        "stretched": encoded(image.resize((width, width))),
        "shifted": encoded(image.crop((width // 64, height // 64, width, height))),
        "brighter": encoded(image.point(lambda value: min(255, int(value * 1.15)))),
    }


@pytest.fixture(scope="module")
def guard() -> LeakageGuard:
    queries = [placed(str(i), image=encoded(image)) for i, image in enumerate(views()[:6])]
    return LeakageGuard(queries, within_km=None)


class TestPictures:
    @pytest.mark.parametrize("kind", list(copies(Image.new("RGB", (64, 64)))))
    def test_copies_are_found(self, guard: LeakageGuard, kind: str):
        examples = [
            placed(str(i), 50.0, 50.0, copies(image)[kind]) for i, image in enumerate(views()[:6])
        ]
        leaks = list(guard.leaks(examples))
        assert [(leak.example, leak.query) for leak in leaks] == [
            (str(i), str(i)) for i in range(6)
        ]
        assert all(leak.bits <= MAX_BITS and leak.distance_km > 5000 for leak in leaks)

    def test_others_are_not(self, guard: LeakageGuard):
        others = [placed(str(i), image=encoded(view)) for i, view in enumerate(views()[6:])]
        assert list(guard.leaks(others)) == []
        assert list(guard.filter(others)) == others

    def test_a_photo_that_cannot_be_read_is_compared_by_its_place(
        self, caplog: pytest.LogCaptureFixture
    ):
        query = placed("q", image=encoded(views()[0]))
        leaks = list(LeakageGuard([query]).leaks([placed("a"), placed("b", 9.0)]))
        assert leaks == [Leak("a", "q", 0.0, None)]
        assert caplog.text.count("compared its place alone") == 2

    def test_without_a_place_pictures_are_compared(self):
        @dataclass
        class Album:
            image: bytes
            lat: float | None = None
            lon: float | None = None

        image = encoded(views()[0])
        (leak,) = LeakageGuard([placed("q", image=image)]).leaks([Album(image)])
        assert leak == Leak("0", "q", None, 0)


def test_examples_are_streamed():
    asked = []

    def bank() -> Iterator[BenchmarkRecord]:
        for number in range(5000):
            asked.append(number)
            yield placed(str(number), -90 + number / 100, 0.0)

    kept = LeakageGuard([placed("q", -80.0)], max_bits=None).filter(bank())
    next(kept)
    assert len(asked) < 2000
    assert sum(1 for _ in kept) == 4998
    assert len(asked) == 5000
