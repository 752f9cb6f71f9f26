"""Options that the library, the command and the scripts share, as data that needs no torch.

Conventions: each option stands here once. A dataclass of options composes what it needs by
inheritance, and `fields_of` hands on the part that a function takes.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

EARTH, UNKNOWN = "earth", "unknown world"
"""Prompts: what a model is told of the world of the photos."""

SETTINGS = ("attention", "layout", "photo_size", "photo_shape", "text")
"""Options of loading that are settings of the model: None leaves its own."""

SHOTS = (0, 1, 2, 4, 8, 16)
"""Numbers of examples to try and to calibrate for."""

Choice = Literal["nearest", "diverse", "random", "stratified", "two-stage"]
"""How examples are chosen for each photo: the names of `icgeo.selection.STRATEGIES`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOptions:
    """Which model, and in which form; what a plan of memory needs to know, too."""

    model: str = "tiny"
    """A name ("tiny" is in the package), a checkpoint folder, or a hub id."""
    revision: str | None = None
    """A branch, a tag or a commit of the hub id; by default its main branch."""
    local_files_only: bool = False
    """Download nothing: take a hub id from the cache, or fail."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda or cuda:1."""
    dtype: str | None = None
    """float32, bfloat16 or float16; by default float32 on the CPU, bfloat16 elsewhere."""
    quantization: str | None = None
    """Store the weights of the transformer as nf4, fp8 or int8."""
    attention: str | None = None
    """Who sees whom: full, joint, pairwise or causal; by default the model's own."""
    layout: str | None = None
    """How examples are shown: references, pair, sheet or panel, where the model can choose."""
    photo_size: int | None = None
    """Side in pixels of a square of the area of photos, where the model can choose; by default its
    own."""
    photo_shape: str | None = None
    """own, as each photo is, cut to whole tokens, or square, its middle; by default the model's."""
    text: str | None = None
    """How it reads instructions: stock, with the padding that the pipeline's users give it, or
    trimmed to their words, which is faster and unlike its training; by default the model's own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadOptions(ModelOptions):
    """How a model is loaded; `icgeo.load` takes these by name, and checks them."""

    adapter: str | None = None
    """A LoRA as diffusers or PEFT stores it: a folder, a safetensors file, or a hub id."""
    weight_name: str | None = None
    """The file of the adapter's folder or hub id, where there are several."""
    offload: str | None = None
    """Keep parts in the memory of the CPU: "model" by model, or "group" by group of blocks."""
    attention_backend: str = "native"
    """Kernel of attention, of this model alone: native, xformers or flash."""
    vae_tiling: bool = False
    """Encode and decode images by tiles: slower, for less memory."""

    @property
    def torch_dtype(self) -> Any:
        """The dtype that is asked for, or that of the device, as torch has it."""
        import torch

        on_cpu = torch.device(self.device).type == "cpu"
        return getattr(torch, self.dtype or ("float32" if on_cpu else "bfloat16"))


@dataclass(frozen=True, kw_only=True, eq=False)
class LocateOptions:
    """How photos are located with a model; the options of `Geolocator` beside those of loading."""

    map: str | None = None
    """A map from which examples are cut, beside those given: blue-marble, etopo1, shaded-relief, a
    picture of a whole planet, a GeoTIFF, PMTiles, MBTiles, or a folder of tiles z/x/y."""
    zoom: bool | None = None
    """Zoom on the map, from the planet to windows and to the place, by default wherever one is
    given; false shows its views as examples. Without a map, true zooms on the examples."""
    heading: Any = "any"
    """Compass direction of the upper edge of the photos in degrees, for the zoom: 0 is north up;
    "any" finds it."""
    shots: int | None = None
    """Number of examples that each photo is shown, chosen for it; by default all of them, and 16
    with a map."""
    select: Any = "nearest"
    """How they are chosen: nearest, diverse, random, stratified or two-stage, or in Python a
    strategy of `icgeo.selection`."""
    features: str | None = None
    """By what photos are alike: tiny (views from orbit), pixels, efficientnet-lite0, or a vision
    model of transformers; by default what suits the model."""
    prompt: str | None = None
    """The instruction for the model, one of its own prompts; by default its first."""
    steps: int | None = None
    """Steps of the flow; 1 gives the posterior mean. By default the checkpoint's own."""
    samples: int | None = None
    """Maps drawn for each photo and averaged; by default the checkpoint's own."""
    example_guidance: float | None = None
    """How far to lean towards what the examples say, by a second pass without them; 1 is none. By
    default the checkpoint's own."""
    matching: bool = True
    """Compare parts of the photo with parts of the examples, where the checkpoint can; the drawn
    map is then the prior of what alike parts say."""
    augment: int = 0
    """Further views of each photo (crops and exposures, never flips), averaged on the density."""
    point: str = "best"
    """The single answer: best, of the largest expected GeoScore, or mode, mean or median."""
    batch_size: int = 64
    """Photos at a time; fewer where the memory holds no more."""
    seed: int = 0
    """Key of the noise."""


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


def fields_of(kind: type[Any], options: Any) -> dict[str, Any]:
    """Return the values of the fields of a dataclass `kind` that `options` composes."""
    return {field.name: getattr(options, field.name) for field in fields(kind)}
