"""The command `icgeo`: locate photos, plan a run, open the demo, say what is installed.

Conventions: answers go to standard output, all else to standard error. Exit codes: 0, 1 where some
photo could not be read, 2 for wrong usage. The library is imported by the command that needs it.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from icgeo import config
from icgeo.cli.batches import PredictOptions, predict
from icgeo.options import DemoOptions, ModelOptions


@dataclass(frozen=True, kw_only=True)
class PlanOptions(ModelOptions):
    """Say what memory and how many operations a run needs; no weights are loaded."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Numbers that the weights are stored in, unless they are quantized."""
    shots: int = 16
    """Number of examples."""
    queries: int = 64
    """Photos that share the examples."""
    batch_size: int = 8
    """Photos at a time."""
    steps: int | None = None
    """Steps of the flow; by default the checkpoint's own."""
    samples: int | None = None
    """Maps drawn for each photo; by default the checkpoint's own."""
    json: bool = False
    """Print one object of JSON, in bytes and floating-point operations a photo."""


@dataclass(frozen=True)
class InfoOptions:
    """Say what is installed: versions, devices, backends, extras."""

    json: bool = False
    """Print one object of JSON."""


COSTS = (
    "parameters", "shots", "attention", "queries", "batch_size", "steps", "samples", "weight_bytes",
    "context_bytes", "activation_bytes", "total_bytes", "memory_bytes", "fits", "naive_flop",
    "stock_flop", "shared_flop",
)  # fmt: skip
"""What `icgeo plan --json` says of an `icgeo.models.plan.Plan`."""


def plan(options: PlanOptions) -> int:
    """Print what a run will cost."""
    import torch

    from icgeo.models.plan import plan as plan_run

    settings = {**vars(options), "dtype": getattr(torch, options.dtype)}
    as_json = settings.pop("json")
    cost = plan_run(**settings)
    text = json.dumps({name: getattr(cost, name) for name in COSTS}) if as_json else str(cost)
    sys.stdout.write(text + "\n")
    return 0


def demo(options: DemoOptions) -> int:
    """Start the page, until it is stopped."""
    if not all(importlib.util.find_spec(name) for name in ("gradio", "plotly")):
        raise config.UsageError("the page needs gradio and plotly: pip install 'icgeo[demo]'")
    from icgeo.app import launch

    try:
        launch(**vars(options))
    except OSError as error:
        raise config.UsageError(str(error)) from error
    return 0


def info(options: InfoOptions) -> int:
    """Print what is installed."""
    from icgeo.models.installed import installed

    facts = installed()
    if options.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        import yaml

        yaml.safe_dump(facts, sys.stdout, sort_keys=False, allow_unicode=True)
    return 0


COMMANDS: dict[type[Any], Callable[[Any], int]] = {
    PredictOptions: predict,
    PlanOptions: plan,
    DemoOptions: demo,
    InfoOptions: info,
}
"""What runs with which options; a command is called as its function is."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        options = config.parse(
            {command.__name__: options for options, command in COMMANDS.items()},
            args,
            prog="icgeo",
            description="Locate photos by showing a model that draws maps a few solved cases.",
            version=metadata.version("icgeo"),
        )
        config.prepare_screen()
        return COMMANDS[type(options)](options)
    except config.UsageError as error:
        sys.stderr.write(f"icgeo: error: {config.one_line(error)}\n")
        return 2
    except BrokenPipeError:  # who reads the answers has enough of them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
