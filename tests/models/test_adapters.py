"""Tests that a LoRA is loaded whole, as its trainer stored it, or refused with the reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import twins
from safetensors.torch import load_file, save_file

import icgeo
from icgeo.models import hub
from icgeo.models.adapters import LORA, peft_config
from icgeo.options import LoadOptions

LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_k")


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return twins.klein(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def kontext(tmp_path_factory):
    return twins.kontext(tmp_path_factory.mktemp("kontext"))


def weights(prefix="", suffix="", rank=2, layers=LAYERS):
    generator = torch.Generator().manual_seed(0)
    return {
        f"{prefix}{layer}.lora_{half}{suffix}.weight": torch.randn(size, generator=generator)
        for layer in layers
        for half, size in (("A", (rank, 64)), ("B", (64, rank)))
    }


def change(folder, adapter):
    """What an adapter adds to the weights of the first layer."""
    layer = icgeo.load(folder, adapter=adapter).backbone.transformer.get_submodule(LAYERS[0])
    (name,) = layer.lora_A
    return layer.get_delta_weight(name)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 8}, 4),
        ({"lora_alpha": 2}, 1),
        ({"lora_alpha": 8, "use_rslora": True}, 32**0.5),
    ],
)
def test_a_folder_of_peft_says_its_scale(klein, tmp_path, settings, scale):
    parts = weights("base_model.model.")
    save_file(parts, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["to_q", "to_k"], **settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    first = "base_model.model." + LAYERS[0]
    product = parts[f"{first}.lora_B.weight"] @ parts[f"{first}.lora_A.weight"]
    torch.testing.assert_close(change(klein, tmp_path), scale * product)


@pytest.mark.parametrize("suffix", ["", ".default"])
def test_layers_by_their_own_names_are_loaded(klein, tmp_path, suffix):
    save_file(weights(suffix=suffix), tmp_path / "mine.safetensors")
    save_file(weights("transformer."), tmp_path / "stock.safetensors")
    expected = change(klein, tmp_path / "stock.safetensors")
    torch.testing.assert_close(change(klein, tmp_path / "mine.safetensors"), expected)


def test_the_older_names_of_diffusers_are_read(klein, tmp_path):
    stock = weights("transformer.")
    older = {
        name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): x
        for name, x in stock.items()
    }
    save_file(stock, tmp_path / "stock.safetensors")
    save_file(older, tmp_path / "older.safetensors")
    expected = change(klein, tmp_path / "stock.safetensors")
    torch.testing.assert_close(change(klein, tmp_path / "older.safetensors"), expected)


def test_weights_of_text_encoders_are_left_out_aloud(kontext, tmp_path, caplog):
    text = {
        f"text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_{half}.weight": torch.ones(2, 2)
        for half in "AB"
    }
    path = tmp_path / LORA
    save_file({**weights("transformer."), **text}, path)
    delta = change(kontext, tmp_path)
    assert "2 of 6 tensors are for text encoders, and left out" in caplog.text
    save_file(weights("transformer."), path)
    torch.testing.assert_close(change(kontext, tmp_path), delta)


def cut(parts):
    parts.pop(f"transformer.{LAYERS[0]}.lora_B.weight")
    return parts


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (cut(weights("transformer.")), r"expected lora_B beside transformer\.trans.* was it cut"),
        (weights(layers=(*LAYERS, "blocks.9.attn.to_q")), "got blocks.9.attn.to_q and 0 others"),
        (weights("model.diffusion."), "has 'model.diffusion.transformer_blocks.0.* and 1 others"),
        ({"a": torch.ones(1)}, "has 'a' and 0 others, which are not read"),
        ({}, "holds no weights"),
    ],
)
def test_what_is_understood_in_part_is_refused(klein, tmp_path, parts, words):
    save_file(parts, tmp_path / LORA)
    with pytest.raises(icgeo.LoadError, match=words) as refused:
        icgeo.load(klein, adapter=tmp_path)
    assert len(str(refused.value)) < 500


def pair(name, first, second, width=64):
    generator = torch.Generator().manual_seed(0)
    sizes = {first: (2, width), second: (width, 2)}
    return {f"{name}.{n}": torch.randn(s, generator=generator) for n, s in sizes.items()}


def kronecker(name):
    generator = torch.Generator().manual_seed(0)
    parts = {f"{name}.lokr_w{i}": torch.randn(8, 8, generator=generator) for i in (1, 2)}
    return {**parts, f"{name}.alpha": torch.tensor(1e10)}  # as LyCORIS says that both are whole


DOUBLE = "double_blocks.0.img_attn.proj"
KOHYA = "lora_unet_" + DOUBLE.replace(".", "_")
AI_TOOLKIT = pair(f"diffusion_model.{DOUBLE}", "lora_A.weight", "lora_B.weight")


def alpha(name):
    return {f"{name}.alpha": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("parts", "layer", "scale"),
    [
        (AI_TOOLKIT, "to_out.0", 1),
        (
            {
                **pair(KOHYA, "lora_down.weight", "lora_up.weight"),
                f"{KOHYA}.alpha": torch.tensor(1.0),
            },
            "to_out.0",
            0.5,
        ),
        (pair(LAYERS[0], "lora_A.default.weight", "lora_B.default.weight"), "to_q", 1),
        (kronecker(f"diffusion_model.{DOUBLE}"), "to_out.0", 1),
        (kronecker("lycoris_" + LAYERS[0].replace(".", "_")), "to_q", 1),
    ],
    ids=["ai-toolkit", "kohya", "DiffSynth", "ai-toolkit's LoKr", "LyCORIS' LoKr"],
)
def test_adapters_of_trainers_change_what_they_say(klein, tmp_path, parts, layer, scale):
    save_file(parts, tmp_path / "lora.safetensors")
    transformer = icgeo.load(klein, adapter=tmp_path).backbone.transformer
    changed = transformer.get_submodule(f"transformer_blocks.0.attn.{layer}")
    first, second, *_ = parts.values()
    expected = torch.kron(first, second) if first.shape[0] == 8 else scale * second @ first
    (name,) = transformer.peft_config
    torch.testing.assert_close(changed.get_delta_weight(name), expected)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (weights("transformer.", layers=(LAYERS[0], "blocks.9.to_q")), "blocks.9.to_q and 0"),
        (weights("transformer.", layers=["transformer_blocks.7.attn.to_q"]), "blocks.7"),
        (AI_TOOLKIT | alpha(f"diffusion_model.{DOUBLE}"), "cannot be loaded: .*alpha"),
        (pair("lycoris_transformer_blocks_0_attn_to_q", "hada_w1_a", "hada_w1_b"), "and LoKr"),
    ],
    ids=["a layer that is not there", "no layer that is there", "ai-toolkit with alpha", "LoHa"],
)  # fmt: skip
def test_adapters_that_would_be_loaded_in_part_are_refused(klein, tmp_path, parts, words):
    save_file(parts, tmp_path / "lora.safetensors")
    with pytest.raises(icgeo.LoadError, match=words):
        icgeo.load(klein, adapter=tmp_path)


def test_one_of_several_files_is_asked_for(klein, tmp_path):
    for name in ("one", "two"):
        save_file(weights("transformer."), tmp_path / f"{name}.safetensors")
    with pytest.raises(icgeo.LoadError, match=r"got 2 \(one.safetensors, two.safetensors\); name"):
        icgeo.load(klein, adapter=tmp_path)
    assert change(klein, tmp_path / "two.safetensors").abs().sum() > 0


@pytest.mark.parametrize(
    "name", ["one.safetensors", "two.safetensors", "step-500/three.safetensors"]
)
def test_a_file_of_several_is_named(klein, tmp_path, name):
    (tmp_path / "step-500").mkdir()
    for rank, other in enumerate(("one", "two", "step-500/three"), start=1):
        parts = weights("transformer.", rank=rank)
        save_file(parts, tmp_path / f"{other}.safetensors")
    loaded = icgeo.load(klein, adapter=tmp_path, weight_name=name)
    layer = loaded.backbone.transformer.get_submodule(LAYERS[0])
    (rank,) = layer.r.values()
    assert rank == load_file(tmp_path / name)[f"transformer.{LAYERS[0]}.lora_A.weight"].shape[0]
    assert loaded.origin.weight_name == name
    assert name in loaded.fingerprint["model"], "its contexts are no other's"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three.safetensors", r"expected three.safetensors in .* got 2 \(one.safetensors, two"),
        ("../other.safetensors", "got 2"),
        ("adapter_model.bin", r"expected adapter_model.bin in .* got 2"),
    ],
)
def test_a_file_that_is_not_among_several_is_refused(klein, tmp_path, name, words):
    for other in ("one", "two"):
        save_file(weights("transformer."), tmp_path / f"{other}.safetensors")
    with pytest.raises(icgeo.LoadError, match=words):
        icgeo.load(klein, adapter=tmp_path, weight_name=name)
    with pytest.raises(icgeo.LoadError, match=r"got the file .*one.safetensors; leave one out"):
        icgeo.load(klein, adapter=tmp_path / "one.safetensors", weight_name=name)


def test_another_kind_of_peft_is_named(klein, tmp_path):
    save_file(weights("base_model.model."), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(icgeo.LoadError, match="expected peft_type LORA, got 'IA3'"):
        icgeo.load(klein, adapter=tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_in_one_line(klein, tmp_path, seed):
    """Bytes flipped or cut: what is left is loaded, or refused by name."""
    path = tmp_path / LORA
    save_file(weights("transformer."), path)
    data, generator = bytearray(path.read_bytes()), torch.Generator().manual_seed(seed)
    where = torch.randint(min(len(data), 600), (4,), generator=generator).tolist()
    for place in where:
        data[place] = int(torch.randint(256, (1,), generator=generator))
    path.write_bytes(data[: where[0]] if seed % 4 == 0 else data)
    message = ""
    try:
        icgeo.load(klein, adapter=tmp_path)
    except icgeo.LoadError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 600


def test_what_is_saved_by_diffusers_comes_back(klein, tmp_path):
    """Its metadata holds alpha, which stands in no key."""
    from diffusers import Flux2KleinPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    model = icgeo.load(klein)
    transformer = model.backbone.transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=6, target_modules=["to_q"]))
    metadata = {"transformer_lora_adapter_metadata": transformer.peft_config["default"].to_dict()}
    Flux2KleinPipeline.save_lora_weights(
        tmp_path, get_peft_model_state_dict(transformer), **metadata
    )
    again = icgeo.load(klein, adapter=tmp_path).backbone.transformer
    (scaling,) = again.get_submodule(LAYERS[0]).scaling.values()
    assert scaling == 3
    assert len(load_file(tmp_path / LORA)) > 0


def test_peft_without_its_settings_is_refused(klein, tmp_path):
    save_file(weights("base_model.model."), tmp_path / "adapter_model.safetensors")
    with pytest.raises(icgeo.LoadError, match=r"expected adapter_config.json beside .* alpha"):
        icgeo.load(klein, adapter=tmp_path)


def test_settings_of_peft_come_from_the_hub_too(klein, tmp_path, monkeypatch):
    """The hub keeps each file that is asked for, and no other, in a folder."""
    there, cache = tmp_path / "there", tmp_path / "cache"
    there.mkdir()
    cache.mkdir()
    parts = weights("base_model.model.")
    save_file(parts, there / "adapter_model.safetensors")

    def download(source, name, **_):
        if not (there / name).is_file():
            raise icgeo.LoadError(f"{source} has no {name}")
        return shutil.copy(there / name, cache / name)

    monkeypatch.setattr(hub, "pipeline_part", download)
    asked = {"adapter": "someone/lora", "weight_name": "adapter_model.safetensors"}
    options = LoadOptions(**asked)
    with pytest.raises(icgeo.LoadError, match=r"expected adapter_config.json .*has no"):
        peft_config(Path(cache / "adapter_model.safetensors"), parts, options)
    (there / "adapter_config.json").write_text("{}")
    found = peft_config(Path(cache / "adapter_model.safetensors"), parts, options)
    assert found == cache / "adapter_config.json"


@pytest.mark.parametrize("name", ["x" * 300, f"a/{'x' * 300}", "a\0b", f"a/{'x' * 96}"])
def test_names_that_no_disk_and_no_hub_holds_are_one_short_line(klein, name):
    for asked in ({"model": "tiny", "adapter": name}, {"model": name}):
        with pytest.raises(icgeo.LoadError, match="or a hub id") as raised:
            icgeo.load(**asked)
        assert len(str(raised.value)) < 400
    with pytest.raises(icgeo.LoadError, match=r"no such file: .*check the path"):
        icgeo.load("tiny", adapter=f"./{'x' * 300}.safetensors")


@pytest.mark.parametrize("name", ["loras/mine.safetensors", "./mine", "~/mine.safetensors"])
def test_a_file_that_is_missing_is_not_sought_on_the_hub(klein, name):
    with pytest.raises(icgeo.LoadError, match=r"no such file: .*(check the path|shell replaces)"):
        icgeo.load(klein, adapter=name)


PEFT, FIRST = "base_model.model.", LAYERS[0]


def peft_folder(folder, parts, **settings):
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q", "to_k"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    save_file(parts, folder / "adapter_model.safetensors")


def beyond(*names):
    """A whole LoRA of PEFT with other keys."""
    return weights(PEFT) | {PEFT + name: torch.ones(64) for name in names}


def stripped(parts, end):
    return {name.removesuffix(end): x for name, x in parts.items()}


MAGNITUDES = [f"{layer}.lora_magnitude_vector" for layer in LAYERS]
BIASES = [f"{layer}.lora_B.bias" for layer in LAYERS]


@pytest.mark.parametrize(
    ("parts", "settings", "words"),
    [
        (weights(PEFT, ".style"), {}, "style.weight' and 3 others, which are not read"),
        (stripped(weights(PEFT), ".weight"), {}, "to_q.lora_A' and 3 others"),
        (beyond("foo.bar"), {}, "foo.bar' and 0 others"),
        (
            beyond() | {f"{PEFT}proj_out.weight": torch.ones(16, 64)},
            {},
            "proj_out.weight' and 0 others",
        ),
        (beyond(*MAGNITUDES), {}, "lora_magnitude_vector' and 1 others"),
        (beyond(), {"use_dora": True}, "expected .*lora_magnitude_vector in"),
        (beyond(*BIASES), {}, "lora_B.bias' and 1 others"),
        (beyond(f"{FIRST}.bias"), {"bias": "lora_only"}, "expected bias 'none' in .*lora_only"),
        (beyond(), {"bias": "all"}, "expected bias 'none'"),
        (beyond(), {"modules_to_save": ["proj_out"]}, "it lacks 'proj_out.weight'"),
        (beyond(), {"lora_alpha": None}, "expected a number as lora_alpha in .*json, got 'None'"),
        (beyond(), {"lora_alpha": "4"}, "expected a number as lora_alpha"),
        (beyond(), {"lora_alpha": float("nan")}, "expected a number as lora_alpha"),
        (beyond(), {"r": 8}, r"to_q.lora_A.*\[2, 64\].*\[8, 64\]"),
        (
            beyond() | pair(f"{PEFT}x_embedder", "lora_embedding_A", "lora_embedding_B"),
            {},
            "x_embedder.lora_embedding_A' and 1 others",
        ),
        (
            weights(PEFT, layers=LAYERS[:1]) | weights("transformer.", layers=LAYERS[1:]),
            {},
            "got transformer.transformer_blocks.1.attn.to_k and 0 others",
        ),
    ],
)
def test_a_folder_of_peft_is_read_whole_or_refused(klein, tmp_path, parts, settings, words):
    peft_folder(tmp_path, parts, **settings)
    with pytest.raises(icgeo.LoadError, match=words) as refused:
        icgeo.load(klein, adapter=tmp_path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["[]", "[1]", "", "{", "5", "[" * 100_000])
def test_settings_of_peft_that_are_none_are_told(klein, tmp_path, text):
    peft_folder(tmp_path, weights(PEFT))
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(icgeo.LoadError, match=r"expected (settings of PEFT as JSON|peft_type)"):
        icgeo.load(klein, adapter=tmp_path)


PROJ_OUT = torch.ones(16, 64)


@pytest.mark.parametrize(
    ("parts", "settings", "layer", "rank", "scale"),
    [
        (weights(PEFT, ".default"), {}, FIRST, 2, 2),
        (beyond(*MAGNITUDES), {"use_dora": True}, FIRST, 2, 2),
        (beyond(*BIASES), {"lora_bias": True}, FIRST, 2, 2),
        (
            beyond() | {f"{PEFT}proj_out.weight": PROJ_OUT},
            {"modules_to_save": ["proj_out"]}, FIRST, 2, 2,
        ),
        (
            weights(PEFT, rank=4, layers=LAYERS[:1]) | weights(PEFT, layers=LAYERS[1:]),
            {"rank_pattern": {"to_q": 4}, "alpha_pattern": {"to_q": 12}}, FIRST, 4, 3,
        ),
    ],
    ids=["default", "DoRA", "biases", "modules_to_save", "patterns"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed:UserWarning")
def test_what_peft_stores_is_read(klein, tmp_path, parts, settings, layer, rank, scale):
    """Each tensor of the file stands in the transformer, and the scale is that of the settings."""
    peft_folder(tmp_path, parts, **settings)
    transformer = icgeo.load(klein, adapter=tmp_path).backbone.transformer
    there = {
        name.replace(".default_0", "").replace(".modules_to_save", ""): x
        for name, x in transformer.named_parameters()
        if ".default_0" in name
    }
    stored = {name.removeprefix(PEFT).replace(".default", ""): x for name, x in parts.items()}
    assert {name.removesuffix(".weight") for name in there} == {
        name.removesuffix(".weight") for name in stored
    }
    for name, x in stored.items():
        torch.testing.assert_close(there.get(name, there.get(f"{name}.weight")).data, x)
    changed = transformer.get_submodule(layer)
    assert (*changed.r.values(), *changed.scaling.values()) == (rank, scale)


KOHYA_LORA = pair(KOHYA, "lora_down.weight", "lora_up.weight")
LYCORIS = kronecker("lycoris_" + FIRST.replace(".", "_"))
STOCK = weights("transformer.")


def also(parts, *names):
    return parts | {name: torch.ones(64) for name in names}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (stripped(STOCK, ".weight"), "to_q.lora_A' and 3 others"),
        (weights("transformer.", ".style"), "lora_A.style.weight' and 3 others"),
        (weights(suffix=".mine"), "lora_A.mine.weight' and 3 others"),
        (weights(suffix=".default") | weights(suffix=".style"), "style.weight' and 3 others"),
        (weights() | STOCK, "the same layers by two names"),
        (also(KOHYA_LORA, f"{KOHYA}.dora_scale"), "dora_scale' and 0 others"),
        (also(LYCORIS, "lycoris_x.dora_scale"), "dora_scale' and 0 others"),
        (also(KOHYA_LORA, f"{KOHYA}.diff_b"), "diff_b' and 0 others"),
        (also(weights(), f"{FIRST}.lora_mid.weight"), "lora_mid.weight' and 0 others"),
        (also(STOCK, "transformer.proj_out.bias"), "'proj_out.bias' and 0 others"),
        (
            KOHYA_LORA | pair("lora_unet_norm_out", "lora_down.weight", "lora_up.weight"),
            "lora_unet_norm_out' and 0 others",
        ),
        (KOHYA_LORA | LYCORIS, "lora_A.weight' and 1 others"),
        (STOCK | weights("unet.", layers=["down.0.to_q"]), "got unet.down.0.to_q and 0 others"),
        ({name: x * float("nan") for name, x in STOCK.items()}, "expected finite numbers"),
        ({name: x.to(torch.int8) for name, x in STOCK.items()}, "expected finite numbers"),
        ({name: x for name, x in LYCORIS.items() if "w2" not in name}, "expected lokr_w2 beside"),
        (
            {name: x[..., None] for name, x in STOCK.items()},
            r"to_q.lora_A.*\[2, 64, 1\].*\[2, 64\]",
        ),
    ],
)
def test_a_file_is_read_whole_or_refused(klein, tmp_path, parts, words):
    save_file(parts, tmp_path / "lora.safetensors")
    with pytest.raises(icgeo.LoadError, match=words) as refused:
        icgeo.load(klein, adapter=tmp_path)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1", "<!doctype html>"])
def test_what_is_no_safetensors_is_told(klein, tmp_path, text):
    (tmp_path / "lora.safetensors").write_text(text)
    with pytest.raises(icgeo.LoadError, match=r"a page, or a pointer of git-lfs\? Download it"):
        icgeo.load(klein, adapter=tmp_path)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("halves", ["AB", ("down", "up")])
def test_an_alpha_of_a_layer_is_read(klein, tmp_path, prefix, halves):
    parts = pair(prefix + FIRST, *(f"lora_{half}.weight" for half in halves))
    save_file(parts | alpha(prefix + FIRST), tmp_path / "lora.safetensors")
    first, second = parts.values()
    torch.testing.assert_close(change(klein, tmp_path), second @ first / 2)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_settings_of_diffusers_are_read_beside_text_encoders_too(klein, tmp_path, prefix):
    settings = {"r": 2, "lora_alpha": 8, "target_modules": ["to_q", "to_k"]}
    settings = {f"transformer.{name}": value for name, value in settings.items()}
    parts = weights(prefix)
    text = pair("text_encoder.a", "lora_A.weight", "lora_B.weight") | {"bundle_emb.x": PROJ_OUT}
    metadata = {"lora_adapter_metadata": json.dumps(settings)}
    save_file(parts | text, tmp_path / "lora.safetensors", metadata)
    first, second, *_ = parts.values()
    torch.testing.assert_close(change(klein, tmp_path), 4 * second @ first)


def test_files_of_others_beside_are_passed_over(klein, tmp_path):
    peft_folder(tmp_path, STOCK, lora_alpha=64)
    (tmp_path / "._adapter_model.safetensors").write_bytes(b"\0\5\x16\7")
    first, second, *_ = STOCK.values()
    torch.testing.assert_close(change(klein, tmp_path), second @ first)


def test_eight_bits_of_kohya_are_read(klein, tmp_path):
    parts = {name: x.to(torch.float8_e4m3fn) for name, x in KOHYA_LORA.items()}
    save_file(parts | alpha(KOHYA), tmp_path / "lora.safetensors")
    layer = "transformer_blocks.0.attn.to_out.0"
    changed = icgeo.load(klein, adapter=tmp_path).backbone.transformer.get_submodule(layer)
    first, second = (x.float() for x in parts.values())
    torch.testing.assert_close(changed.get_delta_weight("default_0"), second @ first / 2)
