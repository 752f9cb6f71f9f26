"""The server of the page: who may connect, how much may be uploaded, what is left behind.

Conventions: nothing is fetched from the network, and nothing stays on disk when the server stops.
"""

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
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
        OSError: the port is taken.
    """
    with _own_folder():
        gradio = gradio_or_refuse()  # it makes a folder as it is imported
        theme = gradio.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace"))
        build(model, device=device).queue(api_open=False).launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=MAX_UPLOAD,
            theme=theme,
            css=_CSS,
            footer_links=[],
            ssr_mode=False,
            run_history=False,  # it would keep photos in the browser
        )


@contextmanager
def _own_folder() -> Iterator[None]:
    """Keep all temporary files in a folder that goes when the server stops, also by a signal."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt  # on which gradio closes the server

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
