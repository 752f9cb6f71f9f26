"""Options that commands share, as data: their help is shown without waiting for torch."""

from dataclasses import dataclass, fields
from typing import Any, Literal

EARTH, UNKNOWN = "earth", "unknown world"
"""Prompts: what a model is told of the world of the photos."""

SHOTS = (0, 1, 2, 4, 8, 16)
"""Numbers of examples to try and to calibrate for."""


Choice = Literal["nearest", "diverse", "random", "stratified", "two-stage"]
"""How examples are chosen for each photo: the names of `icgeo.selection.STRATEGIES`."""


ONLY_ORBIT = (
    "the model in the box knows views of planets from orbit alone; of other photos its answers "
    "mean nothing, however sure they look"
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is loaded; `icgeo.load` explains and checks them."""

    model: str = "tiny"
    """A name, a checkpoint folder, or a hub id."""
    revision: str | None = None
    """Of a hub id: a branch, a tag or a commit; by default its main branch."""
    local_files_only: bool = False
    """Download nothing: take a hub id from the cache, or fail."""
    adapter: str | None = None
    """A LoRA: a folder, a safetensors file, or a hub id."""
    attention: str | None = None
    """Who sees whom: full, joint or pairwise; by default the model's own."""
    layout: str | None = None
    """How examples are shown: references or panel; by default the model's own."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda or cuda:1."""
    dtype: str | None = None
    """float32, bfloat16 or float16; by default float32 on the CPU, bfloat16 elsewhere."""
    quantization: str | None = None
    """Of the weights: nf4, fp8 or int8."""
    offload: str | None = None
    """What waits in the memory of the CPU: model by model, or group by group of blocks."""
    attention_backend: str = "native"
    """Kernel of attention: native, xformers or flash."""

    @property
    def loading(self) -> dict[str, Any]:
        """What `icgeo.load` takes beside the model."""
        names = [field.name for field in fields(ModelOptions)]
        return {name: getattr(self, name) for name in names if name != "model"}


@dataclass(frozen=True)
class DemoOptions:
    """Open the page on which photos are located with a mouse; it needs the extra [demo]."""

    model: str | tuple[str, ...] = "tiny"
    """A name, a checkpoint folder or a hub id, or a list of them to choose from."""
    device: str = "cpu"
    """Where they run."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets in everyone who can reach this machine."""
    port: int = 7860
    """Port to listen on; 0 takes any that is free."""
    share: bool = False
    """Open a public tunnel through gradio's servers, to which all photos then go."""


def knows_orbit_alone(options: ModelOptions) -> bool:
    """Say whether the model in the box is asked as it is, to which photographs mean nothing."""
    return options.model == "tiny" and options.adapter is None
