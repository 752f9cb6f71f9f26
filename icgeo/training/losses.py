"""The losses of training: flow matching, for every architecture and layout, and matching of photos.

Conventions: velocity = noise - data, on the map's tokens; photos and maps are encoded once, to
latents on the CPU that the loss picks from. Where a layout can leave one out (`stacked`, and
`references` and `pair` in `pairwise`), all pairs of an episode are targets in one pass, each hidden
from itself; elsewhere the first pair is the target, and the pairs that it sees are its examples.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from icgeo import maps, sampling, sphere
from icgeo.config import UsageError
from icgeo.models.layouts.references import References
from icgeo.models.layouts.stacked import Stacked
from icgeo.models.map_model import MapModel
from icgeo.training.episodes import EpisodeSample
from icgeo.training.photo_sets import PhotoSet
from icgeo.writing import write_atomically

AT_ONCE = 64
"""Photos encoded at a time."""
REST = 0.1
"""Weight of what is drawn beside the map, where examples are drawn again: it must stay in place,
but is no answer."""
OVERLAP_DEG = 12.0
"""How far apart views still count as overlapping."""


def mix(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the point at time t between data and noise."""
    return (1 - t) * data + t * noise


def flow_error(velocity: Tensor, noise: Tensor, data: Tensor) -> Float[Tensor, ""]:
    """Return the mean squared error of velocities, in float32 at least."""
    dtype = torch.promote_types(velocity.dtype, torch.float32)
    return (velocity.to(dtype) - (noise - data).to(dtype)).square().mean()


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
    logits = scale * descriptors @ descriptors.transpose(1, 2)
    log_share = logits.masked_fill(itself, -1e4).log_softmax(dim=-1)
    weight = target.sum(-1)
    has_overlap = weight > 0.2
    loss = -(target * log_share).sum(-1) / weight.clamp_min(1e-6)
    return (loss * has_overlap).sum() / has_overlap.sum().clamp_min(1)


@dataclass(frozen=True)
class Latents:
    """What is encoded of a photo set, on the CPU: `photos`, `maps` or `places`, and `features`.

    Wrapped, because data-parallel training would move a bare dict to the GPU whole at each step.
    """

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def examples(self) -> Tensor:
        """What is shown of pairs beside their photos: maps, or pictures of both."""
        return self.tensors.get("pairs", self.tensors["maps"])


class FlowLoss(nn.Module):
    """The loss of adapting a model; `transformer` is what is adapted."""

    def __init__(self, model: MapModel, prompt: str) -> None:
        """Raise UsageError for a mode that cannot be trained, or a prompt that is unknown."""
        super().__init__()
        settings = model.settings
        if prompt not in settings.prompts:
            raise UsageError(f"expected a prompt of {settings.prompts}, got {prompt!r}")
        if settings.layout == "stacked" and settings.attention != "pairwise":
            raise UsageError(
                f"expected attention 'pairwise' to adapt this model, got {settings.attention!r}"
            )
        self.model, self.prompt = model, prompt
        self.transformer = model.backbone.transformer

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.transformer.parameters()).device

    @torch.no_grad()
    def encode(self, photo_set: PhotoSet) -> Latents:
        """Encode photos and maps; where that depends on others beside them, describe them alone."""
        layout, encoded_parts = self.model.layout, []
        for start in range(0, len(photo_set), AT_ONCE):
            part = photo_set[start : start + AT_ONCE]
            photos = part.photos / 255
            latents = {"photos": part.photos, "places": part.lat_lon}
            if layout.encodes_apart:
                map_pixels = maps.draw(part.lat_lon, self.model.settings.style)
                latents = layout.encode_apart(photos, map_pixels)
            encoded_parts.append({**latents, "features": layout.describe(photos)})
        names = encoded_parts[0]
        return Latents({name: torch.cat([x[name] for x in encoded_parts]).cpu() for name in names})

    def forward(self, latents: Latents, episodes: Sequence[EpisodeSample]) -> Float[Tensor, ""]:
        """Return the mean loss of episodes."""
        is_pairwise = self.model.settings.attention == "pairwise"
        if is_pairwise and self.model.layout.encodes_apart:
            return self._leave_one_out(latents, episodes)
        return torch.stack([self._one_target(latents, episode) for episode in episodes]).mean()

    def _prompt(self, episode: EpisodeSample) -> str:
        return self.prompt if episode.has_text or self.model.layout.takes_groups else ""

    def _times(self, t: Tensor, shots: int) -> Tensor:
        return sampling.shifted(t, self.model.layout.shift(shots, self.model.settings.steps))

    def _leave_one_out(self, latents: Latents, episodes: Sequence[EpisodeSample]) -> Tensor:
        """Return the loss of all pairs at once."""
        layout, device = cast(Stacked | References, self.model.layout), self.device
        pairs = torch.stack([episode.pairs for episode in episodes])
        photos, data = (latents[name][pairs].to(device) for name in ("photos", "maps"))
        noise = torch.stack([episode.noise(*data.shape[1:]) for episode in episodes]).to(data)
        t = torch.stack([episode.t for episode in episodes])
        if not layout.takes_groups:
            t = t[:, :1].expand_as(t)
        t = self._times(t, pairs.shape[1]).to(device)
        visible = torch.stack([episode.visible for episode in episodes]).to(device)
        noisy, prompts = mix(data, noise, t[..., None, None]), [*map(self._prompt, episodes)]
        examples = latents.examples[pairs].to(device)
        velocity = layout.leave_one_out(photos, examples, noisy, t, visible, prompts)
        return flow_error(velocity, noise, data)

    def _one_target(self, latents: Latents, episode: EpisodeSample) -> Tensor:
        """Return the loss of the first pair; the pairs that it sees are its examples."""
        layout, examples = self.model.layout, episode.pairs[episode.visible[0]]
        shots = len(examples)
        context, queries, data = self._encoded(latents, examples, episode.pairs[:1])
        noise, t = episode.noise(*data.shape).to(data), self._times(episode.t[0], shots).item()
        predict = layout.predictor(context, shots, queries)
        noisy = mix(data, noise, data.new_tensor(t))
        velocity = predict(noisy[:, None], t, layout.text(self._prompt(episode), shots))[:, 0]
        of_map = flow_error(*(layout.answer(part, shots) for part in (velocity, noise, data)))
        if layout.is_one_picture:
            return of_map + REST * flow_error(velocity, noise, data)
        return of_map

    def _encoded(
        self, latents: Latents, examples: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return the context of the examples, the encoded query and its encoded answer."""
        layout: Any = self.model.layout
        if layout.encodes_apart:
            photos, answers = (latents[name].to(self.device) for name in ("photos", "maps"))
            example_latents = latents.examples[examples].to(self.device)
            context = layout.keep(photos[examples], example_latents) if len(examples) else {}
            return context, photos[target], answers[target]
        pairs = torch.cat((examples, target))
        photos = latents["photos"][pairs] / 255
        answers = maps.draw(latents["places"][pairs], self.model.settings.style)
        context = layout.encode_pairs(photos[:-1], answers[:-1]) if len(examples) else {}
        with torch.no_grad():
            queries = layout.encode_queries(context, photos[-1:])
            return context, queries, layout.encode_answers(context, photos[-1:], answers[-1:])


def encoded(loss: FlowLoss, photo_set: PhotoSet, folder: Path) -> Latents:
    """Encode a photo set, or read it from the folder, where the name is a key of all it needs."""
    model, settings = loss.model, loss.model.settings
    key = hashlib.blake2b(digest_size=16)
    weights = model.backbone.codec.state_dict().values()
    for tensor in (photo_set.photos, photo_set.lat_lon, *weights):
        key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    description = json.dumps((settings.style.to_dict(), settings.layout, settings.photo_size))
    key.update((description + model.fingerprint["dtype"]).encode())
    path = folder / f"latents-{key.hexdigest()}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        latents = {name: x.contiguous() for name, x in loss.encode(photo_set).tensors.items()}
        with write_atomically(path) as partial_path:
            save_file(latents, partial_path)
    return Latents(load_file(path))
