"""Training of the encoder of parts: cells that show the same place should be alike.

The renderer knows in which direction every pixel looks, so which cells of two views of a world show
the same is known exactly. Views of all kinds of worlds, real bodies among them, are drawn anew for
each step. The weights that are kept are an exponential moving average.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from icgeo.models.matching import LocalEncoder
from icgeo.training.episodes import EpisodeOptions, Episodes, WorldBank, sample_episodes
from icgeo.training.loop import annealed_rate, append_log, autocast, descend, load_state, save_state

EPISODES = EpisodeOptions(worlds=6, views=32, earth_share=0.0, real_share=0.4, mixed_share=0.3)
ANCHORS = 5
"""Cells of each view that are compared with all cells of the others."""
OVERLAP = 0.8
"""Distance at which two cells still show about the same, in sizes of the larger."""


def cell_directions(
    looks: Float[Tensor, "worlds views size size 3"], grid: int
) -> tuple[Float[Tensor, "worlds views cells 3"], Float[Tensor, "worlds views"]]:
    """Return the directions of the centres of cells, and the mean width of one in radians."""
    side = looks.shape[2] // grid
    centres = reduce(looks, "w v (h a) (x b) c -> w v h x c", "mean", a=side, b=side)
    centres = functional.normalize(centres, dim=-1)
    width = (centres[:, :, :, 1:] - centres[:, :, :, :-1]).norm(dim=-1).mean((2, 3))
    return rearrange(centres, "w v h x c -> w v (h x) c"), width


def contrast(
    cells: Float[Tensor, "worlds views cells channels"],
    looks: Float[Tensor, "worlds views size size 3"],
    scale: Float[Tensor, ""],
    *,
    generator: Generator,
) -> Float[Tensor, ""]:
    """Contrast some cells of each view with all cells of the other views of its world.

    InfoNCE (van den Oord et al. 2018, eq. 4) whose target is soft: a share that falls with the
    distance of what two cells show. Cells that are seen in no other view do not count.
    """
    views, count = cells.shape[1:3]
    directions, width = cell_directions(looks, math.isqrt(count))
    number = torch.randint(count, (*cells.shape[:2], ANCHORS, 1), generator=generator)
    number = number.to(cells.device)
    anchors, places = (x.take_along_dim(number, 2).flatten(1, 2) for x in (cells, directions))
    with torch.no_grad():
        chord = (2 - 2 * places @ directions.flatten(1, 2).mT).clamp_min(0)
        reach = OVERLAP * torch.maximum(
            width.repeat_interleave(ANCHORS, 1)[..., None],
            width.repeat_interleave(count, 1)[:, None],
        )
        view = torch.arange(views, device=cells.device)
        is_same = view.repeat_interleave(ANCHORS)[:, None] == view.repeat_interleave(count)
        target = torch.exp(-1.5 * chord / reach.square()).masked_fill(is_same, 0)
        is_seen = target.amax(-1) > 0.35
        target = target / target.sum(-1, keepdim=True).clamp_min(1e-6)
    logits = (scale * anchors @ cells.flatten(1, 2).mT).masked_fill(is_same, -1e4)
    loss = logits.logsumexp(-1) - (target * logits).sum(-1)
    return (loss * is_seen).sum() / is_seen.sum().clamp_min(1)


@dataclass(eq=False)
class PartTraining:
    """The state of a run: what learns, how, and where it stands."""

    encoder: LocalEncoder
    bank: WorldBank
    folder: Path
    steps: int
    learning_rate: float = 2e-3
    """Peak: after a warm-up of 100 steps, until it falls linearly over the last two fifths."""
    episodes: EpisodeOptions = field(default_factory=lambda: EPISODES)
    seed: int = 0
    step: int = 0
    has_stopped: ClassVar[bool] = False
    state_file: ClassVar[str] = "parts.pt"

    def __post_init__(self) -> None:
        self.device = self.encoder.device
        self.encoder.to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.encoder, multi_avg_fn=get_ema_multi_avg_fn(0.998))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0), device=self.device))
        parameters = [*self.encoder.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), fused=True)
        self.generator = Generator().manual_seed(self.seed + 1)
        self.parts: dict[str, Any] = {"encoder": self.encoder, "average": self.average}
        self.parts["optimizer"] = self.optimizer

    def loss(self, encoder: nn.Module, episodes: Episodes, generator: Generator) -> Tensor:
        """Return the loss of a batch."""
        with autocast(self.device):
            cells = encoder(episodes.photos.flatten(0, 1))
        cells = cells.unflatten(0, episodes.photos.shape[:2])
        return contrast(cells, episodes.looks, self.log_scale.exp(), generator=generator)

    def update(self) -> dict[str, float]:
        """Take one step on a fresh batch of episodes."""
        rate = annealed_rate(self.step, self.steps, peak=self.learning_rate, fall=0.4)
        # views near each other become fewer as training goes on
        near_share = self.episodes.near_share * (1.0 if self.step < self.steps / 2 else 0.7)
        options = replace(self.episodes, near_share=near_share)
        episodes = sample_episodes(self.bank, options, generator=self.generator)
        loss = self.loss(self.encoder, episodes, self.generator)
        descend(self.optimizer, loss, self.encoder.parameters(), rate)
        self.average.update_parameters(self.encoder)
        self.step += 1
        return {"contrast": loss.item()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss of the averaged weights on families that are not trained on."""
        generator = Generator().manual_seed(12345)
        bank = WorldBank.build_held_out(self.folder).to(self.device)
        options = replace(self.episodes, real_share=0.0, mixed_share=0.0)
        episodes = sample_episodes(bank, options, generator=generator)
        return {"held_out": self.loss(self.average, episodes, generator).item()}

    save, resume, log = save_state, load_state, append_log
