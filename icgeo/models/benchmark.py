"""Speed of the shared context against the stock pipelines of diffusers, with random weights.

Images are encoded beforehand for all, the instruction too: what is timed is the transformer. Each
way is timed in turn, several times over, so that a noisy machine is noisy for all.
"""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, cast

import psutil
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from einops import rearrange
from PIL import Image
from torch import Tensor

from icgeo import maps, sampling
from icgeo.models.attention import install, uninstall
from icgeo.models.backbones.flux2 import Flux2Backbone
from icgeo.models.backbones.kontext import KontextBackbone
from icgeo.models.context import Context
from icgeo.models.instructions import instruction
from icgeo.models.layouts.references import References
from icgeo.models.loading import ARCHITECTURES
from icgeo.models.map_model import MapModel
from icgeo.models.plan import Plan, plan_loaded
from icgeo.models.prompts import Prompts
from icgeo.models.public import KLEIN_4B, KONTEXT
from icgeo.options import EARTH

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "in_channels": 128,
        "guidance_embeds": False,
        "num_layers": 2,
        "num_single_layers": 4,
        "num_attention_heads": 6,
        "attention_head_dim": 48,
        "axes_dims_rope": (12, 12, 12, 12),
        "joint_attention_dim": 192,
        "timestep_guidance_channels": 64,
    },
    "klein-4b": KLEIN_4B,
    "kontext": KONTEXT,
}
"""Configurations of transformers: about 10 million parameters, FLUX.2 klein 4B, FLUX.1 Kontext."""
PIXELS = {"small": (64, 128, 64), "klein-4b": (256, 512, 256), "kontext": (256, 512, 256)}
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


def build(size: str, *, device: str, dtype: torch.dtype) -> MapModel:
    """Make a klein or a Kontext of random weights, without text encoders."""
    torch.manual_seed(0)
    with torch.device(device):
        pipeline = (_kontext if size == "kontext" else _klein)(SIZES[size])
    pipeline.transformer.to(dtype)
    for part in (pipeline.transformer, pipeline.vae):
        part.eval().requires_grad_(False)
    config = pipeline.transformer.config
    text = {"encoder_hidden_states": torch.randn(1, TEXT_TOKENS, config.joint_attention_dim)}
    if size == "kontext":
        text["pooled_projections"] = torch.randn(1, config.pooled_projection_dim)
    told = ["", *(instruction(EARTH, shots=shots) for shots in (0, 1))]
    prompts = Prompts(lambda words: [text for _ in words], None, dict.fromkeys(told, text))
    kind = KontextBackbone if size == "kontext" else Flux2Backbone
    height, width, side = PIXELS[size]
    name = type(pipeline).__name__
    settings = replace(
        ARCHITECTURES[name].settings({"_class_name": name, "is_distilled": True}),
        style=maps.MapStyle.marker(height=height, width=width),
        photo_size=side,
        layout="references",
        attention="joint",
    )
    return MapModel(kind(pipeline, prompts), settings, "random")


def _klein(size: Mapping[str, Any]) -> Flux2KleinPipeline:
    transformer = Flux2Transformer2DModel.from_config(size)
    vae = AutoencoderKLFlux2(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae, None, None, transformer, is_distilled=True)


def _kontext(size: Mapping[str, Any]) -> FluxKontextPipeline:
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=4 * ("DownEncoderBlock2D",),
        up_block_types=4 * ("UpDecoderBlock2D",),
        latent_channels=16,
        norm_num_groups=4,
        shift_factor=0.1,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    transformer = FluxTransformer2DModel.from_config(size)
    return FluxKontextPipeline(scheduler, vae, None, None, None, None, transformer)


@dataclass(frozen=True)
class Case:
    """Encoded examples and queries, and how many steps and samples."""

    model: MapModel
    photos: Tensor
    drawn: Tensor
    asked: Tensor
    steps: int
    samples: int

    @classmethod
    def random(
        cls, model: MapModel, shots: int, *, queries: int, steps: int, samples: int
    ) -> "Case":
        """Draw latents at random."""
        settings, patch = model.settings, model.backbone.patch
        weight = model.backbone.transformer.x_embedder.weight
        of_photo = (settings.photo_size // patch) ** 2
        of_map = settings.style.height * settings.style.width // patch**2
        photos, drawn, asked = (
            torch.randn(n, tokens, weight.shape[1]).to(weight)
            for n, tokens in ((shots, of_photo), (shots, of_map), (queries, of_photo))
        )
        return cls(model, photos, drawn, asked, steps, samples)

    @property
    def laid(self) -> References:
        """How the examples are shown."""
        return cast(References, self.model.layout)

    def shared(self, *, batch_size: int = 8) -> None:
        """Draw the maps of all queries with one context."""
        model, shots = self.model, len(self.photos)
        install(model.backbone.transformer)
        kept = self.laid.keep(self.photos, self.drawn) if shots else {}
        context = Context(shots, kept, model.fingerprint)
        times = model.layout.times(shots, self.steps)
        for asked in self.asked.split(batch_size):
            shape = (len(asked), self.samples, *self.laid.latent_shape(len(self.photos)))
            noise = torch.randn(shape, device=asked.device)
            sampling.euler(model.velocity(context, asked, EARTH), noise, times)

    def stock(self, pipeline_type: type[Any], *, queries: int) -> None:
        """Call a pipeline of diffusers for some of the queries, one by one."""
        model = self.model
        uninstall(model.backbone.transformer)
        pipeline = pipeline_type(**cast(Any, model.backbone).pipeline.components)
        pipeline.set_progress_bar_config(disable=True)
        told: Any = model.layout.text(EARTH, len(self.photos))
        words: dict[str, Any] = {"prompt_embeds": told["encoder_hidden_states"].to(self.asked)}
        if "pooled_projections" in told:
            words["pooled_prompt_embeds"] = told["pooled_projections"].to(self.asked)
            words |= {"_auto_resize": False, "max_area": self._area}
        else:
            pipeline.register_to_config(is_distilled=True)
        style = model.settings.style
        for asked in self.asked[:queries]:
            self._give_latents(pipeline, asked)
            pipeline(
                image=[Image.new("RGB", (64, 64))],
                num_images_per_prompt=self.samples,
                num_inference_steps=self.steps,
                height=style.height,
                width=style.width,
                output_type="latent",
                **words,
            )

    @property
    def _area(self) -> int:
        return self.model.settings.style.height * self.model.settings.style.width

    def _give_latents(self, pipeline: Any, asked: Tensor) -> None:
        """Let a pipeline take the encoded images instead of encoding its own."""
        pairs = torch.cat((self.photos, self.drawn), dim=1)
        tokens = torch.cat((rearrange(pairs, "k n c -> (k n) c"), asked))[None]
        ids = self.laid.reference_ids(len(self.photos))

        def references(*_: Any, batch_size: int, **__: Any) -> tuple[Tensor, Tensor]:
            return tokens.repeat(batch_size, 1, 1), ids[None].repeat(batch_size, 1, 1)

        def latents(_: Any, batch_size: int, *__: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            noise = torch.randn(batch_size, *self.laid.latent_shape(len(self.photos))).to(tokens)
            return noise, tokens.repeat(batch_size, 1, 1), self.laid.map_ids, ids

        if isinstance(pipeline, FluxKontextPipeline):
            pipeline.prepare_latents = latents
        else:
            pipeline.prepare_image_latents = references


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
    settings = replace(case.model.settings, samples=case.samples, steps=case.steps)
    model = replace(case.model, settings=settings)
    found = plan_loaded(
        model, len(case.photos), batch_size=8, queries=queries, text_tokens=TEXT_TOKENS
    )
    return cast(Plan, found)


@torch.inference_mode()
def compare(
    model: MapModel,
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
    kinds: dict[str, type[Any]] = {"stock": type(cast(Any, model.backbone).pipeline)}
    if kinds["stock"] is Flux2KleinPipeline:
        kinds["key-value"] = Flux2KleinKVPipeline
    ways: dict[str, tuple[Callable[[], object], int]] = {"shared": (case.shared, queries)}
    for name, kind in kinds.items():
        ways[name] = (partial(case.stock, kind, queries=stock_queries), stock_queries)
    found = timed(ways, repeats=repeats)
    flop = plan_of(case, queries)
    row = {f"{name} s": timing.median for name, timing in found.items()}
    row |= {f"{name} spread": timing.spread for name, timing in found.items()}
    shared = found["shared"].median
    return {
        "shots": shots,
        "samples": samples,
        **row,
        **{f"times faster than {name}": found[name].median / shared for name in kinds},
        "by operations, than key-value": flop.stock_flop / flop.shared_flop,
        "FLOP/s": flop.shared_flop / shared,
    }


def memory_growth(model: MapModel, *, queries: int = 500) -> float:
    """Run many queries; return the bytes held after the last over those after the first fifth."""
    style, side = model.settings.style, model.photo_size
    context = model.encode_context(
        torch.zeros(4, 3, side, side, dtype=torch.uint8), torch.zeros(4, 2)
    )
    held = []
    for _ in range(0, queries, 20):
        photos = torch.randint(256, (20, 3, side, side), dtype=torch.uint8)
        drawn = model.draw_maps(context, photos, prompt=EARTH, steps=1)
        maps.read(drawn[:, 0].float().cpu(), style)
        held.append(memory_held(str(drawn.device)))
    return held[-1] / held[len(held) // 5]


def memory_held(device: str) -> int:
    """Bytes that this process holds now, on the device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def memory_peak(device: str) -> int:
    """Bytes that this process has held at most, on the device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
