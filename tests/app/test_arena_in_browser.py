"""The page of the arena end to end, in a headless Chromium, against a server of its own."""

import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_server import LOCAL, served

from icgeo.evaluation.arena import read_votes
from icgeo.evaluation.rows import Row, write_rows

pytestmark = pytest.mark.browser

PHOTOS = Path(__file__).parents[2] / "assets" / "photos"
SERVER = """
import sys
from pathlib import Path
from icgeo.app import launch_arena
from icgeo.app.duels import make_duels
from icgeo.evaluation.arena import read_runs
port, folder = int(sys.argv[1]), Path(sys.argv[2])
launch_arena(make_duels(read_runs([folder / "run"])), folder / "votes.jsonl", port=port)
"""
PLACES = {"colosseum": (41.89, 12.49), "brandenburg-gate": (52.516, 13.378)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photos of three locators: one right, one in another country, one without an answer."""
    folder = tmp_path_factory.mktemp("arena")
    rows = []
    for name, (lat, lon) in PLACES.items():
        known = {"true_lat": lat, "true_lon": lon, "source": str(PHOTOS / f"{name}.jpg")}
        answers = {"exact": (lat, lon), "abroad": (lat + 6, lon - 9), "silent": (None, None)}
        for locator, (at, on) in answers.items():
            rows.append(Row(locator, "photos", "photos", name, 0, lat=at, lon=on, **known))
    (folder / "run").mkdir()
    write_rows(folder / "run", rows)
    return folder


@pytest.fixture(scope="module")
def server(chromium, folder, tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), SERVER, str(folder)) as url:
        yield url


@pytest.fixture
def visit(chromium, server):
    contexts, addresses = [], []

    def open_page(width=1280, scheme="light"):
        size = {"width": width, "height": 900}
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(server)
        page.wait_for_selector("#places:has-text('to go')")
        page.wait_for_selector("#photo img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert len(addresses) > 10
    assert {urlsplit(url).hostname or "" for url in addresses} <= LOCAL


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(visit, width, scheme):
    page = visit(width, scheme)
    page.wait_for_selector("#answers .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for number in range(3):
        assert page.locator(f"#vote-{number}").bounding_box()["width"] >= 80
    if target := os.environ.get("ICGEO_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{target}/arena-{width}-{scheme}.png", full_page=True)


def test_votes_are_blind_kept_and_rated(visit, folder):
    """The near one of each pair is voted for, by the places alone, until none is left."""
    page, path, told_truth = visit(), folder / "votes.jsonl", 0
    for done in range(6):
        assert f"{6 - done} to go" in page.inner_text("#places")
        told = page.inner_text("#places")
        assert not any(name in told for name in ("exact", "abroad", "silent")), "blind"
        a, b = told.partition("B:")[::2]
        scores = [2 * ("Rome" in s or "Berlin" in s) + ("no answer" not in s) for s in (a, b)]
        page.click("#vote-0" if scores[0] > scores[1] else "#vote-2")
        after = f"{5 - done} to go" if done < 5 else "No photos are left"
        page.wait_for_selector(f"#places:has-text('{after}')")
        said = page.inner_text("#status")
        told_truth += "The truth" in said
        assert "exact" not in said or "The truth" in said
        if (target := os.environ.get("ICGEO_SCREENSHOTS")) and not done:
            page.wait_for_timeout(1500)
            page.screenshot(path=f"{target}/arena-voted.png", full_page=True)
    assert told_truth == 2, "once for each photo, after its last vote"
    votes = read_votes(path)
    assert len(votes) == 6
    order = ["exact", "abroad", "silent"]
    for vote in votes:
        assert vote.score == float(order.index(vote.first) < order.index(vote.second))
    page.click("#ratings button")
    page.wait_for_selector("#table table")
    if target := os.environ.get("ICGEO_SCREENSHOTS"):
        page.screenshot(path=f"{target}/arena-ended.png", full_page=True)
    assert page.locator("#table tbody tr td:nth-child(2)").all_inner_texts() == order
    assert page.locator("#vote-0").is_disabled()
    assert len({json.loads(line)["photo"] for line in path.read_text().splitlines()}) == 2
