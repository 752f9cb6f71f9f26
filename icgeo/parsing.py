"""Command lines as jsonargparse reads them, with errors in one line; imported by who parses one."""

import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, auto_cli, auto_parser, set_parsing_settings

__all__ = ["SETTINGS", "auto_cli", "auto_parser"]

set_parsing_settings(docstring_parse_attribute_docstrings=True)
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
        words = [_at_home(word) for word in (sys.argv[1:] if args is None else args)][::-1]
        arguments: list[str] = []
        while words:
            name, equals, value = (word := words.pop()).partition("=")
            kind = self._options[name].type if name in self._options else None
            if kind is bool and not equals:
                is_said = "".join(words[-1:]).lower() in ("true", "false")
                word = f"{name}={words.pop().lower() if is_said else 'true'}"
            elif any(get_origin(one) in _LISTS for one in (kind, *get_args(kind))):
                value = value if equals or not words else words.pop()
                is_list = get_origin(kind) in _LISTS or "," in value
                word = f"{name}=[{value}]" if is_list and value[:1] != "[" else f"{name}={value}"
            arguments.append(word)
        return super().parse_args(arguments, namespace, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a ValueError in place of printing the usage."""
        program = (getattr(ex, "subcommand_parser", None) or self).prog.replace(" [options]", "")
        raise ValueError(f"{message.rstrip('.')}; see {program} --help") from ex


def _at_home(word: str) -> str:
    """Expand `~/` at the start of a word, or of the value behind its equals sign."""
    name, equals, value = word.rpartition("=")
    if not value.startswith("~/") or (equals and not name.startswith("--")):
        return word
    return f"{name}{equals}{Path(value).expanduser()}"


SETTINGS: dict[str, Any] = {"as_positional": False, "return_instance": True, "parser_class": Parser}
