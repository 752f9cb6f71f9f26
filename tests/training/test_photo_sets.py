"""Tests of photo sets: views of a world, a user's photos, splits, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from icgeo.config import UsageError
from icgeo.training.photo_sets import PhotoSet, Splits, photo_splits, view_set


@pytest.fixture
def album(tmp_path):
    """Twelve photos, whose first red tells their latitude, and a broken one."""
    rows = ["image,lat,lon"]
    noise = np.random.default_rng(0).integers(256, size=(12, 3, 4, 3), dtype=np.uint8)
    noise[:, 0, :2] = [[[20 * i, 0, 0]] for i in range(12)]  # the rest tells them apart
    for i in range(12):
        photo = Image.fromarray(noise[i]).resize((40, 30), Image.Resampling.NEAREST)
        photo.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{5 * i},{3 - 10 * i}")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "album.csv").write_text("\n".join([*rows, "broken.png,1,2"]) + "\n")
    return tmp_path / "album.csv"


def test_photos_are_read_and_the_unreadable_listed(album, tmp_path):
    splits = photo_splits(album, size=16, seed=0, skipped=tmp_path / "skipped.txt")
    parts = (splits.training, splits.validation, splits.test)
    assert [len(part) for part in parts] == [7, 2, 3]
    for part in parts:
        expected = 20 * part.lat_lon[:, 0] / 5
        torch.testing.assert_close(part.photos[:, 0, 0, 0].double(), expected, atol=1, rtol=0)
    places = torch.cat([part.lat_lon for part in parts])
    assert sorted(places[:, 0].tolist()) == [5.0 * i for i in range(12)]
    lines = (tmp_path / "skipped.txt").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("broken.png: ")


def test_a_burst_stays_together(tmp_path):
    """Eight series of four photos: nearly the same picture without a fix, or steps of 500 m."""
    rows = ["image,lat,lon"]
    generator = np.random.default_rng(0)
    for series in range(8):
        one = generator.integers(256, size=(6, 8, 3), dtype=np.uint8)
        for i in range(4):
            if series % 2:
                one = generator.integers(256, size=(6, 8, 3), dtype=np.uint8)
            place = (10 * series - 40 + 0.0045 * i, 5) if series % 2 else (series + 1, 40 * i)
            photo = Image.fromarray(one).resize((64, 48)).crop((i, 0, 64, 48))
            photo.save(tmp_path / f"{series}-{i}.png")
            rows.append(f"{series}-{i}.png,{place[0]},{place[1]}")
    (tmp_path / "album.csv").write_text("\n".join(rows) + "\n")
    splits = photo_splits(tmp_path / "album.csv", size=32, seed=0, skipped=tmp_path / "no")
    assert str(splits) == "20 photos to train on, 4 for validation, 8 to compare on"
    sizes = [len(part) for part in (splits.training, splits.validation, splits.test)]
    assert sum(sizes) == 32
    assert all(size % 4 == 0 for size in sizes), sizes


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("image,lat,lon\n", "expected photos with locations, found none"),
        ("image,lat,lon\n0.png,95,3\n1.png,3,4\n", "row 2: .*95"),
        ("image,lat,lon\n0.png,,\n", "expected photos with locations, found none"),
        ("image,lat,lon\nbroken.png,1,2\n", "photos that can be read, got none; broken.png: "),
    ],
)
def test_what_cannot_be_used_is_one_line(album, table, words):
    album.write_text(table)
    with pytest.raises(UsageError, match=words) as raised:
        photo_splits(album, size=16, seed=0, skipped=album.with_name("skipped.txt"))
    assert "\n" not in str(raised.value)


def test_too_few_pairs_for_the_shots():
    photos = PhotoSet(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.zeros(8, 2).double())
    splits = Splits(photos[3:], photos[:1], photos[1:3])
    splits.require(4)
    with pytest.raises(UsageError, match="at least 6 pairs to train on for 5 shots, got 5; add"):
        splits.require(5)
    with pytest.raises(UsageError, match="photos for validation and for the comparison"):
        Splits(photos[:1], photos[:0], photos[:0]).require(0)


def test_views_are_the_same_for_the_same_seed():
    world = torch.rand(3, 24, 48, generator=torch.Generator().manual_seed(0))
    first, again = (
        view_set(world, 3, size=8, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert first.photos.shape == (3, 3, 8, 8)
    assert torch.equal(first.photos, again.photos)
    assert np.abs(first.lat_lon[:, 0].numpy()).max() <= 90
