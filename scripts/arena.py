"""Rate locators by pairs of their answers: python scripts/arena.py runs/one runs/other.

The nearer answer to each query wins. `--page` opens a page instead on which people vote without
knowing whose answers they see; `--votes` alone rates by the votes of such a file.
"""

from dataclasses import dataclass
from pathlib import Path

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Rate locators by their answers in run folders, or by votes."""

    runs: tuple[Path, ...] = config.positional("Run folders whose queries are the same.")
    page: bool = False
    """Open the page on which people vote; it needs the extra [demo]."""
    votes: Path | None = None
    """File of votes; that of the page is by default votes.jsonl in the first folder."""
    tie_km: float = 1.0
    """Errors that differ by less are a tie, where the nearer answer wins."""
    seed: int = 0
    """Seed of the order and the sides of answers, and of the bootstrap."""
    host: str = "127.0.0.1"
    """Address for the page to listen on; 0.0.0.0 lets in everyone who can reach this machine."""
    port: int = 7860
    """Port for the page to listen on; 0 takes any that is free."""


def main(options: Options) -> None:
    """Print ratings with intervals, or serve the page."""
    if options.page:
        serve_page(options)
        return
    import numpy as np

    from icgeo.evaluation.arena import (
        automatic_votes,
        ratings,
        ratings_table,
        read_runs,
        read_votes,
    )

    if options.votes:
        votes = read_votes(options.votes)
    elif options.runs:
        votes = [*automatic_votes(read_runs(options.runs), tie_km=options.tie_km)]
    else:
        raise config.UsageError("expected run folders, or --votes votes.jsonl; got neither")
    try:
        table = ratings(votes, generator=np.random.default_rng(options.seed))
    except ValueError as error:
        raise config.UsageError(str(error)) from error
    print(ratings_table(table))


def serve_page(options: Options) -> None:
    """Serve the page; votes of an earlier start are kept, and not asked for again."""
    from icgeo.app import launch_arena
    from icgeo.app.duels import make_duels
    from icgeo.evaluation.arena import read_runs

    if not options.runs:
        raise config.UsageError("expected run folders with answers to vote on, got none")
    duels = make_duels(read_runs(options.runs), seed=options.seed)
    if not duels:
        raise config.UsageError(
            "expected photos in files (`source` in predictions.jsonl) that two locators answered, "
            "got none; views from orbit are in no file: let the nearer answer win, without --page"
        )
    votes = options.votes or options.runs[0] / "votes.jsonl"
    print(f"{len(duels)} pairs of answers; votes go to {votes}")
    launch_arena(duels, votes, host=options.host, port=options.port)


if __name__ == "__main__":
    config.run(main, Options)
