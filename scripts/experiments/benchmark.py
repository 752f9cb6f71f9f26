"""Time the shared context against the stock pipelines of diffusers, and the reading of maps.

The models have random weights. Images and the instruction are encoded beforehand for all: what is
timed is the transformer. Each way is timed in turn, several times over, so that a noisy machine is
noisy for all. A run that was stopped goes on where it was.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal

import icgeo
from icgeo import config
from icgeo.options import EARTH, SHOTS

Preset = Literal["small", "klein-4b", "kontext", "qwen-small", "qwen", "wan-small", "wan"]
PIXELS = {
    "small": (64, 128, 64),
    "klein-4b": (256, 512, 256),
    "kontext": (256, 512, 256),
    "qwen-small": (64, 128, 96),
    "qwen": (256, 512, 352),
    "wan-small": (64, 128, 64),
    "wan": (256, 512, 256),
}
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
SMALL_QWEN = {"num_layers": 6, "num_attention_heads": 3, "context_in_dim": 384}
SMALL_WAN = {"num_layers": 4, "num_attention_heads": 3, "ffn_dim": 1536, "vace_layers": [0, 2]}
BATCH_SIZE = 8
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True)
class Options:
    """Time models of random weights; every way in turn, medians of several repetitions."""

    preset: Preset = "small"
    """Dimensions: some 10 million parameters, or those of FLUX.2 klein 4B, FLUX.1 Kontext,
    Qwen-Image 2.1 (7B) or Wan 2.1 VACE (1.3B)."""
    shots: tuple[int, ...] = SHOTS
    """Numbers of examples."""
    samples: tuple[int, ...] = (1, 8)
    """Maps drawn for each query."""
    steps: int = 4
    """Steps of the flow."""
    text_tokens: int | None = None
    """Length of the embedded instruction; by default 512, that of stock pipelines with padding, or
    for Qwen-Image, which pads nothing, 128."""
    queries: int = 32
    """Queries that share a context."""
    stock_queries: int = 2
    """Queries for which the stock pipelines are called, in each repetition."""
    repeats: int = 3
    """Repetitions."""
    warm_up: bool = True
    """Call each way once before it is timed; of calls that take minutes that is a waste."""
    pixels: tuple[int, int, int] | None = None
    """Height and width of maps and side of photos in pixels; by default those of the preset."""
    clock: Literal["wall", "processor"] = "wall"
    """Time on the wall, or of the processor, which other work on the machine hardly moves."""
    checks: bool = True
    """Measure the matrix product, the reading of maps and the growth of memory too."""
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
    length = options.text_tokens or (128 if options.preset.startswith("qwen") else 512)
    model = build(options.preset, length, device=device, dtype=dtype)
    if options.pixels:
        height, width, side = options.pixels
        style = icgeo.maps.MapStyle.marker(height=height, width=width)
        model = model.choosing(style=style, photo_size=side)
    with torch.device(device):
        rows = [
            compare(model, shots, samples, replace(options, text_tokens=length), folder=folder)
            for samples in options.samples
            for shots in options.shots
        ]
        table = pd.DataFrame(rows)
        result = {"rows": table.to_dict("records")}
        print(table.round(4).T.to_string(header=False))
        if options.checks:
            result |= check(model, table, options)
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")


def check(model: Any, table: Any, options: Options) -> dict[str, Any]:
    """Measure the rate of a matrix product, the reading of maps and the growth of memory."""
    import torch

    side, dtype = 2048 if options.device == "cpu" else 4096, getattr(torch, options.dtype)
    a, b = (torch.randn(side, side, dtype=dtype) for _ in range(2))
    product = timed({"product": (lambda: [a @ b for _ in range(5)], 5)}, repeats=5)["product"]
    rate = 2 * side**3 / median(product)
    result = {
        "matrix FLOP/s": rate,
        "share of the product's rate": [flops / rate for flops in table["FLOP/s"]],
        "maps read a second": {
            f"{height} x {width}": reading_rate(height, width, device=options.device)
            for height, width in ((64, 128), (128, 256))
        },
        "memory after 500 queries, over 100": memory_growth(model),
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    return result


def build(preset: str, text_tokens: int, *, device: str, dtype: Any) -> Any:
    """Make a model of random weights, without text encoders."""
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
    channels = sizes.get("joint_attention_dim") or sizes.get("text_dim") or 1
    text = {"encoder_hidden_states": torch.randn(1, text_tokens, channels)}
    if preset == "kontext":
        text["pooled_projections"] = torch.randn(1, sizes.pooled_projection_dim)
    height, width, side = PIXELS[preset]
    name = type(pipeline).__name__
    kind = unread(text_tokens) if preset.startswith("qwen") else ARCHITECTURES[name].backbone
    backbone = kind(pipeline, Prompts(lambda texts: [text for _ in texts]))
    settings = ARCHITECTURES[name].settings({"_class_name": name, "is_distilled": True})
    settings = replace(
        settings,
        style=icgeo.maps.MapStyle.marker(height=height, width=width),
        photo_size=side,
        guidance_scale=1.0,
    )
    shares = "references" in kind.layouts  # in the mode that is measured
    choices = {"layout": "references", "attention": "joint"} if shares else {}
    return MapModel(backbone, settings, "random").choosing(**choices)


def make_pipeline(preset: str) -> Any:
    """Make a pipeline whose codec is narrow."""
    import diffusers

    from icgeo.models.backbones.flux import KLEIN_4B, KONTEXT_12B

    if preset.startswith("qwen"):
        return make_qwen(small=preset == "qwen-small")
    if preset.startswith("wan"):
        return make_wan(small=preset == "wan-small")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    vae_sizes: dict[str, Any] = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}
    if preset == "kontext":
        transformer = diffusers.FluxTransformer2DModel.from_config(KONTEXT_12B)
        vae = diffusers.AutoencoderKL(
            down_block_types=4 * ("DownEncoderBlock2D",),
            up_block_types=4 * ("UpDecoderBlock2D",),
            latent_channels=16,
            shift_factor=0.1,
            **vae_sizes,
        )
        return diffusers.FluxKontextPipeline(scheduler, vae, None, None, None, None, transformer)
    sizes = KLEIN_4B | (SMALL if preset == "small" else {})
    transformer = diffusers.Flux2Transformer2DModel.from_config(sizes)
    vae = diffusers.AutoencoderKLFlux2(layers_per_block=1, **vae_sizes)
    return diffusers.Flux2KleinPipeline(scheduler, vae, None, None, transformer, is_distilled=True)


def make_qwen(*, small: bool) -> Any:
    """Make a pipeline of Qwen-Image 2.1 that neither reads pictures nor words."""
    import diffusers

    from icgeo.models.backbones.qwen import QWEN_7B

    kind = diffusers.QwenImage21Transformer2DModel
    transformer = kind.from_config(QWEN_7B | (SMALL_QWEN if small else {}))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    vae = diffusers.AutoencoderKLQwenImage21(base_dim=4, decoder_base_dim=4, num_res_blocks=1)
    processor = type("Processor", (), {"apply_chat_template": lambda *_, **__: [[0]]})()
    processor.tokenizer = SimpleNamespace(encode=lambda _: [0])
    return diffusers.QwenImage21Pipeline(scheduler, vae, None, processor, transformer)


def make_wan(*, small: bool) -> Any:
    """Make a pipeline of Wan 2.1 VACE 1.3B."""
    import diffusers

    from icgeo.models.backbones.wan import VACE_1_3B

    kind = diffusers.WanVACETransformer3DModel
    transformer = kind.from_config(VACE_1_3B | (SMALL_WAN if small else {}))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = diffusers.AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return diffusers.WanVACEPipeline(None, None, vae, scheduler, transformer)


def unread(words: int) -> Any:
    """Return a backbone of Qwen-Image that draws at random what its encoder and VAE would read."""
    import torch

    from icgeo.models.attention import KVCache
    from icgeo.models.backbones.qwen import PATCH, QwenBackbone, Reading
    from icgeo.models.cost import TAG_TOKENS

    class Unread(QwenBackbone):
        def read(self, pictures: Any, prefix: Any, text: str | None = None) -> Any:
            shapes = [(1, x.shape[1] // PATCH, x.shape[2] // PATCH) for x in pictures]
            places: list[bool] = []
            for _, rows, columns in shapes:
                places += TAG_TOKENS * [False] + rows * columns // 4 * [True]
            places += (0 if text is None else words) * [False]
            sizes, weight = self.transformer.config, self.transformer.img_in.weight
            tokens = sum(rows * columns for _, rows, columns in shapes)
            return Reading(
                torch.randn(1, len(places), sizes.context_in_dim).to(weight),
                torch.tensor([places], device=weight.device),
                torch.randn(1, tokens, sizes.in_channels).to(weight),
                shapes,
                KVCache(),
                0,
            )

    return Unread


def compare(
    model: Any, shots: int, samples: int, options: Options, *, folder: Path | None = None
) -> dict[str, float]:
    """Time the shared context and the stock pipelines on one number of shots."""
    import diffusers
    import torch

    from icgeo.models.cost import plan_loaded

    model = model.choosing(samples=samples, steps=options.steps)
    photos, maps, queries = random_inputs(model, shots, options.queries)
    stock_queries = queries[: options.stock_queries]
    pipelines: dict[str, Any] = {"stock": type(model.backbone.pipeline)}
    if pipelines["stock"] is diffusers.Flux2KleinPipeline:
        pipelines["key-value"] = diffusers.Flux2KleinKVPipeline
    ways = {"shared": (partial(share, model, photos, maps, queries), len(queries))}
    for name, kind in pipelines.items():
        ways[name] = (
            partial(call_stock, model, photos, maps, stock_queries, kind=kind),
            len(stock_queries),
        )
    with torch.inference_mode():
        file = folder / f"seconds-{shots}-{samples}.json" if folder else None
        times = partial(timed, warm_up=options.warm_up, clock=CLOCKS[options.clock], file=file)
        seconds = times(ways, repeats=options.repeats)
    plan: Any = plan_loaded(
        model, shots, batch_size=BATCH_SIZE, queries=len(queries), text_tokens=options.text_tokens
    )
    shared_seconds = median(seconds["shared"])
    return {
        "shots": shots,
        "samples": samples,
        **{f"{name} s": median(each) for name, each in seconds.items()},
        **{f"{n} spread": (max(runs) - min(runs)) / median(runs) for n, runs in seconds.items()},
        **{
            f"times faster than {name}": median(seconds[name]) / shared_seconds
            for name in pipelines
        },
        "by operations, than key-value": plan.stock_flop / plan.shared_flop,
        "by operations, than keeping nothing": plan.naive_flop / plan.shared_flop,
        "FLOP/s": plan.shared_flop / shared_seconds,
    }


def random_inputs(model: Any, shots: int, queries: int) -> tuple[Any, Any, Any]:
    """Draw photos and maps of examples, and queries, each as the layout takes them."""
    import torch

    layout, patch, side = model.layout, model.backbone.patch, model.photo_size
    weight = next(model.backbone.transformer.parameters())
    style, shape = model.settings.style, layout.latent_shape(shots)
    if layout.encodes_apart:
        grid, channels = (side // patch, side // patch), shape[1]
        sizes: list[Any] = [(shots, *grid, channels), (shots, shape[0], channels)]
        sizes.append((queries, *grid, channels))
    else:
        sizes = [(shots, 3, side, side), (shots, 3, style.height, style.width)]
        video = (2 * shape[0] + model.backbone.scale**2, *shape[1:]) if len(shape) == 4 else None
        sizes.append((queries, *(video or (3, side, side))))
    return tuple(torch.randn(*size).to(weight) for size in sizes)  # type: ignore[return-value]


def share(model: Any, photos: Any, maps: Any, queries: Any) -> None:
    """Draw the maps of all queries with one context."""
    import torch

    from icgeo import sampling
    from icgeo.models.context import Context

    shots, settings, layout = len(photos), model.settings, with_processors(model)
    tensors = {}
    if shots and not layout.is_one_picture:  # there all is in the encoded query
        encode = layout.keep if layout.encodes_apart else layout.encode_pairs
        tensors = encode(photos, maps)
    context = Context(shots, tensors, model.fingerprint)
    times = layout.times(shots, settings.steps)
    for batch in queries.split(BATCH_SIZE):
        shape = (len(batch), settings.samples, *layout.latent_shape(shots))
        noise = torch.randn(shape, device=batch.device)
        sampling.euler(model.velocity(context, batch, EARTH), noise, times)


def with_processors(model: Any) -> Any:
    """Return the layout of a model, made again: stock pipelines have put other processors."""
    return type(model.layout)(model.backbone, model.settings, model.attention_backend)


def call_stock(model: Any, photos: Any, maps: Any, queries: Any, *, kind: Any) -> None:
    """Call a pipeline of diffusers for the queries, one by one, on latents in place of images."""
    from icgeo.models.attention import uninstall

    if model.settings.layout == "references":
        uninstall(model.backbone.transformer)
    pipeline = kind(**model.backbone.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    prepare = {"references": as_references, "interleaved": as_pictures, "frames": as_frames}
    height, width = model.settings.style.height, model.settings.style.width
    options = {"height": height, "width": width, "output_type": "latent"}
    options["num_inference_steps"] = model.settings.steps
    for query in queries:
        inputs = prepare[model.settings.layout](pipeline, model, photos, maps, query)
        pipeline(**options, **inputs)


def as_references(pipeline: Any, model: Any, photos: Any, maps: Any, query: Any) -> dict[str, Any]:
    """Give a pipeline of FLUX the tokens of all images."""
    import torch
    from PIL import Image

    layout, settings, shots = model.layout, model.settings, len(photos)
    grid, in_map = query.shape[:2], layout.ids([layout.grid(0)], first=0)
    ids = layout.ids([*shots * [grid, layout.grid(0)], grid], first=1)
    text = layout.text(EARTH, shots)
    pairs = torch.cat((photos.flatten(1, 2), maps), dim=1).flatten(0, 1)
    tokens = torch.cat((pairs, query.flatten(0, 1)))[None]

    def references(*_: Any, batch_size: int, **__: Any) -> tuple[Any, Any]:
        return tokens.repeat(batch_size, 1, 1), ids[None].repeat(batch_size, 1, 1)

    def latents(_: Any, batch_size: int, *__: Any) -> tuple[Any, ...]:
        noise = torch.randn(batch_size, *layout.latent_shape(shots)).to(tokens)
        return noise, tokens.repeat(batch_size, 1, 1), in_map, ids

    inputs = {"prompt_embeds": text["encoder_hidden_states"].to(query)}
    inputs |= {"image": [Image.new("RGB", (64, 64))], "num_images_per_prompt": settings.samples}
    if "pooled_projections" in text:
        inputs["pooled_prompt_embeds"] = text["pooled_projections"].to(query)
        area = settings.style.height * settings.style.width
        inputs |= {"_auto_resize": False, "max_area": area}
        pipeline.prepare_latents = latents
    else:
        pipeline.register_to_config(is_distilled=True)
        pipeline.prepare_image_latents = references
    return inputs


def as_pictures(pipeline: Any, model: Any, photos: Any, maps: Any, query: Any) -> dict[str, Any]:
    """Give a pipeline of Qwen-Image the latents of pictures, and states of what it would read."""
    import torch
    from PIL import Image

    from icgeo.models.backbones.qwen import Prefix

    pairs = zip(photos, maps, strict=True)
    images = [*(image for pair in pairs for image in pair), query]
    reading = model.backbone.read(images, Prefix(), EARTH)
    count, style = model.settings.samples, model.settings.style

    def latents(*_: Any) -> tuple[Any, Any]:
        noise = torch.randn(count, *model.layout.latent_shape(len(photos))).to(reading.latents)
        return noise, reading.latents.repeat(count, 1, 1)

    def encoded(**_: Any) -> tuple[Any, None, Any]:
        return reading.states.repeat(count, 1, 1), None, reading.is_picture

    pipeline.prepare_latents, pipeline.encode_prompt = latents, encoded
    pipeline.image_processor = SimpleNamespace(
        resize=lambda image, **_: image, preprocess=lambda *_, **__: torch.zeros(1, 1, 1)
    )
    return {
        "prompt": EARTH,
        "image": [Image.new("RGBA", (x.shape[2], x.shape[1])) for x in images],
        "num_images_per_prompt": count,
        "output_resolution": round((style.height * style.width) ** 0.5),
    }


def as_frames(pipeline: Any, model: Any, photos: Any, maps: Any, query: Any) -> dict[str, Any]:
    """Give a pipeline of Wan VACE the latents of known frames and the mask of the last."""
    import torch

    shots, samples = len(photos), model.settings.samples
    text = model.layout.text(EARTH, shots)["encoder_hidden_states"].to(query)
    count = 2 * model.layout.latent_shape(shots)[0]
    latents = query[None].repeat(samples, 1, 1, 1, 1)
    pipeline.preprocess_conditions = lambda *_: (None, None, [[]])
    pipeline.prepare_video_latents = lambda *_: latents[:, :count]
    pipeline.prepare_masks = lambda *_: latents[:, count:]
    frames = 4 * (2 * shots + 1) + 1
    return {
        "prompt_embeds": text.repeat(samples, 1, 1),
        "num_frames": frames,
        "guidance_scale": 1.0,
        "latents": torch.randn(samples, *model.layout.latent_shape(shots)).to(query),
    }


def timed(
    ways: Mapping[str, tuple[Callable[[], object], int]],
    *,
    repeats: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    file: Path | None = None,
) -> dict[str, list[float]]:
    """Time ways in turn; each is a call and the queries that it locates.

    Returns:
        seconds a query by way, in each repetition; those in `file` are from an earlier start.
    """
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    if file and file.exists():
        seconds = json.loads(file.read_text())
    for call, _ in ways.values() if warm_up else ():
        call()
    for repeat in range(repeats):
        for name, (call, queries) in ways.items():
            if len(seconds[name]) > repeat:
                continue
            start = clock()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((clock() - start) / queries)
            if file:
                file.write_text(json.dumps(seconds))
    return seconds


def reading_rate(height: int, width: int, *, count: int = 64, device: str = "cpu") -> float:
    """Return the maps read to densities a second, with a little noise on each."""
    import torch

    style = icgeo.maps.MapStyle(height=height, width=width)
    lat_lon = torch.rand(count, 2) * torch.tensor([160.0, 360.0]) - torch.tensor([80.0, 180.0])
    maps = icgeo.maps.draw(lat_lon, style).float().to(device)
    noisy_maps = maps + 0.02 * torch.randn_like(maps)
    seconds = timed({"read": (lambda: icgeo.maps.read(noisy_maps, style), count)}, repeats=3)
    return 1 / median(seconds["read"])


def memory_growth(model: Any, *, queries: int = 500) -> float:
    """Run many queries; return the bytes held after the last over those after the first fifth."""
    import psutil
    import torch

    with_processors(model)
    process, side, sizes = psutil.Process(), model.photo_size, []
    zeros = torch.zeros(4, 3, side, side, dtype=torch.uint8)
    context = model.encode_context(zeros, torch.zeros(4, 2))
    for _ in range(0, queries, 20):
        photos = torch.randint(256, (20, 3, side, side), dtype=torch.uint8)
        maps = model.draw_maps(context, photos, prompt=EARTH, steps=1)
        icgeo.maps.read(maps[:, 0].float().cpu(), model.settings.style)
        on_gpu = maps.device.type == "cuda"
        size = torch.cuda.memory_allocated(maps.device) if on_gpu else process.memory_info().rss
        sizes.append(size)
    return sizes[-1] / sizes[len(sizes) // 5]


if __name__ == "__main__":
    config.run(main, Options)
