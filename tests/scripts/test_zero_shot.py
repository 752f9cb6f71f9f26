"""Tests of the main job end to end: worlds, a user's photos, and being killed."""

import json
import re
import sys
from functools import partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image
from script_runs import load_script, run, untrained

from icgeo import config, report
from icgeo.config import UsageError
from icgeo.data import map_cache
from icgeo.data.worlds import procedural_world
from icgeo.evaluation import Episode
from icgeo.prediction import Example

FIGURES = {"context.png", "gallery.png", "shots.png", "calibration.png"}
WORLDS = ("blue-marble", "mars")
FILES = {"options.yaml", "versions.json", "predictions.jsonl", "predictions.parquet"}
FILES |= {"summary.json", "cases"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def picture(tmp_path):
    """A planet of noise, 2 : 1."""
    noise = np.random.default_rng(0).integers(256, size=(8, 16, 3), dtype=np.uint8)
    path = tmp_path / "mars.png"
    Image.fromarray(noise).resize((128, 64)).save(path)
    return path


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(report, "save_figures", lambda *_: None)


def test_worlds_are_located_and_a_killed_run_goes_on(picture, tmp_path, capsys, monkeypatch):
    options = ("--model", untrained(), "--world", picture, "--count", 2, "--shots", "[0,3]")
    options += ("--bank", 8)
    run("zero_shot", *options)
    out = capsys.readouterr().out
    tables = [[cells(x) for x in part.splitlines() if x[:1] == "|"] for part in out.split("\n\n")]
    expected = [(world, shots) for world in WORLDS for shots in ("0", "3")]
    expected += [(f"{world}, random", "3") for world in WORLDS]
    for table in tables[0], tables[2]:
        assert [(line[0], line[1]) for line in table[2:]] == expected
    assert tables[2][0] == ["world", "shots", "icgeo", "retrieval", "cross-correlation"]
    assert max(map(len, out.splitlines())) <= 100
    folder = tmp_path / "runs" / "zero-shot"
    cases = {f"{world}-{kind}.png" for world in WORLDS for kind in ("best", "worst")}
    assert {path.name for path in folder.iterdir()} == FILES | FIGURES | cases
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 2 * 3 + 2 * 2 * 6
    assert {"id", "world", "shots", "true_lat", "nll", "seconds"} <= rows[-1].keys()

    whole = (folder / "predictions.jsonl").read_bytes()
    (folder / "predictions.jsonl").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(report, "save_figures", lambda *_: None)  # for time
    run("zero_shot", *options)
    again = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert {row.pop("seconds") > 0 for row in rows + again} == {True}
    assert again == rows


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_a_map_makes_the_examples_of_its_own_views_and_of_photos(
    picture, tmp_path, capsys, monkeypatch
):
    found = partial(map_cache.cached_assets_path, assets_dir=tmp_path / "assets")
    monkeypatch.setattr(map_cache, "cached_assets_path", found)
    options = ("--model", untrained(), "--map", picture, "--shots", "[0,3]")
    run("zero_shot", *options, "--count", 2)
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert {row[0] for row in rows if row[1] in ("0", "3")} == {"mars"}
    (tmp_path / "photos").mkdir()
    Image.open(picture).crop((0, 0, 64, 64)).save(tmp_path / "photos" / "mine.png")
    run("zero_shot", *options, "--queries", tmp_path / "photos", "--name", "own")
    lines = (tmp_path / "runs" / "own" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["shots"] for line in lines] == [3], "no bank was given, and 3 shown"


@pytest.mark.slow
def test_a_map_is_zoomed_on_and_rows_and_report_tell_the_chain(tmp_path, monkeypatch):
    found = partial(map_cache.cached_assets_path, assets_dir=tmp_path / "assets")
    monkeypatch.setattr(map_cache, "cached_assets_path", found)
    world = procedural_world("craters", generator=3, height=96)
    planet = tmp_path / "planet.png"
    Image.fromarray((255 * world).round().byte().movedim(0, -1).numpy()).save(planet)
    options = ("--map", planet, "--shots", "[0]", "--count", 1, "--heading", 0)
    run("zero_shot", *options)
    folder = tmp_path / "runs" / "zero-shot"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["locator"] == "icgeo"]
    assert [level["name"] for level in row["levels"]] == ["planet", "windows", "place"]
    assert row["nll"] == pytest.approx(row["levels"][-1]["nll"])
    assert row["heading_deg"] == row["levels"][-1]["heading_deg"]
    ground = shapely.from_wkt(row["footprint"])
    assert ground.contains(shapely.Point(row["levels"][-1]["lon"], row["levels"][-1]["lat"]))
    assert pd.read_parquet(folder / "predictions.parquet").footprint.notna().sum() == 1
    assert [*(folder / "cases").glob("*-chain.png")]
    page = report.write_report([folder], tmp_path / "report.html").read_text()
    assert "Chain of the zoom of" in page
    with pytest.raises(UsageError, match="expected examples with steps"):
        run("zero_shot", *options, "--steps", 3, "--name", "other")
    with pytest.raises(UsageError, match="--zoom=false with --select"):
        run("zero_shot", *options, "--select", "nearest", "--name", "other")


@pytest.mark.usefixtures("without_figures")
def test_examples_are_chosen_out_of_a_bank(picture, tmp_path, capsys):
    options = ("--world", picture, "--count", 3, "--shots", "[0,2]", "--bank", 6)
    run(
        "zero_shot", "--model", untrained(), *options, "--select", "nearest", "--features", "pixels"
    )
    _, _, below, *_ = capsys.readouterr().out.split("\n\n")
    header, *lines = [cells(x) for x in below.splitlines() if x.startswith("|")]
    assert header[3:] == ["retrieval", "cross-correlation"]
    assert len(lines) == 1 + 2 * 2
    rows = [
        json.loads(line)
        for line in (tmp_path / "runs/zero-shot/predictions.jsonl").read_text().splitlines()
    ]
    answers = {(row["locator"], row["id"], row["shots"]): row.get("lat") for row in rows}
    assert {name for name, *_ in answers} == {"icgeo", "retrieval", "cross-correlation"}
    assert len(answers) == 2 * 2 * 3 * 3
    with pytest.raises(UsageError, match="and no --select"):
        run("zero_shot", "--video", "clip.mp4", "--speed_kmh", 9, "--select", "nearest")


@pytest.mark.usefixtures("without_figures")
def test_other_options_need_another_folder(picture):
    options = ("--model", untrained(), "--world", picture, "--count", 1, "--shots", "[0]")
    options += ("--bank", 4)
    run("zero_shot", *options)
    with pytest.raises(ValueError, match="seed"):
        run("zero_shot", *options, "--seed", 1)


@pytest.fixture
def album(tmp_path):
    """Photos of which one is empty, and examples with known places."""
    generator = np.random.default_rng(1)
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        pixels = generator.integers(256, size=(32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    (folder / "empty.jpg").touch()
    (folder / "queries.csv").write_text("image\na.jpg\nempty.jpg\nb.jpg\n")
    (folder / "examples.csv").write_text("image,lat,lng\nc.jpg,48.8,2.3\nd.jpg,-33.9,151.2\n")
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "nowhere"), "a file or folder, or a hub id .*, got 'nowhere'"),
        (("--attention", "causal"), "expected attention of .*, got 'causal'"),
        (("--dtype", "float8"), "expected dtype of .*, got 'float8'"),
        (("--quantization", "int8"), "no quantization for a model of this size"),
        (("--adapter", "lost"), "a file or folder, or a hub id .*, got 'lost'"),
        (("--shots", "[0,1000000]"), "1000000 shots, .* GiB, .* fewer examples"),
    ],
)
def test_what_cannot_be_exits_with_2_and_one_line(options, words, monkeypatch, capsys):
    module = load_script("zero_shot")
    monkeypatch.setattr(sys, "argv", ["zero_shot.py", *options])
    photo = np.zeros((8, 8, 3), dtype=np.uint8)
    many = [Example(photo, 0.0, 0.0)] * 1_000_000
    monkeypatch.setattr(module, "gather", lambda _: [Episode("x", "earth", many, [])])
    with pytest.raises(SystemExit) as stopped:
        config.run(module.main, module.Options)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert not Path("runs").exists()


def test_a_users_photos_are_located_and_the_unreadable_listed(album, tmp_path, capsys):
    manifests = ("--queries", album / "queries.csv", "--examples", album / "examples.csv")
    run("zero_shot", "--model", untrained(), *manifests, "--name", "mine")
    out = capsys.readouterr().out
    assert "skipped empty.jpg: photo" in out
    assert all(any(line.startswith(f"{n}.jpg: ") for line in out.splitlines()) for n in "ab")
    folder = tmp_path / "runs" / "mine"
    rows = {
        row["id"]: row
        for row in map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    }
    assert {row["shots"] for row in rows.values()} == {2}
    assert "error" in rows["empty.jpg"]
    assert rows["a.jpg"]["source"] == str(album / "a.jpg")
    assert {path.name for path in folder.iterdir()} == FILES | {
        "context.png",
        "gallery.png",
        "photos-surest.png",
        "photos-least-sure.png",
    }


@pytest.fixture
def benchmark(album):
    """Im2GPS with three photos."""
    (album / "images").mkdir()
    for name in "abc":
        (album / f"{name}.jpg").rename(album / "images" / f"{name}.jpg")
    (album / "im2gps_places365.csv").write_text("IMG_ID,LAT,LON\na.jpg,0,0\nb.jpg,1,1\nc.jpg,2,2\n")
    (album / "examples.csv").write_text("image,lat,lng\nd.jpg,-33.9,151.2\n")
    return "--benchmark", "im2gps", "--root", album, "--examples", album / "examples.csv"


def test_a_benchmark_is_gathered(benchmark):
    module = load_script("zero_shot")
    (episode,) = module.gather(config.parse(module.Options, [str(word) for word in benchmark]))
    assert (episode.world, len(episode.examples), len(episode.queries)) == ("im2gps", 1, 3)
    with pytest.raises(UsageError, match="expected a folder of im2gps or the id"):
        module.gather(module.Options(benchmark="im2gps"))


@pytest.mark.slow
def test_a_benchmark_is_located(benchmark, tmp_path, capsys):
    run("zero_shot", "--model", untrained(), *benchmark, "--shots", "[0,1]")
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert [(line[1].strip(), line[2].strip()) for line in lines[2:]] == [
        ("im2gps", shots) for shots in ("0", "1")
    ]
    text = (tmp_path / "runs" / "zero-shot" / "predictions.jsonl").read_text()
    assert {json.loads(line)["id"] for line in text.splitlines()} == {f"{n}.jpg" for n in "abc"}


@pytest.fixture
def video(tmp_path):
    """Two seconds of noise, three frames in each."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=3)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for noise in np.random.default_rng(2).integers(256, size=(6, 48, 64, 3), dtype=np.uint8):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        file.mux(stream.encode())
    return path


def test_a_video_is_located_frame_by_frame_and_as_a_whole(video, album, tmp_path, capsys):
    options = ("--model", untrained(), "--video", video, "--examples", album / "examples.csv")
    with pytest.raises(UsageError, match="--speed_kmh"):
        run("zero_shot", *options)
    run("zero_shot", *options, "--speed_kmh", 900, "--every_seconds", 0.6, "--name", "flight")
    lines = capsys.readouterr().out.splitlines()
    names = ["whole clip", "0.00 s", "0.67 s", "1.33 s"]
    assert [line.partition(":")[0] for line in lines[: len(names)]] == names
    text = (tmp_path / "runs" / "flight" / "predictions.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == names
    assert {row["source"] for row in rows} == {str(video)}
