"""The page end to end, in a headless Chromium, against a server in a process of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit
from urllib.request import urlopen

import geopandas
import numpy as np
import pytest
from PIL import Image

from icgeo import Density

pytestmark = pytest.mark.browser

SERVER = """
import sys

def callback_on_step_end(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        if arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
            sys.stderr.write(f"OUTSIDE {arguments[1]}\\n")

sys.addaudithook(callback_on_step_end)
from icgeo.app import launch
launch(port=int(sys.argv[1]))
"""
LOCAL = {"127.0.0.1", ""}  # data: and blob: have no host


@pytest.fixture(scope="module")
def chromium(request):
    if "browser" not in request.config.option.markexpr:
        pytest.skip("needs a browser and the extra [demo]; run pytest -m browser")
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("expected chromium on the path, found none; apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(chromium, tmp_path_factory):
    """Serve; at the end nothing must have gone out, and no file be left."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    (folder / "tmp").mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
        )
        try:
            _wait_for(url, process, folder / "log")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert "OUTSIDE" not in (folder / "log").read_text()
    left = [path.name for path in (folder / "tmp").iterdir()]
    assert not left, "temporary files are removed"


def _wait_for(url, process, log):
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urlopen(url).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    pytest.fail(f"no answer of {url}: {log.read_text()}")


@pytest.fixture
def visit(chromium, server):
    """Open pages of visitors of their own; none may ask for anything elsewhere."""
    contexts, addresses = [], []

    def open_page(width=1280):
        context = chromium.new_context(viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(server)
        page.wait_for_selector("#locate")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert len(addresses) > 10
    assert {urlsplit(url).hostname or "" for url in addresses} <= LOCAL


@pytest.fixture
def upload(tmp_path):
    def put(page, part, name, *, seed=0, content=None):
        path = tmp_path / name
        if content is None:
            values = np.random.default_rng(seed).integers(0, 255, (90, 120, 3), dtype=np.uint8)
            Image.fromarray(values).save(path)
        else:
            path.write_bytes(content)
        page.set_input_files(f"#{part} input[type=file]", path)

    return put


def pictures(page, gallery, count):
    page.wait_for_function(
        "([name, count]) => document.querySelectorAll(`#${name} img`).length >= count",
        arg=[gallery, count],
    )


def set_to(page, slider, value):
    box = page.locator(f"#{slider} input[type=number]")
    box.fill(str(value))
    box.press("Enter")


def locate(page):
    page.click("#locate")
    page.wait_for_selector("#status:has-text('done')")
    page.wait_for_selector("#density .js-plotly-plot")


def test_locate_and_download(visit, upload, tmp_path):
    page = visit()
    upload(page, "photos", "mine.png")
    pictures(page, "queries", 1)
    page.click("#add-set")
    pictures(page, "bank", 4)
    upload(page, "examples", "known.png", seed=1)
    page.wait_for_selector("#bank-notice:has-text('known.png')")
    world = page.locator("#world img")
    box = world.bounding_box()
    world.click(position={"x": 0.75 * box["width"], "y": 0.25 * box["height"]})
    page.wait_for_selector("#bank-notice:has-text('known.png')", state="hidden")
    page.wait_for_selector("#bank :text-matches('^4[3-6]° N, (89|9[01])° E')")
    set_to(page, "shots", 17)
    set_to(page, "steps", 4)
    locate(page)
    assert "Photo 1 of 1, 17 examples" in page.inner_text("#status")
    assert "90% region" in page.inner_text("#summary")
    for part in ("#density .heatmaplayer image", "#drawn img", "#context img"):
        assert page.locator(part).count() == 1
    files = {}
    for suffix in ("geojson", "parquet", "fits", "png"):
        with page.expect_download() as download:
            page.click(f"#files a[download$='mine.{suffix}']")
        files[suffix] = tmp_path / f"got.{suffix}"
        download.value.save_as(files[suffix])
    assert set(geopandas.read_file(files["geojson"])["kind"]) >= {"region"}
    masses = [Density.load(files[suffix]).mass for suffix in ("parquet", "fits")]
    assert (masses[0] - masses[1]).abs().max() < 1e-12
    with Image.open(files["png"]) as picture:
        assert picture.width > 500


def test_each_photo_has_a_context_of_its_own(visit):
    """What is chosen for one photo is not what is chosen for another."""
    page = visit()
    for count in (1, 2, 3):
        page.click("#try")
        pictures(page, "queries", count)
    page.click("#add-set")
    pictures(page, "bank", 4)
    page.click("#try")
    pictures(page, "queries", 4)
    page.click("#remove-photo")
    page.wait_for_function("document.querySelectorAll('#queries img').length == 3")
    set_to(page, "shots", 2)
    page.click("#locate")
    page.wait_for_selector("#status:has-text('Photo 3 of 3, 2 examples: done')")
    page.wait_for_selector("#choice input")
    third = page.get_attribute("#context img", "src")
    page.click("#choice input")
    page.get_by_role("option").first.click()
    page.wait_for_selector("#files a[download$='-1.geojson']")
    page.wait_for_function(
        "third => document.querySelector('#context img').src != third", arg=third
    )


def test_a_broken_file_is_told_and_the_page_goes_on(visit, upload):
    page = visit()
    upload(page, "photos", "broken.jpg", content=b"not a photo")
    page.wait_for_selector("#photos-notice:has-text('broken.jpg: expected a photo')")
    page.click("#locate")
    page.wait_for_selector(".toast-body:has-text('expected a photo to locate, got none')")
    upload(page, "photos", "good.png")
    pictures(page, "queries", 1)


def test_too_large_a_file_is_refused(visit, upload):
    page = visit()
    upload(page, "photos", "huge.jpg", content=bytes(21 * 2**20))
    page.wait_for_selector(".toast-body:has-text('maximum allowed size')")


def test_two_visitors_do_not_mix(visit, upload):
    one, two = visit(), visit()
    upload(one, "photos", "harbour.png", seed=1)
    upload(two, "photos", "glacier.png", seed=2)
    for page in (one, two):
        pictures(page, "queries", 1)
        set_to(page, "steps", 10)
    upload(two, "examples", "orchard.png", seed=3)
    two.wait_for_selector("#bank-notice:has-text('orchard.png')")
    one.click("#locate")
    two.click("#locate")
    for page, own, other in ((one, "harbour", "glacier"), (two, "glacier", "harbour")):
        page.wait_for_selector(f"#files a[download$='{own}.geojson']")
        assert other not in page.content()
    assert "orchard" not in one.content()
    assert two.locator("#bank img").count() == 1
    assert one.locator("#bank img").count() == 0


def test_cancel_stops(visit):
    page = visit()
    page.click("#try")
    pictures(page, "queries", 1)
    set_to(page, "steps", 50)
    set_to(page, "samples", 16)
    page.click("#locate")
    page.wait_for_selector("#status:has-text('step')")
    start = time.monotonic()
    page.click("#cancel")
    page.wait_for_selector("#status:has-text('Cancelled')")
    assert time.monotonic() - start < 10
    assert page.locator("#files a").count() == 0
    set_to(page, "steps", 1)
    locate(page)


def test_whoever_waits_can_cancel(visit):
    first, second = visit(), visit()
    for page in (first, second):
        page.click("#try")
        pictures(page, "queries", 1)
    set_to(first, "steps", 50)
    set_to(first, "samples", 16)
    first.click("#locate")
    first.wait_for_selector("#status:has-text('step')")
    second.click("#locate")
    second.wait_for_selector("#status:has-text('Waiting')")
    second.click("#cancel")
    first.click("#cancel")
    for page in (first, second):
        page.wait_for_selector("#status:has-text('Cancelled')")
        assert page.locator("#files a").count() == 0


def test_answers_outlive_a_locate_that_fails(visit, tmp_path):
    page = visit()
    page.click("#try")
    pictures(page, "queries", 1)
    locate(page)
    page.click("#clear-photos")
    page.wait_for_selector("#queries img", state="detached")
    page.click("#locate")
    page.wait_for_selector(".toast-body:has-text('expected a photo to locate, got none')")
    with page.expect_download() as download:
        page.click("#files a[download$='1.geojson']")
    download.value.save_as(tmp_path / "kept.geojson")
    assert set(geopandas.read_file(tmp_path / "kept.geojson")["photo"]) == {"Blue Marble 1"}


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(visit, width):
    page = visit(width)
    page.click("#try")
    pictures(page, "queries", 1)
    page.click("#add-set")
    pictures(page, "bank", 4)
    locate(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("ICGEO_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/page-{width}.png", full_page=True)
