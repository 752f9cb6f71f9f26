"""The page end to end, in a headless Chromium, against a server in a process of its own."""

import os
import time
from urllib.parse import urlsplit

import geopandas
import numpy as np
import pytest
import shapely
import torch
from page_server import LOCAL, served
from PIL import Image

from icgeo import Density
from icgeo.data.base_maps import open_map
from icgeo.data.worlds import procedural_world

pytestmark = pytest.mark.browser

SERVER = """
from icgeo.app import launch
launch(port=int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def server(chromium, tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), SERVER) as url:
        yield url


@pytest.fixture
def visit(chromium, server):
    """Open pages of visitors of their own; none may ask for anything elsewhere."""
    contexts, addresses = [], []

    def open_page(width=1280, scheme="light"):
        size = {"width": width, "height": 900}
        context = chromium.new_context(viewport=size, color_scheme=scheme)
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


def click_on_map(page, across, down):
    """Click at shares of the width and height of what is shown."""
    page.wait_for_selector("#world .nsewdrag")
    page.locator("#world").scroll_into_view_if_needed()
    box = page.locator("#world .nsewdrag").bounding_box()
    page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


def assert_marked(page, across, down):
    """The mark lies at these shares of what is shown, to a pixel."""
    world = page.locator("#world .nsewdrag").bounding_box()
    mark = page.locator("#world .points path").bounding_box()
    assert abs(mark["x"] + mark["width"] / 2 - world["x"] - across * world["width"]) <= 1
    assert abs(mark["y"] + mark["height"] / 2 - world["y"] - down * world["height"]) <= 1


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
    click_on_map(page, 0.75, 0.25)
    page.wait_for_selector("#bank-notice:has-text('known.png')", state="hidden")
    page.wait_for_selector("#bank :text-matches('^45° N, 90° E')")
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


def test_a_click_is_exact_to_a_pixel(visit, upload):
    """The mark lies on the map where was clicked."""
    page = visit()
    upload(page, "examples", "first.png")
    page.wait_for_selector("#bank-notice:has-text('first.png')")
    click_on_map(page, 0.4, 0.4)
    page.wait_for_selector("#bank-notice:has-text('first.png')", state="hidden")
    page.wait_for_selector("#world .points path")
    assert_marked(page, 0.4, 0.4)


def test_a_click_on_a_zoomed_map_is_exact_and_leaves_it_so(visit, upload):
    page = visit()
    upload(page, "examples", "first.png")
    page.wait_for_selector("#bank-notice:has-text('first.png')")
    page.locator("#world").scroll_into_view_if_needed()
    world = page.locator("#world .nsewdrag").bounding_box()
    page.mouse.move(world["x"] + 0.7 * world["width"], world["y"] + 0.3 * world["height"])
    for _ in range(4):
        page.mouse.wheel(0, -200)
        page.wait_for_timeout(150)
    ranges = "() => { const {xaxis, yaxis} = document.querySelector('#world .js-plotly-plot')"
    ranges += "._fullLayout; return [...xaxis.range, ...yaxis.range]; }"
    before = page.evaluate(ranges)
    assert before[1] - before[0] < 300
    click_on_map(page, 0.4, 0.4)
    page.wait_for_selector("#bank-notice:has-text('first.png')", state="hidden")
    page.wait_for_selector("#world .points path")
    assert page.evaluate(ranges) == pytest.approx(before, abs=0.01)
    assert_marked(page, 0.4, 0.4)


def test_nothing_is_placed_without_a_place(visit, upload):
    page = visit()
    upload(page, "examples", "known.png")
    page.wait_for_selector("#bank-notice:has-text('known.png')")
    page.click("#put")
    page.wait_for_selector(".toast-body:has-text('expected latitude and longitude')")
    assert page.locator("#bank-notice:has-text('known.png')").count() == 1
    page.fill("#place textarea, #place input", "48.86, 2.35")
    page.click("#put")
    page.wait_for_selector("#bank :text-matches('^49° N, 2° E')")


def test_any_example_is_moved_or_removed(visit):
    page = visit()
    page.click("#add-set")
    pictures(page, "bank", 16)
    page.locator("#bank button:has(img)").nth(2).click()
    page.wait_for_selector("#bank-notice:has-text('Blue Marble 3')")
    page.fill("#place textarea, #place input", "-33, 151")
    page.click("#put")
    page.wait_for_selector("#bank :text-matches('^33° S')")
    page.locator("#bank button:has(img)").nth(2).click()
    page.wait_for_selector("#bank-notice:has-text('33° S, 151° E')")
    page.click("#remove-example")
    page.wait_for_function("document.querySelectorAll('#bank img').length == 15")
    assert page.locator("#bank :text-matches('^33° S')").count() == 0


def test_any_photo_to_locate_is_removed(visit):
    page = visit()
    for count in (1, 2, 3):
        page.click("#try")
        pictures(page, "queries", count)
    first, _, third = page.locator("#queries .caption-label").all_inner_texts()
    page.locator("#queries button:has(img)").nth(1).click()
    page.wait_for_timeout(300)
    page.click("#remove-photo")
    page.wait_for_function("document.querySelectorAll('#queries img').length == 2")
    assert page.locator("#queries .caption-label").all_inner_texts() == [first, third]
    page.click("#remove-photo")
    page.wait_for_function("document.querySelectorAll('#queries img').length == 1")
    assert page.locator("#queries .caption-label").all_inner_texts() == [first]


def test_photos_that_the_model_cannot_know_are_told(visit):
    page = visit()
    page.click("#set input")
    page.get_by_role("option", name="Photos of known places").click()
    page.click("#add-set")
    page.wait_for_selector("#bank-notice:has-text('taken on the ground')")
    page.click("#try")
    pictures(page, "queries", 1)
    set_to(page, "shots", 2)
    locate(page)
    assert "2 unlike all that the model was trained on" in page.inner_text("#status")


def test_each_button_has_a_name(visit):
    page = visit()
    page.wait_for_selector("#world .modebar-btn")
    assert page.get_by_role("group", name="Map of the world").count() == 1
    named = "b => b.innerText.trim() || b.ariaLabel || b.title || b.querySelector('img')?.alt"
    buttons = page.locator("button:visible").all()
    assert len(buttons) > 10
    assert all(button.evaluate(named) for button in buttons)


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


def test_a_map_makes_the_examples(visit, tmp_path):
    page = visit()
    page.click("#map input")
    page.get_by_role("option", name="ETOPO1 relief").click()
    page.uncheck("#zoom input")
    page.click("#try")
    pictures(page, "queries", 1)
    page.click("#locate")
    page.wait_for_selector("#status:has-text('Photo 1 of 1, 16 examples: done')")
    portrait = tmp_path / "portrait.png"
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(portrait)
    page.set_input_files("#map-file input[type=file]", portrait)
    page.wait_for_selector("#map-file :text('portrait')")
    page.click("#locate")
    page.wait_for_selector(".toast-body:has-text('twice as wide as high, got 20 x 30')")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_map_is_zoomed_on_and_the_chain_is_shown(visit, tmp_path, width):
    world = procedural_world("craters", generator=3, height=128)
    pixels = (255 * world).round().to(torch.uint8).movedim(0, -1).numpy()
    Image.fromarray(pixels).save(tmp_path / "planet.png")
    one = torch.tensor([45.0]), torch.tensor([0.0])
    (view,), _ = open_map(world).views(torch.tensor([[12.0, 100.0]]), *one, size=64)
    Image.fromarray(view.movedim(0, -1).numpy()).save(tmp_path / "view.png")
    page = visit(width)
    page.set_input_files("#photos input[type=file]", tmp_path / "view.png")
    pictures(page, "queries", 1)
    page.set_input_files("#map-file input[type=file]", tmp_path / "planet.png")
    page.wait_for_selector("#map-file :text('planet')")
    page.click("#locate")
    page.wait_for_selector("#status:has-text('looking over the map')")
    done = "Photo 1 of 1, zoomed on the map: done"
    page.wait_for_selector(f"#status:has-text('{done}')", timeout=120_000)
    page.wait_for_selector("#chain img")
    assert "Upper edge towards" in page.inner_text("#summary")
    with page.expect_download() as download:
        page.click("#files a[download$='view.geojson']")
    download.value.save_as(tmp_path / "got.geojson")
    rows = geopandas.read_file(tmp_path / "got.geojson")
    (footprint,) = rows[rows["kind"] == "footprint"].geometry
    assert footprint.contains(shapely.Point(100, 12))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("ICGEO_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/zoom-{width}.png", full_page=True)


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


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(visit, width, scheme):
    page = visit(width, scheme)
    page.click("#try")
    pictures(page, "queries", 1)
    page.click("#add-set")
    pictures(page, "bank", 4)
    locate(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    side = page.locator("#examples").bounding_box()["width"]
    assert side > (0.8 if width < 500 else 0.4) * width
    background = "e => getComputedStyle(e).backgroundColor"
    for part in ("#density", "#world"):
        paper = page.locator(f"{part} .main-svg").first
        assert paper.evaluate(background) == "rgba(0, 0, 0, 0)", "not white on a dark page"
    if folder := os.environ.get("ICGEO_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/page-{width}-{scheme}.png", full_page=True)
