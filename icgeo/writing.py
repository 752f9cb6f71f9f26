"""Files that are whole or not there, and lines that survive a kill."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_name(path: Path) -> Path:
    """Return where a file is written before it is whole."""
    return path.with_name(f".partial-{os.getpid()}-{path.name}")


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a path to write to, with the same suffix; it replaces `path` if nothing fails.

    Of a link it replaces the file that it leads to.
    """
    target = Path(os.path.realpath(path))
    partial_path = target.with_name(partial_name(path).name)
    partial_path.unlink(missing_ok=True)  # of a process that was killed and had the same number
    try:
        yield partial_path
        partial_path.replace(target)
    finally:
        partial_path.unlink(missing_ok=True)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines behind the last one, which a kill may have torn; wait until they are on disk."""
    with path.open("ab+") as stream:
        if stream.tell() and stream.seek(-1, os.SEEK_END) >= 0 and stream.read() != b"\n":
            stream.write(b"\n")
        stream.writelines(f"{line}\n".encode() for line in lines)
        stream.flush()
        os.fsync(stream.fileno())
