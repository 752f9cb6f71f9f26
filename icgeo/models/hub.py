"""Find the files of a model: in the package, in a folder, or on the hub."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from icgeo.config import UsageError

BUILT_IN = ("tiny",)


class LoadError(UsageError):
    """A model that cannot be loaded as asked; the message says why, and what to do."""


@contextmanager
def located(model: str | Path) -> Iterator[Path | None]:
    """Give the folder of a model that is on this machine; None for another, maybe on the hub."""
    if str(model) in BUILT_IN:
        with as_file(files("icgeo") / "assets" / str(model)) as folder:
            yield folder
    else:
        yield Path(model) if Path(model).is_dir() else None


def pipeline_index(source: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Read which pipeline of diffusers a folder or a hub id holds, and its components.

    Raises:
        LoadError: there is none, it cannot be reached, or a component of a folder is missing.
    """
    path = pipeline_part(source, "model_index.json", revision=revision)
    index: dict[str, Any] = json.loads(path.read_text())
    if isinstance(source, Path):
        parts = [name for name, kind in index.items() if isinstance(kind, list) and kind[0]]
        missing = [name for name in parts if not (source / name).is_dir()]
        if missing:
            raise LoadError(
                f"expected {', '.join(missing)} in {source}, as its model_index.json says; "
                "download it again"
            )
    return index


def pipeline_part(source: str | Path, *names: str, revision: str | None = None) -> Path:
    """Find one file of a pipeline, in its folder or on the hub.

    Raises:
        LoadError: there is none, or it cannot be reached.
    """
    if isinstance(source, str):
        return _download(source, "/".join(names), revision)
    path = source.joinpath(*names)
    if not path.is_file():
        raise LoadError(
            f"expected {'/'.join(names)}, or icgeo.json with layout 'stacked', in {source}"
        )
    return path


def _download(model: str, name: str, revision: str | None) -> Path:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise LoadError(
            f"expected a file or folder, or a hub id (owner/name), got {model!r}; models that are "
            f"in the package: {BUILT_IN}"
        )
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except GatedRepoError as error:
        remedy = "accept its licence on its page, then log in with `hf auth login`"
        raise LoadError(f"{model} is gated on the hub; {remedy}") from error
    except RepositoryNotFoundError as error:
        remedy = "check the spelling, or log in with `hf auth login` if it is private"
        raise LoadError(f"there is no {model} on the hub; {remedy}") from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{model} has no revision {revision!r} on the hub") from error
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            remedy = "connect to the network, or download it elsewhere and give its folder"
            raise LoadError(f"the hub cannot be reached for {model}; {remedy}") from error
        raise LoadError(f"{model} is no pipeline of diffusers: no {name}") from error
