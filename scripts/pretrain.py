"""Pretrain the tiny model from scratch, calibrate it and save it as a checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Options of pretraining."""

    name: str = "pretrain"
    """Run folder under runs/; a run that was stopped continues from its last checkpoint."""
    start: Path | None = None
    """Checkpoint folder whose weights to start from, of the same sizes; None means from scratch."""
    steps: int = 7000
    """Batches in all."""
    match_steps: int = 2500
    """First batches, in which the photo encoder learns alone."""
    learning_rate: float = 2e-3
    """Peak of the learning rate."""
    worlds: int = 16
    """Episodes a batch."""
    heads: int = 6
    """Attention heads of 32 channels."""
    single_layers: int = 5
    """Single-stream blocks, after one double-stream block."""
    worlds_per_family: int = 240
    """Procedural worlds of each training family."""
    device: str = "cpu"
    """Where to train: cpu or cuda."""
    compiled: bool = False
    """Compile the blocks: a minute or two at the start, then faster steps."""
    seed: int = 0
    """Key of weights, worlds and episodes."""


def main(options: Options) -> None:
    """Train, calibrate, export."""
    from icgeo.models.backbones.tiny import TinyBackbone
    from icgeo.models.map_model import MapModel
    from icgeo.training.calibration import calibrate
    from icgeo.training.episodes import EpisodeOptions, WorldBank
    from icgeo.training.loop import keep_freed_memory, train
    from icgeo.training.pretrain import SETTINGS, Pretraining, build_learner

    may_differ = ("device", "compiled")
    folder = config.save_run(Path("runs") / options.name, options, may_differ=may_differ)
    keep_freed_memory()
    bank = WorldBank.build(folder, per_family=options.worlds_per_family, seed=options.seed)
    learner = build_learner(
        heads=options.heads, single_layers=options.single_layers, seed=options.seed
    )
    if options.start:
        learner.load_state_dict(TinyBackbone.load(options.start).state_dict())
    run = Pretraining(
        learner.to(options.device),
        bank.to(options.device),
        folder,
        options.learning_rate,
        options.steps,
        episodes=EpisodeOptions(worlds=options.worlds),
        match_steps=options.match_steps,
        seed=options.seed,
        compiled=options.compiled,
    )
    train(run, options.steps, validate_every=500, save_every=250, log_every=100)
    model = MapModel(learner.cpu().eval().requires_grad_(False), SETTINGS)
    calibration_bank = WorldBank.build(folder, per_family=8, seed=options.seed + 2_000_000)
    calibrate(model, calibration_bank, seed=options.seed + 3).save(folder / "checkpoint")
    print(f"saved {folder / 'checkpoint'}")


if __name__ == "__main__":
    config.run(main, Options)
