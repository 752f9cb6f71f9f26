"""A hook of mkdocs: a page for each module of the library, so that none is forgotten."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "icgeo"


def modules() -> list[str]:
    """Name what stands directly below the package: modules, and packages with all of theirs."""
    paths = [*PACKAGE.glob("*.py"), *(init.parent for init in PACKAGE.glob("*/__init__.py"))]
    return sorted(path.stem for path in paths if not path.stem.startswith("_"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name in modules():
        content = f"# icgeo.{name}\n\n::: icgeo.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files
