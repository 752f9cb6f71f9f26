"""Ways that draw places, and two branches, learn 32 photos by heart."""

import pytest
import torch
from torch import Generator

from icgeo.baselines.registry import WAYS
from icgeo.data.orbit import ViewOptions, open_world, random_views
from icgeo.features import open as open_features
from icgeo.sphere import distance_km, to_xyz
from icgeo.training.heads import train_head

STEPS = {
    "locdiff": 300,
    "locdiff h": 100,
    "plonk": 400,
    "plonk diffusion": 300,
    "plonk flow": 300,
    "translocator": 60,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_32_photos_are_known_by_heart_to_100_km(name):
    world = open_world("blue-marble", height=256)
    options = ViewOptions(field_of_view_deg=(30, 60))
    views = random_views(world, 32, generator=Generator().manual_seed(0), options=options)
    photos = list(views.images.permute(0, 2, 3, 1).numpy())
    way = WAYS[name]
    features = (way.features or open_features("tiny")).encode(photos)
    xyz = to_xyz(views.lat_lon).float()
    head = way.head(features, xyz)
    train_head(head, features, xyz, steps=STEPS[name], settings=way.settings)
    with torch.inference_mode():
        errors = distance_km(head.points(features), views.lat_lon)
        densities = head.densities(features[:4])
    assert errors.median() < 100
    for density, place in zip(densities, views.lat_lon, strict=False):
        assert density.log_prob(place) > 0
