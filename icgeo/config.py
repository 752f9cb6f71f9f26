"""Typed options of a script, a flat frozen dataclass, from YAML and the command line; run folders.

The docstring under a field is its help. Options of several values take commas, `--shots 0,4,16`, or
a list, and a switch may stand alone.
"""

import atexit
import gc
import json
import logging
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypeVar

from icgeo.writing import write_atomically

log = logging.getLogger(__name__)

Options = TypeVar("Options")


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why in one line, and what to do."""


def require(package: str, purpose: str, extra: str, *, error: type[UsageError] = UsageError) -> Any:
    """Import a package of an extra; where it is missing raise an error that says how to get it."""
    try:
        return import_module(package)
    except ImportError as missing:
        remedy = f"pip install 'icgeo[{extra}]'"
        raise error(f"{purpose} needs {package}: {remedy}") from missing


def positional(text: str) -> Any:
    """Declare the field, a list, that takes the words before the options; `text` is its help."""
    return field(default=(), metadata={"positional": text})


def parse(
    components: type[Options] | Mapping[str, type[Options]],
    args: Sequence[str] | None = None,
    **about: Any,
) -> Options:
    """Make options: command line over the YAML of `--config` over defaults.

    `--help` and `--print_config` (the resolved options as YAML) print and exit.

    Args:
        components: the options of a script, or those of each command of a program by its name.
        args: stand in for the command line.
        **about: `prog`, `description` and `version` of a program.

    Raises:
        UsageError: something unknown, or of a wrong type.
    """
    from icgeo.parsing import SETTINGS, auto_cli

    kinds: Any = dict(components) if isinstance(components, Mapping) else components
    try:
        return auto_cli(kinds, None if args is None else [*args], **SETTINGS, **about)
    except UnicodeDecodeError as error:
        raise UsageError(f"expected text in UTF-8 in the file of --config, got {error}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(main: Callable[[Options], object], options_type: type[Options]) -> None:
    """Run a script on its command line; a `UsageError` exits with code 2 and one line."""
    try:
        options = parse(options_type)
        prepare_process()
        main(options)
    except UsageError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {one_line(error)}\n")
        sys.exit(2)


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks, control characters escaped."""
    text = " ".join(str(error).split())
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def prepare_process() -> None:
    """Show downloads on stderr, silence warnings of parts that icgeo does not use, start faster.

    Imports make half a million objects that stay: the collector would look at them each time it
    has seen 700 new ones, and take them apart at exit, for a second or two.
    """
    gc.set_threshold(50_000, 20, 100)
    atexit.unregister(gc.freeze)  # once is enough
    atexit.register(gc.freeze)
    downloads = logging.getLogger("icgeo.models.hub")
    downloads.setLevel(logging.INFO)
    if not downloads.handlers:
        downloads.addHandler(logging.StreamHandler())
    for name in ("torchao", "diffusers.quantizers.torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a norm in float32 under autocast, which is right and not slower than the rest
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")


def save_run(folder: str | Path, options: Any, *, may_differ: Collection[str] = ()) -> Path:
    """Make a run folder, or open the one to continue, and save its options and versions.

    If versions changed since an earlier start, that one is kept under "earlier".

    Raises:
        UsageError: the folder holds a run with other options, except for those that `may_differ`.
    """
    from icgeo.parsing import SETTINGS, auto_parser

    folder = Path(folder)
    parser = auto_parser(type(options), **SETTINGS)
    current_options = parser.parse_object(asdict(options))
    path = folder / "options.yaml"
    if path.exists():
        try:
            saved_options = parser.parse_path(path)
        except ValueError as error:
            raise UsageError(
                f"expected options of this script in {path}, got: "
                f"{one_line(error).partition('; see ')[0]}; choose another folder"
            ) from error
        differences = [
            f"{name} (there {saved_options[name]!r}, now {value!r})"
            for name, value in vars(current_options).items()
            if name not in ("config", *may_differ) and saved_options[name] != value
        ]
        if differences:
            raise UsageError(
                f"expected the options of the run in {folder}, got other {', '.join(differences)}; "
                f"continue it with --config {path}, or choose another --name"
            )
    folder.mkdir(parents=True, exist_ok=True)
    _write(path, parser.dump(current_options))
    path, current_versions = folder / "versions.json", versions()
    if path.exists():
        last_versions = json.loads(path.read_text(encoding="utf-8"))
        earlier_versions = last_versions.pop("earlier", [])
        if last_versions != current_versions:
            log.warning("%s: continuing a run that began with other versions", path)
            earlier_versions.append(last_versions)
        current_versions["earlier"] = earlier_versions
    _write(path, json.dumps(current_versions, indent=2) + "\n")
    return folder


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as partial_path:
        partial_path.write_text(text, encoding="utf-8")


def versions() -> dict[str, Any]:
    """Return Python, platform, device, packages, and the commit of the checkout, if in one."""
    import torch

    commit = _commit()
    requirements = [text for text in metadata.requires("icgeo") or [] if "extra ==" not in text]
    packages = ["icgeo", *(re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requirements)]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "git_commit": commit and commit.removesuffix("-dirty"),
        "git_dirty": commit and commit.endswith("-dirty"),
        "packages": {name: metadata.version(name) for name in packages},
    }


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None
