"""Qwen-Image 2.1, from a pipeline of diffusers.

One causal sequence: pictures first, each behind its tag, then the words, then the map to draw. A
vision-language encoder reads it up to the words; its states at the places of a picture are replaced
by latents. The transformer sees all that at t = 0, whatever is drawn. So what is encoded of some
pictures never changes by what follows (`Prefix`), as the public weights were trained.

Pictures are RGB of 8 bits, as both the encoder and the VAE see them in the stock pipeline. All
passes go through the stock `forward`: a `CausalPass` travels to the processors as its cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from icgeo.models.attention import KVCache, Rotary, RotatedKV, require_processors
from icgeo.models.backbones import ArchitectureSpec, Config, PipelineBackbone
from icgeo.models.causal import SLOT, CausalPass, CausalProcessor, in_groups

PATCH = 16
"""Pixels a token, in each direction."""

Picture = UInt8[Tensor, "3 _ _"]
Images = Float[Tensor, "images 3 height width"]
Tokens = Float[Tensor, "batch tokens channels"]
Shape = tuple[int, int, int]
"""Frames, of which there is one, rows and columns of tokens."""
TARGET: Shape = (1, SLOT, SLOT)
"""What stands for the map where none is drawn: the stock forward wants one behind all else."""


@dataclass(frozen=True)
class Prefix:
    """What both models keep of the pictures so far, and where those end; it only grows."""

    transformer: KVCache = field(default_factory=KVCache)
    """Keys after the rotary embedding: what has a place keeps it."""
    encoder: KVCache = field(default_factory=KVCache)
    pictures: int = 0
    place: int = 0
    """The next place in the transformer."""
    encoder_place: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return it by name, as a file holds it."""
        caches = {"transformer": self.transformer.tensors(), "encoder": self.encoder.tensors()}
        ends = torch.tensor([self.pictures, self.place, self.encoder_place])
        tensors = {
            f"{part}.{name}": x for part, cache in caches.items() for name, x in cache.items()
        }
        return {**tensors, "ends": ends}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Prefix":
        """Build it from what `tensors` returned; from nothing, the one without pictures."""
        if not tensors:
            return cls()

        def cache(part: str) -> KVCache:
            entries = {n.removeprefix(part): x for n, x in tensors.items() if n.startswith(part)}
            return KVCache.from_tensors(entries)

        return cls(cache("transformer."), cache("encoder."), *tensors["ends"].tolist())

    def rotated(self) -> list[RotatedKV]:
        """Return what a pass sees of it."""
        return [in_groups([self.transformer])] if self.pictures else []


@dataclass(frozen=True)
class Reading:
    """Pictures, and maybe words, as the encoder read them behind a prefix."""

    states: Float[Tensor, "1 places width"]
    is_picture: Bool[Tensor, "1 places"]
    latents: Float[Tensor, "1 tokens channels"]
    shapes: list[Shape]
    encoder: KVCache
    """Of the prefix too."""
    encoder_place: int


@dataclass(frozen=True)
class QwenBackbone(PipelineBackbone):
    """Qwen-Image 2.1, with the encoder that reads each query's photo."""

    layouts: ClassVar[tuple[str, ...]] = ("interleaved",)
    multiple: ClassVar = SLOT
    resizes: ClassVar = True

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction: those of the VAE."""
        return PATCH

    def encode(self, images: Images) -> Tokens:
        """Encode images in [0, 1], which have no transparent parts, to normalised latents."""
        vae, (mean, deviation) = self.codec, self.statistics()
        pixels = functional.pad(2 * images - 1, (0, 0, 0, 0, 0, 1), value=1.0)
        pixels = rearrange(pixels, "n c h w -> n c 1 h w").to(self.device, vae.dtype)
        latents = (vae.encode(pixels).latent_dist.mode() - mean) / deviation
        return rearrange(latents.to(self.transformer.dtype), "n c 1 h w -> n (h w) c")

    def decode(self, tokens: Tokens, *, rows: int) -> Images:
        """Decode tokens to images; in float32, unclipped, whatever is transparent in them."""
        mean, deviation = self.statistics()
        latents = rearrange(tokens, "n (h w) c -> n c 1 h w", h=rows).to(self.codec.dtype)
        images = self.codec.decode(latents * deviation + mean, return_dict=False)[0]
        return (images[:, :3, 0].float() + 1) / 2

    @torch.no_grad()
    def read(
        self, pictures: Sequence[Picture], prefix: Prefix, words: str | None = None
    ) -> Reading:
        """Read pictures behind those of a prefix, and then maybe words, by encoder and VAE.

        Raises:
            ValueError: pictures so small or large that the encoder would resize them.
        """
        pipeline, encoder = self.pipeline, self.pipeline.text_encoder
        images = [Image.fromarray(rearrange(x, "c h w -> h w c").cpu().numpy()) for x in pictures]
        batch = pipeline.processor.image_processor(images=images, return_tensors="pt")
        slots = batch["image_grid_thw"].prod(dim=-1) // SLOT**2
        shapes = [(1, x.shape[1] // PATCH, x.shape[2] // PATCH) for x in pictures]
        if [SLOT**2 * n for n in slots.tolist()] != [rows * columns for _, rows, columns in shapes]:
            raise ValueError(
                "expected pictures that the encoder does not resize, got "
                f"{[tuple(x.shape[1:]) for x in pictures]} pixels; its limits are "
                f"{dict(pipeline.processor.image_processor.size)} pixels of area; take a "
                "photo_size and maps between"
            )
        text = self._text(slots.tolist(), prefix.pictures, words)
        device = pipeline._execution_device
        ids = pipeline.processor.tokenizer(text, return_tensors="pt")["input_ids"].to(device)
        kinds, grid = (ids == pipeline._img_token_id).int(), batch["image_grid_thw"].to(device)
        places, _ = encoder.model.get_rope_index(ids, kinds, image_grid_thw=grid)
        inputs = {"input_ids": ids, "mm_token_type_ids": kinds, "image_grid_thw": grid}
        inputs["pixel_values"] = batch["pixel_values"].to(device)
        states, cache = self._states(prefix, places + prefix.encoder_place, inputs)
        offset = 0 if prefix.pictures else pipeline._drop_idx  # those of the system's message
        return Reading(
            states=states[:, offset:].to(self.transformer.dtype),
            is_picture=kinds[:, offset:].bool(),
            latents=torch.cat([self.encode(picture[None] / 255) for picture in pictures], dim=1),
            shapes=shapes,
            encoder=cache,
            encoder_place=prefix.encoder_place + int(places.max()) + 1,
        )

    def _text(self, slots: Sequence[int], pictures: int, words: str | None) -> str:
        """Write the part of the stock prompt that stands behind so many pictures."""
        head, tail = self.pipeline.prompt_template_t2i.split("{}")
        tags = (
            f"<image{number}><|vision_start|>{count * '<|image_pad|>'}<|vision_end|>"
            for number, count in enumerate(slots, pictures + 1)
        )
        start = " " if pictures else head
        return start + " ".join(tags) + ("" if words is None else (words or " ") + tail)

    def _states(
        self, prefix: Prefix, places: Tensor, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, KVCache]:
        """Return the states of the last layer before its norm, and the encoder's cache."""
        from transformers import DynamicCache

        encoder, past = self.pipeline.text_encoder, prefix.encoder
        cache = DynamicCache([(past.keys[i], past.values[i]) for i in sorted(past.keys)])
        states: list[Tensor] = []
        norm = encoder.model.language_model.norm
        hook = norm.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
        try:
            options = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            encoder(**inputs, position_ids=places, **options)
        finally:
            hook.remove()
        layers: list[Any] = list(cache.layers)
        keys = {number: layer.keys for number, layer in enumerate(layers)}
        return states[0], KVCache(keys, {n: layer.values for n, layer in enumerate(layers)})

    def _rotary(self, place: int, shapes: list[Shape], is_image: Bool[Tensor, " tokens"]) -> Rotary:
        """Return the turns of tokens from a place on; words count one place after the other."""
        padding = is_image.new_zeros(place)
        mask = torch.cat((padding, is_image))
        turns = self.transformer.pos_embed(shapes, mask, device=is_image.device)[place:]
        turns = turns.repeat_interleave(2, dim=-1)
        return turns.real, turns.imag

    def fill(self, reading: Reading, prefix: Prefix) -> KVCache:
        """Return the keys and values of what was read, behind those of the prefix."""
        shapes = [*reading.shapes, TARGET]
        slots = functional.pad(reading.is_picture, (0, 1), value=True)
        is_image = slots[0].repeat_interleave(torch.where(slots[0], SLOT**2, 1))
        images, _ = self.transformer.build_token_metadata(is_image, shapes)
        order = torch.arange(len(images), device=images.device)
        is_same = (images[:, None] == images) & (images >= 0)
        causal_pass = CausalPass(
            self._rotary(prefix.place, shapes, is_image),
            prefix.rotated(),
            visible=is_same | (order[:, None] >= order),
        )
        tokens = functional.pad(reading.latents, (0, 0, 0, SLOT**2))
        self._pass(tokens, 0.0, reading.states, shapes, slots, causal_pass)
        return cast(KVCache, causal_pass.cache)

    def extended(self, prefix: Prefix, pictures: Sequence[Picture]) -> Prefix:
        """Encode pictures behind those of a prefix; differentiable by the transformer."""
        reading = self.read(pictures, prefix)
        cache, past = self.fill(reading, prefix), prefix.transformer
        if prefix.pictures:
            cache = KVCache(
                {i: torch.cat((past.keys[i], x), dim=1) for i, x in cache.keys.items()},
                {i: torch.cat((past.values[i], x), dim=1) for i, x in cache.values.items()},
            )
        place, count = self.end(reading, prefix), prefix.pictures + len(pictures)
        return Prefix(cache, reading.encoder, count, place, reading.encoder_place)

    def end(self, reading: Reading, prefix: Prefix) -> int:
        """Return the place behind what was read: a picture takes its longer side."""
        words = int((~reading.is_picture).sum())
        return prefix.place + words + sum(max(rows, columns) for _, rows, columns in reading.shapes)

    def asked(
        self, prefix: Prefix, photos: Sequence[Picture], words: str, grid: tuple[int, int]
    ) -> CausalPass:
        """Encode each photo behind the prefix, and the words behind it; maps see all of it."""
        self.pipeline.maybe_free_model_hooks()  # if offloaded, the transformer makes room first
        readings = [
            replace(self.read([photo], prefix, words), encoder=KVCache()) for photo in photos
        ]
        photo_cache = in_groups([self.fill(reading, prefix) for reading in readings])
        is_image = torch.ones(
            grid[0] * grid[1], dtype=torch.bool, device=photo_cache.keys[0].device
        )
        rotary = self._rotary(self.end(readings[0], prefix), [(1, *grid)], is_image)
        return CausalPass(rotary, [*prefix.rotated(), photo_cache])

    def forward(self, noisy: Tokens, t: float, grid: tuple[int, int], to: CausalPass) -> Tokens:
        """Predict the velocity of noisy maps at time t."""
        no_words = noisy.new_zeros(len(noisy), 0, self.transformer.config.context_in_dim)
        size = (len(noisy), noisy.shape[1] // SLOT**2)
        slots = torch.ones(size, dtype=torch.bool, device=noisy.device)
        return self._pass(noisy, t, no_words, [(1, *grid)], slots, to)

    def _pass(
        self,
        tokens: Tokens,
        t: float,
        states: Tensor,
        shapes: list[Shape],
        slots: Tensor,
        causal_pass: CausalPass,
    ) -> Float[Tensor, "batch all_tokens channels"]:
        """Run the stock forward, in the mode in which it gives blocks a cache."""
        require_processors(self.transformer.transformer_blocks, CausalProcessor)
        return self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=states,
            timestep=tokens.new_full((len(tokens),), t),
            img_shapes=[shapes],
            img_mask=slots,
            kv_cache=causal_pass,
            kv_cache_mode="cached" if causal_pass.cache is None else "extract",
            return_dict=False,
        )[0]

    def mu(self, tokens: int) -> float:
        """Return by how much the scheduler's times are shifted for so many tokens to draw."""
        from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_shift

        config = self.pipeline.scheduler.config
        lengths = (config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096))
        shifts = (config.get("base_shift", 0.5), config.get("max_shift", 1.15))
        return float(calculate_shift(tokens, *lengths, *shifts))

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the checkpoint's own time grid, or that of its scheduler for other steps."""
        if steps == 1:  # the stretched end of a single step is its start
            return torch.tensor([1.0, 0.0])
        scheduler, schedule = self.pipeline.scheduler, self.pipeline.config.sample_sigmas or ()
        sigmas = schedule if len(schedule) == steps else np.linspace(1, 1 / steps, steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=self.mu(tokens))
        return scheduler.sigmas.cpu()

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise, but for its stretched end."""
        return float(np.exp(self.mu(tokens)))


def processor_of_parts(folder: Path) -> Any:
    """Load the processor of pictures and words; the whole one reads videos by torchvision."""
    import transformers
    from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

    base: Any = transformers.Qwen3VLProcessor

    class WithoutVideos(base):  # type: ignore[misc]  # not followed
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument is not None:
                super().check_argument_for_proper_class(argument_name, argument)

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder / "processor")
    images: Any = Qwen2VLImageProcessorPil.from_pretrained(folder / "processor")
    return WithoutVideos(images, tokenizer, None, chat_template=tokenizer.chat_template)


def _cost(config: Config, width: int) -> tuple[int, float]:
    blocks = int(config["num_layers"])
    return blocks, (8 + 6 * config["mlp_ratio"]) * float(width**2) * blocks


QWEN_7B = {"_class_name": "QwenImage21Transformer2DModel"}
QWEN_VL_8B = {
    "model_type": "qwen3_vl",
    "text_config": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "vision_config": {"out_hidden_size": 4096},
}
"""As Qwen3-VL-8B, whose width the transformer takes."""
SPECS = (
    ArchitectureSpec(
        transformer="QwenImage21Transformer2DModel",
        pipelines=("QwenImage21Pipeline",),
        backbone=QwenBackbone,
        components=lambda folder: {"processor": processor_of_parts(folder)},
        keeps_encoder=True,
        targets=r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0)",
        patch=lambda _: PATCH,
        codec=lambda vae: 21.4 * (vae["decoder_base_dim"] or vae["base_dim"]),
        cost=_cost,
        attention="causal",
        steps=40,
        photo_size=352,
        references=10,
        public={
            "Qwen/Qwen-Image-2.1": {
                "model_index": {"_class_name": "QwenImage21Pipeline"},
                "transformer": QWEN_7B,
                "text_encoder": QWEN_VL_8B,
                "vae": {"_class_name": "AutoencoderKLQwenImage21"},
            }
        },
    ),
)
