"""Train the encoder of parts of the model in the box, and fit how alike parts become evidence."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Options of training the encoder of parts; real bodies need the extra [pretraining]."""

    name: str = "pretrain-parts"
    """Run folder under runs/; a run that was stopped continues from its last checkpoint."""
    base: str = "tiny"
    """Checkpoint that gets the encoder: a name or a folder."""
    anew: bool = False
    """Start from random weights, not from the encoder of `base`."""
    steps: int = 4500
    """Batches of 6 worlds and 32 views in all; 0.8 seconds each on one core."""
    learning_rate: float = 2e-3
    """Peak of the learning rate."""
    worlds_per_family: int = 120
    """Procedural worlds of each training family."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    seed: int = 0
    """Key of weights, worlds and episodes."""


def main(options: Options) -> None:
    """Train, fit, export."""
    import torch

    from icgeo.models import load
    from icgeo.models.matching import LocalEncoder
    from icgeo.training.calibration import fit_matching
    from icgeo.training.episodes import VALIDATION_BODIES, WorldBank
    from icgeo.training.loop import keep_freed_memory, train
    from icgeo.training.parts import PartTraining

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    torch.set_flush_denormal(True)
    keep_freed_memory()
    bank = WorldBank.build(folder, per_family=options.worlds_per_family, seed=options.seed)
    torch.manual_seed(options.seed)
    model = load(options.base)
    start = None if options.anew else model.matcher
    encoder = (start or LocalEncoder()).train().requires_grad_(True)
    run = PartTraining(
        encoder.to(options.device),
        bank.with_bodies().to(options.device),
        folder,
        options.steps,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    train(run, options.steps, validate_every=500, save_every=100, log_every=100)
    backbone: Any = model.backbone
    backbone.matcher = run.average.module.cpu().eval().requires_grad_(False)
    backbone.domain = None  # of the old encoder; scripts/assets/domain.py fits it anew
    calibration_bank = WorldBank.build(folder, per_family=8, seed=options.seed + 2_000_000)
    calibration_bank = calibration_bank.with_bodies(VALIDATION_BODIES)
    matching = fit_matching(model.describe_parts, calibration_bank, seed=options.seed + 3)
    model = replace(model, settings=replace(model.settings, matching=matching))
    model.save(folder / "checkpoint")
    print(f"{matching}\nsaved {folder / 'checkpoint'}")


if __name__ == "__main__":
    config.run(main, Options)
