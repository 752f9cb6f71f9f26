"""Tests of `icgeo.load`: what is found, and what is said when nothing is."""

import json
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
import twins
from huggingface_hub import errors

import icgeo
from icgeo.maps import MapStyle
from icgeo.models import hub
from icgeo.models.architectures import architecture_of
from icgeo.models.backbones.flux import FluxBackbone
from icgeo.models.backbones.tiny import TinyBackbone
from icgeo.models.settings import MODES


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return twins.klein(tmp_path_factory.mktemp("klein"))


def test_the_checkpoint_names_the_architecture(klein):
    assert isinstance(icgeo.load("tiny").backbone, TinyBackbone)
    style = MapStyle.marker(height=64, width=128)
    model = icgeo.load(klein, attention="pairwise", style=style, dtype="bfloat16")
    assert isinstance(model.backbone, FluxBackbone)
    assert (model.settings.attention, model.settings.style) == ("pairwise", style)
    assert model.backbone.pipeline.transformer.dtype == torch.bfloat16
    assert model.backbone.pipeline.vae.dtype == torch.float32


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"attention": "causal"}, "expected attention of .*'pairwise'.*, got 'causal'"),
        ({"style": MapStyle(height=40, width=80)}, "multiples of 16 pixels, got 40 x 80"),
    ],
)
def test_impossible_choices_are_refused(klein, choice, words):
    with pytest.raises(icgeo.LoadError, match=words):
        icgeo.load(klein, **choice)


def test_a_model_that_knows_one_style_refuses_others():
    with pytest.raises(icgeo.LoadError, match="which this model knows alone"):
        icgeo.load("tiny", style=MapStyle.marker())


@pytest.mark.parametrize("mode", MODES)
def test_tiny_knows_every_mode(mode):
    assert icgeo.load("tiny", attention=mode).settings.attention == mode
    with pytest.raises(icgeo.LoadError, match=r"expected attention of .* got 'causal'"):
        icgeo.load("tiny").choosing(attention="causal")


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(icgeo.LoadError, match=r"a hub id .*, got '.*absent'; .*'tiny'"):
        icgeo.load(tmp_path / "absent")
    with pytest.raises(icgeo.LoadError, match=r"expected model_index\.json, or icgeo.json"):
        icgeo.load(tmp_path)
    model = icgeo.load("tiny")
    values = replace(model.settings, layout="panel").to_dict()
    (tmp_path / "icgeo.json").write_text(json.dumps(values))
    with pytest.raises(icgeo.LoadError, match="with layout 'stacked', in"):
        icgeo.load(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "AudioPipeline"}')
    with pytest.raises(icgeo.LoadError, match=r"Flux2KleinPipeline.* got 'AudioPipeline'"):
        icgeo.load(tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError, "gated on the hub; accept its licence"),
        (errors.RepositoryNotFoundError, "no some/model on the hub; check the spelling"),
        (errors.RevisionNotFoundError, "no revision"),
        (errors.EntryNotFoundError, "some/model is no model of this kind"),
        (errors.LocalEntryNotFoundError, "cannot be reached for some/model, .*; connect"),
    ],
)
def test_hub_troubles_are_one_clear_line(monkeypatch, error, words):
    def download(*_, **__):
        if error in (errors.LocalEntryNotFoundError, errors.EntryNotFoundError):
            raise error("trouble")
        raise error("trouble", response=MagicMock())

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(hub, "snapshot_download", download)
    for get in (icgeo.load, icgeo.plan):
        with pytest.raises(icgeo.LoadError, match=words) as raised:
            get("some/model", revision="v9")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("index", "steps", "guidance"),
    [
        ({"_class_name": "Flux2KleinPipeline", "is_distilled": True}, 4, 1.0),
        ({"_class_name": "Flux2KleinPipeline", "is_distilled": False}, 28, 4.0),
        ({"_class_name": "Flux2KleinKVPipeline"}, 4, 1.0),
        ({"_class_name": "FluxKontextPipeline"}, 28, 1.0),
    ],
)
def test_steps_and_guidance_follow_the_checkpoint(index, steps, guidance):
    found = architecture_of(index, "x").settings(index)
    assert (found.steps, found.guidance_scale) == (steps, guidance)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"_class_name": "WanVACEPipeline", "boundary_ratio": 0.9}, "a Wan of one transformer"),
        ({"_class_name": "WanPipeline"}, "a Wan that takes known frames"),
    ],
)
def test_wans_that_cannot_be_shown_frames_are_refused(index, words):
    with pytest.raises(icgeo.LoadError, match=words):
        architecture_of(index, "x")
