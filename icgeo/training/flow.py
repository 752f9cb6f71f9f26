"""Losses of pretraining: flow matching on map latents, and matching of overlapping photos."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from icgeo import maps, sphere
from icgeo.models.backbones.tiny import StackedFlux2
from icgeo.training.episodes import Episodes

OVERLAP_DEG = 12.0
"""How far apart views still count as overlapping."""


@dataclass(frozen=True)
class Losses:
    """What is minimised; both are means over the batch."""

    flow: Float[Tensor, ""]
    match: Float[Tensor, ""]


def draw_times(*shape: int, share_at_t1: float, generator: Generator) -> Float[Tensor, "*shape"]:
    """EpisodeSample times of the flow: exactly 1 with probability `share_at_t1`, else biased to the noise.

    At t = 1 the loss is the regression of the density, which one step then reads.
    """
    late = torch.rand(*shape, generator=generator).sqrt()
    return torch.where(torch.rand(*shape, generator=generator) < share_at_t1, torch.ones(()), late)


def match_loss(
    descriptors: Float[Tensor, "worlds views channels"],
    xyz: Float[Tensor, "worlds views 3"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Contrast photos of one world: the descriptors of overlapping views should be alike.

    InfoNCE (van den Oord et al. 2018, eq. 4) whose target is soft: a share that falls with the
    angle between two views. Views without any overlap do not count.
    """
    itself = torch.eye(xyz.shape[1], dtype=torch.bool, device=xyz.device)
    degrees = torch.rad2deg(sphere.angle(xyz[:, :, None], xyz[:, None]))
    target = torch.exp(-(degrees / OVERLAP_DEG).square()).masked_fill(itself, 0)
    alike = scale * descriptors @ descriptors.transpose(1, 2)
    log_share = alike.masked_fill(itself, -1e4).log_softmax(dim=-1)
    weight = target.sum(-1)
    has_overlap = weight > 0.2
    loss = -(target * log_share).sum(-1) / weight.clamp_min(1e-6)
    return (loss * has_overlap).sum() / has_overlap.sum().clamp_min(1)


def encode_photos(
    learner: StackedFlux2, photos: Float[Tensor, "worlds views 3 size size"]
) -> tuple[Tensor, Float[Tensor, "worlds views channels"]]:
    """Encode the photos of episodes to token features and descriptors."""
    flat = photos.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    features, descriptor = learner.codec.encode_photos(flat)
    shape = photos.shape[:2]
    return features.unflatten(0, shape), descriptor.float().unflatten(0, shape)


def predict_velocity(
    learner: StackedFlux2,
    style: maps.MapStyle,
    episodes: Episodes,
    noise: Float[Tensor, "worlds views tokens channels"],
    t: Float[Tensor, "worlds views"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run episodes through the model: every view is a query and an example to others.

    Returns:
        true latents and predicted velocity, both [worlds, views, tokens, channels], and the
        photos' descriptors.
    """
    with torch.no_grad():
        lat_lon = sphere.to_lat_lon(episodes.xyz)
        latents = learner.codec.encode_maps(maps.draw(lat_lon, style).to(noise))
    features, descriptors = encode_photos(learner, episodes.photos)
    kept = learner.encode_examples(features, latents)
    mix = t[..., None, None]
    velocity = learner.velocity(
        (1 - mix) * latents + mix * noise,
        t,
        features,
        prompt=episodes.prompt,
        attention_context=learner.place_examples(
            kept, groups=len(latents), visible=episodes.visible
        ),
    )
    return latents, velocity.float(), descriptors


def losses(
    learner: StackedFlux2,
    style: maps.MapStyle,
    episodes: Episodes,
    *,
    scale: nn.Parameter,
    share_at_t1: float,
    generator: Generator,
) -> Losses:
    """Flow-matching and matching loss of a batch of episodes."""
    shape = episodes.xyz.shape[:2]
    device = episodes.xyz.device
    t = draw_times(*shape, share_at_t1=share_at_t1, generator=generator).to(device)
    noise = torch.randn(*shape, *learner.codec.latent_shape, generator=generator)
    noise = noise.to(device)
    latents, velocity, descriptors = predict_velocity(learner, style, episodes, noise, t)
    flow = (velocity - (noise - latents)).square().mean()
    return Losses(flow, match_loss(descriptors, episodes.xyz, scale.exp()))
