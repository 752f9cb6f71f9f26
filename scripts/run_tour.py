"""Run assets/tour.ipynb and keep what it shows, but for warnings; needs the extra [test]."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "assets" / "tour.ipynb"


def run(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in its own folder; the first cell that fails raises."""
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, record_timing=False, resources=folder).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def main() -> None:
    nbformat.write(run(TOUR), TOUR)
    print(f"{TOUR}: {TOUR.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
