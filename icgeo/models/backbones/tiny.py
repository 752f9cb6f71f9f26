"""FLUX.2 transformers that draw maps from examples.

In the `stacked` layout photo and map patches of a pair are joined in one token's channels, and all
examples share one position on the first axis, so their order means nothing. In the modes `pairwise`
and `joint` examples are encoded once, at t = 0, and see only themselves or each other; queries read
what was kept of them. In `full` they are tokens of the query's own sequence.
"""

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from icgeo import maps, sampling
from icgeo.models.attention import AttentionContext, KVCache, install
from icgeo.models.backbones.codec import PatchCodec
from icgeo.models.context import Context
from icgeo.models.hub import LoadError
from icgeo.models.settings import MODES, Origin, Settings

QUERY_IMAGE, EXAMPLE_IMAGE = 0, 10
"""Places on the first axis; FLUX.2 spaces images by 10, which turns their keys well apart."""


def grid_ids(rows: int, columns: int, *, image: int) -> Int[Tensor, "tokens 4"]:
    """Positions (image, row, column, 0) of the tokens of an image, in row order."""
    axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns), torch.tensor([0]))
    return torch.cartesian_prod(*axes)


def text_ids(tokens: int) -> Int[Tensor, "tokens 4"]:
    """Positions (0, 0, 0, index) of the tokens of a prompt."""
    return torch.cartesian_prod(*3 * (torch.tensor([0]),), torch.arange(tokens))


class StackedFlux2(nn.Module):
    """A transformer, its codec and its prompts: all that is trained, on tensors alone."""

    def __init__(
        self,
        transformer: Flux2Transformer2DModel,
        codec: PatchCodec,
        prompts: Float[Tensor, "prompts length width"],
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.codec = codec
        self.prompts = nn.Parameter(prompts)
        install(transformer)

    def _ids(self, image: int) -> Int[Tensor, "tokens 4"]:
        size = self.codec.config
        return grid_ids(size.rows, size.columns, image=image).to(self.prompts.device)

    def _example_ids(self, tokens: int) -> Int[Tensor, "tokens 4"]:
        ids = self._ids(EXAMPLE_IMAGE)
        return ids.repeat(tokens // len(ids), 1)

    def _forward(
        self,
        tokens: Float[Tensor, "groups count tokens channels"],
        t: Float[Tensor, "groups count"],
        text: Float[Tensor, "groups length width"],
        *,
        ids: Int[Tensor, "tokens 4"],
        attention_context: AttentionContext,
    ) -> Float[Tensor, "groups count tokens map_channels"]:
        count = tokens.shape[1]
        sample = self.transformer(
            hidden_states=rearrange(tokens, "g n t c -> (g n) t c"),
            encoder_hidden_states=repeat(text, "g l d -> (g n) l d", n=count),
            timestep=rearrange(t, "g n -> (g n)"),
            img_ids=ids,
            txt_ids=text_ids(text.shape[1]).to(tokens.device),
            joint_attention_kwargs={"attention_context": attention_context},
            return_dict=False,
        )[0]
        return rearrange(sample, "(g n) t c -> g n t c", n=count)

    def encode_examples(
        self,
        photos: Float[Tensor, "groups examples tokens features"],
        latents: Float[Tensor, "groups examples tokens map_channels"],
        *,
        joint: bool = False,
    ) -> KVCache:
        """Keep the keys and values of pairs of photo features and map latents, group by group.

        Each pair is a sequence; if `joint`, all pairs of a group are one.
        """
        kept = KVCache()
        if photos.shape[1]:
            pairs = torch.cat((photos, latents.to(photos.dtype)), dim=-1)
            if joint:
                pairs = rearrange(pairs, "g k n c -> g 1 (k n) c")
            no_text = self.prompts[:1, :0].to(photos.dtype).expand(len(photos), -1, -1)
            ids = self._example_ids(pairs.shape[2])
            t = pairs.new_zeros(pairs.shape[:2])
            self._forward(pairs, t, no_text, ids=ids, attention_context=AttentionContext(kept=kept))
        return kept

    def place_examples(
        self,
        kept: KVCache,
        *,
        groups: int,
        visible: Bool[Tensor, "groups queries examples"] | None = None,
    ) -> AttentionContext:
        """Let queries see the examples of their group; all share one place, so order is free."""
        if not kept.keys:
            return AttentionContext()
        sequences, length = kept.keys[0].shape[:2]
        rotary = self.transformer.pos_embed(self._example_ids(sequences * length // groups))
        return AttentionContext((kept.rotated(rotary, groups=groups, visible=visible),))

    def velocity(
        self,
        noisy: Float[Tensor, "groups queries tokens map_channels"],
        t: Float[Tensor, "groups queries"],
        photos: Float[Tensor, "groups queries tokens features"],
        *,
        prompt: Int[Tensor, " groups"],
        attention_context: AttentionContext,
        shown: Float[Tensor, "groups shown_tokens channels"] | None = None,
    ) -> Float[Tensor, "groups queries tokens map_channels"]:
        """Predict noise - data for the maps of queries, given the kept examples.

        In the mode `full` nothing is kept: `shown` are the tokens of a group's examples, which join
        the sequence of each of its queries.
        """
        tokens = torch.cat((photos, noisy.to(photos.dtype)), dim=-1)
        text = self.prompts[prompt].to(tokens.dtype)
        ids = self._ids(QUERY_IMAGE)
        if shown is not None:
            shown = shown.to(tokens.dtype)
            tokens = torch.cat((tokens, repeat(shown, "g n c -> g q n c", q=tokens.shape[1])), 2)
            ids = torch.cat((ids, self._example_ids(shown.shape[1])))
        found = self._forward(tokens, t, text, ids=ids, attention_context=attention_context)
        return found[:, :, : noisy.shape[2]]


@dataclass(frozen=True)
class StackedMapModel:
    """A model that draws maps: the learner with its settings, ready to answer."""

    learner: StackedFlux2
    settings: Settings
    shift: float = 1.0
    """How far the time grid of sampling leans to the noise."""
    adapter: str = ""
    """The LoRA in the transformer."""
    origin: Origin | None = None
    """Where it was loaded from."""

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "StackedMapModel":
        """Load a checkpoint folder.

        It holds `transformer/`, `codec/`, `scheduler/`, `prompts.safetensors` and `icgeo.json`.
        """
        learner = StackedFlux2(
            Flux2Transformer2DModel.from_pretrained(folder / "transformer", use_safetensors=True),
            PatchCodec.from_pretrained(folder / "codec"),
            load_file(folder / "prompts.safetensors")["prompts"].float(),
        )
        learner = learner.to(device=device, dtype=dtype).eval().requires_grad_(False)
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        return cls(learner, Settings.read(folder / "icgeo.json"), scheduler.config.shift)

    def save(self, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Save in the format that `load` reads, safetensors only; the transformer in `dtype`."""
        transformer = copy.deepcopy(self.learner.transformer)
        for weight in transformer.parameters():
            weight.data = weight.data.to(dtype)
        transformer.save_pretrained(folder / "transformer")
        FlowMatchEulerDiscreteScheduler(shift=self.shift).save_pretrained(folder / "scheduler")
        self.learner.codec.save_pretrained(folder / "codec")
        prompts = self.learner.prompts.detach().contiguous()
        save_file({"prompts": prompts}, folder / "prompts.safetensors")
        (folder / "icgeo.json").write_text(json.dumps(self.settings.to_dict(), indent=2) + "\n")

    def choosing(self, *, attention: str | None = None, **others: Any) -> "StackedMapModel":
        """Return the same model with another mode of attention; its style is its codec's.

        Raises:
            LoadError: an unknown mode, or another style, layout or photo size than its own.
        """
        attention = attention or self.settings.attention
        if attention not in MODES:
            raise LoadError(f"expected attention of {MODES}, got {attention!r}")
        own = {**vars(self.settings), "photo_size": self.photo_size}
        for name, value in others.items():
            if value not in (None, own[name]):
                raise LoadError(
                    f"expected {name} of {own[name]!r}, which this model knows alone, got {value!r}"
                )
        return replace(self, settings=replace(self.settings, attention=attention))

    @property
    def photo_size(self) -> int:
        """Height and width of the photos that the model takes, in pixels."""
        return self.learner.codec.config.photo_size

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What a context depends on beside its examples."""
        weights = hashlib.blake2b(digest_size=8)
        for tensor in (self.learner.prompts, self.learner.codec.gather.weight):
            weights.update(tensor.detach().float().cpu().numpy().tobytes())
        return {
            "model": f"{weights.hexdigest()} {self.adapter}".strip(),
            "dtype": str(self.learner.prompts.dtype),
            "style": json.dumps(self.settings.style.to_dict()),
            "layout": self.settings.layout,
            "attention": self.settings.attention,
        }

    def _photos(self, photos: UInt8[Tensor, "photos 3 size size"]) -> Tensor:
        weight = self.learner.prompts
        return photos.to(weight.device, weight.dtype) / 255

    @torch.inference_mode()
    def encode_context(
        self,
        photos: UInt8[Tensor, "examples 3 size size"],
        lat_lon: Float[Tensor, "examples 2"],
    ) -> Context:
        """Encode examples once, for any number of queries, steps and samples."""
        if not len(photos):
            return Context(0, {}, self.fingerprint)
        drawn = maps.draw(lat_lon, self.settings.style).to(self.learner.prompts)
        latents = self.learner.codec.encode_maps(drawn)
        features, _ = self.learner.codec.encode_photos(self._photos(photos))
        if self.settings.attention == "full":
            pairs = torch.cat((features, latents), dim=-1)
            return Context(len(photos), {"tokens": pairs}, self.fingerprint)
        joint = self.settings.attention == "joint"
        kept = self.learner.encode_examples(features[None], latents[None], joint=joint)
        return Context(len(photos), kept.tensors(), self.fingerprint)

    def velocity(
        self,
        context: Context,
        features: Float[Tensor, "groups queries tokens features"],
        prompt: str,
    ) -> sampling.Velocity:
        """Return the velocity of noisy maps [groups, queries, tokens, channels], given examples.

        There is one group, or one for each query where they were given examples of their own.
        """
        alone = Context(0, {}, self.fingerprint)
        scale = self.settings.example_guidance if context.shots else 1.0
        given, base = (self._velocity(c, features, prompt) for c in (context, alone))
        return sampling.guided(given, base, scale)

    def _velocity(self, context: Context, features: Tensor, prompt: str) -> sampling.Velocity:
        learner, shown, attention_context = self.learner, None, AttentionContext()
        if "tokens" in context.kept:
            shown = rearrange(context.kept["tokens"], "k n c -> 1 (k n) c")
        else:
            kept = KVCache.from_tensors(context.kept)
            if context.chosen is not None:
                kept = kept[context.chosen.flatten().to(features.device)]
            attention_context = learner.place_examples(kept, groups=len(features))
        number = self.settings.prompts.index(prompt)
        index = torch.full((len(features),), number, device=features.device)

        def velocity(x: Tensor, t: float) -> Tensor:
            times = x.new_full(x.shape[:2], t)
            return learner.velocity(
                x, times, features, prompt=index, attention_context=attention_context, shown=shown
            )

        return velocity

    @torch.inference_mode()
    def draw_maps(
        self,
        context: Context,
        photos: UInt8[Tensor, "queries 3 size size"],
        *,
        prompt: str,
        samples: int = 1,
        steps: int = 1,
        seed: int = 0,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped.

        `callback_on_step_end` is told at each step the maps as they look from there, and the time, from 1 down.

        Raises:
            ValueError: a context that another model, dtype, style or mode has made.
        """
        context.require(self.fingerprint)
        learner = self.learner
        features, _ = learner.codec.encode_photos(self._photos(photos))
        # queries with examples of their own are a group each
        groups = 1 if context.chosen is None else len(photos)
        features = repeat(features, "(g q) t c -> g (q s) t c", g=groups, s=samples)
        contents = [photo.numpy().tobytes() for photo in photos.cpu()]
        shape = learner.codec.latent_shape
        noise = sampling.keyed_noise(contents, shape, samples=samples, seed=seed).to(features)
        noise = rearrange(noise, "(g q) s t c -> g (q s) t c", g=groups)
        velocity = self.velocity(context, features, prompt)

        def decode(latents: Float[Tensor, "groups count tokens channels"]) -> Tensor:
            split = rearrange(latents, "g (q s) t c -> (g q) s t c", s=samples)
            return learner.codec.decode_maps(split)

        times = sampling.time_grid(steps, shift=self.shift)
        seen = sampling.decoded(callback_on_step_end, decode)
        return decode(sampling.euler(velocity, noise, times, callback_on_step_end=seen))

    def codec_round_trip(
        self, lat_lon: Float[Tensor, "*batch 2"]
    ) -> Float[Tensor, "*batch 3 height width"]:
        """Draw locations and pass them through the codec: what it and the heatmap alone cost."""
        drawn = maps.draw(lat_lon, self.settings.style).to(self.learner.prompts)
        return self.learner.codec.decode_maps(self.learner.codec.encode_maps(drawn))
