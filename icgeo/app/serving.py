"""The server of the page: who may connect, how much may be uploaded, what is left behind.

Conventions: nothing is fetched from the network, and nothing stays on disk when the server stops.
"""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from icgeo.app.page import build, gradio_or_refuse
from icgeo.app.session import MAX_UPLOAD

_FOLDER = "GRADIO_TEMP_DIR"
_FONTS = ("system-ui", "sans-serif")
_CSS = "footer {display: none !important} .gradio-container {max-width: 1400px !important}"


def launch(
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    model: str | Path | Sequence[str] = "tiny",
    device: str = "cpu",
) -> None:
    """Serve the page until it is interrupted.

    Args:
        host: the address to listen on; "0.0.0.0" lets in everyone who can reach this machine.
        port: 0 takes any that is free.
        share: open a public tunnel through gradio's servers, to which all then goes.
        model: what `icgeo.load` takes, or several to choose from.
        device: where models run.

    Raises:
        LoadError: no such model, or gradio is not installed.
        OSError: the port is taken, or there is none of this number.
    """
    _require_port(host, port)
    with _own_folder():
        gradio = gradio_or_refuse()  # it makes a folder as it is imported
        theme = gradio.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace"))
        page = build(model, device=device).queue(api_open=False)
        _, here, shared = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=MAX_UPLOAD,
            theme=theme,
            css=_CSS,
            footer_links=[],
            ssr_mode=False,
            run_history=False,  # it would keep photos in the browser
            quiet=True,
            prevent_thread_lock=True,
        )
        sys.stderr.write(f"icgeo: the page is at {shared or here}; Ctrl-C stops it\n")
        try:
            Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)


def _require_port(host: str, port: int) -> None:
    """Refuse a port before the model is loaded.

    Raises:
        OSError: with the remedy.
    """
    remedy = "give another with --port; 0 takes any that is free"
    if not 0 <= port < 2**16:
        raise OSError(f"cannot listen on port {port} of {host}, there is none; {remedy}")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise OSError(f"cannot listen on port {port} of {host} ({error}); {remedy}") from error


@contextmanager
def _own_folder() -> Iterator[None]:
    """Keep all temporary files in a folder that goes when the server stops, also by a signal."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt  # as Ctrl-C does

    before = signal.signal(signal.SIGTERM, stop), os.environ.get(_FOLDER), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="icgeo-") as folder:
        os.environ[_FOLDER] = tempfile.tempdir = folder
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before[0])
            tempfile.tempdir = before[2]
            os.environ.pop(_FOLDER)
            if before[1] is not None:
                os.environ[_FOLDER] = before[1]
