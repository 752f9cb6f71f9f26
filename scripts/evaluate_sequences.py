"""Measure what frames of an orbit's track gain from each other, on the Earth and unknown worlds."""

from dataclasses import dataclass
from pathlib import Path

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Evaluate clips at 27,600 km/h, one frame a minute; a run that was stopped goes on."""

    model: str = "tiny"
    """A name, or a checkpoint folder."""
    device: str = "cpu"
    """Where the model runs."""
    clips: int = 30
    """Of the Earth without examples, and of worlds of families held out of training."""
    frames: int = 8
    """Of a clip."""
    shots: int = 16
    """Examples of each unknown world."""
    speed_kmh: float = 40_300.0
    """Speed limit that the filter is told, in km/h; by default what escapes the Earth."""
    seed: int = 0
    """Of worlds and tracks."""
    name: str = "clips"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate, print and write `clips.md`."""
    from tqdm import tqdm

    from icgeo.data.worlds import HELD_OUT_FAMILIES
    from icgeo.evaluation import evaluate_sequences, sequence_episode
    from icgeo.evaluation.benchmarks import EARTH
    from icgeo.evaluation.evidence import by_group
    from icgeo.evaluation.sequences import score_sequences, sequence_table
    from icgeo.geolocator import Geolocator
    from icgeo.models import load

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    model = load(options.model, device=options.device)
    families = (EARTH, *HELD_OUT_FAMILIES)
    worlds = [EARTH] * options.clips + [families[1 + n % 2] for n in range(options.clips)]
    runs = []
    for number, world in enumerate(tqdm(worlds, desc="worlds", leave=False)):
        shots = 0 if world == EARTH else options.shots
        episode = sequence_episode(
            world, number, frames=options.frames, shots=shots, seed=options.seed
        )
        runs.append((Geolocator(model, prompt=episode.prompt), episode))
    rows = evaluate_sequences(runs, folder=folder, speed_kmh=options.speed_kmh)
    table = sequence_table(score_sequences(by_group(rows)))
    (folder / "clips.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    config.run(main, Options)
