"""Tests of the page as a reader gets it: complete, escaped, without network, for any rows."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_rows import rows, write_run

from icgeo.evaluation import Row
from icgeo.report import read_run, write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What stands in a page; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.seen if name == tag]


def page_of(tmp_path, *runs):
    folders = [write_run(tmp_path, some, name=f"run{i}") for i, some in enumerate(runs)]
    text = write_report(folders, tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The page of a run with answers, failures and hostile names."""
    folder = tmp_path_factory.mktemp("whole")
    hostile = "<script>alert('id')</script>"
    some = rows()
    some[0] = replace(some[0], id=hostile)
    failed = Row("icgeo", "e", "moon", "<img src=x>", 4, error="<script>alert(1)</script> & more")
    unanswered = replace(some[3], id="nobody", lat=None, lon=None, distance_km=None, located=False)
    return page_of(folder, [*some, failed, unanswered])


def test_the_page_needs_nothing_else(whole):
    text, page = whole
    assert {attrs["src"][:11] for attrs in page.all("img")} == {"data:image/"}
    assert not page.all("script")
    assert not page.all("link")
    assert {attrs["href"][0] for attrs in page.all("a")} == {"#"}
    assert "default-src 'none'" in text
    assert not re.search(r"https?://", text)
    assert len(text) < 5_000_000


def test_text_from_files_is_escaped(whole):
    text, page = whole
    assert "<script" not in text
    assert "<img src=x>" not in text
    assert "<script>alert(1)</script> & more" in page.text


def test_the_page_can_be_heard(whole):
    """Headings in order, names for pictures, tables with captions and header cells, links home."""
    _, page = whole
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.seen if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(len(attrs["alt"]) > 5 for attrs in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert {attrs["scope"] for attrs in page.all("th")} == {"col", "row"}
    named = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert len(set(named)) == len(named)
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(named)


def test_every_part_is_there(whole):
    _, page = whole
    for words in (
        "At a glance",
        "moon: scores",
        "Against published",
        "Curves",
        "Distance from calibration",
        "Maps of errors",
        "Best and worst",
        "Photos that failed",
        "Time a query takes",
        "seed",
        "packages: torch 2.13.0",
        "GeoRanker) is set beside this run",
        "device \N{EN DASH}",
    ):
        assert words in page.text
    assert "1 of 9 were not located; the tables count them as 10,008 km" in page.text
    assert "throughput, queries/s" in page.text


@pytest.mark.parametrize(
    ("some", "words"),
    [
        ([], "No photo was located."),
        ([Row("icgeo", "e", "photos", "a.jpg", 0, error="empty file")], "empty file"),
        (
            [
                replace(
                    rows()[0], nll=None, level=None, true_lat=None, true_lon=None, distance_km=None
                )
            ],
            "Answers without a known truth",
        ),
    ],
)
def test_a_run_with_little_in_it_has_a_page(tmp_path, some, words):
    text, page = page_of(tmp_path, some)
    assert words in page.text
    assert "nan" not in page.text.lower().split()
    assert "None:" not in page.text or "None: every photo" in page.text
    assert len(text) > 1000


def test_several_runs_stand_side_by_side(tmp_path):
    _, page = page_of(tmp_path, [], rows(count=3, locators=("icgeo",), shots=(2,)))
    assert [attrs["id"] for attrs in page.all("h2")] == ["run-1", "run-2"]
    assert "run1 moon icgeo 2 111" in page.text


def test_a_missing_score_is_a_dash(tmp_path):
    """An earlier version kept less, and a density without mass at the truth has infinite NLL."""
    first, *rest = rows(count=2, locators=("icgeo",), shots=(1,))
    few = [replace(first, nll=math.inf, area_90_km2=None, seconds=None)]
    few += [replace(one, area_90_km2=None, searched_area_km2=None, seconds=None) for one in rest]
    run = read_run(write_run(tmp_path, few))
    assert math.isinf(run.rows.nll[0])
    text = write_report([tmp_path / "run"], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "∞" in text
    assert "\N{EN DASH}" in text


def test_long_lists_say_what_is_left_out(tmp_path):
    (row,) = rows(count=1, locators=("icgeo",), shots=(1,))
    lost = [Row("icgeo", "e", "moon", f"lost{n}.jpg", 1, error="empty") for n in range(150)]
    unknown = [
        replace(row, id=f"mine{n}.jpg", nll=None, true_lat=None, true_lon=None, distance_km=None)
        for n in range(150)
    ]
    text, page = page_of(tmp_path, [*lost, *unknown])
    for name, file in (("lost", "predictions.jsonl"), ("mine", "predictions.parquet")):
        assert text.count(f'<th scope="row">{name}') == 100
        assert f"And 50 more in {file}." in page.text


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_tables_are_moved_in_their_own_box(chromium, tmp_path, width):
    """The last column of each can be brought into the window, which itself does not move."""
    page_of(tmp_path, rows(locators=("icgeo", "retrieval", "chance")))
    page = chromium.new_page(viewport={"width": width, "height": 900})
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto((tmp_path / "out" / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ends = page.evaluate("""[...document.querySelectorAll('.scroll')].map(box => {
        box.scrollLeft = 1e6;
        return box.querySelector('th:last-child').getBoundingClientRect().right;
    })""")
    assert len(ends) > 5
    assert all(0 < end <= width for end in ends)
    assert {url.split(":")[0] for url in addresses} <= {"file", "data"}
    page.close()
