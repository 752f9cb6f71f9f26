"""The atlas of features as a reader gets it: complete, escaped, the maps and photos of its data."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from icgeo.data.orbit import REAL_WORLDS
from icgeo.latents.concentration import concentration, country_enrichment, feature_maps
from icgeo.report.atlas import Atlas, write_atlas
from icgeo.sphere import sample_uniform, to_lat_lon

COUNT = 240
HOSTILE = "</script><script>document.title = 'hostile'</script>"


def make_atlas():
    """Feature 0 is in the north, 1 anywhere, 2 nowhere, 3 in three photos."""
    generator = torch.Generator().manual_seed(0)
    lat_lon = to_lat_lon(sample_uniform(COUNT, generator=generator, dtype=torch.float64))
    values = torch.rand(COUNT, 4, generator=generator).double().numpy() + 0.1
    values[:, 0] *= lat_lon[:, 0].numpy() > 30
    values[:, 1] *= torch.rand(COUNT, generator=generator).numpy() < 0.5
    values[:, 2] = 0
    values[3:, 3] = 0
    codes = csr_array(values)
    colours = np.random.default_rng(0).integers(0, 255, (COUNT, 1, 1, 3), dtype=np.uint8)
    countries = [HOSTILE if lat > 30 else "Xanadu" for lat, _ in lat_lon.tolist()]
    return Atlas(
        f"Atlas {HOSTILE}",
        {"Model": "made by hand", "Worlds": ", ".join(REAL_WORLDS)},
        codes,
        feature_maps(codes, lat_lon, nside=4),
        concentration(codes, lat_lon, nside=2, generator=generator, permutations=99),
        country_enrichment(codes, countries),
        [np.broadcast_to(colour, (24, 32, 3)) for colour in colours],
        lat_lon,
    )


ATLAS = make_atlas()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_atlas(ATLAS, tmp_path_factory.mktemp("atlas") / "new" / "atlas.html")


@pytest.fixture(scope="module")
def text(path):
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(text):
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(block[1])


def test_the_page_needs_nothing_else_and_runs_one_script_alone(text):
    assert not re.search(r"https?://", text)
    assert "default-src 'none'; img-src data:" in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "&lt;/script&gt;" in text
    assert len(text) < 1_000_000


def test_maps_are_those_of_the_features(data):
    assert data["maps"].keys() == {"0", "1", "3"}  # 2 never fires
    values = np.frombuffer(base64.b64decode(data["maps"]["0"]), np.uint8)
    means = ATLAS.maps.means[:, 0]
    np.testing.assert_allclose(values / 255, means / means.max(), atol=0.002)


def test_runs_cover_the_picture_and_name_cells_with_photos(data):
    cells, lengths = np.array(data["runs"]).reshape(-1, 2).T
    assert lengths.sum() == data["width"] * data["height"]
    pixels = np.repeat(cells, lengths).reshape(data["height"], data["width"])
    assert set(np.unique(pixels)) <= set(range(-2, len(ATLAS.maps.cells)))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == -2).all()  # corners are off the globe
    # equal areas: the share of the globe without photos is that of its cells
    on_globe = pixels[pixels > -2]
    assert (on_globe >= 0).mean() == pytest.approx(len(ATLAS.maps.cells) / 192, abs=0.01)
    first, *_, last = pixels[:, data["width"] // 2][pixels[:, data["width"] // 2] > -1]
    assert ATLAS.maps.cells[first] in (3, 2, 1, 0, 15, 31, 47, 63)  # the north is up
    assert ATLAS.maps.cells[last] >= 128


def test_photos_are_those_with_most(data):
    strongest = np.argsort(-ATLAS.codes.toarray()[:, 0])[:8]
    codes = [code for _, code in data["top"]["0"]]
    np.testing.assert_allclose(codes, ATLAS.codes.toarray()[strongest, 0], atol=1e-3)
    assert len(data["top"]["3"]) == 3
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in data["photos"])
    assert len(data["photos"]) == len(data["places"]) <= 19


def test_only_the_most_concentrated_are_shown(tmp_path):
    text = write_atlas(ATLAS, tmp_path / "one.html", most=1).read_text(encoding="utf-8")
    assert re.findall(r'<li id="(.*?)"', text) == ["feature-0"]
    assert "2 less concentrated ones are left out" in text
    assert "1 features never fire" in text


def test_numbers_that_do_not_fit_are_refused(tmp_path):
    short = Atlas(*[*vars(ATLAS).values()][:6], ATLAS.photos[1:], ATLAS.lat_lon)
    with pytest.raises(ValueError, match=f"codes of {COUNT - 1} photos and 4 features"):
        write_atlas(short, tmp_path / "page.html")


@pytest.fixture
def visit(chromium, path):
    """Open the page from the disk in a browser; it must ask for nothing and print no error."""
    contexts, asked, errors = [], [], []

    def open_page(width=1280, scheme="light", part=""):
        size = {"width": width, "height": 900}
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{path.as_uri()}{part}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert not errors


def shown(page):
    return page.eval_on_selector_all(
        "#cards > li:not([hidden])", "cards => cards.map(card => card.dataset.number)"
    )


@pytest.mark.browser
def test_features_are_searched_sorted_and_opened(visit):
    page = visit()
    assert page.title().startswith("Atlas </script>")
    assert shown(page)[0] == "0"
    assert page.text_content("#count") == "3 of 3 features"
    page.fill("#search", "SCRIPT")
    assert shown(page) == ["0"]
    page.fill("#search", "1")
    assert shown(page) == ["1"]
    page.fill("#search", "atlantis")
    assert shown(page) == []
    assert "No feature" in page.text_content("#count")
    page.fill("#search", "")
    page.select_option("#order", "photos -1")
    assert shown(page) == ["1", "0", "3"]
    page.select_option("#order", "share 1")
    assert shown(page)[0] == "3"
    page.check("#only")
    assert shown(page) == ["0"]
    page.click("#feature-0 summary")
    photos = page.locator("#feature-0 .photos img")
    photos.nth(7).wait_for()
    assert photos.count() == 8
    photos.first.scroll_into_view_if_needed()
    assert photos.first.evaluate("image => image.naturalWidth") == 96
    assert "Photo taken at" in photos.first.get_attribute("alt")


@pytest.mark.browser
def test_all_is_reached_by_the_keyboard(visit):
    page = visit()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached[:6] == ["search", "order", "only", "SUMMARY", "SUMMARY", "SUMMARY"]
    page.focus("#feature-1 summary")
    page.keyboard.press("Enter")
    page.locator("#feature-1 .photos img").nth(7).wait_for()
    page.keyboard.press("Enter")
    page.locator("#feature-1 .photos").wait_for(state="hidden")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_maps_are_drawn_in_both_schemes_and_widths(visit, scheme):
    for width in (1280, 390):
        page = visit(width, scheme, "#feature-0")
        page.wait_for_function("document.querySelector('.inside canvas').width === 600")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        north, south, corner = page.evaluate("""() => {
            const canvas = document.querySelector("#feature-0 .inside canvas");
            const brush = canvas.getContext("2d");
            const mean = (y) => {
                const row = brush.getImageData(150, y, 300, 30).data;
                let sum = 0;
                for (let at = 0; at < row.length; at += 4) sum += row[at] + row[at + 1];
                return sum / row.length;
            };
            return [mean(20), mean(230), brush.getImageData(0, 0, 1, 1).data[3]];
        }""")
        assert corner == 0  # off the globe
        # more is darker on white, and brighter on black
        assert (north < south) == (scheme == "light")
