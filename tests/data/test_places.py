"""Places in files beside photos and in the text of PNGs; RAW files and panoramas are told."""

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags
from PIL.ExifTags import GPS, IFD, Base

from icgeo.data.manifest import photos_in, read_manifest
from icgeo.data.photos import RAW_SUFFIXES, PhotoError, read_location, read_photo
from icgeo.data.places import parse_xmp

PARIS = (48.858, 2.352)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {}/></x:xmpmeta>'
XMP_PARIS = XMP.format('exif:GPSLatitude="48.858" exif:GPSLongitude="2.352"')


def takeout(place=PARIS, exif=(0.0, 0.0), title=None):
    parts = zip(("geoData", "geoDataExif"), (place, exif), strict=True)
    return json.dumps(
        {"title": title} | {name: {"latitude": lat, "longitude": lon} for name, (lat, lon) in parts}
    )


def photo(path, place=None):
    exif = Image.Exif()
    if place:
        exif[IFD.GPSInfo] = {
            GPS.GPSLatitudeRef: "N",
            GPS.GPSLatitude: place[0],
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: place[1],
        }
    Image.new("RGB", (8, 8)).save(path, "JPEG", exif=exif.tobytes())
    return path


LONG = "Screenshot_20240101-120000_WhatsApp.jpg"
LONGER = "PXL_20230709_123456789.PORTRAIT-01.COVER~2.jpg"


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("IMG.jpg", "IMG.jpg.json"),
        ("IMG.jpg", "IMG.jpg.supplemental-metadata.json"),
        ("IMG.jpg", "IMG.jpg.supplemental-met.json"),
        ("IMG.jpg", "IMG.jpg.s.json"),
        (LONG, f"{LONG}.supple.json"),
        (LONGER + ".jpg", LONGER[:46] + ".json"),
        ("IMG(1).jpg", "IMG.jpg(1).json"),
        ("IMG(1).jpg", "IMG.jpg.supplemental-metadata(1).json"),
        ("IMG(1).jpg", "IMG(1).jpg.json"),
        ("IMG-edited.jpg", "IMG.jpg.json"),
        ("IMG-edited(2).jpg", "IMG.jpg.supplemental-metadata(2).json"),
        ("IMG-bearbeitet.jpg", "IMG.jpg.json"),
        ("IMG-modifi\u00e9(2).jpg", "IMG.jpg(2).json"),
        ("IMG.jpg", "IMG.json"),
        ("\u00e9.jpg", "e\u0301.jpg.json"),
        ("a&b.jpg", "a&b.jpg.json"),
        ("no ending", "no ending.json"),
    ],
)  # fmt: skip
def test_json_of_takeout_is_found(name, beside, tmp_path):
    path = photo(tmp_path / name)
    assert read_location(path) is None
    (tmp_path / beside).write_text(takeout(title=name))
    assert read_location(path) == PARIS
    assert read_location(str(path)) == PARIS


@pytest.mark.parametrize("title", ["a", "A.JPG", "a.HEIC", "a.jpg "])
def test_a_title_may_have_another_ending(title, tmp_path):
    path = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.json").write_text(takeout(title=title))
    assert read_location(path) == PARIS


@pytest.mark.parametrize(
    ("beside", "title"),
    [
        ("a.jpg.json", "another.jpg"),
        ("a.jpg.json", "ab.jpg"),
        ("a.json", "a.png"),
        ("a.json", None),
        ("a-b.jpg.json", "a-b.jpg"),
    ],
)
def test_json_of_another_photo_is_not_taken(beside, title, tmp_path):
    path = photo(tmp_path / "a.jpg")
    (tmp_path / beside).write_text(takeout(title=title))
    assert read_location(path) is None


def test_the_title_tells_whose_json_it_is_where_names_are_cut(tmp_path):
    start = "a walk & a rest in the hills behind the harbour of "
    path = photo(tmp_path / f"{start.replace('&', '_')}Genoa.jpg")
    beside = tmp_path / f"{path.name[:46]}.json"
    beside.write_text(takeout(title=f"{start}Lagos.jpg"))
    assert read_location(path) is None
    beside.write_text(takeout(title=f"{start}Genoa.jpg"))
    assert read_location(path) == PARIS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (takeout((0.0, 0.0)), None),
        (takeout((0.0, 0.0), PARIS), PARIS),
        (takeout((91.0, 0.0), PARIS), PARIS),
        (takeout((1.0, 180.0)), (1.0, -180.0)),
        (takeout(("1_0", 2.0)), None),
        (takeout((None, 2.0)), None),
        ("{}", None),
        ('["label", "me"]', None),
        ('{"geoData": "Paris"}', None),
        ("{broken", None),
        ("[" * 100_000, None),
    ],
)
def test_json_beside_a_photo_costs_it_nothing(text, expected, tmp_path):
    path = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.json").write_text(text)
    assert read_location(path) == expected


@pytest.mark.parametrize("name", ["a.xmp", "a.jpg.xmp", "a.XMP", "a.jpg.XMP"])
def test_xmp_beside_a_photo_is_read(name, tmp_path):
    path = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.json").write_text(takeout((1.0, 2.0)))
    (tmp_path / name).write_text(XMP_PARIS)
    assert read_location(path) == PARIS


def test_what_the_photo_says_counts_first(tmp_path):
    path = photo(tmp_path / "a.jpg", (10.0, 20.0))
    (tmp_path / "a.xmp").write_text(XMP_PARIS)
    (tmp_path / "a.jpg.json").write_text(takeout())
    assert read_location(path) == (10.0, 20.0)


def test_a_folder_of_takeout_has_places(tmp_path):
    for name, place in {"a.jpg": PARIS, "b.jpg": (0.0, 0.0), "c.jpg": (-1.5, 2.5)}.items():
        photo(tmp_path / name)
        (tmp_path / f"{name}.supplemental-metadata.json").write_text(takeout(place))
    assert [record.lat_lon for record in read_manifest(tmp_path)] == [PARIS, None, (-1.5, 2.5)]


@pytest.mark.parametrize(
    ("xmp", "expected"),
    [
        ("<exif:GPSLatitude>48,30N</{0}>\n <exif:GPSLongitude>2,15E</exif:GPSLongitude>\n", 48.5),
        ("<exif:GPSLatitude>\n 48,30S\n</{0}>\n<exif:GPSLongitude >2,15E</{1}>", -48.5),
        ('exif:GPSLatitude="48.5" exif:GPSLatitudeRef="S" exif:GPSLongitude="2.25"', -48.5),
        ('exif:GPSLatitudeRef="N" exif:GPSLatitude="48,30S" exif:GPSLongitude="2.25"', -48.5),
        ('drone-dji:GpsLatitude="+48.5" drone-dji:GpsLongtitude="+2.25"', 48.5),
    ],
)
def test_xmp_is_read_however_it_is_laid_out(xmp, expected):
    body = xmp.format("exif:GPSLatitude", "exif:GPSLongitude")
    filled = f">{body}</rdf:Description>" if body.startswith("<") else f" {body}/>"
    assert parse_xmp(f"<x:xmpmeta><rdf:Description{filled}</x:xmpmeta>") == (expected, 2.25)


PLACE = 'exif:GPSLatitude="48,30N" exif:GPSLongitude="2,15E"'
OTHER = 'exif:GPSLatitude="1,0N" exif:GPSLongitude="1,0E"'
NS1 = 'xmlns:ns1="http://ns.adobe.com/exif/1.0/" '
XMPS = {
    "an ingredient": f"{PLACE}><xmpMM:Pantry><rdf:Bag><rdf:li><rdf:Description {OTHER}/></rdf:li>"
    "</rdf:Bag></xmpMM:Pantry>",
    "a text": f"{PLACE}><dc:description>see {OTHER}</dc:description>",
    "a comment": f"{PLACE}><!-- {OTHER} -->",
    "a prefix": NS1 + PLACE.replace("exif:", "ns1:") + ">",
    "another place": f"{PLACE}><Iptc4xmpExt:LocationCreated {OTHER}/>",
    "made there": "><Iptc4xmpExt:LocationCreated><rdf:Bag><rdf:li><exif:GPSLatitude>48,30N"
    "</exif:GPSLatitude><exif:GPSLongitude>2,15E</exif:GPSLongitude></rdf:li></rdf:Bag>"
    "</Iptc4xmpExt:LocationCreated>",
    "broken off": f"{PLACE}><dc:title>a & b</dc:title>",
    "signs that XML has not": f'dc:t="a & b\x01&#65;" {PLACE}>',
    "and of DJI": f'drone-dji:GpsLatitude="1" drone-dji:GpsLongitude="1" {PLACE}>',
}


@pytest.mark.parametrize("body", XMPS.values(), ids=[*XMPS])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_place_in_xmp_is_that_of_the_photo_itself(body, encoding):
    xmp = f"<x:xmpmeta><rdf:RDF><rdf:Description {body}</rdf:Description></rdf:RDF></x:xmpmeta>"
    assert parse_xmp(xmp) == parse_xmp(f"\n{xmp}".encode(encoding)) == (48.5, 2.25)
    declared = f"http://ns.adobe.com/xap/1.0/\0<?xml version='1.0' encoding='UTF-16'?>{xmp}"
    assert parse_xmp(declared.encode(encoding)) == (48.5, 2.25)


@pytest.mark.parametrize(
    "body",
    [
        f"><xmpMM:Pantry><rdf:Description {OTHER}/></xmpMM:Pantry>",
        'exif:GPSLatitude="48,75N" exif:GPSLongitude="2,15E">',
        'exif:GPSDestLatitude="48,30N" exif:GPSDestLongitude="2,15E">',
    ],
)
def test_what_is_no_place_of_the_photo_in_xmp(body):
    assert parse_xmp(f"<x><rdf:Description {body}</rdf:Description></x>") is None


@pytest.mark.parametrize(
    "body",
    [
        'exif:GPSLatitude="4_8.5" exif:GPSLongitude="2"',
        'drone-dji:GpsLatitude="1_0" drone-dji:GpsLongitude="2"',
        'exif:GPSLatitude="4_8,5N" exif:GPSLongitude="2,0E"',
    ],
)
def test_numbers_with_underscores_are_none(body):
    assert parse_xmp(XMP.format(body)) is None


def raw_profile(kind, data):
    digits = data.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", kind, f"{len(data):8}", *lines, ""])


def exif_of(place, orientation=1):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif[IFD.GPSInfo] = {1: "N", 2: place[0], 3: "E", 4: place[1]}
    Image.new("RGB", (1, 1)).save(stream, "JPEG", exif=exif.tobytes())
    return Image.open(stream).info["exif"]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("exif", exif_of(PARIS)),
        ("APP1", exif_of(PARIS)),
        ("APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP_PARIS.encode()),
        ("xmp", XMP_PARIS.encode()),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_profiles_of_imagemagick_in_a_png(kind, data, compressed):
    text = PngImagePlugin.PngInfo()
    text.add_text(f"Raw profile type {kind}", raw_profile(kind, data), zip=compressed)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG", pnginfo=text)
    assert read_location(stream.getvalue()) == pytest.approx(PARIS)


@pytest.mark.parametrize("kind", ["exif", "APP1"])
def test_the_orientation_of_such_a_png_counts(kind):
    text = PngImagePlugin.PngInfo()
    text.add_text(f"Raw profile type {kind}", raw_profile(kind, exif_of(PARIS, 6)))
    stream = io.BytesIO()
    Image.new("RGB", (8, 4)).save(stream, "PNG", pnginfo=text)
    assert read_photo(stream.getvalue()).size == (4, 8)


@pytest.mark.parametrize("text", ["", "x", "\nexif\n 4\nzz", "\nexif\n 4\n457869660000", "\n\n\n"])
@pytest.mark.parametrize("kind", ["exif", "APP1"])
def test_damaged_profiles_cost_no_pixels(kind, text):
    info = PngImagePlugin.PngInfo()
    info.add_text(f"Raw profile type {kind}", text)
    stream = io.BytesIO()
    Image.new("RGB", (8, 4)).save(stream, "PNG", pnginfo=info)
    assert read_photo(stream.getvalue()).size == (8, 4)
    assert read_location(stream.getvalue()) is None


def tiff(**tags):
    stream = io.BytesIO()
    info = {int(name[1:]): value for name, value in tags.items()}
    Image.new("RGB", (8, 8)).save(stream, "TIFF", tiffinfo=info)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((f"a{suffix}", tiff()) for suffix in RAW_SUFFIXES),
        ("a.DNG", tiff()),
        ("a.tif", tiff(t50706=b"\x01\x04\0\0")),
        ("a.jpg", tiff(t254=1)),
        ("a.jpg", b"II*\0\x10\0\0\0CR\x02\0" + bytes(64)),
        ("a", b"FUJIFILMCCD-RAW 0201" + bytes(64)),
        ("a", b"\0\0\0\x18ftypcrx \0\0\0\x01" + bytes(64)),
    ],
)
def test_raw_files_are_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    for read in (read_photo, read_location):
        with pytest.raises(PhotoError, match="the preview in it is not the photo: develop it"):
            read(tmp_path / name)


def test_raw_files_of_a_folder_are_counted(tmp_path, caplog):
    photo(tmp_path / "a.jpg")
    for name in ("a.CR2", "b.nef", "c.dng"):
        (tmp_path / name).touch()
    assert [path.name for path in photos_in(tmp_path)] == ["a.jpg"]
    assert "left out 3 RAW files of cameras; save them as JPEG" in caplog.text


GPANO = [
    'GPano:ProjectionType="equirectangular"',
    "><GPano:ProjectionType>equirectangular</GPano:ProjectionType><x",
]
CROPPED = (
    ' GPano:FullPanoWidthPixels="64" GPano:FullPanoHeightPixels="32"'
    ' GPano:CroppedAreaImageWidthPixels="{}" GPano:CroppedAreaImageHeightPixels="{}"'
)


@pytest.mark.parametrize(
    ("size", "body", "is_told"),
    [
        ((64, 32), GPANO[0], True),
        ((64, 32), GPANO[1], True),
        ((65, 32), GPANO[0], True),
        ((64, 32), GPANO[0].replace("equirectangular", "cylindrical"), False),
        ((64, 32), "", False),
        ((64, 16), GPANO[0], None),
        ((64, 20), GPANO[0] + CROPPED.format(64, 20), None),
        ((32, 16), GPANO[0] + CROPPED.format(32, 16), None),
        ((64, 32), GPANO[0] + CROPPED.format(64, 32), True),
        ((32, 16), GPANO[0] + CROPPED.format(64, 32), True),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_panoramas_are_told(kind, size, body, is_told, caplog):
    stream = io.BytesIO()
    xmp = XMP.format(body)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    options = {"pnginfo": text} if kind == "PNG" else {"xmp": xmp.encode()}
    Image.new("RGB", size).save(stream, kind, **options)
    assert np.asarray(read_photo(stream.getvalue())).shape == (*size[::-1], 3)
    assert ("is a panorama all around" in caplog.text) is (is_told is True)
    assert ("is a part of a panorama" in caplog.text) is (is_told is None)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_number_for_xmp_costs_no_photo(orientation, tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[Base.Orientation] = orientation
    tags.tagtype[700] = TiffTags.LONG
    tags[700] = 7
    Image.new("RGB", (8, 4)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert read_location(tmp_path / "a.tif") is None
    assert sorted(read_photo(tmp_path / "a.tif").size) == [4, 8]
