"""The model in the box: the transformer of FLUX.2, on tokens that join a photo and its map.

Maps are coded linearly (patches on an orthonormal basis, scaled to unit variance), so that the
mean of latents decodes to the mean of maps and the posterior read in one step stays exact. Photos
are never decoded: a small convolutional network turns each into one feature vector a token.
"""

import copy
import hashlib
import json
from pathlib import Path
from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from icgeo.models.attention import AttentionContext, KVCache, attention_kwargs, install
from icgeo.models.matching import LocalEncoder, Residual, with_standardised

SCHEDULER = "scheduler/scheduler_config.json"
DOMAIN = "domain.safetensors"
QUERY_IMAGE, EXAMPLE_IMAGE = 0, 10
"""Places on the first axis; FLUX.2 spaces images by 10, which turns their keys well apart."""


def grid_ids(rows: int, columns: int, *, image: int) -> Int[Tensor, "tokens 4"]:
    """Positions (image, row, column, 0) of the tokens of an image, in row order."""
    axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns), torch.tensor([0]))
    return torch.cartesian_prod(*axes)


def text_ids(tokens: int) -> Int[Tensor, "tokens 4"]:
    """Positions (0, 0, 0, index) of the tokens of a prompt."""
    return torch.cartesian_prod(*3 * (torch.tensor([0]),), torch.arange(tokens))


HEATMAP_WEIGHTS = (1.0, 1.0, 2.0)
"""What an error in each colour channel of a map weighs against the others."""
RIDGE = 1e-3


class PatchCodec(ModelMixin, ConfigMixin):
    """Linear patch codec for maps and a convolutional encoder for photos.

    Both give `rows x columns` tokens, in row order; a photo's hold `photo_channels` numbers of what
    is seen there and twice as many of the whole photo. Saved and loaded as any diffusers model.
    """

    @register_to_config
    def __init__(
        self,
        *,
        rows: int = 2,
        columns: int = 4,
        patch_size: int = 16,
        map_channels: int = 36,
        photo_size: int = 64,
        photo_channels: int = 48,
        width: int = 48,
    ) -> None:
        super().__init__()
        pixels = 3 * patch_size**2
        self.register_buffer("encoder", torch.eye(pixels, map_channels))
        # from the latents of all patches, beginning with its own column, to a column of patches
        decoder = torch.zeros(rows * columns * map_channels, rows * pixels)
        self.register_buffer("decoder", decoder)
        self.register_buffer("offset", torch.zeros(map_channels))
        self.features = nn.Sequential(
            nn.Conv2d(6, width, 4, stride=4),
            nn.GELU(),
            Residual(width),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            Residual(2 * width),
            Residual(2 * width),
        )
        cells = photo_size // 8
        input_size = 2 * width * (cells // rows) * (cells // columns)
        self.gather = nn.Linear(input_size, photo_channels, bias=False)
        word_channels = 8 * width
        self.words = nn.Sequential(
            nn.GroupNorm(1, 2 * width), nn.Conv2d(2 * width, word_channels, 1), nn.GELU()
        )
        self.standardise = nn.BatchNorm1d(2 * word_channels, affine=False)
        self.describe = nn.Linear(2 * word_channels, 2 * photo_channels, bias=False)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Tokens of a map, and numbers in each."""
        return self.config.rows * self.config.columns, self.config.map_channels

    def encode_maps(self, maps: Float[Tensor, "*batch 3 height width"]) -> Tensor:
        """Encode maps in [0, 1] to latents, [*batch, rows * columns, map_channels]."""
        r, s = self.config.rows, self.config.columns
        patches = rearrange(maps, "... c (r y) (s x) -> ... (r s) (c y x)", r=r, s=s)
        return patches @ self.encoder - self.offset

    def decode_maps(self, latents: Tensor) -> Float[Tensor, "*batch 3 height width"]:
        """Decode latents to maps; linear, unclipped, in float32."""
        columns = self._around_columns(latents.float() + self.offset.float())
        return rearrange(
            columns @ self.decoder.float(),
            "... s (r c y x) -> ... c (r y) (s x)",
            r=self.config.rows,
            c=3,
            y=self.config.patch_size,
        )

    def _around_columns(
        self, latents: Float[Tensor, "*batch tokens channels"]
    ) -> Float[Tensor, "*batch columns latents"]:
        """Return all latents as each column of patches sees them: itself, then those to the east.

        A map of the world has no first column, so one decoder serves all.
        """
        grid = rearrange(latents, "... (r s) c -> ... s r c", r=self.config.rows)
        views = [grid.roll(-column, -3) for column in range(self.config.columns)]
        return torch.stack(views, dim=-4).flatten(-3)

    def encode_photos(
        self, photos: Float[Tensor, "batch 3 size size"]
    ) -> tuple[Float[Tensor, "batch tokens channels"], Float[Tensor, "batch descriptor"]]:
        """Encode photos in [0, 1] to features, and descriptors that are alike for alike views.

        Features have unit mean square, a vector a token: what is seen there, then the descriptor of
        the whole photo, which is given at unit length too.
        """
        pixels = with_standardised(photos)
        grid = self.features(pixels)
        r, s = self.config.rows, self.config.columns
        patches = rearrange(grid, "n c (r y) (s x) -> n (r s) (c y x)", r=r, s=s)
        local_features = self.gather(patches)
        words = self.words(grid)
        # a bag of visual words: how much of each there is, and how clearly it is seen anywhere
        bag = torch.cat((words.mean(dim=(2, 3)), words.amax(dim=(2, 3))), dim=1)
        descriptor = self.describe(self.standardise(bag))
        global_features = repeat(descriptor, "n c -> n t c", t=local_features.shape[1])
        parts = [
            functional.rms_norm(part, part.shape[-1:]) for part in (local_features, global_features)
        ]
        features = torch.cat(parts, dim=-1)
        return features, functional.normalize(descriptor, dim=-1)

    @torch.no_grad()
    def fit_maps(self, maps: Float[Tensor, "batch 3 height width"]) -> None:
        """Fit the basis of the map codec: the principal components of the patches of maps.

        A narrow heatmap covers few pixels, so its channel is weighted. Latents are scaled by the
        root of their standard deviation: coarse components stay larger than fine ones, as in the
        spectra of pictures, and their mean square is 1.
        """
        size = self.config.patch_size
        patches = rearrange(maps, "n c (r y) (s x) -> (n r s) (c y x)", y=size, x=size).double()
        weight = torch.tensor(HEATMAP_WEIGHTS).double().repeat_interleave(size**2)
        weighted = patches * weight
        components = torch.linalg.eigh(weighted.T @ weighted / len(patches)).eigenvectors.flip(-1)
        basis = components[:, : self.config.map_channels]
        latents = weighted @ basis
        scale = latents.std(0).sqrt()
        scale = scale * ((latents - latents.mean(0)) / scale).square().mean().sqrt()
        self.encoder.copy_(weight[:, None] * basis / scale)
        self.offset.copy_(latents.mean(0) / scale)
        self.fit_decoder(maps)

    @torch.no_grad()
    def fit_decoder(self, maps: Float[Tensor, "batch 3 height width"]) -> None:
        """Fit the decoder to the basis, by ridge regression of maps on the latents of all patches.

        What a patch keeps of a heatmap says more of it together with the patches around, without
        seams; `RIDGE` is the mean square of the noise that drawn latents are taken to have.
        """
        latents = self._around_columns(self.encode_maps(maps) + self.offset).flatten(0, 1).double()
        columns = rearrange(
            maps, "n c (r y) (s x) -> (n s) (r c y x)", r=self.config.rows, s=self.config.columns
        )
        covariance = latents.T @ latents + len(latents) * RIDGE * torch.eye(latents.shape[1])
        self.decoder.copy_(torch.linalg.solve(covariance, latents.T @ columns.double()))


class TinyBackbone(nn.Module):
    """A transformer, its codec and its prompts: all that is trained, on tensors alone."""

    layouts: ClassVar[tuple[str, ...]] = ("stacked",)

    def __init__(
        self,
        transformer: Flux2Transformer2DModel,
        codec: PatchCodec,
        prompts: Float[Tensor, "prompts length width"],
        *,
        shift: float = 1.0,
        matcher: LocalEncoder | None = None,
        domain: Float[Tensor, " weights"] | None = None,
    ) -> None:
        """Take the parts; `shift` is how far the time grid of sampling leans to the noise.

        `domain` weighs the statistics of the matcher, and 1: above 0 a photo is of the kind that
        it was trained on.
        """
        super().__init__()
        self.shift = shift
        self.transformer = transformer
        self.codec = codec
        self.prompts = nn.Parameter(prompts)
        self.matcher = matcher
        self.domain = domain  # on the CPU in float32, not rounded with the rest
        install(transformer)

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "TinyBackbone":
        """Load the parts of a checkpoint, of which `matcher/` and the domain may be missing."""
        matcher, domain = folder / "matcher", folder / DOMAIN
        backbone = cls(
            Flux2Transformer2DModel.from_pretrained(folder / "transformer", use_safetensors=True),
            PatchCodec.from_pretrained(folder / "codec"),
            load_file(folder / "prompts.safetensors")["prompts"].float(),
            shift=json.loads((folder / SCHEDULER).read_text())["shift"],
            matcher=LocalEncoder.from_pretrained(matcher) if matcher.is_dir() else None,
            domain=load_file(domain)["domain"] if domain.is_file() else None,
        )
        return backbone.to(device=device, dtype=dtype).eval().requires_grad_(False)

    def save(self, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Save in the format that `load` reads, safetensors only; networks in `dtype`."""
        # diffusers' schedulers take a second to import, and loading needs one number of them
        from diffusers import FlowMatchEulerDiscreteScheduler

        for name in ("transformer", "matcher"):
            if (part := copy.deepcopy(getattr(self, name))) is not None:
                part.to(dtype).save_pretrained(folder / name)
        FlowMatchEulerDiscreteScheduler(shift=self.shift).save_pretrained(folder / "scheduler")
        self.codec.save_pretrained(folder / "codec")
        prompts = self.prompts.detach().contiguous()
        save_file({"prompts": prompts}, folder / "prompts.safetensors")
        if self.domain is not None:
            save_file({"domain": self.domain}, folder / DOMAIN)

    @property
    def patch(self) -> int:
        """Pixels a token of a map, in each direction."""
        return int(self.codec.config.patch_size)

    @property
    def photo_size(self) -> int:
        """Height and width of photos in pixels."""
        return int(self.codec.config.photo_size)

    @property
    def digest(self) -> str:
        """Hash of the weights that tell checkpoints apart."""
        weights = hashlib.blake2b(digest_size=8)
        matcher = [] if self.matcher is None else [self.matcher.up.weight]
        for tensor in (self.prompts, self.codec.gather.weight, *matcher):
            weights.update(tensor.detach().float().cpu().numpy().tobytes())
        return weights.hexdigest()

    def _ids(self, image: int, times: int = 1) -> Int[Tensor, "tokens 4"]:
        size = self.codec.config
        ids = grid_ids(size.rows, size.columns, image=image).to(self.prompts.device)
        return ids.repeat(times, 1)

    def _example_ids(self, tokens: int) -> Int[Tensor, "tokens 4"]:
        return self._ids(EXAMPLE_IMAGE, tokens // self.codec.latent_shape[0])

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
            joint_attention_kwargs=attention_kwargs(self.transformer, attention_context),
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
        cache = KVCache()
        if photos.shape[1]:
            pairs = torch.cat((photos, latents.to(photos.dtype)), dim=-1)
            if joint:
                pairs = rearrange(pairs, "g k n c -> g 1 (k n) c")
            no_text = self.prompts[:1, :0].to(photos.dtype).expand(len(photos), -1, -1)
            ids = self._example_ids(pairs.shape[2])
            t = pairs.new_zeros(pairs.shape[:2])
            context = AttentionContext(cache=cache)
            self._forward(pairs, t, no_text, ids=ids, attention_context=context)
        return cache

    def place_examples(
        self,
        cache: KVCache,
        *,
        groups: int,
        visible: Bool[Tensor, "groups queries examples"] | None = None,
    ) -> AttentionContext:
        """Let queries see the examples of their group; all share one place, so order is free."""
        if not cache.keys:
            return AttentionContext()
        sequences, length = cache.keys[0].shape[:2]
        rotary = self.transformer.pos_embed(self._example_ids(sequences * length // groups))
        return AttentionContext((cache.rotated(rotary, groups=groups, visible=visible),))

    def velocity(
        self,
        noisy: Float[Tensor, "groups queries tokens map_channels"],
        t: Float[Tensor, "groups queries"],
        photos: Float[Tensor, "groups queries tokens features"],
        *,
        text: Float[Tensor, "groups length width"],
        attention_context: AttentionContext,
        examples: Float[Tensor, "groups example_tokens channels"] | None = None,
    ) -> Float[Tensor, "groups queries tokens map_channels"]:
        """Predict noise - data for the maps of queries, given the context of their examples.

        In the mode `full` there is none: `examples` are the tokens of a group's examples, which
        join the sequence of each of its queries.
        """
        tokens = torch.cat((photos, noisy.to(photos.dtype)), dim=-1)
        ids = self._ids(QUERY_IMAGE)
        if examples is not None:
            ids = torch.cat((ids, self._example_ids(examples.shape[1])))
            examples = repeat(examples.to(tokens.dtype), "g n c -> g q n c", q=tokens.shape[1])
            tokens = torch.cat((tokens, examples), dim=2)
        velocity = self._forward(
            tokens, t, text.to(tokens.dtype), ids=ids, attention_context=attention_context
        )
        return velocity[:, :, : noisy.shape[2]]
