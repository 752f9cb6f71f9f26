"""Measure ways to choose examples: error against shots, and against the size of the bank."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Choose from banks of views of worlds never seen, and of the Earth; a stopped run goes on."""

    model: str = "tiny"
    """A name, or a checkpoint folder."""
    features: tuple[str, ...] = ("tiny", "pixels")
    """What photos are compared by: pixels, tiny, efficientnet-lite0, or a model of transformers."""
    device: str = "cpu"
    """Where they run."""
    held_out: int = 10
    """Episodes of families that were held out of training, each in a world of its own."""
    earth: int = 6
    """Episodes of Blue Marble."""
    queries: int = 12
    """Queries of an episode."""
    bank: int = 256
    """Examples to choose from."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of examples to show."""
    banks: tuple[int, ...] = (100, 1000)
    """Sizes of banks to compare with 16 shots, drawn like the photos and on an even grid."""
    bank_worlds: int = 4
    """Worlds of each kind for that; 0 leaves it out."""
    bank_queries: int = 12
    """Queries in each."""
    seed: int = 0
    """Of worlds and views."""
    name: str = "selections"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate; print and write tables as Markdown and Parquet, and figures."""
    from icgeo import features, plots
    from icgeo.evaluation import banks, scores, world_episode
    from icgeo.evaluation.benchmarks import EARTH
    from icgeo.evaluation.evidence import HELD_OUT
    from icgeo.geolocator import Geolocator
    from icgeo.options import UNKNOWN

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    locator = Geolocator(options.model, prompt=UNKNOWN, device=options.device)
    opened = {name: features.open(name, device=options.device) for name in options.features}
    take = partial(world_episode, queries=options.queries, shots=options.bank, seed=options.seed)
    counts = {HELD_OUT: options.held_out, EARTH: options.earth}
    episodes = (take(*world) for world in banks.numbered(counts))
    if rows := banks.compare_ways(locator, opened, episodes, folder=folder, shots=options.shots):
        print(banks.write_comparison(folder, rows, name="strategies"))
        plots.plot_shots(scores(rows), log=True).savefig(folder / "strategies.png", dpi=150)

    fill = partial(
        banks.world_with_banks, queries=options.bank_queries, sizes=options.banks, seed=options.seed
    )
    counts = dict.fromkeys(counts, options.bank_worlds if options.banks else 0)
    worlds = (fill(*world) for world in banks.numbered(counts))
    if rows := banks.compare_banks(locator, opened, worlds, folder=folder / "banks"):
        print(banks.write_comparison(folder, rows, name="banks"))
        figure = plots.plot_shots(scores(rows), label="examples in the bank", log=True)
        figure.savefig(folder / "banks.png", dpi=150)


if __name__ == "__main__":
    config.run(main, Options)
