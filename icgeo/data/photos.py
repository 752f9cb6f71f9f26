"""Photos from files as they are: any mode, depth, profile and orientation, and many a defect.

Nothing here changes a setting of the process.
"""

import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.ExifTags import IFD, Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from icgeo.data.places import Place, is_panorama, parse_location, parse_xmp, read_beside


@dataclass(frozen=True)
class StoredPhoto:
    """A photo inside a larger file, such as a shard: where it lies, not its contents."""

    path: Path
    offset: int
    size: int
    """In bytes, as the offset."""

    def read(self) -> bytes:
        """Read the contents of the photo's file."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


Photo = str | Path | bytes | StoredPhoto | Image.Image | np.ndarray
"""A file, its contents, where they lie, a Pillow image, or an array [height, width(, 3 or 4)]."""
_KINDS = get_args(Photo)
_Stream = BufferedReader | BytesIO

MAX_PIXELS = 200_000_000
"""The largest sensor of a phone has 16320 x 12240."""
READ_SIDE = 1024
"""Shorter side in pixels at which JPEGs are decoded for models: one for all who locate, so that a
photo has the same pixels whoever reads it."""
BACKGROUND = (255, 255, 255)
PNG_START = b"\x89PNG\r\n\x1a\n"
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names. The rest is not for photos, and some of it (EPS) runs other programs."""
RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq"),
    *(".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
    *(".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
RAW_STARTS = (
    *(b"FUJIFILMCCD-RAW", b"II*\0\x10\0\0\0CR", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb"),
    *(b"\0MRM", b"\0\0\0\x18ftypcrx ", b"II\x1a\0\0\0HEAPCCDR"),
)
"""Of files of sensors of cameras, and how they begin. Most are TIFFs that begin with a preview."""
DNG_VERSION, NEW_SUBFILE_TYPE = 50706, 254
"""Tags of TIFF; the last bit of the second says that a page is a preview."""

logger = logging.getLogger(__name__)


class PhotoError(ValueError):
    """A photo that cannot be read; the message names it, what was found and the remedy."""


def read_photo(
    source: Photo,
    *,
    max_pixels: int = MAX_PIXELS,
    size_hint: int | None = None,
    warns_of_panorama: bool = True,
) -> Image.Image:
    """Read a photo as an upright RGB image in sRGB of 8 bits per channel, without metadata.

    Of several frames or pages the first one counts; what is transparent lies on `BACKGROUND`. A
    JPEG that breaks off is read if at least half of its rows are there; the rest stays grey. A
    broken colour profile is ignored. Both are told in the log.

    Args:
        source: any `Photo`; arrays are uint8, or floating point in [0, 1].
        max_pixels: checked from the header before anything is decoded.
        size_hint: the shorter side that is enough in pixels; a JPEG may then be decoded at a half,
            a quarter or an eighth of its size, never with a side below the hint.
        warns_of_panorama: say in the log that only the middle of a panorama is looked at.

    Raises:
        PhotoError: missing, empty, no photo, too large, broken, or an array of another kind.
    """
    source = as_photo(source)
    with _explained(source):
        image = _load(source, max_pixels, size_hint)
        if warns_of_panorama and (is_whole := _is_panorama(image)) is not False:
            kind = "panorama all around" if is_whole else "part of a panorama"
            logger.warning("%s is a %s; models see its middle", _name(source), kind)
        photo = _to_srgb(_to_8_bit(image))
        photo.getexif()[Base.Orientation] = _tags(image).get(Base.Orientation, 1)
        return ImageOps.exif_transpose(photo)


def _is_panorama(image: Image.Image) -> bool | None:
    xmp = _xmp(image)
    return is_panorama(xmp, *image.size) if xmp else False


def is_panorama_file(source: Photo) -> bool:
    """Say whether a photo is an equirectangular panorama, a `PhotoError` if it cannot be read."""
    source = as_photo(source)
    with _explained(source):
        return _is_panorama(_load(source, MAX_PIXELS, READ_SIDE)) is True


def read_for_model(source: Photo, side: int) -> Image.Image:
    """Read a photo for a model that takes it at `side` pixels, as `read_photo` does."""
    return read_photo(source, size_hint=max(READ_SIDE, side))


def as_photos(photos: Any) -> list[Photo]:
    """Make a list of one photo or of several, or raise a `PhotoError` of what is neither."""
    is_one = isinstance(photos, _KINDS) or hasattr(photos, "read")
    is_many = isinstance(photos, Iterable) and not is_one
    return [as_photo(photo) for photo in (photos if is_many else [photos])]


def as_photo(source: Any) -> Photo:
    """Return a photo, of a stream its bytes, or raise a `PhotoError` of what is none."""
    if hasattr(source, "read") and not isinstance(source, _KINDS):
        try:
            source = data if isinstance(data := source.read(), bytes) else source
        except (OSError, ValueError) as error:
            raise PhotoError(f"expected a stream that can be read, got {error}") from error
    if not isinstance(source, _KINDS):
        raise PhotoError(
            "expected a path, a Pillow picture or an array [height, width, 3], got "
            f"{type(source).__name__}; of a tensor [3, height, width] give "
            "tensor.permute(1, 2, 0).numpy()"
        )
    return source


def content_key(photo: Photo) -> str:
    """Tell photos apart by their content, files by their path, time and size: equal is the same.

    Raises:
        PhotoError: a picture that cannot be decoded, or what is no photo.
    """
    photo = as_photo(photo)
    with _explained(photo):
        photo = _file_of_unread(photo) or photo
        if isinstance(photo, str | Path | StoredPhoto):
            path = photo.path if isinstance(photo, StoredPhoto) else Path(photo)
            state = path.stat() if os.path.exists(path) else None  # noqa: PTH110  # any name
            return repr((photo, state and (state.st_mtime_ns, state.st_size)))
        if isinstance(photo, bytes):
            kind: object = bytes
        elif isinstance(photo, Image.Image):  # what says how its bytes look
            turn = photo.getexif().get(Base.Orientation)
            appearance = (turn, photo.info.get("transparency"), photo.info.get("icc_profile"))
            kind = photo.size, photo.mode, photo.getpalette(), appearance
        else:
            kind = photo.shape, str(photo.dtype)
        content = photo if isinstance(photo, bytes) else photo.tobytes()
        return f"{kind}{blake2b(content, digest_size=16).hexdigest()}"


def _file_of_unread(photo: Photo) -> Path | None:
    """Return the file of a Pillow image that was opened and not read yet."""
    if not isinstance(photo, ImageFile.ImageFile) or photo.fp is None or photo.tell():
        return None
    path = Path(str(photo.filename or ""))
    return path if path.is_file() else None


def read_location(source: Photo, *, max_pixels: int = MAX_PIXELS) -> Place:
    """Read (latitude, longitude) in degrees from EXIF tags or XMP, as `read_photo` reads a photo.

    Else from what lies beside its file: XMP, or the JSON of Google Takeout. It has the errors of
    `read_photo`.
    """
    if isinstance(source, np.ndarray):
        return None
    with _explained(source):
        if isinstance(source, Image.Image):
            return _location_of(source)
        with _opened(source) as stream:
            place = _location_of(_identify(stream, max_pixels))
    if place or isinstance(source, bytes | StoredPhoto):
        return place
    return read_beside(Path(source))


def _location_of(image: Image.Image) -> Place:
    return parse_location(_tags(image, IFD.GPSInfo)) or parse_xmp(_xmp(image))


def _xmp(image: Image.Image) -> str | bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    is_text = isinstance(xmp, str | bytes)  # a TIFF may have numbers there
    profiles = (one for one in _raw_profiles(image) if b"xmpmeta" in one or b"RDF" in one)
    return xmp if xmp and is_text else next(profiles, b"")


def _raw_profiles(image: Image.Image) -> Iterator[bytes]:
    """Give what ImageMagick keeps of a JPEG in the text of a PNG, in hexadecimal."""
    for kind in ("APP1", "exif", "xmp"):
        *_, digits = str(image.info.get(f"Raw profile type {kind}", "")).strip().split("\n", 2)
        with suppress(ValueError):
            yield bytes.fromhex(digits).removeprefix(b"http://ns.adobe.com/xap/1.0/\0")


@contextmanager
def _explained(source: Photo) -> Iterator[None]:
    """Turn all that goes wrong with a photo into a PhotoError that names it."""
    try:
        yield
    except PhotoError as error:
        raise PhotoError(f"{_name(source)}: {error}") from error.__cause__
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise PhotoError(
            f"{_name(source)}: expected a readable photo, got {type(error).__name__}: "
            f"{str(error)[:200]}; save it again as JPEG or PNG, or leave it out"
        ) from error


def _name(source: Photo) -> str:
    if isinstance(source, bytes):
        return f"photo of {len(source)} bytes"
    if isinstance(source, StoredPhoto):
        return f"photo in {source.path} at byte {source.offset}"
    if isinstance(source, np.ndarray):
        return f"photo in an array of {source.dtype} {source.shape}"
    name = str(getattr(source, "filename", "") or source)
    return f"photo {name if len(name) <= 200 else name[:200] + '...'}"


def _load(source: Photo, max_pixels: int, size_hint: int | None) -> Image.Image:
    """Decode a photo, as far as it goes if it is a JPEG that breaks off."""
    if isinstance(source, np.ndarray):
        return _from_array(source)
    source = _file_of_unread(source) or source  # so that it has the pixels that its file has
    if isinstance(source, Image.Image):
        _checked_size(source, max_pixels).load()
        return source
    with _opened(source) as stream:
        try:
            return _decode(stream, max_pixels, size_hint)
        except OSError:
            stream.seek(0)
            data = stream.read()
            if not data.startswith(b"\xff\xd8\xff"):
                raise
    image = _decode(BytesIO(_ended(data)), max_pixels, size_hint)
    # all rows below the last one that was decoded are of one middle grey
    values = np.asarray(image)
    is_grey = np.isin(values, (127, 128)).all(axis=tuple(range(1, values.ndim)))
    share = (np.flatnonzero(~is_grey).max(initial=-1) + 1) / image.height
    if share < 0.5:
        raise PhotoError(
            f"expected a whole JPEG, got the first {share:.0%} of its rows; fetch the file again"
        )
    logger.warning("%s breaks off: read %.0f %% of its rows", _name(source), 100 * share)
    return image


def _ended(data: bytes) -> bytes:
    """Put an end marker where a JPEG breaks off, for libjpeg then fills what is missing."""
    # Pillow's own switch for this, LOAD_TRUNCATED_IMAGES, would hold for the whole process
    marker = max(data.rfind(b"\xff\xc4"), data.rfind(b"\xff\xda"))  # Huffman table, start of scan
    length = int.from_bytes(data[marker + 2 : marker + 4], "big")
    is_whole = marker + 2 + max(length, 2) <= len(data)  # half a header would be an error
    return (data if is_whole else data[:marker]) + b"\xff\xd9"


def _decode(stream: _Stream, max_pixels: int, size_hint: int | None) -> Image.Image:
    image = _identify(stream, max_pixels)
    if size_hint is not None and isinstance(image, JpegImageFile):
        image.draft(None, (size_hint, size_hint))
    image.load()
    return image


def why_missing(path: str | Path) -> str:
    """Say what is odd about the path of a file that is not there, and what to do."""
    text = str(path)
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    checks = {
        "it is the address of a file here: write its path": text.lower().startswith("file:"),
        "it is in quotes: write it without": text[:1] in ("'", '"') and text[-1:] == text[:1],
        "it is an address: download the file first": re.match(r"[a-z]{2,}:/", text, re.IGNORECASE),
        "it begins with a byte order mark: save the list without one": text.startswith("\ufeff"),
        "the shell replaces ~ at the start of a word only, outside quotes: write the whole path":
            text.startswith("~"),
        "it is a pattern: the shell replaces those outside quotes, where something matches":
            any(letter in text for letter in "*?["),
        "write / in place of the backslashes": "\\" in text,
        "its name is there in another Unicode form: rename it, or copy its name from a listing":
            any(form != text and os.path.exists(form) for form in forms),  # noqa: PTH110
    }  # fmt: skip
    return next((reason for reason, applies in checks.items() if applies), "check the path")


def _opened(source: str | Path | bytes | StoredPhoto) -> _Stream:
    if isinstance(source, bytes | StoredPhoto):
        return BytesIO(source if isinstance(source, bytes) else source.read())
    path = Path(source)
    if not path.exists():
        raise PhotoError(f"expected a photo, found no such file; {why_missing(path)}")
    if not path.is_file():  # opening a pipe would wait for ever
        raise PhotoError("expected a photo, found a folder or a device; give a file")
    if path.suffix.lower() in RAW_SUFFIXES:
        raise _raw_error(path.suffix[1:].upper())
    return path.open("rb")


def _raw_error(kind: str) -> PhotoError:
    return PhotoError(
        f"expected a photo, found {kind}, what a camera's sensor saw; the preview in it is not the "
        "photo: develop it, and save it as JPEG or TIFF"
    )


def _tiff(stream: _Stream, name: str) -> TiffImageFile:
    """Open a TIFF, but for one that begins with the preview of something else."""
    image = TiffImageFile(stream, name)
    kind = image.tag_v2.get(NEW_SUBFILE_TYPE, 0)
    if DNG_VERSION in image.tag_v2 or (isinstance(kind, int) and kind & 1):
        raise _raw_error("DNG or another RAW file")
    if not isinstance(image.info.get("xmp", b""), str | bytes):
        del image.info["xmp"]  # numbers, on which Pillow would fail where it turns the photo
    return image


def _identify(stream: _Stream, max_pixels: int) -> Image.Image:
    """Read the header of a photo, as `PIL.Image.open`, but with a limit on pixels of its own.

    Pillow's is a setting of the whole process. Of a file with several JPEGs only the first counts.
    """
    Image.init()
    if "HEIF" not in Image.OPEN and find_spec("pillow_heif"):
        import_module("pillow_heif").register_heif_opener()
    prefix = stream.read(16)
    if not prefix:
        raise PhotoError("expected a photo, found an empty file; fetch it again or leave it out")
    stream.seek(0)
    if prefix.startswith(RAW_STARTS):
        raise _raw_error("a RAW file")
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        acceptance = factory is not None and accept is not None and accept(prefix)
        if isinstance(acceptance, str):
            raise PhotoError(f"{acceptance}; install Pillow with support for {name}")
        if factory is not None and acceptance:
            openers: dict[str, Any] = {"JPEG": JpegImageFile, "PNG": _png, "TIFF": _tiff}
            image = openers.get(name, factory)(stream, "")
            return _checked_size(image, max_pixels)
    if prefix[4:8] == b"ftyp":
        raise PhotoError(
            f"expected a photo, found HEIC or a video ({prefix[8:12]!r}); for HEIC install "
            "pillow-heif (pip install pillow-heif), or convert it; of a video take pictures"
        )
    raise PhotoError(
        f"expected a photo ({', '.join(FORMATS)}), found a file that starts with {prefix!r}; "
        "convert it to JPEG or PNG"
    )


def _png(stream: _Stream, name: str) -> PngImageFile:
    """Open a PNG, without its text and profile where they are so large that Pillow refuses it.

    Its limit is a setting of the whole process.
    """
    try:
        return PngImageFile(stream, name)
    except ValueError:
        stream.seek(0)
        data, chunks, at = stream.read(), list[bytes](), len(PNG_START)
        while at < len(data):
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            kind = data[at + 4 : at + 8]
            if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):
                chunks.append(data[at:end])
            at = end
        logger.warning("left out the text and the profile of a PNG, of more than a megabyte")
        return PngImageFile(BytesIO(PNG_START + b"".join(chunks)), name)


def _checked_size(image: Image.Image, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise PhotoError(
            f"expected at most {max_pixels} pixels, found {image.width} x {image.height}; "
            "make it smaller or raise max_pixels"
        )
    return image


def _tags(image: Image.Image, directory: IFD | None = None) -> dict[int, Any]:
    """Return the EXIF tags, none if they are damaged."""
    try:
        exif = image.getexif()
        if not exif:
            profiles = (one for one in _raw_profiles(image) if one.startswith(b"Exif\0\0"))
            exif.load(next(profiles, b""))
        return dict(exif if directory is None else exif.get_ifd(directory))
    except Exception:  # a parser of foreign data, like a decoder
        logger.warning("ignored damaged EXIF tags in %r", image)
        return {}


def _from_array(values: NDArray[Any]) -> Image.Image:
    if values.ndim < 2 or values.shape[2:] not in ((), (3,), (4,)) or values.size == 0:
        raise PhotoError(
            "expected shape [height, width], [height, width, 3] or [height, width, 4]; "
            "move the channels last, and of several photos give a list"
        )
    if np.issubdtype(values.dtype, np.floating):
        values = _scaled(values, 1.0)
    elif values.dtype != np.uint8:
        raise PhotoError("expected uint8 or floating point in [0, 1]; convert it")
    return Image.fromarray(np.ascontiguousarray(values))


def _scaled(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Bring values in [0, white] to [0, 255]."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:  # NaN too
        raise PhotoError(
            f"expected values in [0, {white:g}], got [{low:g}, {high:g}]; scale them, or save the "
            "photo with 8 bits per channel"
        )
    return np.rint(values.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits, which Pillow's conversions clip or shift."""
    if not image.mode.startswith(("I", "F")):
        return image
    tiff = getattr(image, "tag_v2", {})
    bits = 12 if tiff.get(Base.BitsPerSample) == (12,) else 16
    grey = _scaled(np.asarray(image), 1.0 if image.mode == "F" else 2.0**bits - 1)
    is_negative = tiff.get(Base.PhotometricInterpretation) == 0  # white is zero
    result = Image.fromarray(255 - grey if is_negative else grey)
    result.info["icc_profile"] = image.info.get("icc_profile")
    return result


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert any mode and profile to RGB in sRGB, over the background where it is transparent."""
    is_grey, profile = image.mode in ("1", "L", "LA", "La"), image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if is_grey else "RGBA")
        alpha = image.getchannel("A")
    photo = image.convert("L" if is_grey else "CMYK" if image.mode == "CMYK" else "RGB")
    if profile:
        profile_file, srgb = BytesIO(profile), ImageCms.createProfile("sRGB")
        try:
            photo = ImageCms.profileToProfile(photo, profile_file, srgb, outputMode="RGB") or photo
        except (ImageCms.PyCMSError, OSError) as error:
            logger.warning("ignored a broken colour profile: %s", error)
    photo = photo.convert("RGB")
    if alpha is not None:
        photo = Image.composite(photo, Image.new("RGB", image.size, BACKGROUND), alpha)
    photo.info = {}  # a profile or an orientation left here would be applied twice
    return photo
