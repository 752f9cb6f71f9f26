"""Typed options of a script: frozen dataclass <- YAML <- command line.

Conventions: the options of a script are one flat frozen dataclass with a docstring under each
field, which becomes its help. YAML is flat too. Options of several values take commas, `--shots
0,4,16`, or a list, and a switch may stand alone. A run folder holds the `options.yaml` and
`versions.json` of what ran there.
"""

import json
import logging
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, asdict, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from jsonargparse import ArgumentParser, auto_cli, auto_parser, set_parsing_settings

from icgeo.writing import write_atomically

log = logging.getLogger(__name__)
set_parsing_settings(docstring_parse_attribute_docstrings=True)


Options = TypeVar("Options")


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why in one line, and what to do."""


def positional(text: str) -> Any:
    """Declare the field, a list, that takes the words before the options; `text` is its help."""
    return field(default=(), metadata={"positional": text})


_LISTS = (tuple, list, Sequence)


class Parser(ArgumentParser):
    """A parser of jsonargparse that raises its errors, and reads commas and bare switches."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)
        self._options: dict[str, Field[Any]] = {}

    def add_class_arguments(self, theclass: type[Any], *args: Any, **options: Any) -> list[str]:
        """Add the fields of a dataclass, one of them by position."""
        self._options = {f"--{one.name}": one for one in fields(theclass)}
        words = [one for one in fields(theclass) if "positional" in one.metadata]
        for one in words:
            text, (kind, *_) = one.metadata["positional"], get_args(one.type)
            self.add_argument(one.name, nargs="*", type=kind, default=[], help=text)
        options["skip"] = {one.name for one in words}
        return super().add_class_arguments(theclass, *args, **options)

    def parse_args(self, args: Any = None, namespace: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """Parse a command line, spelled out for jsonargparse."""
        words = [*(sys.argv[1:] if args is None else args)][::-1]
        spelled: list[str] = []
        while words:
            name, equals, value = (word := words.pop()).partition("=")
            kind = self._options[name].type if name in self._options else None
            if kind is bool and not equals:
                is_said = words[-1:] in (["true"], ["false"])
                word = f"{name}={words.pop() if is_said else 'true'}"
            elif any(get_origin(one) in _LISTS for one in (kind, *get_args(kind))):
                value = value if equals or not words else words.pop()
                is_list = get_origin(kind) in _LISTS or "," in value
                word = f"{name}=[{value}]" if is_list and value[:1] != "[" else f"{name}={value}"
            spelled.append(word)
        return super().parse_args(spelled, namespace, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise in place of printing the usage.

        Raises:
            UsageError: always.
        """
        program = (getattr(ex, "subcommand_parser", None) or self).prog.replace(" [options]", "")
        raise UsageError(f"{message.rstrip('.')}; see {program} --help") from ex


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
    kinds: Any = dict(components) if isinstance(components, Mapping) else components
    words = None if args is None else [*args]
    try:
        return auto_cli(
            kinds, words, as_positional=False, return_instance=True, parser_class=Parser, **about
        )
    except UsageError:
        raise
    except ValueError as error:  # of the options themselves
        raise UsageError(str(error)) from error


def run(main: Callable[[Options], object], options_type: type[Options]) -> None:
    """Run a script on its command line; a `UsageError` exits with code 2 and one line."""
    try:
        options = parse(options_type)
        prepare_screen()
        main(options)
    except UsageError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {one_line(error)}\n")
        sys.exit(2)


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())


def prepare_screen() -> None:
    """Say downloads on stderr, and keep away what is said of parts that icgeo does not use."""
    downloads = logging.getLogger("icgeo.models.hub")
    downloads.setLevel(logging.INFO)
    if not downloads.handlers:
        downloads.addHandler(logging.StreamHandler())
    for name in ("torchao", "diffusers.quantizers.torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # a norm in float32 under autocast, which is right and not slower than the rest
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")


def save_run(
    folder: str | Path,
    options: Any,
    extra: Mapping[str, Any] | None = None,
    *,
    may_differ: Collection[str] = (),
) -> Path:
    """Make a run folder, or open the one to continue, and save what runs in it.

    Writes `options.yaml` and `versions.json`: Python, platform, device, the packages that icgeo
    depends on, the git commit of its checkout and whether tracked files were changed, and what
    `extra` adds. If they changed since an earlier start, that one is kept under "earlier".

    Raises:
        UsageError: the folder holds a run with other options, except for those that `may_differ`.
    """
    folder = Path(folder)
    parser = auto_parser(
        type(options), as_positional=False, return_instance=True, parser_class=Parser
    )
    resolved = parser.parse_object(asdict(options))
    saved = folder / "options.yaml"
    if saved.exists():
        try:
            before = parser.parse_path(saved)
        except UsageError as error:
            raise UsageError(
                f"expected options of this script in {saved}, got: "
                f"{one_line(error).partition('; see ')[0]}; choose another folder"
            ) from error
        _refuse_other_options(vars(before), vars(resolved), folder, may_differ)
    folder.mkdir(parents=True, exist_ok=True)
    _write(saved, parser.dump(resolved))
    _write_versions(folder / "versions.json", {**versions(), **(extra or {})})
    return folder


def versions() -> dict[str, Any]:
    """Say what runs: Python, platform, device, packages, and the git commit if in a checkout."""
    commit = _commit()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(),
        "git_commit": commit and commit.removesuffix("-dirty"),
        "git_dirty": commit and commit.endswith("-dirty"),
        "packages": {name: metadata.version(name) for name in ["icgeo", *_dependencies()]},
    }


def _refuse_other_options(
    saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path, may_differ: Collection[str]
) -> None:
    different = [
        f"{name} (there {saved[name]!r}, now {now[name]!r})"
        for name in now
        if name not in ("config", *may_differ) and saved[name] != now[name]
    ]
    if different:
        raise UsageError(
            f"expected the options of the run in {folder}, got other {', '.join(different)}; "
            f"continue it with --config {folder / 'options.yaml'}, or choose another --name"
        )


def _write_versions(path: Path, now: dict[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    if path.exists():
        last = json.loads(path.read_text(encoding="utf-8"))
        earlier = last.pop("earlier", [])
        if last != now:
            log.warning("%s: continuing a run that began with other versions", path)
            earlier.append(last)
        now["earlier"] = earlier
    _write(path, json.dumps(now, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _dependencies() -> list[str]:
    """Names of the packages that icgeo needs without extras."""
    required = [text for text in metadata.requires("icgeo") or [] if "extra ==" not in text]
    return [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in required]


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _commit() -> str | None:
    """Commit of the checkout that tracks this file, "-dirty" behind it if changed; None if none."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
