"""Pretraining of the tiny model from scratch, on views from orbit.

First the photo encoder learns alone that overlapping views are alike, then all parts learn to draw
maps. The state is saved as a whole, so that a run killed at any moment continues from its last
checkpoint with the same random stream.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import Flux2Transformer2DModel
from torch import Generator, Tensor, nn

from icgeo import maps, sphere
from icgeo.models.backbones.tiny import PatchCodec, TinyBackbone
from icgeo.models.layouts.stacked import Stacked
from icgeo.models.settings import Settings
from icgeo.sphere.healpix import cell_xyz
from icgeo.training import loop
from icgeo.training.episodes import (
    PROMPTS,
    EpisodeOptions,
    Episodes,
    WorldBank,
    draw_times,
    sample_episodes,
)
from icgeo.training.losses import flow_error, match_loss, mix

SHARPNESS = 1.2
"""Weight of normalised queries and keys at the start; the logit of equals is 8."""

STYLE = maps.MapStyle(height=32, width=64, sigma_deg=(40.0, 16.0, 7.0))
SETTINGS = Settings(STYLE, PROMPTS, PROMPTS[0], worlds=PROMPTS)


def build_learner(
    *,
    heads: int = 6,
    single_layers: int = 5,
    photo_channels: int = 48,
    codec_places: int = 4000,
    seed: int = 0,
) -> TinyBackbone:
    """Make an untrained learner whose attention begins as similarity.

    Its codec is fitted to the maps of `codec_places` places.

    Raises:
        ValueError: tokens have more channels than the transformer is wide.
    """
    torch.manual_seed(seed)
    codec = PatchCodec(photo_channels=photo_channels)
    features = 3 * photo_channels
    channels = features + codec.config.map_channels
    if channels > 32 * heads:
        raise ValueError(
            f"expected at most {32 * heads} channels a token for {heads} heads, got {channels}; "
            "take more heads or fewer photo_channels"
        )
    xyz = sphere.sample_uniform(codec_places, generator=Generator().manual_seed(seed))
    codec.fit_maps(maps.draw(sphere.to_lat_lon(xyz), STYLE).float())
    transformer = Flux2Transformer2DModel(
        in_channels=channels,
        out_channels=codec.config.map_channels,
        num_layers=1,
        num_single_layers=single_layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=64,
        timestep_guidance_channels=64,
        axes_dims_rope=(4, 8, 8, 12),
        guidance_embeds=False,
    )
    _start_as_similarity(transformer, slice(photo_channels, features))
    return TinyBackbone(transformer, codec, torch.randn(len(PROMPTS), 2, 64))


@torch.no_grad()
def _start_as_similarity(transformer: Flux2Transformer2DModel, descriptor: slice) -> None:
    """Let attention begin as similarity of photos.

    Tokens enter the residual stream unmixed; queries and keys start equal and read the photo's
    descriptor alone, so that like attends to like, sharply. What is then copied, and where it is
    written, is learned. The outputs start small, so that a block begins near the identity.
    """
    entry = transformer.x_embedder.weight
    entry.copy_(torch.eye(*entry.shape))
    for name, weight in transformer.named_parameters():
        if "modulation" in name or "proj_out" in name or "norm_out" in name:
            weight.mul_(0.1 if "out" in name else 0.3)
        if "norm_q" in name or "norm_k" in name:
            weight.fill_(SHARPNESS)
    double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
    pairs = [(block.attn.to_q.weight, block.attn.to_k.weight) for block in double]
    products = [block.attn.to_qkv_mlp_proj.weight for block in single]
    for query, key in pairs + [each.split(transformer.inner_dim)[:2] for each in products]:
        query.mul_(0.1)
        query[:, descriptor] = torch.randn_like(query[:, descriptor]) / query.shape[1] ** 0.5
        key.copy_(query)


@dataclass(eq=False)
class Pretraining:
    """The state of a run: what learns, how, and where it stands."""

    learner: TinyBackbone
    bank: WorldBank
    folder: Path
    learning_rate: float
    """Peak of the learning rate: after a warm-up, until it falls linearly to a fiftieth."""
    steps: int
    warmup: int = 100
    fall: float = 0.35
    """Share of the steps over which the learning rate falls."""
    episodes: EpisodeOptions = field(default_factory=EpisodeOptions)
    match_steps: int = 400
    """First steps, in which the photo encoder learns alone."""
    match_weight: float = 0.05
    share_at_t1: float = 0.6
    """Share of targets at exactly t = 1."""
    seed: int = 0
    compiled: bool = False
    """Compile the blocks: a minute or two at the start, then faster steps."""
    step: int = 0
    has_stopped: ClassVar[bool] = False
    state_file: ClassVar[str] = "state.pt"

    def __post_init__(self) -> None:
        self.device = self.learner.prompts.device
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0), device=self.device))
        parameters = [*self.learner.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.generator = Generator().manual_seed(self.seed + 1)
        self.parts: dict[str, Any] = {"learner": self.learner, "optimizer": self.optimizer}
        if self.compiled:
            # one variant a layer, for examples and for queries
            torch._dynamo.config.recompile_limit = 64
            self.learner.transformer.compile_repeated_blocks(dynamic=False)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        peak, rise = self.learning_rate, self.warmup
        return loop.annealed_rate(step, self.steps, peak=peak, warmup=rise, fall=self.fall)

    def update(self) -> dict[str, float]:
        """Take one step on a fresh batch of episodes."""
        is_matching = self.step < self.match_steps
        options = self.episodes.at(self.step / self.steps)
        if is_matching:  # the photo encoder alone: fewer worlds, more views of each
            options = replace(options, worlds=max(1, options.worlds // 2), views=48, near_share=0.5)
        episodes = sample_episodes(self.bank, options, generator=self.generator)
        with loop.autocast(self.device):
            terms = self.losses(episodes)
        loss = terms["match"] * (1.0 if is_matching else self.match_weight)
        loss = loss + terms.get("flow", 0.0)
        loop.descend(self.optimizer, loss, self.learner.parameters(), self.rate(self.step))
        self.step += 1
        return {name: term.item() for name, term in terms.items()}

    def losses(self, episodes: Episodes) -> dict[str, Tensor]:
        """Return the losses of a batch of episodes: of matching alone, then of drawing too."""
        generator, terms = self.generator, {}
        if self.step < self.match_steps:
            _, descriptors = self._encode_photos(episodes.photos)
        else:
            shape = episodes.xyz.shape[:2]
            t = draw_times(*shape, share_at_t1=self.share_at_t1, generator=generator)
            noise = torch.randn(*shape, *self.learner.codec.latent_shape, generator=generator)
            noise, t = noise.to(self.device), t.to(self.device)
            latents, velocity, descriptors = self._predict(episodes, noise, t)
            terms["flow"] = flow_error(velocity, noise, latents)
        return {**terms, "match": match_loss(descriptors, episodes.xyz, self.log_scale.exp())}

    def _encode_photos(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Encode photos [worlds, views, ...] to token features and descriptors."""
        images = photos.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        features, descriptor = self.learner.codec.encode_photos(images)
        shape = photos.shape[:2]
        return features.unflatten(0, shape), descriptor.float().unflatten(0, shape)

    def _predict(self, episodes: Episodes, noise: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Run episodes through the model: every view is a query and an example to others.

        Return true latents and predicted velocity, both [worlds, views, tokens, channels], and the
        photos' descriptors.
        """
        with torch.no_grad():
            lat_lon = sphere.to_lat_lon(episodes.xyz)
            latents = self.learner.codec.encode_maps(maps.draw(lat_lon, STYLE).to(noise))
        features, descriptors = self._encode_photos(episodes.photos)
        noisy = mix(latents, noise, t[..., None, None])
        prompts = [PROMPTS[number] for number in episodes.prompt.tolist()]
        layout = Stacked(self.learner, SETTINGS)
        velocity = layout.leave_one_out(features, latents, noisy, t, episodes.visible, prompts)
        return latents, velocity.float(), descriptors

    save, resume, log = loop.save_state, loop.load_state, loop.append_log

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the median error in km of the single best place, by kind of world and shots."""
        earth = EpisodeOptions(
            worlds=12, views=24, earth_share=1.0, real_share=0.0, cap_share=0.0, near_share=0.0
        )
        unknown = replace(earth, worlds=24, earth_share=0.0)
        held_out_bank = WorldBank.build_held_out(self.folder).to(self.device)
        errors: dict[str, float] = {}
        self.learner.eval()
        map_pixels = maps.draw(sphere.to_lat_lon(cell_xyz(16).float()), STYLE)
        templates = self.learner.codec.encode_maps(map_pixels.to(self.device, torch.float32))
        for kind, bank, options, shots in (
            ("seen families", self.bank, unknown, (1, 16)),
            ("held-out families", held_out_bank, unknown, (1, 4, 16)),
            ("Earth", self.bank, earth, (0, 16)),
        ):
            generator = Generator().manual_seed(12345)
            episodes = sample_episodes(bank, options, generator=generator)
            for k in shots:
                error = self._median_error(episodes, k, templates.flatten(-2), generator)
                errors[f"{kind}, {k} shots"] = round(error)
        self.learner.train()
        return errors

    def _median_error(
        self, episodes: Episodes, shots: int, templates: Tensor, generator: Generator
    ) -> float:
        """Return the error of the single location whose drawing is nearest to the latents."""
        shape = episodes.xyz.shape[:2]
        is_example = torch.arange(shape[1], device=self.device) < shots
        episodes = replace(episodes, visible=is_example.expand(*shape, -1))
        noise = torch.randn(*shape, *self.learner.codec.latent_shape, generator=generator)
        noise, t = noise.to(self.device), torch.ones(shape, device=self.device)
        with torch.compiler.set_stance("force_eager"), loop.autocast(self.device):
            _, velocity, _ = self._predict(episodes, noise, t)
        queries = slice(16, None)
        latents = (noise - velocity)[:, queries].flatten(-2)
        scores = latents @ templates.T - templates.square().sum(-1) / 2
        xyz = cell_xyz(16).to(latents)[scores.argmax(-1)]
        radians = sphere.angle(xyz, episodes.xyz[:, queries])
        return sphere.EARTH_RADIUS_KM * radians.median().item()
