"""What a run will cost, from the checkpoint's configuration alone: no weight is loaded.

With d the width and n the blocks, a token of FLUX.2 costs 26 d^2 n, one of FLUX.1 24 d^2 n, and a
(query, key) pair 4 d n floating-point operations. `naive` recomputes everything for every step and
sample, `stock` is diffusers' key-value pipeline, called for each query, and `shared` keeps the
examples for all queries and each photo for all steps and samples; in `full` all are the same.
"""

import json
import math
import os
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch

from icgeo.models.architectures import CONFIGURATIONS, architecture_of, spec_of
from icgeo.models.backbones import ArchitectureSpec, Config
from icgeo.models.hub import LoadError, format_bytes, pipeline_index, pipeline_part, resolve_local
from icgeo.models.layouts.panel import panel_grid
from icgeo.models.loading import QUANTIZATIONS, require_device
from icgeo.models.map_model import MapModel, chosen_settings, require_known
from icgeo.models.settings import Settings

ACTIVATIONS = 14
"""Numbers a token at once, in widths: residual, queries, keys, values, both halves of the MLP."""
BYTES_QUANTIZED = {"nf4": 0.53, "fp8": 1.0, "int8": 1.0}
"""Bytes a weight, scales included: a scale of 8 bits for 64 weights of 4 bits."""
TEXT_TOKENS = {"stock": 512, "trimmed": 128}
"""Length of an embedded instruction: the stock padding, or about its words."""
TAG_TOKENS = 7
"""About what stands around a picture in a sequence of words and pictures."""


@dataclass(frozen=True)
class Tokens:
    """Lengths of the sequences in a layout."""

    example: int
    """A photo with its map."""
    photo: int
    """What is shown of the query beside the map to draw."""
    drawn: int
    """The map to draw, with all that is noise."""
    text: int
    picture: int = 0
    """Pixels of the largest picture that the VAE encodes or decodes."""

    @classmethod
    def of(cls, settings: Settings, shots: int, *, patch: int, text: int | None) -> "Tokens":
        """Count the tokens of a layout; each is a square of `patch` pixels a side."""
        style, words = settings.style, text or TEXT_TOKENS["trimmed"]
        text = text or TEXT_TOKENS[settings.text]
        one_map = style.height * style.width // patch**2
        evidence = int(shots > 0 and bool(settings.shows_evidence))
        if settings.layout == "stacked":  # a pair is one image, and prompts are embedded already
            return cls(one_map, 0, one_map, text=2)
        if settings.layout == "panel":
            panel = math.prod(panel_grid(settings, shots, patch=patch))
            return cls(0, panel, panel, text, panel * patch**2)
        if settings.layout in ("pair", "sheet"):
            pair = style.height * (style.height + style.width) // patch**2
            pixels = pair * patch**2
            rows = settings.trained_area // pixels if settings.layout == "sheet" else 1
            return cls(pair, pair, one_map, text, pixels * max(1, min(shots, rows)))
        if settings.layout == "frames":  # the instruction is attended to apart
            return cls(0, 0, (2 * shots + 2 + evidence) * one_map, 0, style.height * style.width)
        photo = (settings.photo_size // patch) ** 2
        pixels = max(settings.photo_size**2, style.height * style.width)
        if settings.layout == "interleaved":  # words are read once a query, and never padded
            pair, query = photo + one_map + 2 * TAG_TOKENS, photo + TAG_TOKENS + words
            return cls(pair, query, one_map, 0, pixels)
        query = photo + evidence * one_map
        return cls(photo + one_map, query, one_map, text, pixels)


@dataclass(frozen=True)
class Plan:
    """Parameters, bytes and operations of a run."""

    parameters: int
    """Of the transformer, as the next three."""
    heads: int
    width: int
    blocks: int
    token_flop: float
    """Operations a token, without attention."""
    tokens: Tokens
    shots: int
    attention: str
    """Who sees whom: full, joint, pairwise or causal."""
    queries: int
    """Queries that share the context, of which `batch_size` are located at a time."""
    batch_size: int
    steps: int
    samples: int
    weight_bytes: int
    bytes_a_number: int
    """Bytes of each number that is computed."""
    memory_bytes: int
    """Bytes that the device has."""
    encoder_bytes: int = 0
    """Weights of an encoder that reads each query, and so stays in memory."""
    codec_bytes: int = 0
    """Weights of the VAE, in float32."""
    picture_bytes: int = 0
    """What the VAE computes at once of the largest picture; it takes one at a time."""
    device: str = "cpu"
    needs_gpu: bool = False
    """Whether the weights are stored as only a GPU can compute with, and the device is none."""

    @property
    def pair_flop(self) -> int:
        """Operations a pair of a query and a key."""
        return 4 * self.width * self.blocks

    @property
    def example_tokens(self) -> int:
        """Number of tokens of all examples."""
        return self.shots * self.tokens.example

    @property
    def context_bytes(self) -> int:
        """Keys and values of the examples, and of the photos of one batch."""
        if self.attention == "full":
            return 0
        tokens = self.example_tokens + self.batch_size * self.tokens.photo
        return 2 * self.blocks * self.width * tokens * self.bytes_a_number

    @property
    def activation_bytes(self) -> int:
        """Estimate of the largest activations: of the maps of a batch, or of the examples."""
        sequence = self.tokens.text + self.tokens.drawn
        if self.attention == "full":
            sequence += self.example_tokens + self.tokens.photo
        at_once = self.tokens.example if self.attention == "causal" else self.example_tokens
        tokens = max(self.batch_size * self.samples * sequence, at_once)
        return ACTIVATIONS * self.width * tokens * self.bytes_a_number

    @property
    def total_bytes(self) -> int:
        """Weights, context and the largest activations, of transformer or VAE, together."""
        weights = self.weight_bytes + self.encoder_bytes + self.codec_bytes
        return weights + self.context_bytes + max(self.activation_bytes, self.picture_bytes)

    @property
    def turns_bytes(self) -> int:
        """What offload="model" needs: the context, and the transformer, encoder or VAE."""
        transformer = self.weight_bytes + self.activation_bytes
        codec = self.codec_bytes + self.picture_bytes
        return self.context_bytes + max(transformer, self.encoder_bytes, codec)

    @property
    def fits(self) -> bool:
        """Whether the device can compute it and a tenth of its memory would be left."""
        return not self.needs_gpu and self.total_bytes < 0.9 * self.memory_bytes

    def room(self, needed: float) -> str:
        """Say whether so many bytes fit the device, and which that is."""
        name = device_name(self.device)
        if self.needs_gpu:
            return f"needs a GPU for this quantization, and this is {name}"
        verdict = "fits" if needed < 0.9 * self.memory_bytes else "does not fit"
        kind = "RAM" if torch.device(self.device).type == "cpu" else "memory"
        return f"{verdict} {format_bytes(self.memory_bytes)}, the {kind} of {name}"

    def pace(self, operations: float) -> str:
        """Say how long it takes at best, at the rate that the device was measured at."""
        rate = measured_rate(self.device)
        seconds = operations / rate
        span = timedelta(seconds=math.ceil(seconds)) if seconds > 60 else f"{seconds:.2g} s"
        return f"at least {span} at {format_flops(rate)}/s, measured on {device_name(self.device)}"

    def require(self) -> None:
        """Raise LoadError for a run that does not fit, with what could be changed."""
        if self.needs_gpu:
            raise LoadError(f"a run {self.room(self.total_bytes)}; name a device")
        if not self.fits:
            raise LoadError(
                f"{self.shots} shots, {self.batch_size} queries at a time and {self.samples} "
                f"samples need about {format_bytes(self.total_bytes)}, and the device has "
                f"{format_bytes(self.memory_bytes)}; show fewer examples, take a smaller batch or "
                "fewer samples, or quantize"
                + ", or offload the encoder by offload='model'"
                * bool(self.encoder_bytes)
            )

    def _flop(self, tokens: float, pairs: float) -> float:
        return self.token_flop * tokens + self.pair_flop * pairs

    @cached_property
    def naive_flop(self) -> float:
        """Operations a query if nothing is kept."""
        n = self.tokens.text + self.example_tokens + self.tokens.photo + self.tokens.drawn
        return self.steps * self.samples * self._flop(n, n**2)

    @cached_property
    def stock_flop(self) -> float:
        """Operations a query of diffusers' key-value pipeline."""
        if self.attention == "full":
            return self.naive_flop
        images = self.example_tokens + self.tokens.photo
        step_tokens = self.tokens.text + self.tokens.drawn
        step = self._flop(step_tokens, step_tokens * (images + step_tokens))
        return self.samples * (self._flop(images, images**2) + self.steps * step)

    @cached_property
    def shared_flop(self) -> float:
        """Operations a query when the examples are kept."""
        if self.attention == "full":
            return self.naive_flop
        examples, photo = self.example_tokens, self.tokens.photo
        step_tokens = self.tokens.text + self.tokens.drawn
        context = self._flop(examples, examples**2) / self.queries
        query = self._flop(photo, photo * (examples + photo))
        step = self._flop(step_tokens, step_tokens * (step_tokens + examples + photo))
        return context + query + self.steps * self.samples * step

    def __str__(self) -> str:
        """Say it in a few lines."""
        flops = [format_flops(x) for x in (self.naive_flop, self.stock_flop, self.shared_flop)]
        return (
            f"{self.parameters / 1e6:,.1f} million parameters, {self.shots} shots: "
            f"{self.example_tokens} tokens\n"
            f"weights {format_bytes(self.weight_bytes)}, "
            + f"encoder of queries {format_bytes(self.encoder_bytes)}, "
            * bool(self.encoder_bytes)
            + f"VAE {format_bytes(self.codec_bytes)} and {format_bytes(self.picture_bytes)} a "
            "picture, " * bool(self.codec_bytes) + f"context {format_bytes(self.context_bytes)}, "
            f"activations about {format_bytes(self.activation_bytes)}: "
            f"{self.room(self.total_bytes)}\n"
            + f"taking turns with the encoder (offload='model'), {format_bytes(self.turns_bytes)}: "
            f"{self.room(self.turns_bytes)}\n"
            * (not self.fits and self.encoder_bytes > 0)
            + f"a query with {self.steps} x {self.samples} steps and samples: naive {flops[0]}, "
            f"stock key-value pipeline {flops[1]}, shared context {flops[2]}\n"
            f"a query takes {self.pace(self.shared_flop)}"
        )


def format_flops(operations: float) -> str:
    """Return a number of floating-point operations with its unit.

    >>> format_flops(2.148e15)
    '2.15 PFLOP'
    """
    power = min(max(int(math.log10(max(operations, 1)) // 3), 2), 5)
    return f"{operations / 1000**power:.3g} {'MGTP'[power - 2]}FLOP"


def device_memory(device: str | torch.device) -> int:
    """Return the bytes that a device has in all."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_name(device: str) -> str:
    """Name a device as its maker does."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"the CPU ({count} thread{'s' if count > 1 else ''})"


@lru_cache
def measured_rate(device: str) -> float:
    """Multiply matrices for a moment, and return the operations a second; cached."""
    on_cpu = torch.device(device).type == "cpu"
    size, dtype = (1024, torch.float32) if on_cpu else (8192, torch.bfloat16)
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return float(2 * size**3 / min(seconds))


def plan(
    model: str | Path = "tiny",
    shots: int = 16,
    *,
    queries: int = 64,
    batch_size: int = 8,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    **choices: Any,
) -> Plan:
    """Plan a run, without loading weights.

    Args:
        model: as `icgeo.load` takes it.
        shots: examples that each query sees.
        queries: queries that share the examples.
        batch_size: queries at a time.
        dtype: dtype of the weights.
        device: device whose memory the run should fit.
        **choices: `quantization`, `revision` and `local_files_only` of `icgeo.load`; `text_tokens`,
            512 if not given, or 128 for `text="trimmed"`; and any of the checkpoint's settings:
            attention, layout, style, photo_size, text, steps, samples.

    Raises:
        LoadError: no such model, or a choice that it has not.
    """
    quantization = choices.pop("quantization", None)
    text = choices.pop("text_tokens", None)
    names = {"revision", "local_files_only"} & choices.keys()
    hub: dict[str, Any] = {name: choices.pop(name) for name in names}
    if quantization not in (None, *QUANTIZATIONS):
        raise LoadError(f"expected quantization of {(*QUANTIZATIONS,)}, got {quantization!r}")
    require_device(device)
    settings, spec = _settings(model, choices, quantization, hub)
    if spec:
        patch = spec.patch(read_config(model, "vae", **hub))
        settings.require_multiples(spec.backbone.multiple * patch)
    else:
        patch = read_config(model, "codec", **hub)["patch_size"]
    transformer = empty_part(model, "transformer", **hub)
    bytes_a_weight = BYTES_QUANTIZED[quantization] if quantization else dtype.itemsize
    encoder = empty_part(model, "text_encoder", **hub) if spec and spec.keeps_encoder else None
    return _plan(
        transformer,
        empty_part(model, "vae", **hub) if spec else None,
        settings,
        {"shots": shots, "queries": queries, "batch_size": batch_size},
        tokens=Tokens.of(settings, shots, patch=patch, text=text),
        weight_bytes=round(bytes_a_weight * transformer.num_parameters()),
        bytes_a_number=dtype.itemsize,
        encoder_bytes=dtype.itemsize * encoder.num_parameters() if encoder else 0,
        device=str(device),
        needs_gpu=quantization in ("nf4", "fp8") and torch.device(device).type == "cpu",
    )


def plan_loaded(
    model: MapModel,
    shots: int,
    *,
    batch_size: int,
    samples: int | None = None,
    queries: int = 64,
    text_tokens: int | None = None,
) -> Plan | None:
    """Plan a run of a model that is loaded; None for one that this package did not make."""
    if not isinstance(model, MapModel):
        return None
    settings, transformer = model.settings, model.backbone.transformer
    pipeline = getattr(model.backbone, "pipeline", None)
    device = getattr(model.backbone, "device", transformer.device)
    takes_turns = device != transformer.device  # offloaded: the encoder is not there meanwhile
    return _plan(
        transformer,
        None if takes_turns else getattr(pipeline, "vae", None),
        replace(settings, samples=samples or settings.samples),
        {"shots": shots, "queries": queries, "batch_size": batch_size},
        tokens=Tokens.of(settings, shots, patch=model.backbone.patch, text=text_tokens),
        weight_bytes=_bytes_of(transformer),
        bytes_a_number=transformer.dtype.itemsize,
        encoder_bytes=0 if takes_turns else _bytes_of(getattr(pipeline, "text_encoder", None)),
        device=str(device),
    )


def fitting_batch(model: MapModel, shots: int, most: int, *, samples: int | None = None) -> int:
    """Return how many queries go through at a time beside so many examples, `most` at most.

    Raises:
        LoadError: not even one fits.
    """
    size = most
    while (plan := plan_loaded(model, shots, batch_size=size, samples=samples)) and not plan.fits:
        if size == 1:
            plan.require()
        size //= 2
    return size


def _bytes_of(part: Any) -> int:
    weights = part.parameters() if part is not None else ()
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _plan(transformer: Any, vae: Any, settings: Settings, counts: Any, **figures: Any) -> Plan:
    counts |= {"steps": settings.steps, "samples": settings.samples}
    for name, count in counts.items():
        if count < (minimum := int(name != "shots")):
            raise LoadError(f"expected {name} of at least {minimum}, got {count}")
    if vae is not None:
        numbers = spec_of(transformer).codec(vae.config) * figures["tokens"].picture
        figures |= {"codec_bytes": _bytes_of(vae), "picture_bytes": round(4 * numbers)}
    heads = transformer.config.num_attention_heads
    width = heads * transformer.config.attention_head_dim
    blocks, token_flop = spec_of(transformer).cost(transformer.config, width)
    figures |= {"heads": heads, "width": width, "blocks": blocks, "token_flop": token_flop}
    figures |= {"attention": settings.attention, "memory_bytes": device_memory(figures["device"])}
    return Plan(transformer.num_parameters(), **counts, **figures)


def read_config(model: str | Path, part: str, **hub: Any) -> Config:
    """Read the configuration of a part of a model, such as "transformer", or its "model_index"."""
    folder = resolve_local(model)
    if folder is None and str(model) in CONFIGURATIONS and not hub.get("revision"):
        return CONFIGURATIONS[str(model)][part]
    source = folder or str(model)
    if part == "model_index":
        return pipeline_index(source, **hub)
    return json.loads(pipeline_part(source, f"{part}/config.json", **hub).read_text())


def empty_part(model: str | Path, part: str, **hub: Any) -> Any:
    """Make a part of a model on the meta device, without weights: transformer, VAE, encoder."""
    config = {**read_config(model, part, **hub)}
    with torch.device("meta"):
        if "_class_name" in config:
            return getattr(diffusers, config["_class_name"]).from_config(config)
        import transformers

        auto: Any = transformers.AutoConfig
        encoder: Any = transformers.AutoModelForImageTextToText
        return encoder.from_config(auto.for_model(config.pop("model_type"), **config))


def _settings(
    model: str | Path, choices: dict[str, Any], quantization: str | None, hub: dict[str, Any]
) -> tuple[Settings, ArchitectureSpec | None]:
    """Return the settings of a checkpoint with choices; refuse the same as `icgeo.load`."""
    settings, spec = Settings.read(resolve_local(model)), None
    if settings is None or settings.layout != "stacked":
        index = read_config(model, "model_index", **hub)
        spec = architecture_of(index, model)
        settings = settings or spec.settings(index)
    elif quantization:
        raise LoadError(f"expected no quantization for a model of this size, got {quantization}")
    size = None if spec else read_config(model, "codec", **hub)["photo_size"]
    new_settings = chosen_settings(settings, choices, size)
    require_known(new_settings, spec.backbone.layouts if spec else ("stacked",))
    return new_settings, spec
