"""Time the shared context against the stock pipelines of diffusers, and the reading of maps.

The models have random weights. Images and the instruction are encoded beforehand for all: what is
timed is the transformer. Each way is timed in turn, several times over, so that a noisy machine is
noisy for all.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import icgeo
from icgeo import config
from icgeo.options import EARTH, SHOTS

PIXELS = {"small": (64, 128, 64), "klein-4b": (256, 512, 256), "kontext": (256, 512, 256)}
"""Height and width of maps, and side of photos, of each preset."""
SMALL: dict[str, Any] = {
    "num_layers": 2,
    "num_single_layers": 4,
    "num_attention_heads": 6,
    "attention_head_dim": 48,
    "axes_dims_rope": (12, 12, 12, 12),
    "joint_attention_dim": 192,
    "timestep_guidance_channels": 64,
}
"""What a FLUX.2 transformer of about 10 million parameters has otherwise than klein."""
BATCH_SIZE = 8


@dataclass(frozen=True)
class Options:
    """Time models of random weights; every way in turn, medians of several repetitions."""

    preset: Literal["small", "klein-4b", "kontext"] = "small"
    """Dimensions: some 10 million parameters, or those of FLUX.2 klein 4B or FLUX.1 Kontext."""
    shots: tuple[int, ...] = SHOTS
    """Numbers of examples."""
    samples: tuple[int, ...] = (1, 8)
    """Maps drawn for each query."""
    steps: int = 4
    """Steps of the flow."""
    text_tokens: int = 512
    """Length of the embedded instruction; 512 is that of the stock pipelines, with padding."""
    queries: int = 32
    """Queries that share a context."""
    stock_queries: int = 2
    """Queries for which the stock pipelines are called, in each repetition."""
    repeats: int = 3
    """Repetitions, beside one for warming up."""
    device: str = "cpu"
    """Device on which the models run."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Dtype of the weights."""
    name: str = "benchmark"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Time, print a table, write it with all else as JSON."""
    import pandas as pd
    import torch

    folder = config.save_run(Path("runs") / options.name, options)
    device, dtype = options.device, getattr(torch, options.dtype)
    model = build(options.preset, options.text_tokens, device=device, dtype=dtype)
    with torch.device(device):
        rows = [
            compare(model, shots, samples, options)
            for samples in options.samples
            for shots in options.shots
        ]
        side = 2048 if device == "cpu" else 4096
        a, b = (torch.randn(side, side, dtype=dtype) for _ in range(2))
        product = timed({"product": (lambda: [a @ b for _ in range(5)], 5)}, repeats=5)["product"]
    rate = 2 * side**3 / median(product)
    table = pd.DataFrame(rows)
    table["share of the product's rate"] = table.pop("FLOP/s") / rate
    reading = {f"{h} x {w}": reading_rate(h, w, device=device) for h, w in ((64, 128), (128, 256))}
    growth = memory_growth(model)
    result = {
        "rows": table.to_dict("records"),
        "matrix FLOP/s": rate,
        "maps read a second": reading,
        "memory after 500 queries, over 100": growth,
    }
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table.round(4).to_string(index=False))
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s")
    print(f"memory held after 500 queries: {growth:.3f} of that after 100")
    print("maps read a second:", {size: round(each) for size, each in reading.items()})


def build(preset: str, text_tokens: int, *, device: str, dtype: Any) -> Any:
    """Make a klein or a Kontext of random weights, without text encoders."""
    import torch

    from icgeo.models.architectures import ARCHITECTURES
    from icgeo.models.map_model import MapModel
    from icgeo.models.prompts import Prompts

    torch.manual_seed(0)
    with torch.device(device):
        pipeline = make_pipeline(preset)
    pipeline.transformer.to(dtype)
    for part in (pipeline.transformer, pipeline.vae):
        part.eval().requires_grad_(False)
    sizes = pipeline.transformer.config
    text = {"encoder_hidden_states": torch.randn(1, text_tokens, sizes.joint_attention_dim)}
    if preset == "kontext":
        text["pooled_projections"] = torch.randn(1, sizes.pooled_projection_dim)
    height, width, side = PIXELS[preset]
    name = type(pipeline).__name__
    backbone = ARCHITECTURES[name].backbone(pipeline, Prompts(lambda new: [text for _ in new]))
    settings = ARCHITECTURES[name].settings({"_class_name": name, "is_distilled": True})
    return MapModel(backbone, settings, "random").choosing(
        style=icgeo.maps.MapStyle.marker(height=height, width=width),
        photo_size=side,
        layout="references",
        attention="joint",
    )


def make_pipeline(preset: str) -> Any:
    """Make a pipeline of FLUX.2 klein or FLUX.1 Kontext, whose codec is narrow."""
    import diffusers

    from icgeo.models.backbones.flux import KLEIN_4B, KONTEXT_12B

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    narrow: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
    if preset == "kontext":
        transformer = diffusers.FluxTransformer2DModel.from_config(KONTEXT_12B)
        vae = diffusers.AutoencoderKL(
            down_block_types=4 * ("DownEncoderBlock2D",),
            up_block_types=4 * ("UpDecoderBlock2D",),
            latent_channels=16,
            shift_factor=0.1,
            **narrow,
        )
        return diffusers.FluxKontextPipeline(scheduler, vae, None, None, None, None, transformer)
    sizes = KLEIN_4B | (SMALL if preset == "small" else {})
    transformer = diffusers.Flux2Transformer2DModel.from_config(sizes)
    vae = diffusers.AutoencoderKLFlux2(layers_per_block=1, **narrow)
    return diffusers.Flux2KleinPipeline(scheduler, vae, None, None, transformer, is_distilled=True)


def compare(model: Any, shots: int, samples: int, options: Options) -> dict[str, float]:
    """Time the shared context and the stock pipelines on one number of shots."""
    import diffusers
    import torch

    from icgeo.models.cost import plan_loaded

    settings = model.settings.choosing(samples=samples, steps=options.steps)
    model = replace(model, settings=settings)
    side = model.photo_size // model.backbone.patch
    in_map, channels = model.layout.latent_shape(shots)
    weight = model.backbone.transformer.x_embedder.weight
    sizes = ((shots, side, side), (shots, in_map), (options.queries, side, side))
    photos, drawn, queries = (torch.randn(*size, channels).to(weight) for size in sizes)
    few = queries[: options.stock_queries]
    pipelines: dict[str, Any] = {"stock": type(model.backbone.pipeline)}
    if pipelines["stock"] is diffusers.Flux2KleinPipeline:
        pipelines["key-value"] = diffusers.Flux2KleinKVPipeline
    ways = {"shared": (partial(share, model, photos, drawn, queries), len(queries))}
    for name, kind in pipelines.items():
        ways[name] = (partial(call_stock, model, photos, drawn, few, kind=kind), len(few))
    with torch.inference_mode():
        seconds = timed(ways, repeats=options.repeats)
    plan: Any = plan_loaded(
        model, shots, batch_size=BATCH_SIZE, queries=len(queries), text_tokens=options.text_tokens
    )
    shared = median(seconds["shared"])
    return {
        "shots": shots,
        "samples": samples,
        **{f"{name} s": median(each) for name, each in seconds.items()},
        **{f"{n} spread": (max(some) - min(some)) / median(some) for n, some in seconds.items()},
        **{f"times faster than {name}": median(seconds[name]) / shared for name in pipelines},
        "by operations, than key-value": plan.stock_flop / plan.shared_flop,
        "FLOP/s": plan.shared_flop / shared,
    }


def share(model: Any, photos: Any, drawn: Any, queries: Any) -> None:
    """Draw the maps of all queries with one context."""
    import torch

    from icgeo import sampling
    from icgeo.models.attention import install
    from icgeo.models.context import Context

    shots, settings = len(photos), model.settings
    install(model.backbone.transformer)
    context = Context(shots, model.layout.keep(photos, drawn) if shots else {}, model.fingerprint)
    times = model.layout.times(shots, settings.steps)
    for batch in queries.split(BATCH_SIZE):
        shape = (len(batch), settings.samples, *model.layout.latent_shape(shots))
        noise = torch.randn(shape, device=batch.device)
        sampling.euler(model.velocity(context, batch, EARTH), noise, times)


def call_stock(model: Any, photos: Any, drawn: Any, queries: Any, *, kind: Any) -> None:
    """Call a pipeline of diffusers for the queries, one by one, on latents in place of images."""
    import torch
    from PIL import Image

    from icgeo.models.attention import uninstall

    layout, settings, shots = model.layout, model.settings, len(photos)
    uninstall(model.backbone.transformer)
    pipeline = kind(**model.backbone.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    grid, in_map = queries.shape[1:3], layout.ids([layout.grid(0)], first=0)
    text, ids = (
        layout.text(EARTH, shots),
        layout.ids([*shots * [grid, layout.grid(0)], grid], first=1),
    )
    pairs = torch.cat((photos.flatten(1, 2), drawn), dim=1).flatten(0, 1)

    def references(*_: Any, batch_size: int, **__: Any) -> tuple[Any, Any]:
        return tokens.repeat(batch_size, 1, 1), ids[None].repeat(batch_size, 1, 1)

    def latents(_: Any, batch_size: int, *__: Any) -> tuple[Any, ...]:
        noise = torch.randn(batch_size, *layout.latent_shape(shots)).to(tokens)
        return noise, tokens.repeat(batch_size, 1, 1), in_map, ids

    height, width = settings.style.height, settings.style.width
    inputs = {"prompt_embeds": text["encoder_hidden_states"].to(queries), "output_type": "latent"}
    inputs |= {"image": [Image.new("RGB", (64, 64))], "height": height, "width": width}
    inputs["num_images_per_prompt"] = settings.samples
    if "pooled_projections" in text:
        inputs["pooled_prompt_embeds"] = text["pooled_projections"].to(queries)
        inputs |= {"_auto_resize": False, "max_area": height * width}
        pipeline.prepare_latents = latents
    else:
        pipeline.register_to_config(is_distilled=True)
        pipeline.prepare_image_latents = references
    for query in queries:
        tokens = torch.cat((pairs, query.flatten(0, 1)))[None]
        pipeline(num_inference_steps=settings.steps, **inputs)


def timed(
    ways: Mapping[str, tuple[Callable[[], object], int]], *, repeats: int
) -> dict[str, list[float]]:
    """Time ways in turn; each is a call and the queries that it locates.

    Returns:
        seconds a query by way, in each repetition.
    """
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (call, queries) in ways.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:  # the first is warm-up
                seconds[name].append((time.perf_counter() - start) / queries)
    return seconds


def reading_rate(height: int, width: int, *, count: int = 64, device: str = "cpu") -> float:
    """Return the maps read to densities a second, with a little noise on each."""
    import torch

    style = icgeo.maps.MapStyle(height=height, width=width)
    lat_lon = torch.rand(count, 2) * torch.tensor([160.0, 360.0]) - torch.tensor([80.0, 180.0])
    drawn = icgeo.maps.draw(lat_lon, style).float().to(device)
    noisy = drawn + 0.02 * torch.randn_like(drawn)
    seconds = timed({"read": (lambda: icgeo.maps.read(noisy, style), count)}, repeats=3)
    return 1 / median(seconds["read"])


def memory_growth(model: Any, *, queries: int = 500) -> float:
    """Run many queries; return the bytes held after the last over those after the first fifth."""
    import psutil
    import torch

    from icgeo.models.attention import install

    install(model.backbone.transformer)  # the stock pipelines have put theirs in place
    process, side, sizes = psutil.Process(), model.photo_size, []
    zeros = torch.zeros(4, 3, side, side, dtype=torch.uint8)
    context = model.encode_context(zeros, torch.zeros(4, 2))
    for _ in range(0, queries, 20):
        photos = torch.randint(256, (20, 3, side, side), dtype=torch.uint8)
        drawn = model.draw_maps(context, photos, prompt=EARTH, steps=1)
        icgeo.maps.read(drawn[:, 0].float().cpu(), model.settings.style)
        on_gpu = drawn.device.type == "cuda"
        held = torch.cuda.memory_allocated(drawn.device) if on_gpu else process.memory_info().rss
        sizes.append(held)
    return sizes[-1] / sizes[len(sizes) // 5]


if __name__ == "__main__":
    config.run(main, Options)
