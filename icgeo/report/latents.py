"""One HTML page of what latent spaces know, from a folder of tables and figures.

Conventions: `page.json` holds sections by name: a title, a text, tables (caption, CSV file) and
figures (caption, image file, what it shows for those who do not see it), in the folder.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

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


def save_sections(folder: Path, sections: Mapping[str, Section]) -> None:
    """Write sections, by the names of their parts, beside their tables and figures."""
    text = json.dumps({name: asdict(section) for name, section in sections.items()}, indent=2)
    (folder / PAGE).write_text(text + "\n", encoding="utf-8")


def read_sections(folder: Path) -> dict[str, Section]:
    """Read what `save_sections` wrote; nothing where it has not.

    Raises:
        UsageError: it is something else.
    """
    try:
        text = (folder / PAGE).read_text(encoding="utf-8")
        return {name: _section(**values) for name, values in json.loads(text).items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UsageError(f"cannot read {folder / PAGE}: {error}; remove it") from error


def _section(**values: Any) -> Section:
    lists: Any = {n: [tuple(one) for one in values.pop(n)] for n in ("tables", "figures", "pages")}
    return Section(**values, **lists)


def write_latents_report(folder: Path, *, title: str = "The geography inside") -> Path:
    """Write one page of a folder, which needs no network, no script and no other file.

    Raises:
        UsageError: the folder has no list of sections, or a file of one is missing.
    """
    if not (sections := read_sections(folder)):
        raise UsageError(
            f"expected {PAGE} in {folder}, found none; make it with scripts/latent_geography.py"
        )
    try:
        contents = [_load(folder, section) for section in sections.values()]
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {folder}: {error}; run the script again") from error
    page = open_template("latents.html.jinja").render(title=title, sections=contents)
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def open_template(name: str) -> Template:
    """Open a template of a page; what it is given is escaped, and must all be there."""
    layout: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    loader = PackageLoader("icgeo", "assets")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **layout)
    return environment.get_template(name)


def _load(folder: Path, section: Section) -> dict[str, Any]:
    tables = [(caption, _table(folder / name)) for caption, name in section.tables]
    figures = [
        (EmbeddedImage((folder / name).read_bytes(), Path(name).suffix), caption, alt)
        for caption, name, alt in section.figures
    ]
    values = {"title": section.title, "text": section.text, "tables": tables, "figures": figures}
    return {**values, "pages": section.pages}


def _table(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, index_col=0, keep_default_na=False, dtype=str)
    return frame.rename_axis(str(frame.index.name or ""))
