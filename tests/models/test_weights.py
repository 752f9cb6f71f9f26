"""Tests of how weights are loaded: quantized, adapted, offloaded; of kernels and kept prompts."""

import importlib.util
from types import SimpleNamespace

import diffusers
import jaxtyping
import pytest
import torch
import twins
from diffusers.models import attention_dispatch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file

import icgeo
from icgeo.maps import MapStyle
from icgeo.models import loading, prompts

STYLE = MapStyle.marker(height=64, width=128, sigma_deg=10.0)


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    return twins.klein(tmp_path_factory.mktemp("klein"))


def load(folder, **options):
    return icgeo.load(folder, style=STYLE, photo_size=64, **options)


def pixels(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)


def draw(model, **options):
    context = model.encode_context(pixels(2), torch.tensor([[0.0, 10.0], [20.0, 30.0]]))
    return model.draw_maps(context, pixels(1, 5), **{"prompt": "earth", "steps": 2, **options})


def test_weights_of_eight_bits_draw_nearly_the_same(klein):
    exact, rounded = load(klein), load(klein, quantization="int8")
    weight = rounded.backbone.pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    assert type(weight).__name__ == "Int8Tensor"
    assert type(rounded.backbone.pipeline.vae.decoder.conv_in.weight) is torch.nn.Parameter
    difference = (draw(exact) - draw(rounded)).abs()
    assert 0 < difference.max() < 0.1
    context = exact.encode_context(pixels(1), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"model .*, not '.* int8'"):
        rounded.draw_maps(context, pixels(1), prompt="earth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": "int4"}, r"quantization of \('nf4', 'fp8', 'int8'\), got 'int4'"),
        ({"offload": "disk"}, r"offload of \('model', 'group'\), got 'disk'"),
        ({"offload": "group"}, "an accelerator as device to offload from, got cpu"),
        ({"dtype": torch.int8}, "expected dtype of .*, got 'int8'"),
        ({"attention_backend": "magic"}, r"backend of \('native', 'xformers', 'flash'\)"),
        ({"attention_backend": "xformers"}, "'xformers' cannot be used: .* install"),
        ({"adapter": "absent"}, r"a hub id \(owner/name\), got 'absent'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(klein, options, words):
    with pytest.raises(icgeo.LoadError, match=words) as raised:
        load(klein, **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "package"), [("nf4", "bitsandbytes"), ("fp8", "torchao")])
def test_a_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(icgeo.LoadError, match=rf"'{name}' needs {package}: pip install"):
        loading.quantization_config(name, dtype=torch.float32)


def test_parts_are_offloaded_as_asked():
    """Told to the pipeline: only an accelerator could show more."""
    told = []

    def record(name):
        return lambda *given, **named: told.append((name, given, named))

    names = ("enable_model_cpu_offload", "enable_group_offload", "to")
    pipeline = SimpleNamespace(**{name: record(name) for name in names})
    for offload in ("model", "group", None):
        loading.place(pipeline, offload=offload, device="cuda")
    assert [name for name, *_ in told] == list(names)
    assert told[1][2]["onload_device"] == torch.device("cuda")


def test_missing_components_are_named(tmp_path):
    folder = twins.klein(tmp_path)
    for file in (folder / "vae").iterdir():
        file.unlink()
    (folder / "vae").rmdir()
    with pytest.raises(icgeo.LoadError, match=r"expected vae in .*, as its model_index\.json says"):
        load(folder)


def test_damaged_weights_are_one_clear_line(tmp_path):
    folder = twins.klein(tmp_path)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(icgeo.LoadError, match="cannot be loaded: ") as raised:
        load(folder)
    assert "\n" not in str(raised.value)


def save_adapter(transformer, kind, folder):
    """Save a random LoRA as diffusers does."""
    torch.manual_seed(1)
    transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    kind.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        **_collate_lora_metadata({"transformer": transformer}),
    )


@pytest.mark.parametrize(
    "name", ["klein", *(pytest.param(one, marks=pytest.mark.slow) for one in ("kontext", "vace"))]
)
def test_adapters_change_the_maps_and_the_contexts(tmp_path, name):
    folder = twins.ALL[name](tmp_path / name)
    pipelines = {
        "klein": "Flux2KleinPipeline",
        "kontext": "FluxKontextPipeline",
        "vace": "WanVACEPipeline",
    }
    kind = getattr(diffusers, pipelines[name])
    save_adapter(kind.from_pretrained(folder).transformer, kind, tmp_path / "lora")
    plain, adapted = load(folder), load(folder, adapter=tmp_path / "lora")
    difference = draw(plain, samples=1) - draw(adapted, samples=1)
    assert difference.abs().max() > 1e-3
    assert str(tmp_path / "lora") in adapted.fingerprint["model"]
    scaling = next(
        module.scaling["default_0"]
        for module in adapted.backbone.pipeline.transformer.modules()
        if hasattr(module, "scaling")
    )
    assert scaling == 3  # alpha over rank survives


def test_tiny_takes_an_adapter_too(tmp_path):
    save_adapter(icgeo.load("tiny").backbone.transformer, diffusers.Flux2KleinPipeline, tmp_path)
    plain, adapted = icgeo.load("tiny"), icgeo.load("tiny", adapter=tmp_path)
    assert not torch.equal(draw(plain), draw(adapted))
    assert plain.fingerprint != adapted.fingerprint
    with pytest.raises(icgeo.LoadError, match=r"no quantization for a model of this size"):
        icgeo.load("tiny", quantization="int8")


def test_an_adapter_of_another_architecture_is_refused(klein, tmp_path):
    from safetensors.torch import save_file

    stray = {"transformer.absent.lora_A.weight": torch.zeros(2, 4)}
    stray["transformer.absent.lora_B.weight"] = torch.zeros(4, 2)
    save_file(stray, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(icgeo.LoadError, match="got absent and 0 others"):
        load(klein, adapter=tmp_path)


def test_kernels_of_attention_do_not_leak(klein, monkeypatch):
    """Diffusers' own `set_attention_backend` would change every model in the process."""
    active = attention_dispatch._AttentionBackendRegistry.get_active_backend()[0]
    monkeypatch.setattr(loading, "require_backend", lambda _: None)
    chosen = load(klein, attention_backend="flash")
    assert chosen.layout.attention_backend == "flash"
    blocks = chosen.backbone.pipeline.transformer.transformer_blocks
    assert blocks[0].attn.processor.backend == "flash"
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend()[0] == active
    other = load(klein)
    assert draw(other).isfinite().all()
    assert (
        other.backbone.pipeline.transformer.transformer_blocks[0].attn.processor.backend == "native"
    )


@pytest.mark.slow
def test_compiled_blocks_draw_the_same(klein, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks do not compile
    plain, compiled = load(klein, attention="joint"), load(klein, attention="joint")
    expected = draw(plain)
    compiled.backbone.pipeline.transformer.single_transformer_blocks[1].compile(backend="aot_eager")
    torch.testing.assert_close(draw(compiled), expected, atol=1e-4, rtol=0)


def test_text_encoders_are_forgotten_and_prompts_kept(klein, monkeypatch):
    model = load(klein)
    assert model.backbone.pipeline.text_encoder is None
    expected = draw(model)
    files = list(model.backbone.prompts.folder.glob("*.safetensors"))
    assert len(files) >= 2
    assert all(set(load_file(file)) == {"encoder_hidden_states", "is_word"} for file in files)

    def fail(*_, **__):
        raise AssertionError("the text encoder is loaded again")

    again = load(klein)
    monkeypatch.setattr(loading, "_without", fail)
    torch.testing.assert_close(draw(again), expected)


def test_another_text_encoder_has_prompts_of_its_own(klein, tmp_path):
    other = twins.klein(tmp_path, seed=1)
    assert load(klein).backbone.prompts.folder != load(other).backbone.prompts.folder


def test_a_full_disk_costs_the_kept_prompts_alone(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = prompts.Prompts(lambda words: [{"x": torch.zeros(1)} for _ in words], blocked / "in")
    assert found("a")["x"].shape == (1,)
    assert "cannot keep" in caplog.text
