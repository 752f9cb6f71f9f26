"""Doors take spoiled inputs: all are read, or refused in one line.

`ICGEO_FUZZ=2000 pytest tests/fuzz -m slow -s` tries 2,000 at each, and prints what came of them.
"""

import copy
import io
import json
import os
import shutil
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from damage import REFUSED, Door, spoiled, spoiled_json
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parents[1] / "models"))

import twins

import icgeo
from icgeo import cli
from icgeo.data.manifest import read_manifest
from icgeo.data.photos import PhotoError, read_location, read_photo
from icgeo.models import hub
from icgeo.models.adapters import PEFT_CONFIG, load_adapter
from icgeo.models.loading import load
from icgeo.models.prompts import Prompts
from icgeo.models.settings import Settings
from icgeo.options import LoadOptions
from icgeo.sphere.density import Density

FEW, MANY = 15, int(os.environ.get("ICGEO_FUZZ", "200"))
LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_k")


@cache
def folder():
    """A folder for all inputs, on which they follow each other."""
    return Path(tempfile.mkdtemp())


@cache
def klein():
    return twins.klein(folder() / "klein")


@cache
def transformer():
    return load(klein()).backbone.transformer


def lora(prefix, halves=("A", "B"), **more):
    parts = {
        f"{prefix}{layer}.lora_{half}.weight": torch.zeros(size)
        for layer in LAYERS
        for half, size in zip(halves, ((2, 64), (64, 2)), strict=True)
    }
    path = folder() / "good.safetensors"
    save_file(parts | more, path)
    return path.read_bytes()


ADAPTERS = {
    "diffusers": partial(lora, "transformer."),
    "PEFT": partial(lora, "base_model.model."),
    "layers": partial(lora, ""),
    "kohya": partial(lora, "lora_unet_", ("down", "up")),
}
PEFT = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q", "to_k"],
    "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "use_dora": False,
}  # fmt: skip


@st.composite
def adapters(draw):
    data = ADAPTERS[draw(st.sampled_from([*ADAPTERS]))]()
    config = draw(st.one_of(st.none(), spoiled_json(PEFT)))
    return draw(st.one_of(st.just(data), spoiled(data))), config


def take_adapter(told):
    data, config = told
    path = folder() / "adapter"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    (path / "weights.safetensors").write_bytes(data)
    if config is not None:
        (path / PEFT_CONFIG).write_bytes(config)
    load_adapter(copy.deepcopy(transformer()), LoadOptions(adapter=str(path)))


TINY = Path(icgeo.__file__).parent / "assets" / "tiny"


@st.composite
def checkpoints(draw):
    """A spoiled `icgeo.json`, index of a pipeline, or other file of the model in the box."""
    name = draw(
        st.sampled_from(
            (
                *2 * ("icgeo.json", "model_index.json"),
                *("codec/config.json", "scheduler/scheduler_config.json", "domain.safetensors"),
            )
        )
    )
    data = ((klein() if name == "model_index.json" else TINY) / name).read_bytes()
    return name, draw(
        spoiled(data) if name.endswith("safetensors") else spoiled_json(json.loads(data))
    )


def take_checkpoint(told):
    name, data = told
    path = folder() / "checkpoint"
    if name == "model_index.json":
        path.mkdir(exist_ok=True)
        (path / name).write_bytes(data)
        hub.pipeline_index(path)
    elif name == "icgeo.json":
        path.mkdir(exist_ok=True)
        (path / name).write_bytes(data)
        Settings.read(path)
    else:
        whole = folder() / "tiny"
        if not whole.exists():
            shutil.copytree(TINY, whole)
        (whole / name).write_bytes(data)
        try:
            load(whole)
        finally:
            shutil.copyfile(TINY / name, whole / name)


MAPS = ("a.fits", "a.multiorder.fits", "a.parquet", "a.fits.gz")
WORDS = (b"UNIQ", b"RING", b"NUNI", b"    ", b"END ", b"PAR1")


@cache
def sky_map(name):
    Density.from_mixture([48.9, 2.4], 30.0, nside=4).save(folder() / name)
    return (folder() / name).read_bytes()


@pytest.fixture(scope="module", autouse=True)
def _sky_maps_are_there():
    """What saving them imports draws random numbers, which hypothesis forbids in strategies."""
    for name in MAPS:
        sky_map(name)


sky_maps = st.sampled_from(MAPS).flatmap(
    lambda name: st.tuples(st.just(name), spoiled(sky_map(name), WORDS))
)


def take_file(read, told):
    name, data = told
    (folder() / name).write_bytes(data)
    return read(folder() / name)


ROWS = [
    {"image": f"{n}.jpg", "lat": 1.5 * n, "lon": -2.5 * n, "note": 'a "b"'} for n in range(1, 4)
]
POINTS = [
    {
        "type": "Feature",
        "properties": {"filename": row["image"]},
        "geometry": {"type": "Point", "coordinates": [row["lon"], row["lat"]]},
    }
    for row in ROWS
]
KML = "xmlns='http://www.opengis.net/kml/2.2'"
GPX = "version='1.1' creator='x' xmlns='http://www.topografix.com/GPX/1/1'"
PLACEMARK = "<Placemark><name>a.jpg</name><Point><coordinates>1,2</coordinates></Point></Placemark>"
TABLES = {
    "m.csv": b'image,lat,lon,note\na.jpg,48.85,2.35,"x, ""y"""\nb.jpg,"-33,8",151.2,\n',
    "m.tsv": b'image\tlat\tlon\tnote\na.jpg\t48.85\t2.35\ta "b"\nb.jpg\t1\t2\t"c"\n',
    "m.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "m.kml": f"<kml {KML}><Document>{PLACEMARK}</Document></kml>".encode(),
    "m.gpx": f"<gpx {GPX}><wpt lat='1' lon='2'><name>a.jpg</name></wpt></gpx>".encode(),
}  # fmt: skip
CELLS = (b'"', b"\t", b"\n", b"\0", b"\xff", b"e999", b"nan,", b"\xef\xbb\xbf", b"<", b"{", b"[")
manifests = st.one_of(
    st.sampled_from([*TABLES]).flatmap(
        lambda name: st.tuples(st.just(name), spoiled(TABLES[name], CELLS))
    ),
    st.tuples(st.just("m.json"), spoiled_json(ROWS)),
    st.tuples(
        st.just("m.geojson"), spoiled_json({"type": "FeatureCollection", "features": POINTS})
    ),
)


@cache
def photo(kind):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 0.0), 3: "E", 4: (2.0, 21.0, 0.0)}
    options = {} if kind in ("GIF", "BMP", "PPM") else {"exif": exif.tobytes()}
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


photos = st.sampled_from(("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM")).flatmap(
    lambda kind: spoiled(photo(kind), (b"IDAT", b"Exif", b"\xff\xd8\xff\xe1"))
)


def take_photo(data):
    read_location(data)
    read_photo(data)


@cache
def embedding():
    save_file({"encoder_hidden_states": torch.zeros(1, 2, 3)}, folder() / "kept.safetensors")
    return (folder() / "kept.safetensors").read_bytes()


def take_prompt(told):
    """A spoiled embedding on disk is embedded again; a spoiled tokenizer is refused by name."""
    name, data = told
    if name == "kept":
        prompts = Prompts(lambda texts: [{} for _ in texts], folder())
        for text in ("", "x"):
            prompts._path(text).write_bytes(data)
        prompts("x")
        return
    path = klein() / name
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        model().backbone.prompts.encode(["x"])
    finally:
        path.write_bytes(good)


@cache
def model():
    return load(klein())


TEXT = ("tokenizer/tokenizer_config.json", "text_encoder/config.json")
prompts = st.one_of(
    *(st.tuples(st.just("kept"), st.deferred(lambda: spoiled(embedding()))) for _ in range(9)),
    st.sampled_from(TEXT).flatmap(
        lambda name: st.tuples(
            st.just(name), spoiled_json(json.loads((klein() / name).read_bytes()))
        )
    ),
)


@st.composite
def streams(draw):
    """Lists on standard input, streams that are closed, and journals of earlier runs."""
    paths = b"\n".join(os.fsencode(folder() / name) for name in ("no.jpg", "klein", "x\xe9.png"))
    row = {"row": {"source": "no.jpg", "error": "x"}, "features": []}
    journal = b"{}\n" + b"\n".join(draw(st.lists(spoiled_json(row), max_size=3)))
    given = draw(st.one_of(st.none(), spoiled(paths, (b"\0", b"\xff", b"\xef\xbb\xbf", b"~/a*"))))
    return given, draw(st.one_of(st.none(), st.just(journal))), draw(st.booleans())


def take_stream(told):
    given, journal, is_open = told
    save = folder() / "out.csv"
    save.unlink(missing_ok=True)
    part = Path(f"{save}.part")
    part.unlink(missing_ok=True)
    if journal is not None:
        part.write_bytes(journal)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        typed = given if given is None else SimpleNamespace(buffer=io.BytesIO(given))
        patch.setattr(sys, "stdin", typed)
        patch.setattr(sys, "stderr", said)
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()) if is_open else None)
        code = cli.main(["predict", "-", "--save", str(save)])
        if not is_open:
            sys.stdout.close()
    assert code in (0, 1, 2)
    return REFUSED if code == 2 else None


DOORS = {
    "adapters": (adapters(), take_adapter, (icgeo.LoadError,)),
    "checkpoints": (checkpoints(), take_checkpoint, (icgeo.LoadError,)),
    "sky maps": (sky_maps, partial(take_file, Density.load), (ValueError,)),
    "manifests": (manifests, partial(take_file, read_manifest), (ValueError,)),
    "photos": (photos, take_photo, (PhotoError,)),
    "prompts": (prompts, take_prompt, (icgeo.LoadError,)),
    "streams": (streams(), take_stream, ()),
}


def spoil(name, count, capsys):
    inputs, take, errors = DOORS[name]
    door = Door(*errors)

    @given(inputs)
    @settings(
        max_examples=count,
        phases=(Phase.generate,),
        suppress_health_check=[*HealthCheck],
        report_multiple_bugs=False,
    )
    def enter(told):
        door.take(lambda: take(told))

    enter()
    with capsys.disabled():
        if count == MANY:
            sys.stdout.write(f"\n{name}: {dict(door.count)}")
    assert door.count["escaped"] == 0


@pytest.mark.parametrize("name", DOORS)
def test_spoiled_inputs_are_read_or_refused(name, capsys):
    spoil(name, FEW, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", DOORS)
def test_more_spoiled_inputs_are_read_or_refused(name, capsys):
    spoil(name, MANY, capsys)
