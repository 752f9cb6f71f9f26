"""Find the files of a model: in the package, in a folder, or on the hub."""

import json
import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from tqdm import tqdm

from icgeo.config import UsageError

log = logging.getLogger(__name__)

BUILT_IN = ("tiny",)
TEXT_PARTS = ("text_encoder*/", "tokenizer*/")
"""Folders of a pipeline that are read only where an instruction is new."""
_TYPES = ("safetensors", "json", "txt", "model", "jinja", "png", "csv")
"""What is downloaded of folders; code and pickles are not."""
_OF_ROOT = ("*.json", "*.md", "prompts.safetensors", "domain.safetensors")
"""What is downloaded beside them; other weights there are for other programs."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class LoadError(UsageError):
    """A model that cannot be loaded as asked; the message says why, and what to do."""


def resolve_local(model: str | Path) -> Path | None:
    """Return the folder of a model on this machine; None for another, maybe on the hub."""
    if str(model) in BUILT_IN:
        return Path(__file__).parents[1] / "assets" / str(model)
    return Path(model) if os.path.isdir(model) else None  # noqa: PTH112, false of names too long


def refuse_pickles(names: Iterable[str | Path], source: str | Path) -> None:
    """Raise LoadError for weights that are pickles alone: opening one runs any program."""
    paths = [PurePosixPath(name) for name in names]
    safe_folders = {path.parent for path in paths if path.suffix == ".safetensors"}
    for path in paths:
        if path.suffix in _PICKLES and path.parent not in safe_folders:
            raise LoadError(
                f"expected safetensors in {source}, got {path}, a pickle, which can run any "
                "program when it is opened; ask its authors for safetensors"
            )


def files_in(folder: Path) -> list[Path]:
    """List the files of a folder and its folders, relative to it."""
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def fetch(
    model: str, *, text: bool = False, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """Download what is missing of a checkpoint on the hub, and return its folder in the cache.

    Source and size are logged before the first byte of it. Code and pickles stay where they are.
    Text encoders and tokenizers come where `text` is true, and all else where it is not.

    Raises:
        LoadError: it cannot be reached, is not there, or has weights as pickles alone.
    """
    parts = TEXT_PARTS if text else ("*/",)
    patterns: dict[str, Any] = {
        "allow_patterns": [f"{part}*.{kind}" for part in parts for kind in _TYPES],
        "ignore_patterns": None if text else [f"{part}*" for part in TEXT_PARTS],
    }
    if not text:
        patterns["allow_patterns"] += _OF_ROOT
    hub: Any = {"revision": revision, "local_files_only": local_files_only}
    with hub_errors(model, revision):
        files = _dry_run(snapshot_download, model, **hub, tqdm_class=_Silent)
        if files is not None:
            names = [file.filename for file in files]
            refuse_pickles([name for name in names if "/" in name], model)
            wanted_names = {*filter_repo_objects(names, **patterns)}
            _announce(model, [file for file in files if file.filename in wanted_names])
        hub["local_files_only"] = files is None
        folder = snapshot_download(model, **hub, **patterns)
    return Path(folder)


class _Silent(tqdm):  # type: ignore[type-arg]
    """A bar that is not shown: asking about files is quick."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})


def _dry_run(
    download: Callable[..., Any], *names: str, local_files_only: bool, **options: Any
) -> Any:
    """Ask what would be downloaded; None if the hub is out of reach, and the cache is left."""
    if local_files_only:
        return None
    # the client would retry for long where this machine does not know the hub's address
    if not getproxies().keys() - {"no"}:  # a proxy may know it
        try:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
        except OSError:
            return None
    try:
        return download(*names, dry_run=True, **options)
    except errors.LocalEntryNotFoundError:
        return None
    except errors.DryRunError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise error.__cause__ from error
        return None


def _announce(model: str, files: Iterable[Any]) -> None:
    """Log what is about to be downloaded: files, bytes, source and commit."""
    if missing := [file for file in files if file.will_download]:
        size = format_bytes(sum(file.file_size or 0 for file in missing))
        detail = f"{len(missing)} files, {size}, of {model} (commit {missing[0].commit_hash[:8]})"
        log.info("downloading %s from %s to %s", detail, constants.ENDPOINT, constants.HF_HUB_CACHE)


def format_bytes(size: float) -> str:
    """Return a number of bytes with its unit, such as 8.0 GiB."""
    power = min(int(math.log2(max(size, 1)) // 10), 3)
    return f"{size / 1024**power:.{min(power, 1)}f} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def pipeline_index(source: str | Path, *, with_text: bool = True, **hub: Any) -> dict[str, Any]:
    """Read which pipeline of diffusers a folder or a hub id holds, and its components.

    Raise LoadError if there is none, or a folder lacks one; text encoders count if `with_text`.
    """
    path = pipeline_part(source, "model_index.json", **hub)
    try:
        index: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
        index["_class_name"].upper()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"expected the parts of a pipeline and its _class_name in {path}, got "
            f"{first_line(error)[:200]}; download it again"
        ) from error
    if isinstance(source, Path):
        missing = [
            name
            for name, kind in index.items()
            if (isinstance(kind, list) and any(kind[:1]) and not (source / name).is_dir())
            and (with_text or not name.startswith(("text_encoder", "tokenizer")))
        ]
        if missing:
            raise LoadError(
                f"expected {', '.join(missing)} in {source}, as its model_index.json says; "
                "download it again"
            )
    return index


def pipeline_part(
    source: str | Path, name: str, *, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """Find one file of a pipeline, in its folder or on the hub; raise LoadError without it."""
    if isinstance(source, str):
        with hub_errors(source, revision):
            hub: Any = {"revision": revision, "local_files_only": local_files_only}
            file = _dry_run(hf_hub_download, source, name, **hub)
            _announce(f"{source}/{name}", [file] if file else [])
            hub["local_files_only"] = not file
            return Path(hf_hub_download(source, name, **hub))
    path = source / name
    if (source / "geolocator.json").is_file():
        raise LoadError(
            f"expected a model, got {source}, which holds a whole locator; open it with "
            "icgeo.Geolocator.from_pretrained, or give the folder model in it"
        )
    if not path.is_file():
        raise LoadError(f"expected {name}, or icgeo.json with layout 'stacked', in {source}")
    return path


_TROUBLES: dict[type[Exception], str] = {
    errors.GatedRepoError: (
        "{model} is gated on the hub; accept its licence on its page, then log in with "
        "`hf auth login`"
    ),
    errors.RepositoryNotFoundError: (
        "there is no {model} on the hub; check the spelling, or log in with `hf auth login` if it "
        "is private"
    ),
    errors.RevisionNotFoundError: "{model} has no revision {revision!r} on the hub",
    errors.LocalEntryNotFoundError: (
        "the hub cannot be reached for {model}, or must not be, and the cache has not all of it; "
        "connect to the network, or download it elsewhere and give its folder"
    ),
    errors.EntryNotFoundError: "{model} is no model of this kind: {error}",
    errors.HfHubHTTPError: "the hub does not give {model}: {error}",
}
"""What errors of the hub mean, the narrower ones first."""


@contextmanager
def hub_errors(model: str, revision: str | None = None) -> Iterator[None]:
    """Raise a LoadError that says in one line why a model of the hub cannot be had."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or len(model) > 96:
        raise LoadError(
            f"expected a file or folder, or a hub id (owner/name), got {model[:200]!r}; models "
            f"that are in the package: {BUILT_IN}"
        )
    try:
        yield
    except tuple(_TROUBLES) as error:
        text = next(text for kind, text in _TROUBLES.items() if isinstance(error, kind))
        line = first_line(error)
        raise LoadError(text.format(model=model, revision=revision, error=line)) from error


def upload(folder: Path, repository: str, *, private: bool, revision: str | None = None) -> str:
    """Put a folder on the hub and return the address; raise UsageError without access."""
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, revision=revision)
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(
            f"cannot push to {repository}: {first_line(error)}; it is in {folder}; "
            "log in with `hf auth login`"
        ) from error
    return f"{constants.ENDPOINT}/{repository}"


def first_line(error: Exception) -> str:
    """Return the first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
