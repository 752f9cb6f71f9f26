"""One HTML page of what latent spaces know, from a folder of tables and figures.

Conventions: `page.json` lists sections: a title, a text, tables (caption, CSV file) and figures
(caption, image file, what it shows for those who do not see it), in the folder.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from icgeo.config import UsageError
from icgeo.report.run_folder import EmbeddedImage

PAGE = "page.json"


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: str = ""
    tables: list[tuple[str, str]] = field(default_factory=list)
    """Captions, and names of CSV files, whose first column names the rows."""
    figures: list[tuple[str, str, str]] = field(default_factory=list)
    """Captions, names of image files, and what they show."""
    pages: list[tuple[str, str]] = field(default_factory=list)
    """Titles and names of further pages in the folder."""


def save_sections(folder: Path, sections: Sequence[Section]) -> None:
    """Write the list of sections beside their tables and figures."""
    text = json.dumps([asdict(section) for section in sections], indent=2)
    (folder / PAGE).write_text(text + "\n", encoding="utf-8")


def write_latents_report(folder: Path, *, title: str = "The geography inside") -> Path:
    """Write one page of a folder, which needs no network, no script and no other file.

    Raises:
        UsageError: the folder has no list of sections, or a file of one is missing.
    """
    if not (folder / PAGE).is_file():
        raise UsageError(
            f"expected {PAGE} in {folder}, found none; make it with scripts/latent_geography.py"
        )
    try:
        sections = [
            _load(folder, **values)
            for values in json.loads((folder / PAGE).read_text(encoding="utf-8"))
        ]
    except (KeyError, OSError, ValueError) as error:
        raise UsageError(f"cannot read {folder / PAGE}: {error}; run the script again") from error
    layout: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    loader = PackageLoader("icgeo", "assets")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **layout)
    page = environment.get_template("latents.html.jinja").render(title=title, sections=sections)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _load(folder: Path, **values: Any) -> dict[str, Any]:
    names = ("tables", "figures", "pages")
    lists = {name: [tuple(one) for one in values.get(name, [])] for name in names}
    section = Section(values["title"], values["text"], **lists)
    tables = [(caption, _table(folder / name)) for caption, name in section.tables]
    figures = [
        (EmbeddedImage((folder / name).read_bytes(), Path(name).suffix), caption, alt)
        for caption, name, alt in section.figures
    ]
    shown = {"title": section.title, "text": section.text, "tables": tables, "figures": figures}
    return {**shown, "pages": section.pages}


def _table(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, index_col=0, keep_default_na=False, dtype=str)
    return frame.rename_axis(str(frame.index.name or ""))
