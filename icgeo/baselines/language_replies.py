"""What image-text models are asked, and how their answers are read: text in, densities out.

The steps follow GeoCoT and ETHAN (arXiv 2502.13759, 2408.09474): clues, constraints, the continent
to the coordinates, confidence. Names without coordinates are looked up offline.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from icgeo.baselines.geocoding import Place, geocode, kappa_of
from icgeo.baselines.language_models import REFUSED, Reply
from icgeo.sphere.density import Density

NONSENSE = "nonsense"
COORDINATES_KM = 100.0
"""Radius of half of the mass around coordinates, where none is said."""
LEAST_UNIFORM = 0.02
"""Share that is uniform however sure a model says it is."""
UNSAID_CONFIDENCE = 0.5
INSTRUCTION = """You find out where photos were taken, for research on geolocation. Reason in this \
order:
1. clues: what you see: landscape, climate and vegetation; sun and shadows; architecture; roads, \
signs, plates and cars; writing and its language; clothes; known landmarks.
2. constraints: what each clue makes likely, and what it rules out.
3. continent, then country, then region, then city, then coordinates, each within the one before.
4. confidence: the probability in [0, 1] that one of your hypotheses is right.
Give up to 5 hypotheses that differ, with weights that sum to 1. Each has the names that you know \
(leave out those that you do not), latitude and longitude in degrees, and radius_km: within that \
distance the photo was taken with a chance of one half. Always guess. Answer with one JSON object \
and nothing else:
{"clues": ["..."], "constraints": ["..."], "hypotheses": [{"continent": "...", "country": "...", \
"region": "...", "city": "...", "lat": 0.0, "lon": 0.0, "radius_km": 0.0, "weight": 0.0}], \
"confidence": 0.0}"""
QUESTION = "Where was this photo taken?"
EXPLAIN = """This photo was taken at latitude {lat:.4f}, longitude {lon:.4f}. Which clues in it \
tell so, and what do they rule out? Answer with one JSON object and nothing else: \
{{"clues": ["..."], "constraints": ["..."]}}"""
_REFUSAL = re.compile(
    r"\b(sorry|apologi[sz]e|as an ai)\b|"
    r"\b(can(no|')?t|unable to|not able to|won't) (\w+ ){0,3}"
    r"(help|assist|identify|determine|provide|comply|locate|answer|do)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\s*([-+]?\d+(?:\.\d+)?)\s*(?:°|%|km|deg\w*)?\s*([NSEW]?)\w*\s*", re.IGNORECASE
)
_TYPED = str.maketrans({"\u2019": "'", "\u2212": "-"})
"""Signs that models like to write, and those that are looked for."""


def mixture(hypotheses: Sequence[Place], confidence: float) -> Density:
    """Mix hypotheses, and what confidence is missing, spread over the sphere."""
    means = [(one.lat, one.lon) for one in hypotheses]
    kappas, weights = [one.kappa for one in hypotheses], [one.weight for one in hypotheses]
    mass = Density.from_mixture(means, kappas, weights).mass
    uniform = min(max(1 - confidence, LEAST_UNIFORM), 1.0)
    return Density((1 - uniform) * mass + uniform / len(mass))


def read_reply(reply: Reply) -> tuple[tuple[Place, ...], float, str | None]:
    """Read hypotheses and confidence from an answer, or why it has none.

    The last JSON object that names a place counts, for models think aloud before it; a single
    place needs no list. Hypotheses without a place are left out.
    """
    if (reply.reason and not reply.text) or (reply.reason or "").startswith(REFUSED):
        return (), 0.0, reply.reason
    objects = [*json_objects(reply.text)]
    for values in reversed(objects):
        items = values.get("hypotheses")
        items = items if isinstance(items, list) else [values]
        places = [_hypothesis(one) for one in items if isinstance(one, dict)]
        if hypotheses := tuple(one for one in places if one and one.weight > 0):
            confidence = _number(values.get("confidence"))
            confidence = UNSAID_CONFIDENCE if confidence is None else confidence
            return hypotheses, min(max(confidence, 0.0), 1.0), None
    if reply.reason:
        return (), 0.0, reply.reason
    words = " ".join(reply.text.translate(_TYPED).split())
    if not objects and _REFUSAL.search(words):
        return (), 0.0, f"{REFUSED}: {words[:200]}"
    problem = "no known place in its JSON" if objects else "no JSON object"
    return (), 0.0, f"{NONSENSE}: {problem}: {words[:200]}"


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Find the outermost JSON objects in a text, whatever stands around them."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            yield value
        at = text.find("{", end)


def _hypothesis(values: dict[str, Any]) -> Place | None:
    """Read a hypothesis: its coordinates if they are on the globe, else its narrowest name."""
    weight = _number(values.get("weight"))
    weight = 1.0 if weight is None else weight
    lat, lon, radius = (_number(values.get(name)) for name in ("lat", "lon", "radius_km"))
    if lat is not None and lon is not None and abs(lat) <= 90 and abs(lon) <= 360:
        kappa = kappa_of(radius if radius and radius > 0 else COORDINATES_KM)
        lon = lon if -180 <= lon < 180 else (lon + 180) % 360 - 180
        return Place(lat, lon, kappa, "coordinates", weight)
    levels = ("city", "region", "country", "continent")
    names = {level: values[level] for level in levels if isinstance(values.get(level), str)}
    place = geocode(**names)
    return place and replace(place, weight=weight)


def _number(value: Any) -> float | None:
    """Read a finite number, also from a text such as "48.9° N" or "60 %"."""
    if isinstance(value, str):
        if not (match := _NUMBER.fullmatch(value.translate(_TYPED))):
            return None
        sign = -1.0 if match[2].upper() in ("S", "W") and match[2] else 1.0
        value = sign * float(match[1]) / (100 if "%" in value else 1)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
