"""Measure what frames of an orbit's track gain from each other, on the Earth and unknown worlds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icgeo
from icgeo import config
from icgeo.options import ModelOptions, fields_of


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Evaluate clips at 27,600 km/h, one frame a minute; a run that was stopped goes on."""

    clips: int = 30
    """Clips of the Earth without examples, and as many of worlds of held-out families."""
    frames: int = 8
    """Frames of a clip."""
    shots: int = 16
    """Examples of each unknown world."""
    speed_kmh: float = 40_300.0
    """Speed limit that the filter is told, in km/h; by default what escapes the Earth."""
    seed: int = 0
    """Seed of worlds and tracks."""
    name: str = "clips"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate, print and write `clips.md`."""
    from tqdm import tqdm

    from icgeo.data.worlds import HELD_OUT_FAMILIES
    from icgeo.evaluation import evaluate_sequences, to_markdown, world_episode
    from icgeo.evaluation.episodes import EARTH, name_groups

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    model = icgeo.load(**fields_of(ModelOptions, options))
    families = [HELD_OUT_FAMILIES[number % 2] for number in range(options.clips)]
    runs = []
    for number, world in enumerate(tqdm([EARTH] * options.clips + families, leave=False)):
        shots = 0 if world == EARTH else options.shots
        views = {"queries": options.frames, "shots": shots, "seed": options.seed}
        episode = world_episode(world, number, **views, is_clip=True)
        runs.append((icgeo.Geolocator(model, prompt=episode.prompt), episode))
    rows = evaluate_sequences(runs, folder=folder, speed_kmh=options.speed_kmh)
    table = to_markdown(score_clips(name_groups(rows)))
    (folder / "clips.md").write_text(table + "\n", encoding="utf-8")
    print(table)


def score_clips(rows: Any) -> Any:
    """Score frames alone, smoothed frames and whole clips by world, and against frames alone.

    Clips have equally many frames, so that resampling the means of clips resamples clips whole.
    """
    from pandas import DataFrame

    from icgeo.evaluation import METRICS, compare
    from icgeo.evaluation.scores import GUESS_KM, format_differences
    from icgeo.evaluation.sequences import SMOOTHED, WHOLE

    is_located = rows.distance_km.notna()
    rows = rows.assign(distance_km=rows.distance_km.fillna(GUESS_KM), answered=is_located)
    lines = []
    for (world, shots), part in rows.groupby(["world", "shots"], sort=False):
        frame_locator = next(name for name in part.locator if name not in (SMOOTHED, WHOLE))
        values = ["shots", "distance_km", "nll"]
        clips = part.groupby(["locator", "episode"], sort=False)[values].mean().reset_index()
        clips = clips.assign(id=WHOLE)
        differences = compare(clips, frame_locator, metrics=("mean_km", "nll"), resamples=10_000)
        for name in (frame_locator, SMOOTHED, WHOLE):
            frames, difference = (
                part[part.locator == name],
                differences[differences.locator == name],
            )
            km, nll = METRICS["mean_km"](frames), METRICS["nll"](frames)
            scores = [f"{frames.answered.mean():.0%}", f"{km:.0f}", f"{nll:.2f}"]
            forms = {"mean_km": ".0f", "nll": ".2f"}
            cells = [format_differences(difference, *form)[0] for form in forms.items()]
            label, cells = ("frames alone", ["", ""]) if name == frame_locator else (name, cells)
            lines.append((world, shots, frames.episode.nunique(), label, *scores, *cells))
    header = ["world", "shots", "clips", "what", "located", "mean km", "NLL"]
    return DataFrame(lines, columns=[*header, "km beyond alone", "NLL"])


if __name__ == "__main__":
    config.run(main, Options)
