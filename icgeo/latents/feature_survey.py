"""The features of one space of activations: trained, judged, and looked at on the globe.

Conventions: an autoencoder is trained on some rows and judged on others, whose places are known;
all that is said of the globe is of those others.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Generator

from icgeo.latents import sparse
from icgeo.latents.concentration import concentration, country_enrichment, suited_nside
from icgeo.sphere import Values, as_lat_lon
from icgeo.sphere.regions import country_at


@dataclass(frozen=True, eq=False)
class FeatureSurvey:
    """What was found."""

    autoencoder: sparse.SparseAutoencoder
    """That of the first seed."""
    quality: sparse.Quality
    """On rows that it was not trained on."""
    stability: float
    """Mean cosine of matched features over pairs of seeds, features that fire; NaN for one seed."""
    codes: Any
    """Sparse array [photos, features]."""
    concentration: pd.DataFrame
    """Of the features on the globe, against permuted places."""
    by_chance: int
    """Features that count as concentrated when the places are shuffled beforehand."""
    enrichment: pd.DataFrame
    """In which countries features are more often than by chance."""

    def facts(self) -> dict[str, Any]:
        """Return the figures by name, as a run keeps them."""
        table = self.concentration[self.concentration.moran_q.notna()]
        return {
            "features": len(self.concentration),
            "top_k": self.autoencoder.top_k,
            "judged_rows": self.quality.rows,
            "fvu": self.quality.fvu,
            "l0": self.quality.l0,
            "dead": self.quality.dead,
            "stability": self.stability,
            "tested": len(table),
            "concentrated": int(self.concentration.is_concentrated.sum()),
            "concentrated_at_shuffled_places": self.by_chance,
            "median_moran": float(table.moran.median()),
            "median_moran_by_chance": float(table.moran_by_chance.median()),
        }


def survey_features(
    training: sparse.Stream,
    judged: sparse.Stream,
    lat_lon: Values,
    *,
    features: int,
    top_k: int,
    seeds: int = 2,
    permutations: int = 999,
    **how: Any,
) -> FeatureSurvey:
    """Train autoencoders on some rows, and look at the features in others, with places.

    Args:
        training: gives the batches to train on.
        judged: gives those to look at, best of other photos.
        lat_lon: places of the rows judged, in degrees.
        features: of each autoencoder.
        top_k: features that explain a row, at most.
        seeds: autoencoders to train; from the second on for the stability alone.
        permutations: of places, for the tests.
        **how: `passes`, `learning_rate` and `device` of `sparse.train`.
    """
    autoencoders = [
        sparse.train(training, features=features, top_k=top_k, seed=seed, **how)
        for seed in range(seeds)
    ]
    qualities = [sparse.judge(one, judged) for one in autoencoders]
    atoms = [
        one.atoms[quality.usage > 0] for one, quality in zip(autoencoders, qualities, strict=True)
    ]
    codes = sparse.encode_all(autoencoders[0], judged)
    places = as_lat_lon(lat_lon)
    generator = Generator().manual_seed(0)
    shuffled_places = places[torch.randperm(len(places), generator=generator)]
    test: dict[str, Any] = {"nside": suited_nside(len(places)), "permutations": permutations}
    test["generator"] = generator
    result, control = (
        concentration(codes, coordinates, **test) for coordinates in (places, shuffled_places)
    )
    return FeatureSurvey(
        autoencoders[0],
        qualities[0],
        sparse.stability(atoms) if seeds > 1 else float("nan"),
        codes,
        result,
        int(control.is_concentrated.sum()),
        country_enrichment(codes, country_at(places, nowhere="the sea")),
    )
