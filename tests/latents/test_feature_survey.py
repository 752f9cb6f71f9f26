"""Features of real activations: of the model in the box and of twins of the large ones."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from known_features import PLACED, make_truth
from scipy.sparse import csr_array
from torch.testing import assert_close

from icgeo import maps, sphere
from icgeo.data.pixels import square_pixels
from icgeo.evaluation.episodes import world_episode
from icgeo.latents import feature_steering as steer
from icgeo.latents import sparse, steering
from icgeo.latents.activations import activations
from icgeo.latents.feature_survey import survey_features
from icgeo.models import load
from icgeo.models.blocks import Edit, Taps, walk

sys.path.append(str(Path(__file__).parents[1] / "models"))

import twins

if not (find_spec("overcomplete") and find_spec("sklearn")):  # importing all needs torchvision
    pytest.skip("needs pip install --no-deps overcomplete", allow_module_level=True)

pytestmark = pytest.mark.no_deps

BLOCK = 3


@pytest.fixture(scope="module")
def episode():
    return world_episode("blue-marble", queries=24, shots=0)


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def rows(tiny, episode, tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations")
    how = {"blocks": (BLOCK,), "prompt": "earth", "batch_size": 8}
    return activations(tiny, episode.queries, folder=folder, **how)


@pytest.fixture(scope="module")
def autoencoder(rows):
    stream = lambda: rows.batches(BLOCK, size=8)  # noqa: E731
    return sparse.train(stream, features=24, top_k=4, passes=20, learning_rate=1e-2)


def nothing(model):
    return model.encode_context([], torch.empty(0, 2))


@pytest.mark.slow
def test_a_survey_finds_the_known_features():
    truth = make_truth(2400)
    found = survey_features(
        lambda: truth.rows[:1500].split(64),
        lambda: truth.rows[1500:].split(256),
        truth.lat_lon[1500:],
        features=48,
        top_k=2,
        passes=30,
        learning_rate=1e-2,
        permutations=199,
    )
    facts = found.facts()
    assert facts["fvu"] < 0.1
    assert facts["judged_rows"] == 900
    assert facts["stability"] > 0.7
    assert PLACED <= facts["concentrated"] <= PLACED + 3
    assert facts["concentrated_at_shuffled_places"] <= 1
    assert facts["median_moran_by_chance"] == pytest.approx(0, abs=0.05)
    assert (found.enrichment[found.enrichment.q < 0.05].fold > 1).all()
    assert facts["tested"] >= 24


def test_activations_of_the_model_are_explained(rows, autoencoder):
    assert sparse.judge(autoencoder, lambda: rows.batches(BLOCK)).fvu < 0.3


def test_what_a_feature_adds_is_what_the_mean_over_tokens_moves_by(tiny, episode, autoencoder):
    pixels = square_pixels([query.photo for query in episode.queries[:3]], tiny.photo_size)
    taps = Taps((BLOCK,))
    (plain,) = walk(tiny, nothing(tiny), pixels, prompt="earth", taps=taps)
    mean = plain.activations[BLOCK].mean(dim=1)
    feature = int(autoencoder.encode(mean).sum(dim=0).argmax())
    change = steer.edit_mean(autoencoder, sparse.remove(feature))
    edits = [Edit(BLOCK, change)]
    (edited,) = walk(tiny, nothing(tiny), pixels, prompt="earth", taps=taps, edits=edits)
    expected = autoencoder.edit(mean, sparse.remove(feature))
    assert_close(change(plain.activations[BLOCK]).mean(dim=1), expected, atol=1e-4, rtol=1e-4)
    assert (edited.maps - plain.maps).abs().max() > 1e-3
    assert torch.isfinite(edited.maps).all()


@pytest.fixture(scope="module")
def directions(tiny, episode, autoencoder, tmp_path_factory):
    """Of the two features that most views have, token by token."""
    how = {"blocks": (BLOCK,), "prompt": "earth", "pool": "none"}
    store = activations(tiny, episode.queries, folder=tmp_path_factory.mktemp("tokens"), **how)
    x = store.read(BLOCK)
    codes = csr_array(autoencoder.encode(x.mean(1)).numpy())
    known = {"codes": codes, "x": x, "lat_lon": store.lat_lon}
    most = np.argsort(-codes.sum(axis=0))[:2].tolist()
    return [steer.FeatureDirection.of(autoencoder, one, **known) for one in most]


def test_every_change_by_a_feature_has_a_random_one_of_its_norm(directions, rows):
    x = torch.randn(3, *directions[0].difference.shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = steer.feature_changes(x, *directions, strength=-0.5, generator=generator)
    by_name = {way.name: way for way in found}
    norm = {name: (way.activations - x).flatten(1).norm(dim=1) for name, way in by_name.items()}
    assert steer.REMOVED in by_name
    followed = [way for way in found if way.against]
    assert len(followed) == 4
    for way in followed:
        assert_close(norm[way.name], norm[way.against])
    assert_close(norm[steer.ITS_PHOTOS], norm[steer.OTHER_PHOTOS])
    assert_close(
        by_name[steer.ITS_PHOTOS].activations, x - 0.5 * directions[0].difference.expand_as(x)
    )
    atom = directions[0].autoencoder.direction(directions[0].number).double()
    moved = (by_name[steer.ATOM].activations - x).mean(1) @ atom
    assert_close(moved, torch.full((3,), -0.5 * directions[0].amount, dtype=torch.float64))


def test_steering_by_a_feature_measures_what_maps_do(tiny, episode, directions):
    pixels = square_pixels([query.photo for query in episode.queries[:2]], tiny.photo_size)
    places = torch.tensor([query.lat_lon for query in episode.queries[:2]])
    how = {"directions": tuple(directions), "prompt": "earth", "edit": (BLOCK, 1.0, 1.0)}
    some = steering.steer(tiny, nothing(tiny), pixels, places, **how)
    assert len(some) == 2 * (1 + 2 * 4)
    assert steer.REMOVED not in set(some.change)
    assert (some[some.change == "none"].moved_km < 1e-3).all()
    added = some[some.change == steer.ITS_PHOTOS]
    assert (added.moved_km > 1).all()
    assert (added.nearer_km.abs() <= added.moved_km + 1e-6).all()  # the triangle's sides
    goal = directions[0].goal.expand(2, -1).numpy()
    np.testing.assert_allclose(some[["goal_lat", "goal_lon"]].to_numpy()[:2], goal)
    table = steering.compare_changes(some.assign(feature=some.photo % 2), unit="feature")
    row = table.set_index("change").loc[steer.ATOM]
    means = some.assign(feature=some.photo % 2).groupby(["change", "feature"]).nll_goal.mean()
    expected = (means[steer.ATOM] - means[f"random direction, as {steer.ATOM}"]).mean()
    assert row.nll_goal_more == pytest.approx(expected)
    other = steering.compare_changes(some, against={steer.ITS_PHOTOS: steer.OTHER_PHOTOS})
    assert other.set_index("change").against[steer.ITS_PHOTOS] == steer.OTHER_PHOTOS


def test_the_goal_is_where_most_of_a_feature_is(autoencoder):
    lat_lon = [(0.0, 0.0), (0.0, 90.0), (-45.0, -120.0), (80.0, 10.0)]
    x = torch.arange(4.0)[:, None, None].expand(4, 2, 3)
    codes = csr_array(np.array([[2.0, 0], [2, 0], [0, 0], [0, 0]]))
    found = steer.FeatureDirection.of(autoencoder, 0, codes=codes, x=x, lat_lon=lat_lon)
    assert found.goal.tolist() == pytest.approx([0, 45])
    assert found.amount == 2
    assert_close(found.difference, torch.full((2, 3), 0.5 - 1.5).double())
    codes = csr_array(np.array([[3.0], [1], [0], [0]]))
    xyz = 3 * sphere.to_xyz(torch.tensor(lat_lon[0])) + sphere.to_xyz(torch.tensor(lat_lon[1]))
    expected = sphere.to_lat_lon(xyz / xyz.norm())
    found = steer.FeatureDirection.of(autoencoder, 0, codes=codes, x=x, lat_lon=lat_lon)
    assert_close(found.goal, expected.double(), atol=1e-3, rtol=0)
    assert_close(found.difference, torch.full((2, 3), 0.25 - 1.5).double())
    none = csr_array(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="fires in none"):
        steer.FeatureDirection.of(autoencoder, 0, codes=none, x=x, lat_lon=lat_lon)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["klein", "kontext", "vace", "ti2v", "qwen"])
def test_twins_of_large_models_are_taken_apart(name, tmp_path, episode):
    """Token by token, for each token of a map is a row, too."""
    style = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)
    model = load(twins.ALL[name](tmp_path / "twin"), style=style, photo_size=64)
    small = replace(model.settings, trained_area=3 * 64 * (64 + 128))  # of a panel
    model = replace(model, settings=small)
    stores = [
        activations(
            model,
            episode.queries[:6],
            folder=tmp_path / pool,
            examples=world_episode("blue-marble", queries=1, shots=1).examples,
            blocks=(0,),
            pool=pool,
            batch_size=3,
        )
        for pool in ("mean", "none")
    ]
    by_token = lambda: (some[:, :64].flatten(0, 1) for some in stores[1].batches(0, size=2))  # noqa: E731
    autoencoder = sparse.train(by_token, features=32, top_k=8, passes=30)
    quality = sparse.judge(autoencoder, by_token)
    tokens = min(64, stores[1].read(0).shape[1])
    assert quality.rows == 6 * tokens
    assert quality.fvu < 0.9
    assert quality.l0 <= 8
    assert autoencoder.encode(stores[0].read(0)).shape == (6, 32)
