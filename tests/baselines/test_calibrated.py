"""Tests of calibration: it finds how sure answers are that were drawn by a known law."""

import numpy as np
import torch

from icgeo.baselines.calibrated import Calibrated, fit_levels
from icgeo.evaluation.episodes import Episode, Query
from icgeo.prediction import Locator, Prediction
from icgeo.sphere import sample_uniform, sample_von_mises_fisher, to_lat_lon
from icgeo.sphere.density import Density


class Sure:
    """Answers with the place that a photo is, and a concentration of 80 whatever it knows."""

    name = "sure"

    def locate(self, photos, examples):
        densities = [Density.from_mixture(place, 80.0, nside=16) for place in map(tuple, photos)]
        return [
            Prediction(density, *place, 1.0, located=True, seconds=0.0)
            for density, place in zip(densities, photos, strict=True)
        ]


def episode(count, seed):
    """Places off by a von Mises-Fisher law of concentration 20; a fifth of them are anywhere."""
    generator = torch.Generator().manual_seed(seed)
    answers = sample_uniform(count, generator=generator)
    places = sample_von_mises_fisher(answers, 20.0, generator=generator)
    places[: count // 5] = sample_uniform(count // 5, generator=generator)
    pairs = zip(to_lat_lon(answers).tolist(), to_lat_lon(places).tolist(), strict=True)
    queries = [Query(str(n), np.array(said), tuple(at)) for n, (said, at) in enumerate(pairs)]
    return Episode("e", "w", [], queries)


def nll(locator, episode):
    found = locator.locate([query.photo for query in episode.queries], [])
    pairs = zip(found, episode.queries, strict=True)
    return np.mean([-one.density.log_prob(query.lat_lon).item() for one, query in pairs])


def test_temperature_and_uniform_share_are_those_of_the_errors():
    """80 over 20 is a temperature of 4; other episodes are likelier by it, points stay."""
    levels = fit_levels([(Sure(), episode(150, 0))], (1,))
    temperature, uniform = levels[1]
    assert 2**1.5 <= temperature <= 2**2.5
    assert 0.1 <= uniform <= 0.3
    locator, other = Calibrated(Sure(), levels), episode(50, 1)
    assert isinstance(locator, Locator)
    assert locator.name == "sure"
    assert nll(locator, other) < nll(Sure(), other) - 1
    (one,) = locator.locate([np.array([10.0, 20.0])], [])
    assert (one.lat, one.lon) == (10.0, 20.0)
    assert abs(one.density.mass.sum().item() - 1) < 1e-9
