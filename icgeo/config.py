"""Typed options of a script: frozen dataclass <- YAML <- command line.

Conventions: the options of a script are one flat frozen dataclass with a docstring under each
field, which becomes its help. YAML is flat too. A run folder holds the `options.yaml` and
`versions.json` of what ran there.
"""

import inspect
import json
import logging
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from icgeo.writing import write_atomically

log = logging.getLogger(__name__)


Options = TypeVar("Options")


def parse(options_type: type[Options], args: Sequence[str] | None = None) -> Options:
    """Make the options of a script: command line over the YAML of `--config` over defaults.

    `args` stands in for the command line. `--help` and `--print_config` (the resolved options as
    YAML) print and exit; what is unknown or of a wrong type exits with code 2 and one line.
    """
    parser = _parser(options_type)
    try:
        values = parser.parse_args(args)
        return options_type(**_fields(values))
    except (ArgumentError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {_one_line(error)}\n")


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why in one line, and what to do."""


def run(
    main: Callable[[Options], object], options_type: type[Options], *, words: str | None = None
) -> None:
    """Run a script on its command line; a `UsageError` exits with code 2 and one line.

    `words` names the option, a list, that the words before the first option are for.
    """
    options = parse(options_type, words and _with_words(sys.argv[1:], words))
    prepare_screen()
    try:
        main(options)
    except UsageError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {_one_line(error)}\n")
        sys.exit(2)


def _with_words(args: Sequence[str], name: str) -> list[str]:
    """Gather the words before the first option into the list that is named."""
    words = list(takewhile(lambda word: not word.startswith("-"), args))
    given = [f"--{name}", json.dumps(words)] if words else []
    return [*given, *args[len(words) :]]


@dataclass(frozen=True)
class Command:
    """One of several commands of a program: what it does with its options."""

    main: Callable[[Any], int]
    """Returns the exit code."""
    options: type[Any]
    """As of a script; beside words, switches take no value."""
    positional: str | None = None
    """The field that takes what is no option."""


def run_commands(
    commands: Mapping[str, Command],
    args: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
) -> int:
    """Run the command that the command line names; return its exit code.

    Wrong usage is one line and code 2, as for a script.
    """
    parser = ArgumentParser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        exit_on_error=False,
        version=metadata.version("icgeo"),
    )
    choices = parser.add_subcommands(dest="command")
    for name, command in commands.items():
        choices.add_subcommand(name, _command_parser(command), help=_summary(command.options))
    try:
        name = (values := parser.parse_args(args)).command
        options = commands[name].options(**_fields(values[name]))
        prepare_screen()
        return commands[name].main(options)
    except (ArgumentError, UsageError) as error:
        words = sys.argv[1:2] if args is None else [*args[:1]]
        name = " ".join([prog, *(word for word in words if word in commands)])
        remedy = f"; see {name} --help" if isinstance(error, ArgumentError) else ""
        sys.stderr.write(f"{prog}: error: {_one_line(error).rstrip('.')}{remedy}\n")
        return 2


def _command_parser(command: Command) -> ArgumentParser:
    if command.positional is None:
        return _parser(command.options)
    parser = _parser(command.options, skip={command.positional}, bare_switches=True)
    told = _documented(command.options)[command.positional]
    parser.add_argument(command.positional, nargs="*", type=str, help=told)
    return parser


def _documented(options_type: type[Any]) -> dict[str, str]:
    """Give the docstrings of the fields, those of the bases included."""
    bases = [base for base in reversed(options_type.__mro__) if base is not object]
    found = [one for base in bases for one in parse_from_object(base).params]
    return {one.arg_name: one.description or "" for one in found}


def _summary(options_type: type[Any]) -> str:
    return (inspect.getdoc(options_type) or "").partition("\n")[0]


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
    parser = _parser(type(options))
    resolved = parser.parse_object(asdict(options))
    saved = folder / "options.yaml"
    if saved.exists():
        _refuse_other_options(_read(parser, saved), _fields(resolved), folder, may_differ)
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


def _parser(
    options_type: type[Any], *, skip: Collection[str] = (), bare_switches: bool = False
) -> ArgumentParser:
    """Make a parser; `--switch` means true, as does `--switch true` unless they must be bare."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        description=inspect.getdoc(options_type), allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    switches = [f.name for f in fields(options_type) if f.type is bool and f.default is False]
    parser.add_class_arguments(options_type, as_group=False, skip={*skip, *switches})
    told = _documented(options_type)
    for name in switches:
        how = {"action": "store_true"} if bare_switches else _SWITCH
        parser.add_argument(f"--{name}", help=told[name], **how)
    return parser


_SWITCH: dict[str, Any] = {"type": bool, "nargs": "?", "const": True, "default": False}


def _fields(values: Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(values).items() if name != "config"}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read(parser: ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        return _fields(parser.parse_path(path))
    except ArgumentError as error:
        raise UsageError(
            f"expected options of this script in {path}, got: {_one_line(error)}; "
            "choose another folder"
        ) from error


def _refuse_other_options(
    saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path, may_differ: Collection[str]
) -> None:
    different = [
        f"{name} (there {saved[name]!r}, now {now[name]!r})"
        for name in now
        if name not in may_differ and saved[name] != now[name]
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
