"""Pages served by processes of their own, which must not ask for anything elsewhere."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.request import urlopen

import pytest

WATCH = """
import sys

def callback_on_step_end(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        if arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
            sys.stderr.write(f"OUTSIDE {arguments[1]}\\n")

sys.addaudithook(callback_on_step_end)
"""
LOCAL = {"127.0.0.1", ""}  # data: and blob: have no host


@contextmanager
def served(folder, program, *arguments):
    """Serve by a program that is given a port; nothing must go out, and no file be left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    (folder / "tmp").mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WATCH + program, str(port), *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "HF_ASSETS_CACHE": str(folder)},
        )
        try:
            _wait_for(url, process, folder / "log")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert "OUTSIDE" not in (folder / "log").read_text()
    left = {path.name for path in (folder / "tmp").iterdir()}
    caches = {name for name in left if name.startswith("torchinductor")}  # torch's own, empty
    assert left == caches, "temporary files are removed"


def _wait_for(url, process, log):
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urlopen(url).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    pytest.fail(f"no answer of {url}: {log.read_text()}")
