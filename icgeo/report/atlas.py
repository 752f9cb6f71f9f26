"""An atlas of features: one HTML page to search and sort them, with their maps and photos.

Conventions: the page needs no network and no other file; its one script is named by its hash in
the content security policy. Maps are Equal Earth, over the HEALPix cells that hold a photo.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from icgeo.data.photos import Photo
from icgeo.latents.concentration import LEVEL, FeatureMaps, feature_maps, suited_nside, top_photos
from icgeo.latents.feature_survey import FeatureSurvey
from icgeo.plots.theme import picture, place_name
from icgeo.plots.world import shapes, whole_world
from icgeo.report.latents import open_template
from icgeo.report.run_folder import EmbeddedImage
from icgeo.sphere import Values, as_lat_lon
from icgeo.sphere.healpix import cell_of
from icgeo.writing import write_atomically

TOP = 8
"""Photos shown of a feature."""
THUMBNAIL = 96
"""Side of their thumbnails in pixels."""
COUNTRIES = 6
"""Countries named of a feature, the surest ones."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """What is known of the features of one autoencoder."""

    title: str
    facts: Mapping[str, str]
    """What the page says first: model, block, figures of the autoencoder, command."""
    codes: Any
    """Sparse array [photos, features]."""
    maps: FeatureMaps
    concentration: pd.DataFrame
    """As `icgeo.latents.concentration.concentration` makes it."""
    enrichment: pd.DataFrame
    """As `icgeo.latents.concentration.country_enrichment` makes it."""
    photos: Sequence[Photo]
    lat_lon: Values


def write_survey(
    path: Path,
    survey: FeatureSurvey,
    *,
    title: str,
    facts: Mapping[str, str],
    photos: Sequence[Photo],
    lat_lon: Values,
) -> Path:
    """Write the page of a survey of photos at these places; its figures follow the `facts`."""
    stats = survey.facts()
    features, by_chance = stats["features"], stats["concentrated_at_shuffled_places"]
    figures = {
        "Autoencoder": f"{features} features, at most {stats['top_k']} in a photo",
        "Unexplained": f"{100 * stats['fvu']:.1f} % of the variance; a photo has {stats['l0']:.1f}",
        "Dead": f"{stats['dead']} features, which no photo here has",
        "Stability": f"{stats['stability']:.2f}, mean cosine of matched features of other seeds",
        "Concentrated": f"{stats['concentrated']} of {stats['tested']} features tested; "
        f"{by_chance} where places are shuffled",
    }
    maps = feature_maps(survey.codes, lat_lon, nside=2 * suited_nside(len(photos)))
    tables = (survey.codes, maps, survey.concentration, survey.enrichment)
    return write_atlas(Atlas(title, {**facts, **figures}, *tables, photos, lat_lon), path)


def write_atlas(atlas: Atlas, path: Path, *, most: int = 400) -> Path:
    """Write the page of the `most` most concentrated features that fire; return its path.

    Raises:
        ValueError: numbers of photos, places or features that differ.
        PhotoError: a photo to be shown cannot be read.
    """
    places = as_lat_lon(atlas.lat_lon)
    shape = (len(atlas.photos), atlas.maps.means.shape[1])
    if not atlas.codes.shape == shape == (len(places), len(atlas.concentration)):
        raise ValueError(
            f"expected codes of {shape[0]} photos and {shape[1]} features, got "
            f"{atlas.codes.shape}, {len(places)} places and {len(atlas.concentration)} rows of "
            "concentration"
        )
    table = atlas.concentration[atlas.concentration.photos > 0]
    table = table.sort_values(["moran_q", "moran"], ascending=[True, False], na_position="last")
    codes = atlas.codes.tocsc()
    top = {int(feature): top_photos(codes, feature, TOP) for feature in table.index[:most]}
    photo_numbers = sorted({int(number) for numbers in top.values() for number in numbers})
    order = {number: position for position, number in enumerate(photo_numbers)}
    data = {
        **_globe(atlas.maps),
        "photos": [_thumbnail(atlas.photos[number]) for number in photo_numbers],
        "places": [place_name(*places[number].tolist()) for number in photo_numbers],
        "maps": {feature: _packed(atlas.maps.means[:, feature]) for feature in top},
        "top": {
            feature: [[order[int(n)], round(float(codes[n, feature]), 3)] for n in numbers]
            for feature, numbers in top.items()
        },
    }
    script = (files("icgeo") / "assets" / "atlas.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = open_template("atlas.html.jinja").render(
        atlas=atlas,
        cards=_cards(table[:most], atlas.enrichment),
        silent=int((atlas.concentration.photos == 0).sum()),
        left_out=max(0, len(table) - most),
        data=data,
        script=script,
        digest=digest,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial_path:
        partial_path.write_text(page, encoding="utf-8")
    return path


def _cards(table: pd.DataFrame, enrichment: pd.DataFrame) -> list[dict[str, Any]]:
    """Say of each feature what stands on its card."""
    significant_rows = enrichment[(enrichment.q < LEVEL) & (enrichment.fold > 1)]
    lists = significant_rows.groupby("feature")
    countries: dict[Any, Any] = {n: [*rows[:COUNTRIES].itertuples()] for n, rows in lists}
    return [
        {"number": row.Index, "row": row, "countries": countries.get(row.Index, [])}
        for row in table.itertuples()
    ]


def _globe(maps: FeatureMaps) -> dict[str, Any]:
    """Give the pixels of the map as runs of a cell's position (-1 none, -2 off), and the coasts."""
    view = whole_world()
    position = np.full(12 * maps.nside**2, -1)
    position[maps.cells] = np.arange(len(maps.cells))
    pixels = np.where(view.inside, position[cell_of(view.lat_lon, maps.nside).numpy()], -2).ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=np.nan) != 0)
    runs = np.stack((pixels[starts], np.diff(starts, append=len(pixels))), axis=1)
    height, width = view.inside.shape
    left, _, _, upper = view.extent
    paths = []
    for line in view.lines(shapes("land")):
        at = np.round((line - (left, upper)) * (1, -1) * width / (-2 * left)).astype(int)
        at = at[np.any(np.diff(at, axis=0, prepend=np.inf) != 0, axis=1)]
        if len(at) > 2:  # smaller islands are a dot
            paths.append("M" + "L".join(f"{x} {y}" for x, y in at))
    return {"width": width, "height": height, "runs": runs.ravel().tolist(), "land": "".join(paths)}


def _packed(means: Any) -> str:
    """Write values from 0 to the largest as bytes from 0 to 255."""
    maximum = float(means.max(initial=0)) or 1.0
    values = np.round(255 * means / maximum).astype(np.uint8)
    return base64.b64encode(values.tobytes()).decode()


def _thumbnail(photo: Photo) -> str:
    image = ImageOps.fit(Image.fromarray(picture(photo)), (THUMBNAIL, THUMBNAIL))
    return EmbeddedImage.from_image(image, ".jpg").uri
