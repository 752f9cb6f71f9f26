"""Each architecture learns by a LoRA, in each of its layouts; stock pipelines load the result."""

import json
from dataclasses import replace

import diffusers
import pytest
import torch
import twins
from test_learning import STYLE, build

import icgeo
from icgeo import maps, sampling
from icgeo.training.adapters import add_lora, learned, save_adapter
from icgeo.training.episodes import Gallery, sample_episode
from icgeo.training.lora import LoraOptions, LoraTraining, make_accelerator
from icgeo.training.losses import FlowLoss
from icgeo.training.options import EpisodeSamplingOptions
from icgeo.training.photo_sets import PhotoSet

pytestmark = pytest.mark.usefixtures("forget_accelerator")
PAIRS = 4


def pool_of():
    """Pairs whose photos tiny's codec can code, as in `test_learning`."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(PAIRS, 2, generator=generator) * 120 - torch.tensor([60.0, 150.0])
    photos = (255 * maps.draw(seen, STYLE)[..., :32]).to(torch.uint8)
    places = torch.rand(PAIRS, 2, generator=generator).double() * 120 - 60
    return PhotoSet(photos, places)


def objective_of(name, **settings):
    model = build(name)
    return FlowLoss(replace(model, settings=replace(model.settings, **settings)), "earth")


def run_of(objective, pool, folder, options):
    """A run whose every step is on the same episodes."""
    latents = objective.encode(pool)
    gallery = Gallery.of(pool.lat_lon, latents["features"])
    accelerator = make_accelerator(options, folder)
    run = LoraTraining(
        objective, latents, gallery, folder=folder, options=options, accelerator=accelerator
    )
    draws = next(iter(run.parts(0)))
    run.parts = lambda step: [draws]
    return run


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("klein", {"attention": "joint"}),
        ("klein", {"attention": "pairwise", "layout": "pair"}),
        ("kontext", {}),
        *(
            pytest.param(name, settings, marks=pytest.mark.slow)
            for name, settings in (
                ("klein", {"attention": "pairwise"}),
                ("klein", {"attention": "pairwise", "layout": "sheet"}),
                ("vace", {}),
                ("ti2v", {}),
                ("qwen", {}),
            )
        ),
    ],
)
def test_each_architecture_learns_by_a_lora(name, settings, tmp_path):
    """The loss of fixed episodes falls by a tenth; the base stays as it is."""
    objective, pool = objective_of(name, **settings), pool_of()
    options = LoraOptions(
        views=3,
        episodes=2,
        rank=8,
        alpha=16,
        steps=12,
        warmup=2,
        learning_rate=2e-2,
        drop_text=0,
        tracker="none",
        mixed_precision="no",
    )
    run = run_of(objective, pool, tmp_path, options)
    before = {n: x.clone() for n, x in objective.transformer.named_parameters() if "lora" not in n}
    losses = [run.update()["loss"] for _ in range(options.steps)]
    assert losses[-1] < 0.9 * losses[0]
    after = dict(objective.transformer.named_parameters())
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_each_episode_needs_a_prompt():
    model = build("klein")
    settings = replace(model.settings, attention="pairwise")
    photos = torch.zeros(1, 2, 3, 3, 4)
    tokens, t = torch.zeros(1, 2, 5, 4), torch.ones(1, 2)
    visible = torch.zeros(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="shorter"):
        replace(model, settings=settings).layout.leave_one_out(
            photos, tokens, tokens, t, visible, []
        )


@pytest.mark.parametrize("layout", ["references", "pair"])
def test_in_pairwise_the_targets_of_an_episode_are_those_asked_one_by_one(layout):
    """All targets of a pass, hidden from each other by masks, against one target at a time.

    The examples stand where they stand in the whole episode, the photo behind them all.
    """
    objective, pool = objective_of("klein", attention="pairwise", layout=layout), pool_of()
    latents = objective.encode(pool)
    options = EpisodeSamplingOptions(views=PAIRS, drop_examples=0.0, drop_text=0.0)
    gallery = Gallery.of(pool.lat_lon, latents["features"])
    draw = sample_episode(gallery, options, 0)
    visible = ~torch.eye(PAIRS, dtype=torch.bool)
    visible[3] = False
    draw = replace(draw, visible=visible)
    with torch.no_grad():
        together = objective(latents, [draw])
        alone = []
        for target in range(PAIRS):
            shown = objective.model.layout
            rows = visible[target : target + 1]
            count = PAIRS if rows.any() else 0
            photos, data = latents["photos"][draw.pairs], latents["maps"][draw.pairs]
            kept = shown.keep(photos, latents.examples[draw.pairs]) if count else {}
            mask = rows if count else None
            predict = shown.sharing(kept, count, photos[target, None], visible=mask)
            t = sampling.shifted(draw.t[0], shown.shift(PAIRS, objective.model.settings.steps))
            noise = draw.noise(*data.shape)[target]
            x = (1 - t) * data[target] + t * noise
            told = objective.model.layout.text("earth" if draw.has_text else "", count)
            found = predict(x[None, None], t.item(), told)[0, 0]
            alone.append((found - (noise - data[target])).square().mean())
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["klein", "kontext"])
def test_times_of_training_are_shifted_as_those_of_the_scheduler(name):
    shown = build(name).layout
    for shots in (0, 3):
        grid = sampling.time_grid(5, shift=shown.shift(shots, 5))
        torch.testing.assert_close(shown.times(shots, 5).double(), grid, atol=1e-6, rtol=0)


def test_the_answer_of_a_panel_is_its_last_map():
    """Coded by patches, the last map's tokens are those of the map alone."""
    model, pool = build("kontext"), pool_of()
    area = 3 * STYLE.height * (STYLE.height + STYLE.width)  # of three rows as they are
    model = replace(model, settings=replace(model.settings, trained_area=area))
    photos, drawn = pool.photos / 255, maps.draw(pool.lat_lon, STYLE)
    kept = model.layout.encode_pairs(photos[:2], drawn[:2])
    panel = model.layout.encode_answers(kept, photos[2:3], drawn[2:3])
    found = model.layout.answer(panel, 2).flatten(-3, -2)
    torch.testing.assert_close(found, model.backbone.encode(drawn[2:3]))


@pytest.mark.parametrize("name", ["klein", "kontext", "vace", "ti2v"])
def test_stock_pipelines_load_what_is_saved(name, tmp_path):
    """`load_lora_weights` gives exactly the weights that were saved, with alpha other than rank."""
    folder = twins.ALL[name](tmp_path / name)
    index = json.loads((folder / "model_index.json").read_text())
    kind = getattr(diffusers, index["_class_name"])
    transformer = kind.from_pretrained(folder).transformer
    add_lora(transformer, rank=2, alpha=6)
    for i, weight in enumerate(learned(transformer)):
        weight.data.normal_(generator=torch.Generator().manual_seed(i))
    save_adapter(transformer, tmp_path / "adapter")
    pipeline = kind.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path / "adapter", use_safetensors=True)
    other = pipeline.transformer
    scaling = {m.scaling["default_0"] for m in other.modules() if hasattr(m, "scaling")}
    assert scaling == {3}
    loaded = [x for n, x in other.named_parameters() if "lora_" in n]
    saved = [x for n, x in transformer.named_parameters() if "lora_" in n]
    assert len(loaded) == len(saved) > 0
    assert all(torch.equal(x, y) for x, y in zip(loaded, saved, strict=True))


def test_the_public_call_takes_a_pipelines_lora(tmp_path):
    style = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)
    folder = twins.klein(tmp_path / "klein")
    model = icgeo.load(folder, style=style, photo_size=64)
    transformer = model.backbone.pipeline.transformer
    add_lora(transformer, rank=2, alpha=6)
    for i, weight in enumerate(learned(transformer)):
        weight.data.normal_(generator=torch.Generator().manual_seed(i))
    save_adapter(transformer, tmp_path / "adapter")
    again = icgeo.load(folder, style=style, photo_size=64, adapter=tmp_path / "adapter")
    found = []
    for one in (model, again):
        photos = torch.full((2, 3, 64, 64), 99, dtype=torch.uint8)
        context = one.encode_context(photos[:1], torch.zeros(1, 2))
        found.append(one.draw_maps(context, photos[1:], prompt="earth", steps=2))
    assert torch.equal(*found)


@pytest.mark.slow
def test_a_lora_learns_on_a_base_of_8_bits(tmp_path):
    style = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)
    choices = {"style": style, "photo_size": 64, "attention": "pairwise", "dtype": "bfloat16"}
    model = icgeo.load(twins.klein(tmp_path / "klein"), quantization="int8", **choices)
    generator = torch.Generator().manual_seed(0)
    photos = torch.randint(256, (6, 3, 64, 64), generator=generator).to(torch.uint8)
    pool = PhotoSet(photos, torch.rand(6, 2, generator=generator).double() * 50)
    objective = FlowLoss(model, "earth")
    options = LoraOptions(views=3, episodes=2, rank=4, tracker="none", learning_rate=2e-2)
    run = run_of(objective, pool, tmp_path, options)
    losses = [run.update()["loss"] for _ in range(5)]
    assert losses[-1] < losses[0] - 1e-3
    assert {weight.dtype for weight in run.weights} == {torch.float32}
    base = objective.transformer.transformer_blocks[0].attn.to_q.base_layer.weight
    assert type(base).__name__ == "Int8Tensor"
