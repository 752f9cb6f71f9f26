"""Tests of the pictures of a report: what is drawn, of which rows."""

from dataclasses import replace

import torch
from report_rows import rows

from icgeo.baselines import Chance
from icgeo.metrics import UNIFORM_NLL
from icgeo.report.figures import area_curve, found_within
from icgeo.sphere import AREA_KM2


def flat(some):
    """Rows as a uniform density gives them: the truth is found when half is searched."""
    return [replace(row, nll=UNIFORM_NLL, searched_area_km2=AREA_KM2 / 2) for row in some]


def test_a_flat_density_is_searched_blindly():
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    told = rows(count=4, locators=("icgeo",), shots=(4,))
    torch.testing.assert_close(found_within(shares, flat(told)), shares)
    half = found_within(shares, told + flat(told))
    torch.testing.assert_close(half, (found_within(shares, told) + shares) / 2)
    assert found_within(shares, told)[50].item() == 0.5


def test_curves_of_flat_densities_are_left_out():
    """The figure names each curve in a comment of its SVG."""
    own, none = rows(locators=("icgeo",), shots=(4,)), rows(locators=("icgeo",), shots=(0,))
    drawn = area_curve(own + flat(none) + flat(rows(locators=(Chance.name,), shots=(4,)))).data
    assert b"<!-- icgeo, 4 shots -->" in drawn
    assert b"<!-- searched blindly -->" in drawn
    assert b"<!-- icgeo, 0 shots -->" not in drawn
    assert b"<!-- chance -->" not in drawn
