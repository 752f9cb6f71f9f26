"""Images that a page holds itself, so that it needs no other file."""

import base64
import mimetypes
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image


@dataclass(frozen=True)
class EmbeddedImage:
    """An image file in memory."""

    data: bytes
    suffix: str

    @classmethod
    def read(cls, path: Path) -> "EmbeddedImage":
        """Read a file as it is."""
        return cls(path.read_bytes(), path.suffix)

    @classmethod
    def from_image(cls, image: Image.Image, suffix: str = ".png") -> "EmbeddedImage":
        """Encode an image as PNG, or as JPEG if the suffix is `.jpg`."""
        stream = BytesIO()
        kind = "JPEG" if suffix == ".jpg" else "PNG"
        image.save(stream, format=kind, quality=85, optimize=True)
        return cls(stream.getvalue(), suffix)

    @classmethod
    def from_figure(cls, figure: Figure, *, dpi: float | None = None) -> "EmbeddedImage":
        """Render a figure as SVG, which is sharp at any size, or with `dpi` as PNG."""
        stream = BytesIO()
        if dpi is not None:
            figure.savefig(stream, format="png", dpi=dpi)
            return cls.from_image(Image.open(stream).convert("RGB"))
        with mpl.rc_context({"svg.hashsalt": "icgeo"}):  # the same figure, the same bytes
            figure.savefig(stream, format="svg", metadata={"Date": None})
        return cls(stream.getvalue(), ".svg")

    @property
    def uri(self) -> str:
        """The image as an address that holds it."""
        kind = mimetypes.types_map.get(self.suffix, "image/png")
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"
