"""Ask an image-text model where photos were taken: python scripts/language.py photos.csv --plan.

`--plan` tells what it will cost, and asks nothing. A stopped run goes on; nothing is asked twice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Locate photos by a model of transformers, or behind an endpoint like OpenAI's."""

    photos: tuple[Path, ...] = config.positional("A manifest or a folder of photos to locate.")
    examples: Path | None = None
    """A manifest or a folder of photos whose places are known."""
    shots: int = 4
    """Examples shown, drawn from those."""
    model: str = "gpt-4o"
    """The model as the endpoint knows it, or its folder or hub id."""
    backend: Literal["endpoint", "transformers"] = "endpoint"
    """Where it runs: behind an endpoint, to which all photos go, or here."""
    base_url: str | None = None
    """Address of the endpoint, such as http://127.0.0.1:8000/v1; by default OpenAI's own."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds its key."""
    timeout_seconds: float = 120.0
    """How long to wait for one answer."""
    retries: int = 3
    """Further tries after one that is late or fails."""
    at_once: int = 8
    """Questions to the endpoint at the same time."""
    max_tokens: int = 2000
    """Length of an answer at most."""
    settings: dict[str, Any] | None = None
    """Sent with each question to an endpoint in place of max_tokens and a temperature of 0."""
    usd_per_million: tuple[float, float] | None = None
    """Price of a million tokens sent and of a million received, in US dollars."""
    budget_usd: float | None = None
    """What all answers of this run may cost; it stops before it might go beyond."""
    device: str = "cpu"
    """Where a model of transformers runs."""
    explain_examples: bool = True
    """Ask the model once for the clues in each example, and show them with it."""
    ask_again: bool = False
    """Ask again what gave no place before."""
    plan: bool = False
    """Tell what it will cost, and stop."""
    seed: int = 0
    """Seed of the examples drawn."""
    name: str = "language"
    """Run folder under runs/; answers.jsonl in it keeps every answer."""


FREE_TO_CHANGE = (
    *("plan", "ask_again", "device"),
    *("at_once", "timeout_seconds", "retries", "budget_usd"),
)
"""Options that a run may be continued with other values of."""


def main(options: Options) -> None:
    """Tell the cost, locate, and print scores or places."""
    if len(options.photos) != 1:
        raise config.UsageError("expected one manifest or folder of photos to locate")
    from icgeo import evaluation
    from icgeo.baselines.language import LanguageLocator

    examples = []
    if (path := options.examples) and options.shots:
        examples = evaluation.read_examples(path, shots=options.shots, seed=options.seed)
    episode = evaluation.photo_episode(options.photos[0], examples)
    folder = config.save_run(Path("runs") / options.name, options, may_differ=FREE_TO_CHANGE)
    locator = LanguageLocator(
        open_model(options),
        folder / "answers.jsonl",
        explain_examples=options.explain_examples,
        budget_usd=options.budget_usd,
        ask_again=options.ask_again,
        name=options.model,
    )
    print(locator.cost([query.photo for query in episode.queries], examples))
    if options.plan:
        return
    if options.ask_again:  # rows follow from the answers, which are kept
        for path in folder.glob("predictions*"):
            path.unlink()
    rows = evaluation.evaluate([(locator, episode)], folder=folder, shots=(len(examples),))
    print(evaluation.format_results(rows))


def open_model(options: Options) -> Any:
    """Open the model; one behind an endpoint is not asked anything yet."""
    from icgeo.baselines.language_models import EndpointModel, TransformersModel

    if options.backend == "transformers":
        return TransformersModel.open(
            options.model, max_tokens=options.max_tokens, device=options.device
        )
    settings = options.settings or {"max_tokens": options.max_tokens, "temperature": 0.0}
    return EndpointModel(
        options.model,
        options.base_url,
        options.key_variable,
        timeout_seconds=options.timeout_seconds,
        retries=options.retries,
        at_once=options.at_once,
        settings=settings,
        usd_per_million=options.usd_per_million,
    )


if __name__ == "__main__":
    config.run(main, Options)
