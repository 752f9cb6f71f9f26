"""Tests of locators in folders: saved, read again, and put on the hub with their card."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import icgeo
from icgeo.checkpoint import EXAMPLES, INDEX
from icgeo.config import UsageError
from icgeo.data.orbit import open_world, random_views
from icgeo.models import hub


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(2)
    return random_views(open_world("blue-marble"), 4, generator=generator)


@pytest.fixture(scope="module")
def examples(photos):
    """Of other sizes than the model's, with places that no float32 holds."""
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in photos.images[:2]]
    places = [(0.1 + 1e-13, -179.9), (1 / 3, 2 / 3)]
    return [
        icgeo.Example(picture.resize((90, 70)), *place)
        for picture, place in zip(pictures, places, strict=True)
    ]


@pytest.fixture(scope="module")
def locator(examples):
    tiny = icgeo.load("tiny", attention="joint")
    return icgeo.Geolocator(
        tiny, samples=2, seed=7, point="mode", prompt="unknown world", examples=examples
    )


@pytest.fixture(scope="module")
def saved(locator, tmp_path_factory):
    return locator.save_pretrained(tmp_path_factory.mktemp("saved") / "mine")


def answers(locator, photos, *examples):
    """The maps drawn: densities may be the prior for all of them."""
    queries = [x.permute(1, 2, 0).numpy() for x in photos.images[2:]]
    return torch.stack([one.map for one in locator.locate(queries, *examples)])


def test_a_locator_read_again_gives_the_same_answers(locator, saved, photos):
    again = icgeo.Geolocator.from_pretrained(saved)
    assert torch.equal(answers(again, photos), answers(locator, photos))
    assert again.loaded.settings == locator.loaded.settings
    assert (again.samples, again.seed, again.point, again.prompt) == (2, 7, "mode", "unknown world")
    assert [(e.lat, e.lon) for e in again.examples] == [(e.lat, e.lon) for e in locator.examples]


def test_its_examples_can_be_left_out_and_its_options_changed(saved, photos):
    again = icgeo.Geolocator.from_pretrained(str(saved), seed=8, attention="pairwise")
    alone = icgeo.Geolocator("tiny", samples=2, seed=8, prompt="unknown world")
    assert again.loaded.settings.attention == "pairwise"
    assert torch.equal(answers(again, photos, []), answers(alone, photos))
    assert not torch.equal(answers(again, photos), answers(alone, photos))


def test_how_examples_are_chosen_is_kept(locator, photos, tmp_path):
    own = replace(locator, shots=1, select="diverse", features="pixels")
    again = icgeo.Geolocator.from_pretrained(own.save_pretrained(tmp_path / "own"))
    assert (again.shots, again.select, again.features) == (1, "diverse", "pixels")
    queries = [x.permute(1, 2, 0).numpy() for x in photos.images]
    assert torch.equal(again.choose_for(queries), own.choose_for(queries))
    with pytest.raises(icgeo.LoadError, match="holds a whole locator; open it with"):
        icgeo.load(tmp_path / "own")


def test_the_folder_holds_safetensors_and_a_card(saved):
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert {INDEX, "README.md", EXAMPLES, "examples/0001.png", "model/icgeo.json"} <= files
    assert {Path(name).suffix for name in files} == {
        ".json", ".md", ".csv", ".png", ".safetensors"
    }  # fmt: skip
    _, front, text = (saved / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "icgeo", "license": "apache-2.0", "tags": ["geolocation", "icgeo"]
    }  # fmt: skip
    assert "- examples: 2" in text
    assert "- attention: joint" in text
    assert "without their consent" in text


def test_a_model_made_here_is_saved_with_its_calibration(locator, photos, tmp_path):
    settings = replace(locator.loaded.settings, calibration={"unknown world": {"0": 2.0}})
    made = replace(locator.loaded, settings=settings, origin=None)
    mine = replace(locator, model=made, examples=None)
    again = icgeo.Geolocator.from_pretrained(mine.save_pretrained(tmp_path / "made"))
    assert again.examples is None
    assert torch.equal(answers(again, photos), answers(mine, photos))
    assert not (tmp_path / "made" / EXAMPLES).exists()


def test_an_adapter_travels_with_its_model(tmp_path, photos):
    tiny = icgeo.load("tiny")
    name = "transformer_blocks.0.attn.to_q"
    width = tiny.backbone.transformer.get_submodule(name).weight.shape
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"transformer.{name}.lora_A.weight": torch.randn(2, width[1], generator=generator),
        f"transformer.{name}.lora_B.weight": torch.randn(width[0], 2, generator=generator),
    }
    (tmp_path / "lora").mkdir()
    path = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    save_file(weights, path)
    adapted = icgeo.Geolocator(icgeo.load("tiny", adapter=path))
    folder = adapted.save_pretrained(tmp_path / "mine")
    path.unlink()
    again = icgeo.Geolocator.from_pretrained(folder)
    assert torch.equal(answers(again, photos), answers(adapted, photos))
    assert not torch.equal(answers(again, photos), answers(icgeo.Geolocator(tiny), photos))


@pytest.mark.parametrize("name", [None, "second.safetensors"])
def test_a_folder_of_peft_travels_with_its_scale(tmp_path, photos, name):
    """The file of several that was chosen, and the configuration beside it."""
    layer = "transformer_blocks.0.attn.to_q"
    width = icgeo.load("tiny").backbone.transformer.get_submodule(layer).weight.shape
    folder = tmp_path / "lora"
    folder.mkdir()
    for file in ("first", "second")[: 2 if name else 1]:
        parts = {"A": torch.randn(2, width[1]), "B": torch.randn(width[0], 2)}
        keys = {f"base_model.model.{layer}.lora_{half}.weight": x for half, x in parts.items()}
        save_file(keys, folder / f"{file}.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["to_q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    adapted = icgeo.Geolocator(adapter=str(folder), weight_name=name)
    saved = adapted.save_pretrained(tmp_path / "mine")
    assert len([*(saved / "adapter").glob("*.safetensors")]) == 1
    again = icgeo.Geolocator.from_pretrained(saved)
    assert torch.equal(answers(again, photos), answers(adapted, photos))


def test_a_model_of_the_hub_is_named_with_its_commit(locator, tmp_path, monkeypatch):
    origin = replace(locator.loaded.origin, model="some/model", revision="a1b2")
    named = replace(locator, model=replace(locator.loaded, origin=origin))
    folder = named.save_pretrained(tmp_path / "mine", [])
    assert not (folder / "model").exists()
    assert "base_model: some/model" in (folder / "README.md").read_text()
    told = {}

    def load(model, **options):
        told.update(options, model=model)
        return locator.loaded

    monkeypatch.setattr("icgeo.checkpoint.load", load)
    icgeo.Geolocator.from_pretrained(folder, local_files_only=True, device="cpu")
    assert told == {
        "model": "some/model", "revision": "a1b2", "adapter": None, "quantization": None,
        "local_files_only": True, "device": "cpu", "weight_name": None,
    }  # fmt: skip


def test_what_cannot_be_saved_or_read(locator, saved, tmp_path):
    with pytest.raises(UsageError, match="expected a new or empty folder"):
        locator.save_pretrained(saved)
    with pytest.raises(icgeo.LoadError, match=r"expected geolocator\.json in"):
        icgeo.Geolocator.from_pretrained(tmp_path)
    index = json.loads((saved / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(icgeo.LoadError, match=r"format 3 in .*, got 99"):
        icgeo.Geolocator.from_pretrained(tmp_path)
    weights = tmp_path / "model" / "transformer"
    weights.mkdir(parents=True)
    (weights / "diffusion_pytorch_model.bin").touch()
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(icgeo.LoadError, match="a pickle, which can run any program"):
        icgeo.Geolocator.from_pretrained(tmp_path)
    with pytest.raises(icgeo.LoadError, match="a pickle, which can run any program"):
        icgeo.load("tiny", adapter=weights)


def test_what_is_pushed_is_what_is_saved(locator, saved, monkeypatch):
    calls = []

    def upload_folder(*, repo_id, folder_path, revision):
        calls.append((repo_id, revision, sorted(hub.files_in(folder_path))))

    api = SimpleNamespace(
        create_repo=lambda *args, **options: calls.append((*args, options)),
        create_branch=lambda *args, **options: calls.append((*args, options)),
        upload_folder=upload_folder,
    )
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    address = locator.push_to_hub("someone/mine", revision="v2")
    assert address == "https://huggingface.co/someone/mine"
    assert calls == [
        ("someone/mine", {"private": True, "exist_ok": True}),
        ("someone/mine", {"branch": "v2", "exist_ok": True}),
        ("someone/mine", "v2", sorted(hub.files_in(saved))),
    ]

    def fail(*_, **__):
        raise OSError("no network")

    api.create_repo = fail
    with pytest.raises(UsageError, match="cannot push to someone/mine: no network"):
        locator.push_to_hub("someone/mine")
