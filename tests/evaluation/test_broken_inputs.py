"""300 broken inputs through a reader and the evaluation: each is located or has a reason."""

import random
import struct
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

import icgeo.data
from icgeo.baselines import Chance
from icgeo.data import BenchmarkRecord, Skipped
from icgeo.evaluation import benchmark_episodes, evaluate
from icgeo.evaluation.rows import known_rows

KINDS = 30
"""Inputs of each of five kinds; as many again are fuzzed."""
GOOD = 6


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(256, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((48, 36), Image.Resampling.BICUBIC)


def encoded(seed: int, format: str = "JPEG", **options: object) -> bytes:
    stream = BytesIO()
    picture(seed).save(stream, format, **options)
    return stream.getvalue()


def truncated(number: int) -> bytes:
    data = encoded(number, ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")[number % 6])
    return data[: len(data) * number // KINDS]


def of_a_wrong_type(number: int) -> bytes:
    heads = (
        b"%PDF-1.7\n",
        b"<svg xmlns=''/>",
        b"PK\3\4",
        b"\0\0\0\x18ftypheic",
        b"{}",
        b"%!PS-Adobe",
    )
    return heads[number % 6] + random.Random(number).randbytes(20 * number)


def bomb(number: int) -> bytes:
    """Headers that claim up to 2^62 pixels, in files of a hundred bytes."""
    side = 2 ** (15 + number % 16)
    if number % 3 == 0:
        return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + bytes(40)
    if number % 3 == 1:
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
    data = bytearray(encoded(number, "PNG"))
    data[16:24] = struct.pack(">II", side, side)  # and so of a wrong checksum
    return bytes(data)


def of_bad_exif(number: int) -> bytes:
    """Good pixels behind EXIF that is damaged, of which a photo does not die."""
    exif = Image.Exif()
    exif[Base.Orientation] = number % 12
    exif[Base.Make] = "x" * number
    tags = bytearray(exif.tobytes())
    generator = random.Random(number)
    for _ in range(number):
        tags[6 + generator.randrange(len(tags) - 6)] = generator.randrange(256)
    return encoded(number, exif=bytes(tags))


BAD_ROWS = (
    "{id},,", "{id},nan,nan", "{id},91,0", "{id},0,361", "{id},north,east", "{id},1e999,0",
    "{id},5,", ",1,2", "{id}", "{id},1,2,3", '{id},"1,2', "../{id},1,2", "/etc/passwd,1,2",
    "lost/{id},1,2", "good-0.jpg,1,2",
)  # fmt: skip


def fuzzed(number: int) -> bytes:
    """Good files with bytes changed, cut out or doubled, at places drawn with a fixed seed."""
    generator = random.Random(1000 + number)
    format = ("JPEG", "PNG", "WEBP", "TIFF", "GIF")[number % 5]
    data = bytearray(encoded(number, format))
    for _ in range(1 + number % 7):
        start = generator.randrange(len(data))
        end = start + generator.randrange(1, 30)
        data[start:end] = generator.choice(
            (b"", bytes(data[start:end]) * 2, generator.randbytes(end - start))
        )
    return bytes(data)


FILES: dict[str, Callable[[int], bytes]] = {
    "truncated": truncated,
    "wrong type": of_a_wrong_type,
    "bomb": bomb,
    "bad EXIF": of_bad_exif,
    "fuzzed": fuzzed,
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A benchmark in the format of Im2GPS: six good photos among 300 broken inputs."""
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for number in range(GOOD):
        (images / f"good-{number}.jpg").write_bytes(encoded(number))
        lines.append(f"good-{number}.jpg,{number},{number}")
    for kind, make in FILES.items():
        for number in range(4 * KINDS if kind == "fuzzed" else KINDS):
            name = f"{kind}-{number}.jpg"
            (images / name).write_bytes(make(number))
            lines.append(f"{name},{number % 90},{number}")
    lines += [BAD_ROWS[i % len(BAD_ROWS)].format(id=f"bad row-{i}.jpg") for i in range(KINDS)]
    generator = random.Random(0)
    for number in range(KINDS):  # fuzzed rows
        line = list(f"fuzzed row-{number}.jpg,12.5,-33.25")
        for _ in range(1 + number % 5):
            line[generator.randrange(len(line))] = chr(generator.choice((44, 34, 0, 9, 45, 233)))
        lines.append("".join(line))
    table = "\n".join(["IMG_ID,LAT,LON", *lines]) + "\n"
    (tmp_path / "im2gps_places365.csv").write_bytes(table.encode("latin-1"))
    return tmp_path


# Pillow warns of damaged EXIF, and the tests make errors of warnings
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_each_of_300_is_located_or_has_a_reason(broken: Path):
    benchmark = icgeo.data.open("im2gps", broken)
    rows = list(benchmark.rows())
    assert len(rows) == 300 + GOOD
    skipped = [row for row in rows if isinstance(row, Skipped)]
    assert all(row.reason and row.place for row in skipped)
    records = [row for row in rows if isinstance(row, BenchmarkRecord)]

    (episode,) = benchmark_episodes(benchmark)
    evaluate([(Chance(), episode)], folder=broken / "run", shots=(0,), baselines=False)
    answers = known_rows(broken / "run").values()
    assert sorted(row.id for row in answers) == sorted(record.id for record in records)
    assert all((row.error is None) == (row.located is True) for row in answers)
    assert all(row.distance_km is not None or row.error for row in answers)
    assert all(row.error.startswith("photo ") for row in answers if row.error)

    outcomes = Counter(
        (row.id.rpartition("-")[0], "located" if row.located else "unreadable") for row in answers
    )
    assert outcomes["good", "located"] == GOOD
    assert outcomes["bad EXIF", "located"] == KINDS
    assert outcomes["wrong type", "unreadable"] == outcomes["bomb", "unreadable"] == KINDS
    assert outcomes["truncated", "located"] + outcomes["truncated", "unreadable"] == KINDS
    assert outcomes["truncated", "unreadable"] > outcomes["truncated", "located"]
    assert outcomes["fuzzed", "located"] + outcomes["fuzzed", "unreadable"] == 4 * KINDS
    assert min(outcomes["fuzzed", "located"], outcomes["fuzzed", "unreadable"]) > 10
    assert len(answers) + len(skipped) == 300 + GOOD
    assert len(skipped) == 2 * KINDS
    assert Counter(row.kind for row in skipped[:KINDS]) == {
        "no location": 4,
        "bad location": 10,
        "no id": 2,
        "bad row": 6,
        "no image": 6,
        "id again": 2,
    }
