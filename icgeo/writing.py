"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_name(path: Path) -> Path:
    """Return where a file is written before it is whole."""
    return path.with_name(f".partial-{os.getpid()}-{path.name}")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a path to write to, with the same suffix; it replaces `path` if nothing fails."""
    partial = partial_name(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
