"""Open the page on which photos are located with a mouse; needs the extra [demo]."""

from dataclasses import dataclass

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Serve the page until Ctrl-C; it needs no network."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets in everyone who can reach this machine."""
    port: int = 7860
    """Port to listen on."""
    share: bool = False
    """Open a public tunnel through gradio's servers, to which all photos then go."""
    model: tuple[str, ...] = ("tiny",)
    """Names, checkpoint folders or hub ids to choose from."""
    device: str = "cpu"
    """Where they run."""


def main(options: Options) -> None:
    """Serve the page."""
    from icgeo import app
    from icgeo.models import LoadError

    try:
        app.launch(**vars(options))
    except (LoadError, OSError) as error:
        raise config.UsageError(str(error)) from error


if __name__ == "__main__":
    config.run(main, Options)
