"""Run assets/tour.ipynb and keep its outputs, but for warnings; needs the extra [test]."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icgeo import config

TOUR = Path(__file__).parents[2] / "assets" / "tour.ipynb"


@dataclass(frozen=True)
class Options:
    """Run a notebook and keep its outputs, but for warnings."""

    notebook: Path = TOUR
    """The notebook to run; it is written over."""


def run(path: Path) -> Any:
    """Run a notebook in its own folder; the first cell that fails raises."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, record_timing=False, resources=folder).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def main(options: Options) -> None:
    """Run the notebook, and write it over."""
    import nbformat

    path = options.notebook
    nbformat.write(run(path), path)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    config.run(main, Options)
