"""Tests of the page of latent spaces, and of its figures."""

import re

import numpy as np
import pandas as pd
import pytest

from icgeo import plots
from icgeo.config import UsageError
from icgeo.report.latents import Section, read_sections, save_sections, write_latents_report


@pytest.fixture
def folder(tmp_path):
    """Tables and figures as the script writes them."""
    errors = pd.DataFrame({1.0: [900.0, 300.0], 0.5: [400.0, 350.0]}, index=[0, 5])
    errors.to_csv(tmp_path / "errors.csv")
    plots.plot_blocks_and_times(errors, title="blocks").savefig(tmp_path / "errors.png")
    sections = {
        "it": Section("Where <it> is", "One.\n\nTwo & three.", [("Errors", "errors.csv")]),
        "seen": Section("Seen", "", [], [("Blocks", "errors.png", "Figure: blocks")]),
    }
    save_sections(tmp_path, sections)
    assert read_sections(tmp_path) == sections
    return tmp_path


def test_the_page_is_complete_in_itself(folder):
    page = write_latents_report(folder, title="What is known").read_text()
    assert "<h1>What is known</h1>" in page
    assert "Where &lt;it&gt; is" in page
    assert "<p>Two &amp; three.</p>" in page
    assert '<th scope="row">5</th>' in page
    assert "<td>300.0</td>" in page
    assert 'alt="Figure: blocks"' in page
    assert page.count("data:image/png;base64,") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "default-src 'none'" in page


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_asks_for_nothing_and_fits(folder, chromium, width):
    path, asked = write_latents_report(folder), []
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.images[0].naturalWidth") > 0
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    page.close()


def test_a_folder_without_sections_is_told(tmp_path, folder):
    with pytest.raises(UsageError, match=r"expected page\.json"):
        write_latents_report(tmp_path / "none")
    (folder / "errors.csv").unlink()
    with pytest.raises(UsageError, match="run the script again"):
        write_latents_report(folder)


def test_cells_show_their_numbers():
    table = pd.DataFrame(
        [[1.0, 0.25], [0.25, 1.0]], index=["globe", "block"], columns=["globe", "block"]
    )
    ax = plots.plot_alignment(table, title="CKA").axes[0]
    assert [text.get_text() for text in ax.texts] == ["1.00", "0.25", "0.25", "1.00"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["globe", "block"]


def test_steps_are_in_their_order():
    rows = pd.DataFrame(
        {"step": ["1", "0.5"], "label": "country", "score": [0.2, 0.4], "chance": [0.1, 0.1]}
    )
    figure = plots.plot_steps(rows, xlabel="time of the step")
    ax = figure.axes[0]
    figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "0.5"]
    assert ax.lines[0].get_xydata().tolist() == [[0, 0.2], [1, 0.4]]
    assert ax.lines[1].get_linestyle() == ":"
    assert len(plots.plot_steps(rows.drop(columns="chance")).axes[0].lines) == 1


def test_arrows_are_of_legible_maps_alone():
    rows = pd.DataFrame(
        {
            "change": ["none"] * 3 + ["moved"] * 3,
            "photo": [0, 1, 2] * 2,
            "lat": [0.0, 10, 20, 5, np.nan, 60],
            "lon": [0.0, 10, 170, 5, np.nan, -170],  # the last crosses the antimeridian
            "goal_lat": [30.0] * 6,
            "goal_lon": [40.0] * 6,
        }
    )
    ax = plots.plot_moves(rows, "moved").axes[0]
    assert ax.get_title() == "moved: 2 of 3 photos"
    rings = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(rings) == 2
