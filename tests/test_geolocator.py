"""Tests of the method end to end, with the tiny model of the package."""

import inspect
import math
import subprocess
import sys
from functools import partial

import jaxtyping
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import icgeo
from icgeo import evaluation, features
from icgeo.data.orbit import random_views
from icgeo.data.photos import PhotoError, as_photos
from icgeo.data.worlds import procedural_world
from icgeo.evaluation.run import read
from icgeo.selection import STRATEGIES, Bank, Diverse, make_strategy

UNKNOWN = "unknown world"
real = features.open


@pytest.fixture(scope="module")
def tiny():
    return icgeo.load("tiny")


@pytest.fixture(scope="module")
def views():
    world = procedural_world("cells", generator=77, height=256)
    return random_views(world, 40, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def photos(views):
    return [image.permute(1, 2, 0).numpy() for image in views.images]


@pytest.fixture(scope="module")
def examples(photos, views):
    return [
        icgeo.Example(photo, *place)
        for photo, place in zip(photos[:16], views.lat_lon[:16].tolist(), strict=True)
    ]


def log_mass(predictions):
    return torch.stack([prediction.density.mass for prediction in predictions]).log()


def test_predict_takes_one_image_or_many(tiny, photos, examples, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[20]).save(path)
    forms = [path, str(path), Image.fromarray(photos[20]), photos[20], [photos[20]]]
    found = [icgeo.predict(form, examples, model=tiny, prompt=UNKNOWN) for form in forms]
    assert [len(predictions) for predictions in found] == 5 * [1]
    for predictions in found[1:]:
        torch.testing.assert_close(log_mass(predictions), log_mass(found[0]), atol=0, rtol=0)


def test_predict_takes_examples_in_every_form(tiny, photos, examples, views, tmp_path):
    rows = ["image,latitude,longitude"]
    dicts = []
    for i, (lat, lon) in enumerate(views.lat_lon[:3].tolist()):
        Image.fromarray(photos[i]).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{lat!r},{lon!r}")
        dicts.append({"image": photos[i], "lat": lat, "lon": lon})
    (tmp_path / "bank.csv").write_text("\n".join(rows))
    tuples = [(photos[i], tuple(views.lat_lon[i].tolist())) for i in range(3)]
    found = [
        icgeo.predict(photos[20:22], form, model=tiny, prompt=UNKNOWN)
        for form in (
            examples[:3],
            tuples,
            [(photo, *place) for photo, place in tuples],
            dicts,
            pandas.DataFrame(dicts),
            tmp_path / "bank.csv",
        )
    ]
    for predictions in found[1:]:
        torch.testing.assert_close(log_mass(predictions), log_mass(found[0]), atol=1e-6, rtol=0)


def test_a_prediction_holds_what_it_promises(tiny, photos, examples):
    (found,) = icgeo.predict(photos[20], examples, model=tiny, prompt=UNKNOWN, samples=2, steps=2)
    assert found.located
    assert -90 <= found.lat <= 90
    assert -180 <= found.lon < 180
    assert 0 <= found.legibility <= 1
    assert found.map.shape == (3, 32, 64)
    assert found.samples.shape == (2, 3, 32, 64)
    assert found.density.mass.sum().item() == pytest.approx(1, abs=1e-6)
    assert found.credible_region(0.5).area_km2.sum() < found.credible_region(0.9).area_km2.sum()
    assert found.seconds > 0


def test_same_seed_same_answer_for_any_batch_and_order(tiny, photos, examples):
    queries = photos[16:21]
    locators = [icgeo.Geolocator(tiny, prompt=UNKNOWN, batch_size=size, samples=2, steps=2, seed=3)
                for size in (5, 3, 1)]  # fmt: skip
    whole = log_mass(locators[0].locate(queries, examples))
    for locator in locators[1:]:
        torch.testing.assert_close(
            log_mass(locator.locate(queries, examples)), whole, atol=1e-3, rtol=0
        )
    turned = log_mass(locators[0].locate(queries[::-1], examples))
    torch.testing.assert_close(turned.flip(0), whole, atol=1e-3, rtol=0)
    shuffled = log_mass(locators[0].locate(queries, examples[::-1]))
    torch.testing.assert_close(shuffled, whole, atol=1e-3, rtol=0)


def test_another_seed_draws_other_samples(tiny, photos):
    first, second = (
        icgeo.predict(photos[20], model=tiny, steps=2, seed=seed)[0].samples for seed in (0, 1)
    )
    assert (first - second).abs().max() > 1e-3


def test_examples_are_encoded_once(tiny, photos, examples, monkeypatch):
    calls = []
    original = type(tiny).encode_context
    monkeypatch.setattr(
        type(tiny), "encode_context", lambda *args: calls.append(1) or original(*args)
    )
    locator = icgeo.Geolocator(tiny)
    for _ in range(3):
        locator.locate(photos[20:22], examples)
    locator.locate(photos[20:22], examples[:3])
    assert len(calls) == 2


def test_tiny_learns_from_examples_of_worlds_it_has_never_seen(tiny):
    """On two worlds of held-out families the truth is likelier with 16 examples than with 1."""
    locator = icgeo.Geolocator(tiny, prompt=UNKNOWN)
    nats = {1: [], 16: []}
    for family, seed in (("cells", 1), ("craters", 2)):
        world = procedural_world(family, generator=seed, height=256)
        views = random_views(world, 36, generator=torch.Generator().manual_seed(seed))
        photos = [image.permute(1, 2, 0).numpy() for image in views.images]
        pairs = list(zip(photos[:16], (tuple(p) for p in views.lat_lon.tolist()), strict=False))
        for shots, found in nats.items():
            located = locator.locate(photos[16:], pairs[:shots])
            truth = views.lat_lon[16:]
            found += [-p.density.log_prob(t).item() for p, t in zip(located, truth, strict=True)]
    assert sum(nats[16]) / 40 < sum(nats[1]) / 40 - 0.2


def test_the_options_stand_in_the_signature():
    """As `Geolocator` has them, with its defaults; the examples are an argument."""
    door, locator = map(inspect.signature, (icgeo.predict, icgeo.Geolocator))
    options = {name: one.default for name, one in locator.parameters.items()}
    del options["name"], options["examples"]
    own = {
        name: one.default for name, one in door.parameters.items() if one.kind is one.KEYWORD_ONLY
    }
    assert own == options


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("step", "steps"), ("shot", "shots"), ("modek", "model")]
)
def test_a_mistyped_option_is_told_the_nearest(photos, wrong, nearest):
    with pytest.raises(ValueError, match=f"got '{wrong}'; did you mean '{nearest}'"):
        icgeo.predict(photos[0], **{wrong: 1})
    with pytest.raises(ValueError, match=f"got '{wrong}'; did you mean '{nearest}'"):
        icgeo.predict_sequence(photos[:1], speed_kmh=None, **{wrong: 1})


def test_options_of_loading_are_options(photos, tiny):
    (half,) = icgeo.predict(photos[20], dtype="bfloat16")
    (whole,) = icgeo.predict(photos[20], model=tiny)
    assert 0 < (half.map - whole.map).abs().max() < 0.2
    with pytest.raises(ValueError, match="no dtype for a model that is loaded already"):
        icgeo.predict(photos[20], model=tiny, dtype="bfloat16")


@pytest.mark.parametrize("point", ["best", "mode", "mean", "median"])
def test_every_point_is_on_the_globe(tiny, photos, point):
    for found in icgeo.predict(photos[20:23], model=tiny, point=point):
        assert abs(found.lat) <= 90
        assert abs(found.lon) <= 180


def test_augmented_views_change_the_answer_a_little(tiny, photos, examples):
    plain, more, again = (
        log_mass(icgeo.predict(photos[20:22], examples, model=tiny, prompt=UNKNOWN, augment=n))
        for n in (0, 3, 3)
    )
    assert torch.equal(more, again)
    assert (more - plain).abs().max() > 1e-3
    assert (more.exp() - plain.exp()).abs().sum(1).max() < 1.2  # of at most 2


def test_maps_can_be_watched_as_they_are_drawn(tiny, photos, examples):
    locator = icgeo.Geolocator(model=tiny, prompt=UNKNOWN, samples=2, steps=3, augment=1)
    told = []
    found = locator.locate(
        photos[30:32], examples, callback_on_step_end=lambda *step: told.append(step)
    )
    times = [t for _, t in told]
    assert len(told) == 3
    assert times[0] == 1
    assert times == sorted(times, reverse=True)
    for query, prediction in enumerate(found):
        assert torch.equal(told[-1][0][query], prediction.samples)
    assert not torch.allclose(told[0][0], told[-1][0], atol=0.01)
    unwatched = locator.locate(photos[30:32], examples)
    assert torch.equal(unwatched[1].map, found[1].map)


def test_a_watcher_can_cancel(tiny, photos):
    class Cancelled(Exception):
        pass

    def callback_on_step_end(maps, t):
        raise Cancelled

    with pytest.raises(Cancelled):
        icgeo.Geolocator(model=tiny, steps=4).locate(
            photos[:1], callback_on_step_end=callback_on_step_end
        )


def test_a_map_of_nothing_is_not_located(tiny, photos, monkeypatch):
    monkeypatch.setattr(
        type(tiny),
        "draw_maps",
        lambda self, context, photos, **_: torch.zeros(len(photos), 1, 3, 32, 64),
    )
    (found,) = icgeo.predict(photos[20], model=tiny)
    assert not found.located
    assert math.isnan(found.lat)
    assert found.density.entropy() == pytest.approx(math.log(4 * math.pi), abs=1e-3)


def test_pictures_of_any_shape_are_cut_square(tiny):
    wide = np.zeros((50, 200, 3), dtype=np.uint8)
    assert len(icgeo.predict([wide, wide[:, :20], wide[..., 0]], model=tiny)) == 3


def test_a_photo_has_the_same_pixels_whoever_reads_it(tiny, tmp_path):
    """A JPEG that the decoder does reduce: by its path, as a picture, in an evaluation."""
    noise = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).resize((3300, 2200), Image.Resampling.NEAREST).save(path)
    episode = evaluation.photo_episode(tmp_path)
    (query,) = read(episode.queries)[0]
    with Image.open(path) as opened:
        given = (path, opened, query.photo)
        maps = [icgeo.Geolocator(tiny).locate(photo)[0].map for photo in given]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


def test_one_photo_need_not_be_a_list(tiny, photos, examples):
    locator = icgeo.Geolocator(tiny)
    (one,), (listed,) = (locator.locate(given, examples) for given in (photos[0], [photos[0]]))
    assert torch.equal(one.map, listed.map)


@pytest.mark.parametrize("given", [None, 3, torch.zeros(3, 8, 8)])
def test_what_is_no_photo_is_named(given):
    with pytest.raises(PhotoError, match=f"expected a path.* got {type(given).__name__}"):
        as_photos(given)


def test_bad_input_is_refused_in_plain_words(tiny, photos, tmp_path):
    with pytest.raises(PhotoError, match=r"absent\.jpg"):
        icgeo.predict(tmp_path / "absent.jpg", model=tiny)
    with pytest.raises(ValueError, match="swapped"):
        icgeo.predict(photos[0], [(photos[1], (139.7, 35.6))], model=tiny)
    for options, words in (
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"prompt": "Mars"}, r"expected prompt of .*unknown world.*, got 'Mars'"),
        ({"attention": "full"}, "expected attention of .*pairwise"),
        ({"style": icgeo.maps.MapStyle()}, "expected style of"),
        ({"point": "corner"}, "expected point to be one of"),
        ({"select": "best"}, "expected select to be one of .*'nearest'"),
        ({"shots": -1}, "expected shots of at least 0, got -1"),
        ({"example_guidance": -1.0}, "expected example_guidance of at least 0, got -1.0"),
        ({"example_guidance": math.nan}, "expected example_guidance of at least 0, got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            icgeo.predict(photos[0], model=tiny, **options)
    assert icgeo.predict([], model=tiny) == []


def test_features_go_by_name(tiny, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks would say it first
    with pytest.raises(ValueError, match="expected features by name, got 3; give a name"):
        icgeo.Geolocator(tiny, features=3)


def test_mode_and_guidance_are_options(photos, examples):
    """Without examples they do nothing; with examples they matter."""
    options = ({}, {"attention": "joint"}, {"attention": "full"}, {"example_guidance": 2.0})
    for shown, differ in ((None, False), (examples[:2], True)):
        found = [icgeo.predict(photos[20], shown, prompt=UNKNOWN, **given) for given in options]
        own, *others = (prediction.map for (prediction,) in found)
        assert all(((other - own).abs().max() > 1e-3) == differ for other in others)


def test_examples_are_chosen_for_each_photo(tiny, photos, examples):
    """As many as asked, the most alike; a photo that is in the bank is its own nearest."""
    photos = photos[16:19]
    bank = [*examples, *(icgeo.Example(photo, 10 * i, 20) for i, photo in enumerate(photos))]
    locator = icgeo.Geolocator(tiny, shots=2, prompt=UNKNOWN)
    locator.prepare(bank)
    chosen = locator.choose_for(photos, bank)
    assert chosen.shape == (len(photos), 2)
    assert chosen[:, 0].tolist() == [len(examples) + i for i in range(len(photos))]
    found = locator.locate(photos, bank)
    for photo, numbers, one in zip(photos, chosen.tolist(), found, strict=True):
        (alone,) = icgeo.Geolocator(tiny, prompt=UNKNOWN).locate(
            [photo], [bank[n] for n in numbers]
        )
        torch.testing.assert_close(one.map, alone.map, atol=2e-5, rtol=0)
        assert one.seconds > 0


@pytest.mark.parametrize(
    ("name", "choose"),
    [
        *((None, choose) for choose in STRATEGIES),
        ("pixels", "nearest"),
        *(
            pytest.param("pixels", choose, marks=pytest.mark.slow)
            for choose in STRATEGIES
            if choose != "nearest"
        ),
    ],
)
def test_examples_are_chosen_as_asked(tiny, photos, examples, choose, name):
    photos, seen = photos[16:18], []
    drawn = partial(icgeo.Geolocator, tiny, prompt=UNKNOWN, steps=2, matching=False)
    locator = drawn(shots=3, select=choose, features=name)
    found = locator.locate(
        photos, examples, callback_on_step_end=lambda maps, t: seen.append((len(maps), t))
    )
    bank = Bank(examples, features.open(name or "tiny"))
    chosen = make_strategy(choose, locator).choose(bank, photos, 3)
    assert torch.equal(locator.choose_for(photos, examples), chosen)
    for photo, numbers, one in zip(photos, chosen.tolist(), found, strict=True):
        (alone,) = drawn().locate([photo], [examples[n] for n in numbers])
        torch.testing.assert_close(one.map, alone.map, atol=5e-5, rtol=0)
    assert {t for _, t in seen[-2:]} == {1.0, 0.5}


def test_a_strategy_may_be_given_itself(tiny, photos, examples):
    """Named or given, alike; and one of another hand."""

    class First:
        def choose(self, bank, photos, shots):
            return torch.arange(shots).expand(len(photos), shots)

    by_name, by_hand = (
        icgeo.Geolocator(tiny, shots=3, select=select, features="pixels")
        for select in ("diverse", Diverse(0.7))
    )
    chosen = by_hand.choose_for(photos[16:20], examples)
    assert torch.equal(chosen, by_name.choose_for(photos[16:20], examples))
    other = icgeo.Geolocator(tiny, shots=3, select=Diverse(0.1), features="pixels")
    assert not torch.equal(other.choose_for(photos[16:20], examples), chosen)
    (first,) = icgeo.predict(
        photos[16], examples, model=tiny, prompt=UNKNOWN, shots=3, select=First()
    )
    (shown,) = icgeo.predict(photos[16], examples[:3], model=tiny, prompt=UNKNOWN)
    torch.testing.assert_close(first.map, shown.map, atol=2e-5, rtol=0)


def test_a_choice_follows_what_changes_in_place(tiny, photos, examples):
    """A buffer of frames that is used again, an example that is drawn over, a place that moves."""
    locator, frame = icgeo.Geolocator(tiny, shots=2, features="pixels"), photos[16].copy()
    first = locator.choose_for([frame], examples)
    frame[:] = photos[17]
    second = locator.choose_for([frame], examples)
    assert torch.equal(second, locator.choose_for([photos[17]], examples))
    assert not torch.equal(first, second)
    drawn = examples[first[0, 0]].image
    kept = drawn.copy()
    try:
        drawn[:] = 0
        assert not torch.equal(locator.choose_for([photos[16]], examples), first)
    finally:
        drawn[:] = kept


def test_features_of_the_same_examples_are_kept(tiny, photos, examples, monkeypatch):
    opened = []
    monkeypatch.setattr(features, "open", lambda *a, **b: opened.append(a) or real(*a, **b))
    locator = icgeo.Geolocator(tiny, shots=2, features="pixels")
    pairs = [(example.image, (example.lat, example.lon)) for example in examples]
    locator.choose_for(photos[:2], pairs)
    bank = locator._chooser.bank(examples)
    locator.choose_for(photos[2:4], pairs)
    assert locator._chooser.bank(examples) is bank
    assert len(opened) == 1


def test_choices_that_look_at_nothing_need_no_features(tiny, photos, examples):
    for choose in ("random", "stratified", "two-stage"):
        locator = icgeo.Geolocator(tiny, prompt=UNKNOWN, shots=2, select=choose, features="no/such")
        locator.prepare(examples)
        assert len(locator.locate(photos[:2], examples)) == 2


def test_contexts_of_one_photo_are_not_kept(photos, examples):
    joint = icgeo.load("tiny", attention="joint")
    locator = icgeo.Geolocator(joint, prompt=UNKNOWN, shots=2)
    locator.locate(photos[16:18], examples)
    assert not locator._drawer.kept
    assert locator.shown_at_once(16) == 2
    assert icgeo.Geolocator("tiny", shots=2, batch_size=4).shown_at_once(16) == 8
    assert icgeo.Geolocator("tiny", shots=2, batch_size=4).shown_at_once(5) == 5
    assert icgeo.Geolocator("tiny", shots=2, select="random").shown_at_once(16) == 2
    rough = icgeo.Geolocator("tiny", shots=2, batch_size=4, select="two-stage")
    assert rough.shown_at_once(16) == 8, "each photo has its own"


def test_fewer_shots_than_none_or_more_than_all_change_nothing(tiny, photos, examples):
    photos = photos[16:18]
    everything = icgeo.Geolocator(tiny, prompt=UNKNOWN).locate(photos, examples)
    many = icgeo.Geolocator(tiny, prompt=UNKNOWN, shots=99)
    assert many.choose_for(photos, examples).shape == (len(photos), len(examples))
    nothing = icgeo.Geolocator(tiny, prompt=UNKNOWN, shots=0)
    for a, b in zip(many.locate(photos, examples), everything, strict=True):
        assert torch.equal(a.map, b.map)
    for a, b in zip(nothing.locate(photos, examples), many.locate(photos, []), strict=True):
        assert torch.equal(a.map, b.map)
    assert nothing.locate([], examples) == []
    assert icgeo.Geolocator(tiny, shots=1).locate([], examples) == []


def test_importing_icgeo_loads_no_model_library():
    heavy = ("diffusers", "geopandas", "matplotlib")
    code = f"import icgeo, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
