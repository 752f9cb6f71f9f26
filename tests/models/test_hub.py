"""Tests of downloads: a server on this machine speaks as the hub does, to the hub's own client."""

import hashlib
import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
import torch
import twins
from huggingface_hub import constants
from PIL import Image

import icgeo
from icgeo.models import hub

COMMIT = "c0ffee" + 34 * "0"
REPOSITORY = "someone/locator"


class Server(ThreadingHTTPServer):
    """Serves one folder as a repository of one commit; counts the bytes that it gave."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.given = folder, {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path, folder = urlsplit(self.path).path, self.server.folder
        revision = f"/api/models/{REPOSITORY}/revision/main"
        if path == revision or path == revision.replace("main", "v1"):
            self.answer(json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            entries = [
                {
                    "type": "file",
                    "path": name.as_posix(),
                    "size": (folder / name).stat().st_size,
                    "oid": hashlib.sha1(bytes(name)).hexdigest(),
                }
                for name in hub.files_in(folder)
            ]
            self.answer(json.dumps(entries).encode(), Content_Type="application/json")
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            name = path.split("/", 5)[5]
            body = (folder / name).read_bytes()
            if self.command == "GET":
                self.server.given[name] = len(body)
            etag = hashlib.sha1(name.encode()).hexdigest()
            self.answer(body, X_Repo_Commit=COMMIT, ETag=f'"{etag}"')
        else:
            code = "RevisionNotFound" if REPOSITORY in path else "RepoNotFound"
            self.answer(b"", 404, X_Error_Code=code)

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A locator with an example, beside code and a notebook's leftovers."""
    folder = tmp_path_factory.mktemp("repository") / "locator"
    photo = Image.radial_gradient("L").convert("RGB")
    locator = icgeo.Geolocator("tiny", samples=2, examples=[icgeo.Example(photo, 1.5, 2.5)])
    locator.save_pretrained(folder)
    (folder / "model" / "run.py").write_text("raise SystemExit")
    (folder / "optimizer.bin").write_bytes(b"none of the model")
    return folder


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


def test_a_locator_comes_from_the_hub_and_size_and_source_are_said_first(
    server, folder, caplog, monkeypatch
):
    caplog.set_level(logging.INFO, "icgeo.models.hub")
    found = icgeo.Geolocator.from_pretrained(REPOSITORY, revision="v1")
    (message,) = caplog.messages
    size = hub.format_bytes(sum(server.given.values()))
    assert message.startswith(f"downloading {len(server.given)} files, {size}, of {REPOSITORY} ")
    assert f"(commit c0ffee00) from {constants.ENDPOINT} to {constants.HF_HUB_CACHE}" in message
    assert "model/transformer/diffusion_pytorch_model.safetensors" in server.given
    assert not {"model/run.py", "optimizer.bin"} & set(server.given), "code and pickles stay"
    here = icgeo.Geolocator.from_pretrained(folder)
    photo = [Image.linear_gradient("L")]
    maps = [one.locate(photo)[0].map for one in (found, here)]
    assert torch.equal(*maps)
    assert len(found.examples) == 1

    server.given.clear()
    icgeo.Geolocator.from_pretrained(REPOSITORY, revision="v1", local_files_only=True)
    icgeo.Geolocator.from_pretrained(REPOSITORY, revision="v1")
    assert not server.given
    told = [message for message in caplog.messages if message.startswith("downloading")]
    assert len(told) == 1, "what is in the cache is not announced"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    icgeo.Geolocator.from_pretrained(REPOSITORY, revision="v1")
    with pytest.raises(icgeo.LoadError, match="cannot be reached for someone/locator, or must not"):
        icgeo.Geolocator.from_pretrained(REPOSITORY)


def test_nothing_is_fetched_if_it_must_not_be_or_is_not_there(server):
    with pytest.raises(icgeo.LoadError, match="or must not be"):
        hub.fetch(REPOSITORY, local_files_only=True)
    with pytest.raises(icgeo.LoadError, match="has no revision 'v9'"):
        hub.fetch(REPOSITORY, revision="v9")
    with pytest.raises(icgeo.LoadError, match="there is no someone/else on the hub"):
        hub.fetch("someone/else")
    assert not server.given


def test_a_checkpoint_of_pickles_is_refused_before_a_byte(server, tmp_path):
    server.folder = tmp_path / "pickles"
    (server.folder / "transformer").mkdir(parents=True)
    (server.folder / "model_index.json").write_text("{}")
    (server.folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"code")
    with pytest.raises(
        icgeo.LoadError, match=r"transformer/diffusion_pytorch_model\.bin, a pickle"
    ):
        icgeo.load(REPOSITORY)
    assert not server.given


def test_a_plain_checkpoint_is_loaded_from_the_hub_with_its_commit(server):
    server.folder = files("icgeo") / "assets" / "tiny"
    loaded = icgeo.load(REPOSITORY)
    assert loaded.origin.revision == COMMIT
    assert loaded.fingerprint == icgeo.load("tiny").fingerprint
    assert hub.pipeline_part(REPOSITORY, "icgeo.json").is_file()


def test_an_unknown_address_is_not_tried_again_and_again(monkeypatch, tmp_path):
    def look_up(*_):
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    start = time.monotonic()
    for get in (icgeo.load, icgeo.plan):
        with pytest.raises(icgeo.LoadError, match="cannot be reached for some/model"):
            get("some/model")
    assert time.monotonic() - start < 1, "its client would wait for 23 seconds"


def test_a_plan_fetches_configurations_alone(server, tmp_path):
    server.folder = twins.klein(tmp_path / "klein")
    with pytest.raises(icgeo.LoadError, match="or must not be"):
        icgeo.plan(REPOSITORY, local_files_only=True)
    plan = icgeo.plan(REPOSITORY, shots=2, revision="v1")
    assert plan == icgeo.plan(server.folder, shots=2)
    assert set(server.given) == {"model_index.json", "transformer/config.json", "vae/config.json"}
    server.given.clear()
    assert icgeo.plan(REPOSITORY, shots=2, revision="v1", local_files_only=True) == plan
    assert not server.given


def test_text_encoders_are_fetched_when_an_instruction_is_new(server, tmp_path, caplog):
    server.folder = twins.klein(tmp_path / "klein")
    caplog.set_level(logging.INFO, "icgeo.models.hub")
    model = icgeo.load(REPOSITORY)
    assert not any(name.startswith(("text_encoder", "tokenizer")) for name in server.given)
    here = icgeo.load(server.folder)
    given, expected = (one.backbone.prompts("a new instruction") for one in (model, here))
    assert "text_encoder/model.safetensors" in server.given
    assert [message.split(" (")[0].split(" of ")[1] for message in caplog.messages] == [
        REPOSITORY, REPOSITORY
    ]  # fmt: skip
    assert all(torch.equal(given[name], value) for name, value in expected.items())


def test_sizes_have_units():
    sizes = [0, 1023, 1024, 1536, 5 * 2**20, 3.5 * 2**30, 2**41]
    words = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.5 GiB", "2048.0 GiB"]
    assert [hub.format_bytes(size) for size in sizes] == words
