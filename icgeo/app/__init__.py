"""A page on which photos are located with a mouse, and its server.

Conventions: nothing is fetched from the network, and nothing stays on disk when the server stops.
"""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from icgeo.config import require
from icgeo.models import LoadError

if TYPE_CHECKING:
    from icgeo.app.duels import Duel

MAX_UPLOAD = "20mb"
"""Of one file."""
_FOLDER = "GRADIO_TEMP_DIR"
_FONTS = ("system-ui", "sans-serif")


def launch(
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    model: str | Path | Sequence[str] = "tiny",
    device: str = "cpu",
) -> None:
    """Serve the page until it is interrupted.

    The `host` "0.0.0.0" lets in everyone who can reach this machine, `share` opens a public tunnel
    through gradio's servers, to which all then goes; port 0 takes any that is free. `model` is what
    `icgeo.load` takes, or several to choose from.

    Raises:
        LoadError: no such model, or gradio or plotly is not installed.
        OSError: the port is taken, or there is none of this number.
    """

    def build_page() -> Any:
        from icgeo.app.interface import build

        return build(model, device=device)

    serve(build_page, host, port, share=share)


def launch_arena(
    duels: "Sequence[Duel]",
    votes: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
) -> None:
    """Serve the page of the arena until it is interrupted; `votes` is the file that they go to.

    `host`, `port`, `share` and what is raised are as for `launch`.
    """

    def build_page() -> Any:
        from icgeo.app.arena_page import build

        return build(duels, votes)

    serve(build_page, host, port, share=share)


def serve(
    build: Callable[[], Any], host: str = "127.0.0.1", port: int = 7860, *, share: bool = False
) -> None:
    """Serve the page that `build` makes, a `gradio.Blocks`, until it is interrupted."""
    port = _free_port(host, port)
    with _own_folder():  # gradio makes one as it is imported
        packages = ("gradio", "plotly")
        gradio, _ = (require(one, "the page", "demo", error=LoadError) for one in packages)
        theme = gradio.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace"))
        page = build().queue(api_open=False)
        css = (files("icgeo") / "assets" / "page.css").read_text(encoding="utf-8")
        look = {"theme": theme, "css": css, "footer_links": [], "ssr_mode": False, "quiet": True}
        # a history of runs would keep photos in the browser
        limits = {"max_file_size": MAX_UPLOAD, "run_history": False, "prevent_thread_lock": True}
        _, local_url, share_url = page.launch(
            server_name=host, server_port=port, share=share, **look, **limits
        )
        sys.stderr.write(f"icgeo: the page is at {share_url or local_url}; Ctrl-C stops it\n")
        try:
            Event().wait()
        except KeyboardInterrupt:
            page.close(verbose=False)


def _free_port(host: str, port: int) -> int:
    """Refuse a port before the model is loaded, with the remedy; give a free one for 0."""
    if not 0 <= port < 2**16:
        raise OSError(f"there is no port {port}; give another with --port")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port)[0]
    except OSError as error:
        raise OSError(f"there is no {host} to listen on; give another --host") from error
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise OSError(
            f"cannot listen on port {port} of {host} ({error}); give another with --port; 0 takes "
            "any that is free"
        ) from error


@contextmanager
def _own_folder() -> Iterator[None]:
    """Keep all temporary files in a folder that goes when the server stops, also by a signal."""
    signals = (signal.SIGTERM, signal.SIGINT)  # who starts it with & ignores the second
    handlers = [(one, signal.signal(one, signal.default_int_handler)) for one in signals]
    old_folders = os.environ.get(_FOLDER), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="icgeo-") as folder:
        os.environ[_FOLDER] = tempfile.tempdir = folder
        try:
            yield
        finally:
            for number, handler in handlers:
                signal.signal(number, handler)
            os.environ.pop(_FOLDER)
            if old_folders[0] is not None:
                os.environ[_FOLDER] = old_folders[0]
            tempfile.tempdir = old_folders[1]
