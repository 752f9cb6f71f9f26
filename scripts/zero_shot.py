"""Locate views from orbit, your photos or a video, from a few examples and without training."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from icgeo import config, evaluation, plots, report
from icgeo.data.worlds import HELD_OUT_FAMILIES
from icgeo.evaluation import SHOTS, Episode
from icgeo.evaluation.benchmarks import EARTH
from icgeo.geolocator import Geolocator
from icgeo.models import load


@dataclass(frozen=True)
class Options:
    """Locate fresh views of Blue Marble and of a world never seen, or your own photos."""

    queries: Path | None = None
    """Your photos (CSV, Parquet or a folder), instead of views of worlds."""
    examples: Path | None = None
    """Photos whose locations are known, in the same forms, to show with `queries` or `video`."""
    video: Path | None = None
    """A video instead: where each frame was taken, given all of them, and the whole."""
    speed_kmh: float | None = None
    """Speed limit of the camera of `video`, with room; inf for none."""
    every_seconds: float = 1.0
    """Time between the frames taken from `video`."""
    world: str | None = None
    """Beside Blue Marble: a family of procedural worlds, or a picture of a whole planet; by default
    one world of each family that the model in the box has never seen."""
    count: int = 64
    """Views of each world to locate."""
    shots: tuple[int, ...] = SHOTS
    """Numbers of examples; where no truth is known, the largest only."""
    model: str = "tiny"
    """A name, a checkpoint folder, or a hub id."""
    revision: str | None = None
    """Of a hub id."""
    adapter: str | None = None
    """A LoRA: a folder, a safetensors file, or a hub id."""
    attention: str | None = None
    """Who sees whom: full, joint or pairwise; by default the model's own."""
    layout: str | None = None
    """How examples are shown: references or panel; by default the model's own."""
    device: str = "cpu"
    """Where the model runs."""
    dtype: str | None = None
    """float32, bfloat16 or float16; by default float32 on the CPU, bfloat16 elsewhere."""
    quantization: str | None = None
    """Of the weights: nf4, fp8 or int8."""
    offload: str | None = None
    """What waits in the memory of the CPU: model by model, or group by group of blocks."""
    attention_backend: str = "native"
    """Kernel of attention: native, xformers or flash."""
    steps: int | None = None
    """Steps of the flow; by default the checkpoint's own."""
    samples: int | None = None
    """Maps drawn for each query; by default the checkpoint's own."""
    batch_size: int = 64
    """Queries at a time."""
    seed: int = 0
    """Of worlds, views and noise."""
    allow_outside: bool = False
    """Accept photos outside the folder of their manifest."""
    name: str = "zero-shot"
    """Run folder under runs/; a run that was stopped goes on."""


LOADING = (
    "revision", "adapter", "attention", "layout", "device", "dtype", "quantization", "offload",
    "attention_backend",
)  # fmt: skip


def gather(options: Options) -> list[Episode]:
    """Gather examples and queries: the user's, or of some worlds."""
    shots, seed, outside = max(options.shots), options.seed, options.allow_outside
    if options.video:
        if options.speed_kmh is None:
            raise config.UsageError(
                "expected --speed_kmh with --video: the speed limit of its camera"
            )
        take = partial(
            evaluation.video_episode, options.video, options.examples, allow_outside=outside
        )
        return [take(every_seconds=options.every_seconds, shots=shots, seed=seed)]
    if options.queries:
        take = partial(
            evaluation.photo_episode, options.queries, options.examples, allow_outside=outside
        )
        return [take(shots=shots, seed=seed)]
    worlds = (EARTH, options.world) if options.world else (EARTH, *HELD_OUT_FAMILIES)
    return [
        evaluation.world_episode(w, queries=options.count, shots=shots, seed=seed)
        for w in dict.fromkeys(worlds)
    ]


def main(options: Options) -> None:
    """Locate, print the table, write the run folder."""
    model = load(options.model, **{name: getattr(options, name) for name in LOADING})
    episodes = gather(options)
    Geolocator(model, samples=options.samples, batch_size=options.batch_size).require_memory(
        max(len(episode.examples) for episode in episodes)
    )
    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    ask = partial(Geolocator, model, steps=options.steps, samples=options.samples)
    runs = [(ask(prompt=episode.prompt, seed=options.seed), episode) for episode in episodes]
    if options.video and options.speed_kmh is not None:
        rows = evaluation.evaluate_clips(
            runs, folder=folder, speed_kmh=options.speed_kmh, frames_alone=False
        )
    else:
        rows = evaluation.evaluate(
            runs, folder=folder, shots=options.shots, batch_size=options.batch_size
        )
        plots.save_figures(folder, rows, runs, model.settings.style)
        report.save_cases(folder, rows, runs)
    print(evaluation.report(rows), f"\nwritten to {folder}", sep="\n")


if __name__ == "__main__":
    config.run(main, Options)
