"""Make assets/photos/*.jpg from Debian's gcompris-qt-data: public domain and CC0 photos of places.

`assets/photos/photos.csv` says which; its places and coordinates are filled by hand, its authors,
licences and sources from the package's READMEs. Run `python scripts/assets/photos.py` (needs
apt-get and dpkg-deb), or give it the package, gcompris-qt-data_3.1-2_all.deb.
"""

import argparse
import re
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd
from PIL import Image

FOLDER = Path(__file__).parents[2] / "assets" / "photos"
LICENCES = {"Public Domain": "public domain", "CC0-1.0": "CC0-1.0"}
SIZE = 512  # pixels on the long side; smaller photos stay as they are


def resources(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the files of a Qt resource collection: a tree of nodes of 22 bytes, names and data."""
    buffer = path.read_bytes()
    tree, data, names = struct.unpack_from(">III", buffer, 8)

    def walk(node: int, folder: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes]]:
        name, flags, *where = struct.unpack_from(">IHII", buffer, tree + 22 * node)
        (letters,) = struct.unpack_from(">H", buffer, names + name)
        start = names + name + 6
        entry = folder / buffer[start : start + 2 * letters].decode("utf-16-be") if node else folder
        if flags & 2:  # a folder: how many children, and the first
            for child in range(where[1], where[1] + where[0]):
                yield from walk(child, entry)
        else:
            (length,) = struct.unpack_from(">I", buffer, data + where[1])
            content = buffer[data + where[1] + 4 :][:length]
            yield entry, zlib.decompress(content[4:]) if flags & 1 else content

    return walk(0, PurePosixPath())


def credits(readme: str) -> dict[str, dict[str, str]]:
    """Return what a README says of each of its files."""
    readme = readme.replace("audaPalatina", "aulaPalatina")  # the file's name is the latter
    blocks = [block.partition("Files:") for block in re.split(r"\n\s*\n", readme)]
    return {
        name: dict(re.findall(r"^(\w+): *(.+)$", head, re.MULTILINE))
        for head, _, names in blocks
        for name in names.split()
    }


def make(row: pd.Series, files: dict[PurePosixPath, bytes]) -> pd.Series:
    """Write a photo and complete its row, unless its licence is another."""
    from icgeo.data.photos import read_photo

    path = PurePosixPath("gcompris/src/activities", row["resource"])
    readme = next(folder / "README" for folder in path.parents if folder / "README" in files)
    credit = credits(files[readme].decode())[str(path.relative_to(readme.parent))]
    image = read_photo(files[path])
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    image.save(FOLDER / row["image"], quality=90, optimize=True)
    licence = LICENCES[credit["License"]]
    row[["author", "licence", "source"]] = credit["Copyright"], licence, credit["Source"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("package", type=Path, nargs="?", help="the .deb file")
    table = FOLDER / "photos.csv"
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    package = parser.parse_args().package
    with tempfile.TemporaryDirectory() as folder:
        if package is None:
            subprocess.run(["apt-get", "download", "gcompris-qt-data"], cwd=folder, check=True)
            package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        collections = Path(folder, "usr", "share", "gcompris-qt", "rcc")
        names = set(rows["resource"].str.partition("/")[0])
        files = {k: v for name in names for k, v in resources(collections / f"{name}.rcc")}
    rows = rows.apply(make, axis=1, files=files)
    rows.to_csv(table, index=False)
    size = sum(path.stat().st_size for path in FOLDER.glob("*.jpg"))
    print(f"{FOLDER}: {len(rows)} photos, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
