"""Tests of the report from the command line, on a run of the main job."""

import sys

import pytest
from PIL import Image
from script_runs import load_script, run, untrained

from icgeo import config
from icgeo.report import read_run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def report(monkeypatch, *arguments):
    module = load_script("report")
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    config.run(module.main, module.Options)


@pytest.mark.slow
def test_a_run_of_photos_becomes_a_page(tmp_path, monkeypatch, capsys):
    """Places of three photos are known; one cannot be read."""
    for number in range(3):
        Image.new("RGB", (40, 40), (80 * number, 9, 99)).save(tmp_path / f"{number}.png")
    (tmp_path / "empty.png").touch()
    rows = [f"{name}.png,{place},{place + 1}" for place, name in enumerate((0, 1, 2, "empty"))]
    (tmp_path / "mine.csv").write_text("\n".join(["image,lat,lon", *rows]) + "\n")
    run("zero_shot", "--model", untrained(), "--queries", tmp_path / "mine.csv", "--name", "mine")
    cases = read_run(tmp_path / "runs" / "mine").cases
    assert len(cases) == 3
    assert cases[["photo", "map", "density"]].notna().all(axis=None)
    report(monkeypatch, "runs/mine", "--title", "My photos")
    assert capsys.readouterr().out.splitlines()[-1].startswith("written to runs/mine/report.html, ")
    page = (tmp_path / "runs" / "mine" / "report.html").read_text(encoding="utf-8")
    assert "<title>My photos</title>" in page
    assert "empty.png" in page
    assert "not kept" not in page


def test_words_are_run_folders(tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").touch()
    report(monkeypatch, "one", "two", "--output", "page.html")
    assert capsys.readouterr().out.startswith("written to page.html, 0.0 MB")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.index("Run one") < page.index("Run two")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "at least one run folder"), (("runs/none", "--output", "x.html"), "found none in")],
)
def test_what_cannot_be_shown_exits_with_2_and_one_line(arguments, words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        report(monkeypatch, *arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
