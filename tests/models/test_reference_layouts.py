"""Layouts of reference images keep what is exact: one masked pass, contexts that grow, subsets."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import twins
from diffusers.models.transformers import transformer_flux2 as stock
from einops import rearrange, repeat
from test_attention_modes import Places, _rotate_in_float64  # noqa: F401
from torch.nn import functional

from icgeo import maps
from icgeo.models.architectures import ARCHITECTURES
from icgeo.models.attention import install
from icgeo.models.backbones.flux import FluxBackbone
from icgeo.models.context import Context
from icgeo.models.map_model import MapModel
from icgeo.models.prompts import Prompts

TEXT = 48
STYLE = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)
AREA = 2 * 64 * (64 + 128)  # two pairs a sheet


class Coded(FluxBackbone):
    """Random features of patches in place of a VAE, in float64."""

    patch = 16

    def encode(self, images):
        patches = rearrange(images.double(), "n c (h y) (w x) -> n (h w) (c y x)", y=16, x=16)
        generator = torch.Generator().manual_seed(0)
        return patches @ torch.randn(768, 16, generator=generator, dtype=torch.float64) / 28


def exact_model(layout, mode):
    """A klein in float64 whose transformer alone is real."""
    torch.manual_seed(0)
    transformer = twins.flux2_transformer(2, TEXT, guidance=False).double().requires_grad_(False)
    transformer.pos_embed = Places()
    text = {"encoder_hidden_states": torch.randn(1, 5, TEXT, dtype=torch.float64)}
    parts = {"transformer": transformer, "vae": None, "_execution_device": transformer.device}
    pipeline = SimpleNamespace(**parts)
    backbone = Coded(pipeline, Prompts(lambda words: [text for _ in words]))
    settings = ARCHITECTURES["Flux2KleinPipeline"].settings({"_class_name": "Flux2KleinPipeline"})
    changes = {"style": STYLE, "layout": layout, "attention": mode, "trained_area": AREA}
    return MapModel(backbone, replace(settings, guidance_scale=1.0, **changes), "exact")


SHAPES = ((64, 64), (32, 96), (64, 64), (96, 32))


def images_of(*shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def pairs_of(shots):
    return images_of(*SHAPES[:shots], seed=1), torch.stack(images_of(*shots * [(64, 128)], seed=2))


QUERY, X = torch.stack(images_of((48, 80), (48, 80), seed=3)), 0.7


def noise_of(model):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, 3, *model.layout.latent_shape(0), generator=generator).double()


def velocity_of(model, kept, shots):
    queries = model.layout.encode_queries({}, QUERY)
    return model.layout.predictor(kept, shots, queries)(
        noise_of(model), X, model.layout.text("earth", shots)
    )


def masked(model, shots, monkeypatch):
    """One pass of diffusers' own forward over text, examples, query and map, with a mask."""
    layout, transformer = model.layout, model.backbone.transformer
    pairs, grids = layout.encode_examples(*pairs_of(shots))
    lengths = layout.lengths(grids)
    examples = torch.cat([row[:length] for row, length in zip(pairs, lengths, strict=True)])
    queries = layout.encode_queries({}, QUERY)
    text, noisy = layout.text("earth", shots)["encoder_hidden_states"], noise_of(model)
    images = layout.images(grids)
    places = layout.ids([*images, queries.shape[1:3], layout.grid(0)], first=1)
    in_map = noisy.shape[2]
    places[-in_map:] = layout.ids([layout.grid(0)], first=0)
    units = torch.tensor(
        [i // layout.unit for i, length in enumerate(lengths) for _ in range(length)]
    )
    units = 0 * units if model.settings.attention == "joint" else units
    in_photo = queries[0, ..., 0].numel()
    kinds = torch.cat(
        (torch.full((5,), -1), units, torch.full((in_photo,), 100), torch.full((in_map,), 101))
    )
    asks, gives = kinds[:, None], kinds[None]
    sees = (
        (asks == gives)
        | (asks == 100) & (gives >= 0) & (gives < 100)
        | (asks == -1)
        | (asks == 101)
    )

    def attention(query, key, value, *_, **__):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=sees).transpose(1, 2)

    monkeypatch.setattr(stock, "_flux2_kv_causal_attention", attention)
    for block in transformer.transformer_blocks:
        block.attn.set_processor(stock.Flux2KVAttnProcessor())
    for block in transformer.single_transformer_blocks:
        block.attn.set_processor(stock.Flux2KVParallelSelfAttnProcessor())
    hidden = torch.cat(
        (
            repeat(examples, "n c -> b n c", b=6),
            repeat(queries.flatten(1, 2), "q n c -> (q s) n c", s=3),
            rearrange(noisy, "q s n c -> (q s) n c"),
        ),
        dim=1,
    )
    found = transformer(
        hidden_states=hidden,
        encoder_hidden_states=text.expand(6, -1, -1),
        timestep=torch.full((6,), X, dtype=torch.float64),
        img_ids=places,
        txt_ids=torch.cartesian_prod(*3 * (torch.tensor([0]),), torch.arange(5)),
        kv_cache_mode="extract",
        num_ref_tokens=len(examples) + in_photo,
        return_dict=False,
    )[0]
    install(transformer)
    return rearrange(found, "(q s) n c -> q s n c", q=2)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["joint", "pairwise"])
@pytest.mark.parametrize(("layout", "shots"), [("references", 4), ("pair", 3), ("sheet", 3)])
def test_what_is_kept_is_exact(layout, shots, mode, monkeypatch):
    """Against one masked pass, in float64; photos have several shapes, and a sheet is not full."""
    model = exact_model(layout, mode)
    expected = masked(model, shots, monkeypatch)
    found = velocity_of(model, model.layout.encode_pairs(*pairs_of(shots)), shots)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def context_of(model, photos, drawn):
    kept = model.layout.encode_pairs(photos, drawn)
    return Context(len(photos), kept, model.fingerprint, unit=model.layout.unit)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "pairwise"])
@pytest.mark.parametrize("layout", ["references", "pair", "sheet"])
def test_appended_examples_are_those_of_one_context(layout, mode):
    model, (photos, drawn) = exact_model(layout, mode), pairs_of(4)
    whole = context_of(model, photos, drawn)
    first, second = (
        context_of(model, photos[:2], drawn[:2]),
        context_of(model, photos[2:], drawn[2:]),
    )
    grown = first.extended(second)
    assert (grown.shots, grown.unit) == (4, whole.unit)
    expected = velocity_of(model, whole.tensors, 4)
    torch.testing.assert_close(velocity_of(model, grown.tensors, 4), expected, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layout", "chosen"),
    [("references", [3, 0, 1]), ("pair", [2, 0]), ("sheet", [2, 3, 0, 1]), ("sheet", [2, 3])],
)
def test_a_subset_in_another_order_is_exact(layout, chosen):
    model, (photos, drawn) = exact_model(layout, "pairwise"), pairs_of(4)
    context = context_of(model, photos, drawn).choosing(torch.tensor([chosen])).gathered()
    found = velocity_of(model, context.tensors, len(chosen))
    anew = model.layout.encode_pairs([photos[i] for i in chosen], drawn[chosen])
    expected = velocity_of(model, anew, len(chosen))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("chosen", [[0], [1, 0], [1, 2], [0, 1, 2], [4, 0, 1], [0, 1, 3]])
def test_pairs_of_a_sheet_are_not_parted(chosen):
    model = exact_model("sheet", "pairwise")
    context = Context(5, {}, model.fingerprint, unit=2)
    assert context.choosing(torch.tensor([[2, 3, 4]])).shots == 3
    with pytest.raises(ValueError, match="expected whole sheets of 2 pairs, each in its order"):
        context.choosing(torch.tensor([chosen]))
    with pytest.raises(ValueError, match="expected whole sheets of 2 pairs to extend, got 5"):
        context.extended(context)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "joint", "pairwise"])
@pytest.mark.parametrize("layout", ["references", "pair", "sheet"])
def test_maps_photos_and_their_order_move_the_result(layout, mode):
    model, (photos, drawn) = exact_model(layout, mode), pairs_of(3)
    found = velocity_of(model, model.layout.encode_pairs(photos, drawn), 3)
    others = {
        "swapped": ([photos[i] for i in (1, 0, 2)], drawn[[1, 0, 2]]),
        "other map": (photos, torch.cat((drawn[:2], drawn[:1]))),
        "other photo": ([*photos[:2], 1 - photos[2]], drawn),
    }
    for parts in others.values():
        moved = velocity_of(model, model.layout.encode_pairs(*parts), 3)
        assert (moved - found).abs().max() > 1e-4


def test_no_sheet_is_larger_than_the_trained_area():
    style = maps.MapStyle.marker()
    model = exact_model("sheet", "joint")
    settings = replace(model.settings, style=style, trained_area=1024**2)
    layout = replace(model, settings=settings).layout
    assert layout.unit == 5  # 1280 x 768 pixels
    assert [layout.references(shots) for shots in (0, 1, 5, 6, 15)] == [1, 2, 2, 3, 4]
