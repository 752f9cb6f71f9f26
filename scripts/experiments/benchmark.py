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
from typing import TYPE_CHECKING, Any, Literal, cast

from icgeo import config
from icgeo.options import EARTH, SHOTS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from icgeo.models.layouts.references import References
    from icgeo.models.map_model import MapModel

PIXELS = {"small": (64, 128, 64), "klein-4b": (256, 512, 256), "kontext": (256, 512, 256)}
"""Height and width of maps, and side of photos, of each preset."""
SMALL: dict[str, Any] = {
    "in_channels": 128,
    "guidance_embeds": False,
    "num_layers": 2,
    "num_single_layers": 4,
    "num_attention_heads": 6,
    "attention_head_dim": 48,
    "axes_dims_rope": (12, 12, 12, 12),
    "joint_attention_dim": 192,
    "timestep_guidance_channels": 64,
}
"""A FLUX.2 transformer of about 10 million parameters."""
TEXT_TOKENS = 32


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
    model = build(options.preset, device=device, dtype=dtype)
    with torch.device(device):
        rows = [
            compare(model, shots, samples, options)
            for samples in options.samples
            for shots in options.shots
        ]
        rate = matrix_rate(device=device, dtype=dtype)
    table = pd.DataFrame(rows)
    table["share of the product's rate"] = table.pop("FLOP/s") / rate
    reading = {f"{h} x {w}": reading_rate(h, w, device=device) for h, w in ((64, 128), (128, 256))}
    memory, growth = memory_peak(device), memory_growth(model)
    result = {"rows": table.to_dict("records"), "matrix FLOP/s": rate}
    result |= {"maps read a second": reading, "memory peak, bytes": memory}
    result |= {"memory after 500 queries, over 100": growth}
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table.round(4).to_string(index=False))
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s; memory peak {memory / 2**30:.1f} GiB")
    print(f"memory held after 500 queries: {growth:.3f} of that after 100")
    print("maps read a second:", {size: round(each) for size, each in reading.items()})


def build(preset: str, *, device: str, dtype: "torch.dtype") -> "MapModel":
    """Make a klein or a Kontext of random weights, without text encoders."""
    import torch

    from icgeo import maps
    from icgeo.models.backbones.flux import FluxBackbone, KontextBackbone
    from icgeo.models.loading import ARCHITECTURES
    from icgeo.models.map_model import MapModel
    from icgeo.models.prompts import Prompts, instruction

    torch.manual_seed(0)
    with torch.device(device):
        pipeline = kontext() if preset == "kontext" else klein(preset)
    pipeline.transformer.to(dtype)
    for part in (pipeline.transformer, pipeline.vae):
        part.eval().requires_grad_(False)
    sizes = pipeline.transformer.config
    text = {"encoder_hidden_states": torch.randn(1, TEXT_TOKENS, sizes.joint_attention_dim)}
    if preset == "kontext":
        text["pooled_projections"] = torch.randn(1, sizes.pooled_projection_dim)
    instructions = ["", *(instruction(EARTH, shots=shots) for shots in (0, 1))]
    prompts = Prompts(lambda new: [text for _ in new], None, dict.fromkeys(instructions, text))
    backbone = KontextBackbone if preset == "kontext" else FluxBackbone
    height, width, side = PIXELS[preset]
    name = type(pipeline).__name__
    settings = replace(
        ARCHITECTURES[name].settings({"_class_name": name, "is_distilled": True}),
        style=maps.MapStyle.marker(height=height, width=width),
        photo_size=side,
        layout="references",
        attention="joint",
    )
    return MapModel(backbone(pipeline, prompts), settings, "random")


def klein(preset: str) -> Any:
    """Make a pipeline of FLUX.2 klein."""
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    from icgeo.models.public import KLEIN_4B

    transformer = Flux2Transformer2DModel.from_config(SMALL if preset == "small" else KLEIN_4B)
    vae = AutoencoderKLFlux2(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae, None, None, transformer, is_distilled=True)


def kontext() -> Any:
    """Make a pipeline of FLUX.1 Kontext."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxKontextPipeline,
        FluxTransformer2DModel,
    )

    from icgeo.models.public import KONTEXT

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=4 * ("DownEncoderBlock2D",),
        up_block_types=4 * ("UpDecoderBlock2D",),
        latent_channels=16,
        norm_num_groups=4,
        shift_factor=0.1,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    transformer = FluxTransformer2DModel.from_config(KONTEXT)
    return FluxKontextPipeline(scheduler, vae, None, None, None, None, transformer)


def compare(model: "MapModel", shots: int, samples: int, options: Options) -> dict[str, float]:
    """Time the shared context and the stock pipelines on one number of shots."""
    import torch
    from diffusers import Flux2KleinKVPipeline, Flux2KleinPipeline

    from icgeo.models.cost import Plan, plan_loaded

    settings = replace(model.settings, samples=samples, steps=options.steps)
    case = Case.random(replace(model, settings=settings), shots, options.queries)
    pipelines: dict[str, type[Any]] = {"stock": type(cast(Any, model.backbone).pipeline)}
    if pipelines["stock"] is Flux2KleinPipeline:
        pipelines["key-value"] = Flux2KleinKVPipeline
    ways: dict[str, tuple[Callable[[], object], int]] = {"shared": (case.shared, options.queries)}
    for name, pipeline in pipelines.items():
        call = partial(case.stock, pipeline, queries=options.stock_queries)
        ways[name] = (call, options.stock_queries)
    with torch.inference_mode():
        seconds = timed(ways, repeats=options.repeats)
    plan = plan_loaded(
        case.model, shots, batch_size=8, queries=options.queries, text_tokens=TEXT_TOKENS
    )
    flop = cast(Plan, plan)
    shared = median(seconds["shared"])
    return {
        "shots": shots,
        "samples": samples,
        **{f"{name} s": median(each) for name, each in seconds.items()},
        **{f"{name} spread": spread(each) for name, each in seconds.items()},
        **{f"times faster than {name}": median(seconds[name]) / shared for name in pipelines},
        "by operations, than key-value": flop.stock_flop / flop.shared_flop,
        "FLOP/s": flop.shared_flop / shared,
    }


@dataclass(frozen=True)
class Case:
    """Encoded examples and queries; steps and samples are the model's."""

    model: "MapModel"
    photos: "Tensor"
    """Latents of the examples' photos."""
    maps: "Tensor"
    """Latents of the examples' maps."""
    queries: "Tensor"
    """Latents of the photos to locate."""

    @classmethod
    def random(cls, model: "MapModel", shots: int, queries: int) -> "Case":
        """Draw latents at random."""
        import torch

        settings, patch = model.settings, model.backbone.patch
        weight = model.backbone.transformer.x_embedder.weight
        in_photo = (settings.photo_size // patch) ** 2
        in_map = settings.style.height * settings.style.width // patch**2
        sizes = ((shots, in_photo), (shots, in_map), (queries, in_photo))
        return cls(model, *(torch.randn(*size, weight.shape[1]).to(weight) for size in sizes))

    @property
    def layout(self) -> "References":
        """How the examples are shown."""
        return cast("References", self.model.layout)

    def shared(self, *, batch_size: int = 8) -> None:
        """Draw the maps of all queries with one context."""
        import torch

        from icgeo import sampling
        from icgeo.models.attention import install
        from icgeo.models.context import Context

        model, shots = self.model, len(self.photos)
        install(model.backbone.transformer)
        kept = self.layout.keep(self.photos, self.maps) if shots else {}
        context = Context(shots, kept, model.fingerprint)
        times = model.layout.times(shots, model.settings.steps)
        for batch in self.queries.split(batch_size):
            shape = (len(batch), model.settings.samples, *self.layout.latent_shape(shots))
            noise = torch.randn(shape, device=batch.device)
            sampling.euler(model.velocity(context, batch, EARTH), noise, times)

    def stock(self, pipeline_type: type[Any], *, queries: int) -> None:
        """Call a pipeline of diffusers for some of the queries, one by one."""
        from PIL import Image

        from icgeo.models.attention import uninstall

        model, settings = self.model, self.model.settings
        uninstall(model.backbone.transformer)
        pipeline = pipeline_type(**cast(Any, model.backbone).pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        text: Any = model.layout.text(EARTH, len(self.photos))
        inputs: dict[str, Any] = {"prompt_embeds": text["encoder_hidden_states"].to(self.queries)}
        if "pooled_projections" in text:
            inputs["pooled_prompt_embeds"] = text["pooled_projections"].to(self.queries)
            area = settings.style.height * settings.style.width
            inputs |= {"_auto_resize": False, "max_area": area}
        else:
            pipeline.register_to_config(is_distilled=True)
        for query in self.queries[:queries]:
            self.give_latents(pipeline, query)
            pipeline(
                image=[Image.new("RGB", (64, 64))],
                num_images_per_prompt=settings.samples,
                num_inference_steps=settings.steps,
                height=settings.style.height,
                width=settings.style.width,
                output_type="latent",
                **inputs,
            )

    def give_latents(self, pipeline: Any, query: "Tensor") -> None:
        """Let a pipeline take the encoded images instead of encoding its own."""
        import torch
        from diffusers import FluxKontextPipeline

        shots = len(self.photos)
        pairs = torch.cat((self.photos, self.maps), dim=1)
        tokens = torch.cat((pairs.flatten(0, 1), query))[None]
        ids = self.layout.ids(*range(1, 2 * shots + 2))

        def references(*_: Any, batch_size: int, **__: Any) -> "tuple[Tensor, Tensor]":
            return tokens.repeat(batch_size, 1, 1), ids[None].repeat(batch_size, 1, 1)

        def latents(_: Any, batch_size: int, *__: Any) -> "tuple[Tensor, Tensor, Tensor, Tensor]":
            noise = torch.randn(batch_size, *self.layout.latent_shape(shots)).to(tokens)
            return noise, tokens.repeat(batch_size, 1, 1), self.layout.ids(0), ids

        if isinstance(pipeline, FluxKontextPipeline):
            pipeline.prepare_latents = latents
        else:
            pipeline.prepare_image_latents = references


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


def spread(seconds: list[float]) -> float:
    """Return the largest less the smallest, as a share of the median."""
    return (max(seconds) - min(seconds)) / median(seconds)


def matrix_rate(*, device: str, dtype: "torch.dtype") -> float:
    """Return the floating-point operations a second of a large matrix product."""
    import torch

    size = 2048 if device == "cpu" else 4096
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = timed({"product": (lambda: [a @ b for _ in range(5)], 5)}, repeats=5)
    return 2 * size**3 / median(seconds["product"])


def reading_rate(height: int, width: int, *, count: int = 64, device: str = "cpu") -> float:
    """Return the maps read to densities a second, with a little noise on each."""
    import torch

    from icgeo import maps

    style = maps.MapStyle(height=height, width=width)
    lat_lon = torch.rand(count, 2) * torch.tensor([160.0, 360.0]) - torch.tensor([80.0, 180.0])
    drawn = maps.draw(lat_lon, style).float().to(device)
    noisy = drawn + 0.02 * torch.randn_like(drawn)
    seconds = timed({"read": (lambda: maps.read(noisy, style), count)}, repeats=3)
    return 1 / median(seconds["read"])


def memory_growth(model: "MapModel", *, queries: int = 500) -> float:
    """Run many queries; return the bytes held after the last over those after the first fifth."""
    import psutil
    import torch

    from icgeo import maps

    process, side, sizes = psutil.Process(), model.photo_size, []
    zeros = torch.zeros(4, 3, side, side, dtype=torch.uint8)
    context = model.encode_context(zeros, torch.zeros(4, 2))
    for _ in range(0, queries, 20):
        photos = torch.randint(256, (20, 3, side, side), dtype=torch.uint8)
        drawn = model.draw_maps(context, photos, prompt=EARTH, steps=1)
        maps.read(drawn[:, 0].float().cpu(), model.settings.style)
        on_gpu = drawn.device.type == "cuda"
        held = torch.cuda.memory_allocated(drawn.device) if on_gpu else process.memory_info().rss
        sizes.append(held)
    return sizes[-1] / sizes[len(sizes) // 5]


def memory_peak(device: str) -> int:
    """Return the bytes that this process has held at most, on the device."""
    import resource

    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    config.run(main, Options)
