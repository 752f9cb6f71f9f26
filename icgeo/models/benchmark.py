"""Speed of the shared context against the stock pipelines of diffusers, with random weights.

Images are encoded beforehand for all, the instruction too: what is timed is the transformer. Each
way is timed in turn, several times over, so that a noisy machine is noisy for all.
"""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from einops import rearrange
from PIL import Image
from torch import Tensor

from icgeo import layout, maps, sampling
from icgeo.models.base import Context
from icgeo.models.plan import Plan, device_memory
from icgeo.models.prefix import install, uninstall
from icgeo.models.references import SETTINGS, ReferenceMapModel

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "num_layers": 2,
        "num_single_layers": 4,
        "num_attention_heads": 6,
        "attention_head_dim": 48,
        "axes_dims_rope": (12, 12, 12, 12),
        "joint_attention_dim": 192,
        "timestep_guidance_channels": 64,
    },
    "klein-4b": {
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "joint_attention_dim": 7680,
    },
}
"""Dimensions of transformers: about 10 million parameters, and FLUX.2 klein 4B."""
PIXELS = {"small": (64, 128, 64), "klein-4b": (256, 512, 256)}
"""Height and width of maps, and side of photos."""
TEXT_TOKENS = 32


@dataclass(frozen=True)
class Timing:
    """Seconds a query, in each repetition."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds a query in the median."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Largest less smallest, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


def build(size: str, *, device: str, dtype: torch.dtype) -> ReferenceMapModel:
    """Make a klein of random weights, without a text encoder."""
    torch.manual_seed(0)
    with torch.device(device):
        transformer = Flux2Transformer2DModel(
            in_channels=128, guidance_embeds=False, **SIZES[size]
        ).to(dtype)
        vae = AutoencoderKLFlux2(
            block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
        ).to(dtype)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = Flux2KleinPipeline(scheduler, vae, None, None, transformer, is_distilled=True)
    for part in (transformer, vae):
        part.eval().requires_grad_(False)
    height, width, side = PIXELS[size]
    style = maps.MapStyle.marker(height=height, width=width)
    text = torch.randn(1, TEXT_TOKENS, transformer.config.joint_attention_dim).to(device, dtype)
    texts = {layout.words(layout.EARTH, shots=shots): text for shots in (0, 1)}
    return ReferenceMapModel(pipeline, replace(SETTINGS, style=style), "random", side, texts)


@dataclass(frozen=True)
class Case:
    """Encoded examples and queries, and how many steps and samples."""

    model: ReferenceMapModel
    photos: Tensor
    drawn: Tensor
    asked: Tensor
    steps: int
    samples: int

    @classmethod
    def random(
        cls, model: ReferenceMapModel, shots: int, *, queries: int, steps: int, samples: int
    ) -> "Case":
        """Draw latents at random."""
        style, weight = model.settings.style, model.pipeline.transformer.x_embedder.weight
        tokens = [model.photo_size**2 // 256, style.height * style.width // 256]
        photos, drawn, asked = (
            torch.randn(n, size, 128).to(weight)
            for n, size in ((shots, tokens[0]), (shots, tokens[1]), (queries, tokens[0]))
        )
        return cls(model, photos, drawn, asked, steps, samples)

    def shared(self, *, batch_size: int = 8) -> None:
        """Draw the maps of all queries with one context."""
        model, tokens = self.model, self.drawn.shape[1]
        install(model.pipeline.transformer)
        context = Context(0, {}, model.made_by)
        if len(self.photos):
            context = model.encode_pairs(self.photos, self.drawn)
        times = model.times(tokens, self.steps)
        for asked in self.asked.split(batch_size):
            noise = torch.randn(len(asked), self.samples, tokens, 128, device=asked.device)
            sampling.euler(model.velocity(context, asked, layout.EARTH), noise, times)

    def stock(self, pipeline_type: type[Any], *, queries: int) -> None:
        """Call a pipeline of diffusers for some of the queries, one by one."""
        uninstall(self.model.pipeline.transformer)
        pipeline = pipeline_type(**self.model.pipeline.components)
        pipeline.register_to_config(is_distilled=True)
        pipeline.set_progress_bar_config(disable=True)
        style = self.model.settings.style
        for asked in self.asked[:queries]:
            _give_latents(pipeline, self, asked)
            pipeline(
                image=[Image.new("RGB", (64, 64))],
                prompt_embeds=self.model.text(layout.EARTH, shots=len(self.photos)),
                num_images_per_prompt=self.samples,
                num_inference_steps=self.steps,
                height=style.height,
                width=style.width,
                output_type="latent",
            )


def _give_latents(pipeline: Any, case: Case, asked: Tensor) -> None:
    """Let a pipeline take the encoded images instead of encoding its own."""
    pairs = torch.cat((case.photos, case.drawn), dim=1)
    tokens = torch.cat((rearrange(pairs, "k n c -> (k n) c"), asked))[None]
    ids = case.model.reference_ids(len(case.photos))[None]

    def prepare(*_: Any, batch_size: int, **__: Any) -> tuple[Tensor, Tensor]:
        return tokens.repeat(batch_size, 1, 1), ids.repeat(batch_size, 1, 1)

    pipeline.prepare_image_latents = prepare


def timed(
    ways: Mapping[str, tuple[Callable[[], object], int]], *, repeats: int
) -> dict[str, Timing]:
    """Time ways in turn; each is a call and the queries that it locates."""
    cuda = torch.cuda.is_available()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (call, queries) in ways.items():
            start = time.perf_counter()
            call()
            if cuda:
                torch.cuda.synchronize()
            if repeat:  # the first is warm-up
                found[name].append((time.perf_counter() - start) / queries)
    return {name: Timing(tuple(seconds)) for name, seconds in found.items()}


def matrix_rate(*, device: str, dtype: torch.dtype, size: int = 4096) -> float:
    """Floating-point operations a second of a large matrix product."""
    if device == "cpu":
        size = 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    ways = {"product": (lambda: [a @ b for _ in range(5)], 5)}
    return 2 * size**3 / timed(ways, repeats=5)["product"].median


def reading_rate(height: int, width: int, *, count: int = 64, device: str = "cpu") -> float:
    """Maps read to densities a second, with a little noise on each."""
    style = maps.MapStyle.three_widths(height=height, width=width)
    places = torch.rand(count, 2) * torch.tensor([160.0, 360.0]) - torch.tensor([80.0, 180.0])
    drawn = maps.draw(places, style).float().to(device)
    noisy = drawn + 0.02 * torch.randn_like(drawn)
    ways = {"read": (lambda: maps.read(noisy, style), count)}
    return 1 / timed(ways, repeats=3)["read"].median


def plan_of(case: Case, queries: int) -> Plan:
    """Return the operations of a case."""
    transformer = case.model.pipeline.transformer
    config = transformer.config
    return Plan(
        parameters=transformer.num_parameters(),
        width=transformer.inner_dim,
        blocks=config.num_layers + config.num_single_layers,
        shots=len(case.photos),
        example_tokens=len(case.photos) * (case.photos.shape[1] + case.drawn.shape[1]),
        photo_tokens=case.asked.shape[1],
        map_tokens=case.drawn.shape[1],
        text_tokens=TEXT_TOKENS,
        queries=queries,
        batch_size=8,
        steps=case.steps,
        samples=case.samples,
        bytes_a_number=transformer.dtype.itemsize,
        memory_bytes=device_memory(transformer.device),
    )


@torch.inference_mode()
def compare(
    model: ReferenceMapModel,
    shots: int,
    *,
    samples: int,
    steps: int = 4,
    queries: int = 32,
    stock_queries: int = 2,
    repeats: int = 3,
) -> dict[str, float]:
    """Time the shared context and both stock pipelines on one number of shots."""
    case = Case.random(model, shots, queries=queries, steps=steps, samples=samples)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "shared": (case.shared, queries),
        "key-value": (
            lambda: case.stock(Flux2KleinKVPipeline, queries=stock_queries),
            stock_queries,
        ),
        "stock": (lambda: case.stock(Flux2KleinPipeline, queries=stock_queries), stock_queries),
    }
    found = timed(ways, repeats=repeats)
    flop = plan_of(case, queries)
    row = {f"{name} s": timing.median for name, timing in found.items()}
    row |= {f"{name} spread": timing.spread for name, timing in found.items()}
    shared = found["shared"].median
    return {
        "shots": shots,
        "samples": samples,
        **row,
        "times faster than stock": found["stock"].median / shared,
        "times faster than key-value": found["key-value"].median / shared,
        "by operations, than key-value": flop.stock_flop / flop.shared_flop,
        "FLOP/s": flop.shared_flop / shared,
    }


def memory_peak(device: str) -> int:
    """Bytes that this process has held at most, on the device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
