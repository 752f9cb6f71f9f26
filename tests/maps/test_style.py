"""Map styles: pixels and their round trip through JSON."""

import json

import pytest

from icgeo.maps import MapStyle

STYLES = [MapStyle(), MapStyle(sigma_deg=(6.0,)), MapStyle.marker()]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_survives_json(style: MapStyle):
    assert MapStyle.from_dict(json.loads(json.dumps(style.to_dict()))) == style


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="inks"):
        MapStyle.from_dict({"inks": 3})


def test_pixels_of_the_world_are_taken_at_their_centres():
    places = MapStyle(height=18, width=36).pixel_lat_lon()
    assert places[0, 0].tolist() == [85, -175]
    assert places[-1, -1].tolist() == [-85, 175]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "photo"}, "blank"),
        ({"height": 4}, "8 x 8"),
        ({"sigma_deg": (6.0, 3.0)}, "1 or 3 sigmas"),
        ({"sigma_deg": (0.0,)}, "sigmas in"),
        ({"colour": (1.0, 2.0, 0.0)}, "colour"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, object], message: str):
    # the shape hook of the tests refuses an unknown choice first, as a TypeError
    with pytest.raises((ValueError, TypeError), match=message):
        MapStyle(**change)
