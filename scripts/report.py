"""Make one self-contained HTML page of run folders: python scripts/report.py runs/zero-shot."""

from dataclasses import dataclass
from pathlib import Path

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Show runs on a page that needs no network; name their folders first."""

    runs: tuple[Path, ...] = config.positional("Run folders, as `scripts/zero_shot.py` makes them.")
    output: Path | None = None
    """The page to write; by default report.html in the first folder."""
    title: str = "Geolocation report"
    """Title of the page."""


def main(options: Options) -> None:
    """Read the folders and write the page."""
    from icgeo.report import write_report

    if not options.runs:
        raise config.UsageError("expected at least one run folder, such as runs/zero-shot")
    path = options.output or options.runs[0] / "report.html"
    write_report(options.runs, path, title=options.title)
    print(f"written to {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    config.run(main, Options)
