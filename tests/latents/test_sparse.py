"""Sparse autoencoders: what they recover of known features, their figures, what they edit."""

import sys
import weakref
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from known_features import PLACED, make_truth
from torch.testing import assert_close

from icgeo.config import UsageError
from icgeo.latents import sparse
from icgeo.latents.concentration import concentration

if not (find_spec("overcomplete") and find_spec("sklearn")):  # importing all needs torchvision
    pytest.skip("needs pip install --no-deps overcomplete", allow_module_level=True)

pytestmark = pytest.mark.no_deps

TRUTH = make_truth()


def stream():
    return TRUTH.rows.split(64)


@pytest.fixture(scope="module")
def autoencoder():
    return sparse.train(stream, features=48, top_k=2, passes=30, learning_rate=1e-2)


def test_known_features_are_recovered_and_are_where_they_were_put(autoencoder):
    assert sparse.matched_cosines(TRUTH.atoms, autoencoder.atoms).mean() > 0.98
    partner = (TRUTH.atoms @ autoencoder.atoms.T).argmax(dim=1)
    codes = sparse.encode_all(autoencoder, stream)[:, partner.numpy()]
    generator = torch.Generator().manual_seed(0)
    table = concentration(codes, TRUTH.lat_lon, nside=4, generator=generator, permutations=199)
    assert table.is_concentrated[:PLACED].all()
    assert table.moran[:PLACED].min() > 0.4
    assert table.is_concentrated[PLACED:].sum() <= 1
    shuffled = TRUTH.lat_lon[torch.randperm(len(TRUTH.lat_lon), generator=generator)]
    table = concentration(codes, shuffled, nside=4, generator=generator, permutations=199)
    assert table.is_concentrated.sum() <= 1
    assert table.moran.max() < 0.3


def test_noise_has_no_features_to_recover():
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(TRUTH.rows.shape, generator=generator)
    autoencoder = sparse.train(lambda: noise.split(64), features=48, top_k=4, passes=5)
    assert sparse.matched_cosines(TRUTH.atoms, autoencoder.atoms).mean() < 0.6
    assert sparse.judge(autoencoder, lambda: noise.split(64)).fvu > 0.4


def test_figures_are_those_of_their_definitions(autoencoder):
    quality = sparse.judge(autoencoder, stream)
    rows, codes = TRUTH.rows.double().numpy(), autoencoder.encode(TRUTH.rows)
    left = rows - autoencoder.decode(codes).double().numpy()
    assert quality.fvu == pytest.approx((left**2).sum() / ((rows - rows.mean(0)) ** 2).sum())
    assert quality.l0 == pytest.approx(np.count_nonzero(codes) / len(rows))
    assert quality.dead == int((codes.sum(dim=0) == 0).sum())
    assert quality.rows == len(rows)
    assert quality.fvu < 0.1
    assert 1 < quality.l0 <= 2
    assert_close(autoencoder.atoms.norm(dim=1), torch.ones(48))
    encoded = sparse.encode_all(autoencoder, stream)
    assert_close(torch.from_numpy(encoded.toarray()), codes)


@pytest.mark.slow
def test_features_are_stable_over_seeds_where_there_are_features(autoencoder):
    other = sparse.train(stream, features=48, top_k=2, passes=30, learning_rate=1e-2, seed=1)
    used = [one.atoms[sparse.judge(one, stream).usage > 0.02] for one in (autoencoder, other)]
    random = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    assert sparse.stability(used) > 0.95 > 0.6 > sparse.stability([used[0], random])
    with pytest.raises(ValueError, match="at least 2"):
        sparse.stability(used[:1])


def test_matching_finds_a_permutation():
    atoms = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(sparse.matched_cosines(atoms, 3 * atoms[order]), 1)
    np.testing.assert_allclose(sparse.matched_cosines(atoms[:4], atoms), 1)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    def few():
        return stream()[:4]

    before = torch.random.get_rng_state()
    first, again, other = (
        sparse.train(few, features=8, top_k=2, passes=1, seed=seed) for seed in (0, 0, 1)
    )
    assert_close(torch.random.get_rng_state(), before)
    assert_close(first.atoms, again.atoms, rtol=0, atol=0)
    assert not torch.allclose(first.atoms, other.atoms)


def test_memory_holds_some_batches_however_many_there_are():
    alive, most, made = set(), 0, 0

    def many():
        nonlocal most, made
        for number in range(200):
            generator = torch.Generator().manual_seed(number)
            batch = torch.randn(32, 8, generator=generator)
            alive.add(made)
            weakref.finalize(batch, alive.discard, made)
            most, made = max(most, len(alive)), made + 1
            yield batch

    sparse.train(many, features=8, top_k=2, passes=1)
    assert made == 400
    assert most <= 2 * sparse.SHUFFLED + 1


def test_what_is_saved_is_loaded(autoencoder, tmp_path):
    autoencoder.save(path := tmp_path / "new" / "sae.safetensors")
    loaded = sparse.SparseAutoencoder.load(path)
    assert_close(loaded.encode(TRUTH.rows), autoencoder.encode(TRUTH.rows), rtol=0, atol=0)
    assert (loaded.scale, loaded.top_k) == (autoencoder.scale, 2)


def test_edits_change_a_feature_and_nothing_else(autoencoder):
    rows = TRUTH.rows[:6].unflatten(0, (2, 3))
    codes = autoencoder.encode(rows)
    feature = int(codes.sum(dim=(0, 1)).argmax())
    other = (feature + 1) % 48
    assert_close(autoencoder.edit(rows, lambda same: same), rows)
    taken = autoencoder.edit(rows, sparse.remove(feature))
    direction = autoencoder.direction(feature)
    assert_close(rows - taken, codes[..., feature, None] * direction)
    swapped = autoencoder.edit(rows, sparse.exchange(feature, other))
    difference = codes[..., feature, None] - codes[..., other, None]
    assert_close(swapped - rows, difference * (autoencoder.direction(other) - direction))


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (torch.zeros(0, 3), {}, "at least one"),
        (torch.ones(8, 3), {}, "differ"),
        (torch.full((8, 3), torch.nan), {}, "finite"),
        (torch.eye(8), {"top_k": 9}, "top_k from 1 to features=4"),
    ],
)
def test_bad_rows_are_refused(rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse.train(lambda: [rows] if len(rows) else [], **{"features": 4, "top_k": 2} | arguments)


def test_an_unknown_feature_is_refused(autoencoder):
    with pytest.raises(ValueError, match="from 0 to 47, got 48"):
        autoencoder.direction(48)


def test_the_import_leaves_no_trace_and_nothing_stands_for_torchvision():
    """Transformers asks `find_spec` whether torchvision is there (`is_torchvision_available`)."""
    sparse.overcomplete_sae.cache_clear()
    before = find_spec("torchvision")
    package = sparse.overcomplete_sae()
    assert package.TopKSAE.__module__ == "overcomplete.sae.topk_sae"
    assert sparse.overcomplete_sae() is package
    assert find_spec("torchvision") == before
    assert not [name for name in sys.modules if name.partition(".")[0] == "overcomplete"]


def test_a_missing_package_is_told_with_its_remedy(monkeypatch):
    sparse.overcomplete_sae.cache_clear()
    monkeypatch.setitem(sys.modules, "overcomplete", None)
    with pytest.raises(UsageError, match="pip install --no-deps overcomplete"):
        sparse.overcomplete_sae()


def test_what_it_lacks_is_told(monkeypatch):
    sparse.overcomplete_sae.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("sklearn.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match="overcomplete needs sklearn"):
        sparse.overcomplete_sae()
