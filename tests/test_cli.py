"""Tests of the command `icgeo`: answers, files, lists on standard input, exit codes."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote_to_bytes

import geopandas
import numpy as np
import pytest
import torch
from PIL import Image
from shapely.geometry import Point

import icgeo
from icgeo import cli
from icgeo.data.orbit import open_world, panorama_views, random_views


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Four views of the Earth, two of them in a bank, and a file that is no photo."""
    folder = tmp_path_factory.mktemp("album")
    generator = torch.Generator().manual_seed(1)
    views = random_views(open_world("blue-marble"), 4, generator=generator)
    rows = ["image,latitude,longitude"]
    for i, (image, place) in enumerate(zip(views.images, views.lat_lon.tolist(), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
        rows += [f"{i}.png,{place[0]},{place[1]}"] if i < 2 else []
    (folder / "bank.csv").write_text("\n".join(rows))
    (folder / "broken.jpg").write_text("no photo")
    return folder


@pytest.fixture
def typed(monkeypatch):
    """Type something on standard input."""

    def write(*lines):
        data = io.BytesIO("".join(f"{line}\n" for line in lines).encode())
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=data))

    return write


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_as_many_examples_are_chosen_as_asked(album, capsys):
    bank, photos = str(album / "bank.csv"), [str(album / "2.png"), str(album / "3.png")]
    told = ["predict", *photos, "--examples", bank, "--shots=1", "--features=pixels", "--json"]
    assert cli.main(told) == 0
    rows = rows_of(capsys.readouterr().out)
    expected = icgeo.predict(photos, bank, shots=1, features="pixels")
    assert [row["lat"] for row in rows] == [p.to_dict()["lat"] for p in expected]
    assert cli.main([*told, "--select", "random"]) == 0
    rows = rows_of(capsys.readouterr().out)
    expected = icgeo.predict(photos, bank, shots=1, select="random")
    assert [row["lat"] for row in rows] == [p.to_dict()["lat"] for p in expected]
    assert cli.main([*told, "--select", "best"]) == 2
    assert "nearest" in capsys.readouterr().err


def test_photos_are_located_as_by_the_library(album, capsys):
    bank, photos = album / "bank.csv", [str(album / "2.png"), str(album / "3.png")]
    assert cli.main(["predict", *photos, "--examples", str(bank), "--json"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "", "progress is for a terminal, and views from orbit are no surprise"
    rows = rows_of(shown.out)
    expected = icgeo.predict(photos, bank)
    for row, prediction, source in zip(rows, expected, photos, strict=True):
        told = {"source": source, **prediction.to_dict()}
        assert row.pop("seconds") > 0
        assert row == {name: value for name, value in told.items() if name != "seconds"}


def test_a_list_from_find_is_read_and_what_is_broken_is_code_1(album, typed, capsys):
    typed(album, album / "broken.jpg", album / "0.png", "", album / "lost.png")
    assert cli.main(["predict", "--json", "-", "--batch_size=2"]) == 1
    rows = rows_of(capsys.readouterr().out)
    assert [row["source"].rpartition("/")[2] for row in rows] == ["broken.jpg", "0.png", "lost.png"]
    assert ["error" in row for row in rows] == [True, False, True]


def test_words_for_people_and_errors_aside(album, tmp_path, capsys):
    assert cli.main(["predict", str(album / "0.png"), str(album / "broken.jpg")]) == 1
    shown = capsys.readouterr()
    source, place, area, legibility = shown.out.rstrip("\n").split("\t")
    assert source == str(album / "0.png")
    lat, lon = map(float, place.split(","))
    assert abs(lat) <= 90
    assert -180 <= lon < 180
    assert area.endswith(" km2")
    assert legibility.startswith("legibility 0.")
    assert "broken.jpg: expected a photo" in shown.err
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert cli.main(["predict", str(tmp_path / "noise.png")]) == 0
    assert capsys.readouterr().out.endswith("\tnot in domain\n")


def test_a_folder_stands_for_its_photos(album, capsys):
    assert cli.main(["predict", str(album), "--json"]) == 1
    sources = [row["source"] for row in rows_of(capsys.readouterr().out)]
    assert sources == [
        str(album / name) for name in ("0.png", "1.png", "2.png", "3.png", "broken.jpg")
    ]


def test_an_empty_path_is_not_the_current_folder(album, monkeypatch, capsys):
    monkeypatch.chdir(album)
    assert cli.main(["predict", "", "--json"]) == 1
    (row,) = rows_of(capsys.readouterr().out)
    assert "expected a photo" in row["error"]


def test_an_empty_list_or_folder_is_told(typed, tmp_path, capsys):
    typed()
    assert cli.main(["predict", "-"]) == 1
    shown = capsys.readouterr()
    assert "icgeo: no photo was given; a folder without photos gives none\n" in shown.err
    assert shown.out == ""
    assert cli.main(["predict", str(tmp_path)]) == 1


def test_lists_of_find_and_of_windows_are_understood(album, typed, monkeypatch, capsys):
    """NULs as of `find -print0`, and the byte order mark of a list from Windows."""
    names = [str(album / "0.png"), str(album / "1.png")]
    for data in ("\0".join([*names, ""]), "\ufeff" + "\r\n".join(names)):
        stream = SimpleNamespace(buffer=io.BytesIO(data.encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        assert cli.main(["predict", "-", "--json"]) == 0
        assert [row["source"] for row in rows_of(capsys.readouterr().out)] == names


def test_a_list_of_powershell_is_read_and_a_photo_is_no_list(album, monkeypatch, capsys):
    name = str(album / "0.png")
    stream = SimpleNamespace(buffer=io.BytesIO(f"{name}\r\n{name}\r\n".encode("utf-16")))
    monkeypatch.setattr(sys, "stdin", stream)
    assert cli.main(["predict", "-", "--json"]) == 0
    assert [row["source"] for row in rows_of(capsys.readouterr().out)] == [name, name]
    stream.buffer = io.BytesIO((album / "0.png").read_bytes())
    assert cli.main(["predict", "-"]) == 2
    assert "expected a list of paths on standard input, got a photo" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["bank.csv", "0.png", "2.png"])
def test_a_run_on_other_files_of_the_same_names_does_not_go_on(
    album, tmp_path, changed, monkeypatch, capsys
):
    copy = shutil.copytree(album, tmp_path / "album")
    asked = ["predict", str(copy / "2.png"), str(copy / "3.png"), "--batch_size", "1"]
    asked += ["--examples", str(copy / "bank.csv"), "--save", str(tmp_path / "out.csv")]
    with monkeypatch.context() as patch:
        stopped_after(1, patch)
        assert cli.main(asked) == 130
    if changed == "bank.csv":
        (copy / changed).write_text((copy / changed).read_text().replace("0.png,", "0.png,-"))
    else:
        shutil.copy(album / "3.png", copy / changed)
    assert cli.main(asked) == 2
    assert "with other options, examples or photos" in capsys.readouterr().err


def stopped_after(batches, monkeypatch):
    """Stop the command at a batch, as Ctrl-C does."""
    locate, done = cli._locate, []

    def interrupted(*args, **options):
        if len(done) == batches:
            raise KeyboardInterrupt
        done.append(1)
        return locate(*args, **options)

    monkeypatch.setattr(cli, "_locate", interrupted)


@pytest.mark.parametrize(
    "suffix",
    [
        pytest.param(".geojson", marks=pytest.mark.slow),
        ".csv",
        ".parquet",
        pytest.param(".jsonl", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on(album, suffix, tmp_path, monkeypatch, capsys):
    whole, path = (tmp_path / f"{name}{suffix}" for name in ("whole", "out"))
    command = ["predict", str(album), "--batch_size", "2", "--save"]
    cli.main([*command, str(whole)])
    expected = content(whole)
    with monkeypatch.context() as patch:
        stopped_after(2, patch)
        assert cli.main([*command, str(path)]) == 130
    part = tmp_path / f"out{suffix}.part"
    part.write_bytes(part.read_bytes()[:-40])  # as killed while it wrote
    assert not path.exists()
    with monkeypatch.context() as patch:
        stopped_after(0, patch)
        assert cli.main([*command, str(path), "--shots", "3"]) == 2
        assert "holds the answers of a run with other options" in capsys.readouterr().err
        assert cli.main([*command, str(path)]) == 130
    assert cli.main([*command, str(path)]) == 1
    assert "going on behind 2 photos" in capsys.readouterr().err
    assert content(path) == expected
    assert not part.exists()


def content(path):
    """What a file holds but for the time that it took."""
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path).drop(columns="seconds").to_wkt().to_csv()
    text = path.read_text()
    if path.suffix == ".csv":
        return [{**row, "seconds": ""} for row in csv.DictReader(text.splitlines())]
    rows = [json.loads(text)] if path.suffix == ".geojson" else rows_of(text)
    for row in rows:
        for one in row.get("features", [row]):
            one.get("properties", one).pop("seconds", None)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".geojson", ".csv"])
def test_a_run_killed_three_times_ends_with_the_same_rows(album, suffix, tmp_path):
    """160 photos, some broken, killed by SIGKILL after some 20, 60 and 100 of them.

    The journal is the same for all suffixes; how each ends is seen in runs that are stopped.
    """
    whole, path = (tmp_path / f"{name}{suffix}" for name in ("whole", "out"))
    (photos := tmp_path / "photos").mkdir()
    names = ("0.png", "1.png", "2.png", "3.png", "broken.jpg")
    for number in range(160):
        (photos / f"{number:03}.jpg").symlink_to(album / names[number % 5])
    command = [sys.executable, "-m", "icgeo", "predict", str(photos), "--batch_size=16", "--json"]
    subprocess.run([*command, f"--save={whole}"], check=False, capture_output=True)
    known = 0
    for moment in (20, 60, 100):
        running = subprocess.Popen(
            [*command, f"--save={path}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(moment - known):
            assert running.stdout.readline()
        running.kill()
        running.communicate()
        assert not path.exists()
        known = len((tmp_path / f"{path.name}.part").read_bytes().splitlines()) - 1
        known -= known % 16
        assert known >= moment - 32
    last = subprocess.run([*command, f"--save={path}"], check=False, capture_output=True, text=True)
    assert f"going on behind {known} photos" in last.stderr
    assert last.returncode == 1, "some photos are broken"
    assert content(path) == content(whole)


@pytest.mark.parametrize("suffix", [".geojson", ".csv", ".parquet", ".jsonl"])
def test_names_of_any_bytes_are_saved(album, suffix, tmp_path):
    name = os.fsencode(tmp_path) + b"/na\xefve\ttab.png"
    shutil.copyfile(album / "0.png", name)
    path = tmp_path / f"out{suffix}"
    assert cli.main(["predict", os.fsdecode(name), "--save", str(path)]) == 0
    assert b"tab.png" in path.read_bytes()
    if suffix == ".parquet":
        (source,) = geopandas.read_parquet(path)["source"]
        assert unquote_to_bytes(source.removeprefix("file:")) == name
    else:
        assert "/na%EFve%09tab.png" in path.read_text()


@pytest.mark.parametrize("suffix", [".geojson", ".csv", ".parquet", ".jsonl"])
def test_errors_of_names_of_any_bytes_are_saved(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    assert cli.main(["predict", os.fsdecode(b"no\xef.png"), "--save", str(path)]) == 1
    assert b"file:no%EF.png" in path.read_bytes()
    assert b"no\\" in path.read_bytes()


def test_a_name_with_a_line_end_is_one_line(album, tmp_path, capsys):
    path = tmp_path / "two\nlines.png"
    shutil.copyfile(album / "0.png", path)
    assert cli.main(["predict", str(path)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line.split("\t")[0]) == str(path)


def test_more_shots_than_examples_are_told(album, capsys):
    bank = str(album / "bank.csv")
    assert cli.main(["predict", str(album / "2.png"), "--examples", bank, "--shots", "20"]) == 0
    assert "icgeo: 2 examples are all there are, and are shown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://example.org/a.jpg", "it is an address: download the file first"),
        ("~nobody/a.jpg", "the shell replaces ~"),
        ("photos/*.jpg", "it is a pattern"),
        ("photos\\a.jpg", "write / in place of the backslashes"),
        ("\ufeffa.jpg", "byte order mark"),
        ("nowhere.jpg", "check the path"),
        ("file:///tmp/a.jpg", "it is the address of a file here: write its path"),
        ('"a.jpg"', "it is in quotes: write it without"),
        ("a\x1b[31m.jpg", r"photo a\x1b[31m.jpg: expected a photo"),
        ("x" * 5000, f"photo {'x' * 200}...: expected"),
    ],
)
def test_a_path_that_is_not_there_is_explained(name, words, capsys):
    assert cli.main(["predict", name]) == 1
    assert words in capsys.readouterr().err


def test_another_unicode_form_is_told(tmp_path, capsys):
    (tmp_path / "Zu\u0308rich.jpg").touch()  # as macOS writes it
    assert cli.main(["predict", str(tmp_path / "Z\u00fcrich.jpg")]) == 1
    assert "another Unicode form" in capsys.readouterr().err


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == f"icgeo {metadata.version('icgeo')}"


@pytest.mark.parametrize("suffix", [".geojson", ".csv", ".parquet", ".jsonl"])
def test_every_format_says_what_json_says(album, suffix, tmp_path, capsys):
    path = tmp_path / f"out{suffix}"
    sources = [str(album / "0.png"), str(album / "broken.jpg")]
    assert cli.main(["predict", *sources, "--json", "--save", str(path)]) == 1
    (located, broken) = rows_of(capsys.readouterr().out)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    if suffix == ".jsonl":
        assert rows_of(path.read_text()) == [located, broken]
    elif suffix == ".csv":
        first, second = csv.DictReader(path.read_text().splitlines())
        assert tuple(first) == cli.COLUMNS
        assert float(first["lat"]) == located["lat"]
        assert first["in_domain"] == "True"
        assert second["error"] == broken["error"]
    elif suffix == ".parquet":
        frame = geopandas.read_parquet(path)
        assert frame.crs == "EPSG:4326"
        assert frame["error"].notna().tolist() == [False, True]
        assert frame.geometry[0] == Point(located["lon"], located["lat"])
    else:
        frame = geopandas.read_file(path)
        point, _, region, missing = frame.geometry
        assert frame["probability"].iloc[1:3].tolist() == [0.5, 0.9]
        assert not any("id" in feature for feature in json.loads(path.read_text())["features"])
        assert (point.x, point.y) == pytest.approx((located["lon"], located["lat"]))
        assert missing is None
        area = geopandas.GeoSeries([region], crs="EPSG:4326").to_crs("ESRI:54034").area.item() / 1e6
        assert area == pytest.approx(located["area_90_km2"], rel=0.02), "another projection's area"


def test_geojson_of_the_command_is_that_of_the_library(album, tmp_path):
    path = tmp_path / "out.geojson"
    photos = [str(album / "0.png"), str(album / "1.png")]
    assert cli.main(["predict", *photos, "--save", str(path)]) == 0
    saved = json.loads(path.read_text())
    told = [json.loads(one.to_geojson()) for one in icgeo.predict(photos)]
    for one, source in zip(told, photos, strict=True):
        for feature in one["features"]:
            feature["properties"] = {"source": source, **feature["properties"]}
    assert saved["features"] == [feature for one in told for feature in one["features"]]
    assert {n: x for n, x in saved.items() if n != "features"} == {
        n: x for n, x in told[0].items() if n != "features"
    }


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_streams_that_are_closed_are_no_traceback(album, closed, tmp_path):
    """As cron and some services start programs."""
    number = {"stdin": "0<&-", "stdout": "1>&-", "stderr": "2>&-"}[closed]
    photo = "-" if closed == "stdin" else str(album / "0.png")
    path = tmp_path / "out.csv"
    line = f'"{sys.executable}" -m icgeo predict "{photo}" --save "{path}" {number}'
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == (2 if closed == "stdin" else 0)
    assert path.exists() == (closed != "stdin")


@pytest.mark.parametrize(
    ("rest", "words", "code"),
    [
        ("--json > /dev/full", "cannot go on: [Errno 28] No space left on device", 2),
        ('--save "{}/out.csv" --batch_size 1', "out.csv.part: File too large; the same comm", 2),
    ],
)
@pytest.mark.slow
def test_a_full_disk_is_one_line(album, tmp_path, rest, words, code):
    photos = " ".join(f'"{album}/{number}.png"' for number in (0, 1, 2, 3) * 3)
    command = f'"{sys.executable}" -m icgeo predict {photos} {rest.format(tmp_path)}'
    line = f"ulimit -f 3; {command}"  # KiB of a file
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert done.returncode == code


@pytest.mark.slow
def test_a_run_on_a_full_disk_keeps_its_rows_and_goes_on(album, tmp_path):
    photos = " ".join(f'"{album}/{number}.png"' for number in (0, 1, 2, 3) * 3)
    command = f'"{sys.executable}" -m icgeo predict {photos} --batch_size 1 --save '
    saved, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    counts = []
    for limit in (3, 3, "unlimited"):
        line = f"ulimit -f {limit}; {command} {saved}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        counts.append(len(part.read_bytes().splitlines()) if part.exists() else 0)
    assert counts[0] == counts[1] > 2
    assert "going on behind" in done.stderr
    assert [Path(row["source"]).stem for row in rows_of(saved.read_text())] == [*"0123"] * 3


def test_views_around_a_panorama_are_located_as_one_place(album, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    path = tmp_path / "around.jpg"
    tag = b"<GPano:ProjectionType>equirectangular</GPano:ProjectionType>"
    Image.fromarray(pixels).save(path, xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + tag)
    asked = ["predict", str(path), str(album / "0.png"), "--json"]
    assert cli.main([*asked, "--panoramas", "around"]) == 0
    around, plain = rows_of(capsys.readouterr().out)
    views = panorama_views(path)
    whole = icgeo.Geolocator().locate_sequence(views, [], speed_kmh=0).whole.to_dict()
    assert {**around, "seconds": 0} == {"source": str(path), **whole, "seconds": 0}
    assert cli.main(asked) == 0
    middle, same = rows_of(capsys.readouterr().out)
    assert plain["lat"] == pytest.approx(same["lat"], abs=1e-3)
    assert middle["area_90_km2"] != around["area_90_km2"]


def test_names_that_are_too_long_are_told(album, tmp_path, typed, capsys):
    typed("x" * 300, album / "0.png")
    assert cli.main(["predict", "y" * 300, "-", "--json"]) == 1
    rows = rows_of(capsys.readouterr().out)
    assert ["File name too long" in row.get("error", "") for row in rows] == [True, True, False]
    for length in (250, 300):
        path = tmp_path / f"{'x' * length}.csv"
        assert cli.main(["predict", str(album / "0.png"), "--save", str(path)]) == 2
        assert "File name too long; give another --save" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["my notes\n", "{}\n", "[1]"])
def test_a_foreign_file_is_not_taken_for_a_journal(album, tmp_path, text, capsys):
    (tmp_path / "out.csv.part").write_text(text)
    asked = ["predict", str(album / "0.png"), "--save", str(tmp_path / "out.csv")]
    assert cli.main(asked) == 2
    assert "out.csv.part is not of icgeo; move it" in capsys.readouterr().err
    assert (tmp_path / "out.csv.part").read_text() == text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), 'expected "subcommand" to be one of'),
        (("predict",), "expected photos, or - for a list"),
        (("predict", "a.png", "--save", "out.txt"), "ends in .csv, .geojson"),
        (("predict", "a.png", "--save", "no/where/out.csv"), "expected a folder"),
        (("predict", "a.png", "--save", "out.csv/.."), "ends in .csv"),
        (("predict", "a.png", "--examples", "lost.csv"), "lost.csv: expected a manifest"),
        (("predict", "a.png", "--examples", "{album}/bad.csv"), "expected a photo"),
        (("predict", "a.png", "--model", "lost"), "expected a file or folder, or a hub id"),
        (("predict", "a.png", "--prompt", "Mars"), "expected prompt of"),
        (("predict", "a.png", "--steps", "0"), "steps of at least 1, got 0"),
        (("predict", "a.png", "--stepz", "1"), "see icgeo predict --help"),
        (("predict", "a.png", "--config", "{album}/0.png"), "expected text in UTF-8 in the file"),
        (("predict", "a.png", "--select", "diverse"), "expected --shots with --select"),
        (("plan", "--quantization", "nf4"), "expected no quantization for a model of this size"),
        (("plan", "--device", "cuda:99"), "got cuda:99"),
        (("plan", "--quantization", "int3"), "expected quantization of"),
        (("plan", "--shots", "-1"), "expected shots of at least 0, got -1"),
        (("plan", "--layout", "frames"), "expected layout of 'stacked', which"),
        (("plan", "--attention", "all"), "expected attention of"),
        (
            ("plan", "--photo_size", "99"),
            "expected photo_size of 64, which this model knows alone, got 99",
        ),
        (("plan", "--samples", "0"), "expected samples of at least 1, got 0"),
        (("plan", "--model", ""), "expected a file or folder, or a hub id (owner/name), got ''"),
        (("plan", "--batch_size", "0"), "expected batch_size of at least 1, got 0"),
        (("predict", "a.png", "--device", "cuda:99"), "got cuda:99"),
        (("predict", "a.png", "--device", "abacus"), "expected a device such as cpu or cuda"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args, words, album, capsys):
    (album / "bad.csv").write_text("image,latitude,longitude\nbroken.jpg,1,2")
    assert cli.main([arg.format(album=album) for arg in args]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("icgeo: error: ")
    assert words in line


def test_a_plan_is_that_of_the_library(capsys):
    assert cli.main(["plan", "--shots", "3", "--dtype", "float32", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    plan = icgeo.plan(shots=3, dtype=torch.float32)
    assert told == {name: getattr(plan, name) for name in cli.COSTS}
    assert cli.main(["plan", "--shots", "3", "--dtype", "float32"]) == 0
    assert capsys.readouterr().out == f"{plan}\n"


def test_info_says_what_is_here(capsys):
    assert cli.main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["packages"]["torch"] == torch.__version__
    assert told["devices"]["cpu"] == f"{torch.get_num_threads()} threads"
    assert told["attention backends"]["native"] == "yes"
    assert told["packages"]["numpy"] == np.__version__


def test_the_demo_is_told_its_options(monkeypatch, capsys):
    told = {}
    page = ModuleType("icgeo.app")
    page.launch = lambda **options: told.update(options)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "icgeo.app", page)
    assert cli.main(["demo", "--port", "9000", "--share"]) == 0
    local = {"host": "127.0.0.1", "port": 9000, "share": True}
    assert told == {"model": "tiny", "device": "cpu", **local}
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert "pip install 'icgeo[demo]'" in capsys.readouterr().err


def test_help_shows_every_option_with_its_default(capsys):
    for options, command in cli.COMMANDS.items():
        with pytest.raises(SystemExit, match="0"):
            cli.main([command.__name__, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        for field in options.__dataclass_fields__.values():
            if "positional" in field.metadata:
                assert field.metadata["positional"] in shown
            else:
                _, _, rest = shown.partition("options: -h")[2].partition(f" --{field.name} ")
                assert "default:" in rest
