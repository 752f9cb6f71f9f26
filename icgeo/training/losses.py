"""The flow-matching loss of adapting a model, for every architecture and layout.

Conventions: velocity = noise - data, on the map's tokens; photos and maps are encoded once, to
latents on the CPU that the loss picks from. Where examples are kept apart (`stacked`; `references`
in `pairwise`) all pairs of an episode are targets in one pass, each hidden from itself; elsewhere
the first pair of an episode is the target, and the pairs that it sees are its examples.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from icgeo import maps, sampling
from icgeo.config import UsageError
from icgeo.models.backbones.tiny import StackedMapModel
from icgeo.models.instructions import instruction
from icgeo.models.layouts.references import References
from icgeo.models.map_model import MapModel
from icgeo.models.pipelines import PipelineMapModel
from icgeo.training.episode_sampling import EpisodeSample
from icgeo.training.photo_sets import PhotoSet
from icgeo.writing import write_atomically

AT_ONCE = 64
"""Photos encoded at a time."""
REST = 0.1
"""Weight of what is drawn beside the map, where examples are drawn again: it must stay in place,
but is no answer."""


@dataclass(frozen=True)
class Latents:
    """Encoded photos and maps of a pool, by name; on the CPU, from where each step takes its own.

    Wrapped, because data-parallel training would move a bare dict to the GPU whole at each step.
    """

    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        """Give what is encoded of all photos: `photos`, `maps` or `places`, and `features`."""
        return self.tensors[name]


def objective_of(model: MapModel, prompt: str) -> "Objective":
    """Return the loss of a model.

    Raises:
        UsageError: a model of another package, or a prompt that it does not know.
    """
    if prompt not in model.settings.prompts:
        raise UsageError(f"expected a prompt of {model.settings.prompts}, got {prompt!r}")
    if isinstance(model, StackedMapModel):
        if model.settings.attention != "pairwise":
            raise UsageError(
                f"expected attention 'pairwise' to adapt this model, got "
                f"{model.settings.attention!r}"
            )
        return StackedObjective(model, prompt)
    if isinstance(model, PipelineMapModel):
        return PipelineObjective(model, prompt)
    raise UsageError(f"expected a model of icgeo to adapt, got {type(model).__name__}")


def _mixed(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    return (1 - t) * data + t * noise


def flow_error(found: Tensor, noise: Tensor, data: Tensor) -> Float[Tensor, ""]:
    """Return the mean squared error of velocities, in float32 at least."""
    exact = torch.promote_types(found.dtype, torch.float32)
    return (found.to(exact) - (noise - data).to(exact)).square().mean()


def _in_parts(encode: Callable[[PhotoSet], dict[str, Tensor]], pool: PhotoSet) -> dict[str, Tensor]:
    parts = [encode(pool[start : start + AT_ONCE]) for start in range(0, len(pool), AT_ONCE)]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


class StackedObjective(nn.Module):
    """The loss of a model whose pairs are stacked; episodes of a batch go through it at once."""

    def __init__(self, model: StackedMapModel, prompt: str) -> None:
        super().__init__()
        self.model, self.learner = model, model.learner
        self.prompt = model.settings.prompts.index(prompt)

    @property
    def transformer(self) -> nn.Module:
        """What is adapted."""
        return self.learner.transformer

    @torch.no_grad()
    def encode(self, pool: PhotoSet) -> Latents:
        """Encode photos and maps."""
        return Latents(_in_parts(self._encode, pool))

    def _encode(self, pool: PhotoSet) -> dict[str, Tensor]:
        codec, weight = self.learner.codec, self.learner.prompts
        photos, features = codec.encode_photos(pool.photos.to(weight.device, weight.dtype) / 255)
        drawn = maps.draw(pool.lat_lon, self.model.settings.style).to(weight)
        return {"photos": photos, "maps": codec.encode_maps(drawn), "features": features}

    def forward(self, latents: Latents, draws: Sequence[EpisodeSample]) -> Float[Tensor, ""]:
        """Return the mean loss of episodes."""
        learner, weight = self.learner, self.learner.prompts
        pairs = torch.stack([draw.pairs for draw in draws])
        photos, data = (latents[name][pairs].to(weight) for name in ("photos", "maps"))
        noise = torch.stack([draw.noise(*data.shape[1:]) for draw in draws]).to(weight)
        t = sampling.shifted(torch.stack([draw.t for draw in draws]), self.model.shift).to(weight)
        visible = torch.stack([draw.visible for draw in draws]).to(weight.device)
        kept = learner.encode_examples(photos, data)
        found = learner.velocity(
            _mixed(data, noise, rearrange(t, "e v -> e v 1 1")),
            t,
            photos,
            prompt=torch.full((len(draws),), self.prompt, device=weight.device),
            attention_context=learner.place_examples(kept, groups=len(draws), visible=visible),
        )
        return flow_error(found, noise, data)


class PipelineObjective(nn.Module):
    """The loss of a pretrained transformer, an episode after the other."""

    def __init__(self, model: PipelineMapModel, prompt: str) -> None:
        super().__init__()
        self.model, self.prompt = model, prompt
        self.transformer = model.backbone.pipeline.transformer

    @torch.no_grad()
    def encode(self, pool: PhotoSet) -> Latents:
        """Encode photos and maps; where a layout sets them in one picture, the photos alone.

        The features of a photo are its colours at 8 x 8 pixels.
        """
        small = functional.adaptive_avg_pool2d(pool.photos.float() / 255, 8).flatten(1)
        if not isinstance(self.model.layout, References):
            return Latents({"photos": pool.photos, "places": pool.lat_lon, "features": small})
        return Latents({**_in_parts(self._encode, pool), "features": small})

    def _encode(self, pool: PhotoSet) -> dict[str, Tensor]:
        encode = self.model.backbone.encode
        drawn = maps.draw(pool.lat_lon, self.model.settings.style)
        return {"photos": encode(pool.photos / 255), "maps": encode(drawn)}

    def forward(self, latents: Latents, draws: Sequence[EpisodeSample]) -> Float[Tensor, ""]:
        """Return the mean loss of episodes."""
        shown = self.model.layout
        if isinstance(shown, References) and shown.attention == "pairwise":
            found = [self._leave_one_out(shown, latents, draw) for draw in draws]
        else:
            found = [self._one_target(latents, draw) for draw in draws]
        return torch.stack(found).mean()

    def _told(self, draw: EpisodeSample, shots: int) -> Any:
        prompts, settings = self.model.backbone.prompts, self.model.settings
        words = instruction(self.prompt, shots=shots, layout=settings.layout)
        return prompts(words if draw.is_told else "")

    def _time(self, draw: EpisodeSample, shots: int) -> float:
        shift = self.model.layout.shift(shots, self.model.settings.steps)
        return sampling.shifted(draw.t[0], shift).item()

    def _leave_one_out(
        self, shown: References, latents: Latents, draw: EpisodeSample
    ) -> Float[Tensor, ""]:
        """Ask for all pairs at once; those without examples apart, for they are told otherwise."""
        device = next(self.transformer.parameters()).device
        photos, data = (latents[name][draw.pairs].to(device) for name in ("photos", "maps"))
        shots, t, visible = len(photos), self._time(draw, len(photos)), draw.visible.to(device)
        noise = draw.noise(*data.shape).to(data)
        sees = visible.any(dim=1)
        kept = shown.keep(photos, data) if sees.any() else {}
        errors = []
        for rows, count in ((sees, shots), (~sees, 0)):
            if rows.any():
                predict = shown.sharing(
                    kept if count else {},
                    count,
                    photos[rows],
                    visible=visible[rows] if count else None,
                )
                x = _mixed(data[rows], noise[rows], data.new_tensor(t))
                found = predict(x[:, None], t, self._told(draw, count))[:, 0]
                errors.append(flow_error(found, noise[rows], data[rows]) * rows.sum())
        return torch.stack(errors).sum() / shots

    def _one_target(self, latents: Latents, draw: EpisodeSample) -> Float[Tensor, ""]:
        """Ask for the first pair; the pairs that it sees are its examples."""
        shown, shots = self.model.layout, int(draw.visible[0].sum())
        kept, asked, data = self._shown(latents, draw.pairs[draw.visible[0]], draw.pairs[:1])
        t, noise = self._time(draw, shots), draw.noise(*data.shape).to(data)
        predict = shown.predictor(kept, shots, asked)
        x = _mixed(data, noise, data.new_tensor(t))
        found = predict(x[:, None], t, self._told(draw, shots))[:, 0]
        of_map = flow_error(*(shown.answer(part) for part in (found, noise, data)))
        if isinstance(shown, References):
            return of_map
        return of_map + REST * flow_error(found, noise, data)

    def _shown(
        self, latents: Latents, examples: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Give what is kept of the examples, the encoded query and its encoded answer."""
        shown = self.model.layout
        if isinstance(shown, References):
            device = next(self.transformer.parameters()).device
            photos, drawn = (latents[name].to(device) for name in ("photos", "maps"))
            kept = shown.keep(photos[examples], drawn[examples]) if len(examples) else {}
            return kept, photos[target], drawn[target]
        with torch.no_grad():
            pairs = torch.cat((examples, target))
            photos = latents["photos"][pairs] / 255
            drawn = maps.draw(latents["places"][pairs], self.model.settings.style)
            kept = shown.encode_pairs(photos[:-1], drawn[:-1]) if len(examples) else {}
            queries = shown.encode_queries(kept, photos[-1:])
            return kept, queries, shown.encode_answers(kept, photos[-1:], drawn[-1:])


Objective = StackedObjective | PipelineObjective
"""What a LoRA minimises; `transformer` is what is adapted."""


def encoded(objective: Objective, pool: PhotoSet, folder: Path) -> Latents:
    """Encode a pool, or find what was encoded before in the folder.

    It is kept under a key of everything that it depends on: pixels, places, the weights of the
    codec, the style of maps and the layout.
    """
    key = hashlib.blake2b(digest_size=16)
    for tensor in (pool.photos, pool.lat_lon, *_codec_weights(objective.model)):
        key.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    settings = objective.model.settings
    told = (settings.style.to_dict(), settings.layout, settings.photo_size)
    key.update(json.dumps(told).encode())
    key.update(str(objective.model.fingerprint["dtype"]).encode())
    path = folder / f"latents-{key.hexdigest()}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        latents = {name: x.contiguous() for name, x in objective.encode(pool).tensors.items()}
        with write_atomically(path) as partial:
            save_file(latents, partial)
    return Latents(load_file(path))


def _codec_weights(model: Any) -> list[Tensor]:
    is_stacked = isinstance(model, StackedMapModel)
    codec = model.learner.codec if is_stacked else model.backbone.pipeline.vae
    return (
        list(cast(nn.Module, codec).state_dict().values()) if hasattr(codec, "state_dict") else []
    )
