"""Tests of recall curves: what is drawn, of which rows."""

import torch

from icgeo.baselines import Chance
from icgeo.evaluation import Row, to_frame
from icgeo.metrics.densities import UNIFORM_NLL
from icgeo.plots import plot_recall_by_area, plot_recall_by_radius
from icgeo.plots.curves import share_found
from icgeo.sphere import AREA_KM2


def rows(locator="icgeo", *, shots=4, count=4, is_flat=False):
    """Truths found when 1/count, 2/count, ... of the sphere are searched; half if it is flat."""
    return [
        Row(
            locator,
            "e",
            "moon",
            f"q{number}",
            shots,
            distance_km=100.0 * number,
            nll=UNIFORM_NLL if is_flat else 1.0,
            searched_area_km2=AREA_KM2 * (0.5 if is_flat else (number + 1) / count),
        )
        for number in range(count)
    ]


def labels(figure):
    return [line.get_label() for line in figure.axes[0].lines if line.get_label()[0] != "_"]


def test_a_flat_density_is_searched_blindly():
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    sure, flat = rows(), rows(is_flat=True)
    found = share_found(shares, to_frame(sure))
    torch.testing.assert_close(share_found(shares, to_frame(flat)), shares)
    torch.testing.assert_close(share_found(shares, to_frame(sure + flat)), (found + shares) / 2)
    assert found[50].item() == 0.5


def test_curves_of_flat_densities_are_left_out():
    some = rows() + rows(shots=0, is_flat=True) + rows(Chance.name, is_flat=True)
    assert labels(plot_recall_by_area(to_frame(some))) == ["icgeo, 4 shots", "searched blindly"]


def test_a_curve_counts_the_answers_within_each_radius():
    """A query without an answer counts as a guess; baselines are drawn with the most shots."""
    silent = Row("icgeo", "e", "moon", "silent", 4, nll=UNIFORM_NLL)
    some = [*rows(), silent, *rows(Chance.name, shots=0), *rows(Chance.name)]
    figure = plot_recall_by_radius(to_frame(some))
    assert labels(figure) == ["icgeo, 4 shots", "chance"]
    radii, shares = figure.axes[0].lines[0].get_data()
    assert shares[0] == 1 / 5
    assert shares[radii < 10_000][-1] == 4 / 5
    assert shares[-1] == 1
