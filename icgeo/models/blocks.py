"""One hook for the blocks of a model that draws maps: what they give on is watched, or changed.

Conventions: blocks are counted from 0 in the order in which the transformer calls them. The
activation of a block is what it gives on to the next, [queries, tokens, channels]. A model follows
its own flow from noise, t = 1, down through the times asked for, and is never shown the true map,
so that what is found in its activations is what it knows itself. With guidance, the activations
are those of the pass that is told everything; changes are made in every pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from icgeo import sampling
from icgeo.models.context import Context
from icgeo.models.layouts.interleaved import Interleaved
from icgeo.models.layouts.references import References
from icgeo.models.map_model import MapModel

Activation = Float[Tensor, "queries tokens channels"]
STREAMS = ("image", "text")
TOKENS = ("map", "photo", "example")
LISTS = ("transformer_blocks", "single_transformer_blocks", "blocks")
"""Where diffusers keeps the blocks of a transformer."""


def blocks_of(transformer: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformer of diffusers, in the order in which it calls them."""
    return [block for name in LISTS for block in getattr(transformer, name, ())]


@dataclass(frozen=True)
class Taps:
    """Which activations are looked at."""

    blocks: tuple[int, ...] = ()
    """Numbers of blocks."""
    times: tuple[float, ...] = (1.0,)
    """From 1, noise, to above 0; the flow goes through all of them."""
    tokens: str = "map"
    """Of the map that is drawn, of the query's "photo", or of the "example"s in its sequence."""
    stream: str = "image"
    """"image", or "text": the tokens of the instruction."""
    same_noise: bool = False
    """Whether all photos begin with one noise, so that activations differ by what they show."""

    def __post_init__(self) -> None:
        for name, choices in (("tokens", TOKENS), ("stream", STREAMS)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"expected {name} of {choices}, got {value!r}")
        if bad_times := [time for time in self.times if not 0 < time <= 1]:
            raise ValueError(
                f"expected times above 0 and up to 1, which is noise, got {bad_times[0]}"
            )

    def require(self, model: MapModel) -> None:
        """Raise ValueError for a block that a model does not have."""
        count = len(blocks_of(model.backbone.transformer))
        if bad_blocks := [block for block in self.blocks if not 0 <= block < count]:
            raise ValueError(f"expected blocks from 0 to {count - 1}, got {bad_blocks[0]}")


@dataclass(frozen=True)
class Edit:
    """A change of what a block gives on, at the tokens that are looked at."""

    block: int
    change: Callable[[Activation], Activation]
    time: float | None = None
    """When; None at every step."""


@dataclass(frozen=True)
class Step:
    """What is seen at a time."""

    time: float
    activations: dict[int, Activation]
    """By block; in float32 on the CPU."""
    maps: Float[Tensor, "queries 3 height width"]
    """What the maps look like from there: float, unclipped."""


@torch.no_grad()
def walk(
    model: MapModel,
    context: Context,
    photos: UInt8[Tensor, "queries 3 high wide"],
    *,
    prompt: str,
    taps: Taps,
    edits: Sequence[Edit] = (),
    seed: int = 0,
) -> Iterator[Step]:
    """Draw the maps of photos, one sample each, and yield what blocks give on at each time.

    By default the noise is that of `MapModel.draw_maps`: without edits the maps are the same.

    Raises:
        ValueError: no such block, or tokens that the sequence of a query does not hold.
    """
    taps.require(model)
    context.require(model.fingerprint)
    layout, examples = model.layout, context.gathered()
    queries = layout.encode_queries(examples.tensors, model._pixels(photos))
    rows = token_rows(model, examples, queries, taps.tokens)
    recorder = _Recorder(model, taps, rows.to(queries.device), edits)
    contents = [pixels.numpy().tobytes() for pixels in photos.cpu()]
    contents = [b"same"] * len(photos) if taps.same_noise else contents
    shape = layout.latent_shape(context.shots)
    noise = sampling.keyed_noise(contents, shape, samples=1, seed=seed)
    x = noise.to(queries.device, torch.promote_types(queries.dtype, torch.float32))
    times = sorted({1.0, *taps.times}, reverse=True)
    with recorder.hooked(model.backbone.transformer):
        velocity = model.velocity(examples, queries, prompt)
        # of photos that are encoded once, for all steps
        first_pass = dict(recorder.first)
        for t, next_t in zip(times, [*times[1:], 0.0], strict=True):
            recorder.time, recorder.first, recorder.last = t, {}, {}
            v = velocity(x, t)
            outputs = first_pass or recorder.last
            if t in taps.times:
                activations = {
                    n: part.float().cpu() for n, part in outputs.items() if n in taps.blocks
                }
                yield Step(t, activations, layout.decode(x - t * v, shots=context.shots)[:, 0])
            x = x + (next_t - t) * v


class _Recorder:
    """Sees and changes what blocks give on while its hooks are there."""

    def __init__(self, model: MapModel, taps: Taps, rows: Tensor, edits: Sequence[Edit]) -> None:
        self.model, self.taps, self.rows, self.edits = model, taps, rows, edits
        self.first: dict[int, Tensor] = {}
        self.last: dict[int, Tensor] = {}
        self.time: float | None = None
        """None before the first step, when some layouts encode photos once."""
        self.length, self.is_looking = 0, True

    @contextmanager
    def hooked(self, transformer: nn.Module) -> Iterator[None]:
        """Look at a transformer within."""
        numbers = {*self.taps.blocks, *(edit.block for edit in self.edits)}
        handles = [transformer.register_forward_pre_hook(self._before, with_kwargs=True)]
        for number, block in enumerate(blocks_of(transformer)):
            if number in numbers:
                handles.append(block.register_forward_hook(partial(self._after, number)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else inputs[0]
        # a video is cut into tokens within; its blocks see no words among them
        self.length = hidden.shape[1] if hidden.ndim == 3 else 0
        self.is_looking = True
        layout = self.model.layout
        if isinstance(layout, Interleaved):  # words and photos are read before the map
            self.is_looking = kwargs["encoder_hidden_states"].shape[1] == 0
        elif isinstance(layout, References) and self.model.settings.attention != "full":
            self.is_looking = (self.taps.tokens == "photo") == (self.time is None)

    def _after(self, number: int, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.is_looking:
            return None
        if isinstance(output, tuple):
            text, image = output
        else:
            words = output.shape[1] - self.length if self.length else 0
            text, image = output[:, :words], output[:, words:]
        is_text = self.taps.stream == "text"
        rows = slice(None) if is_text else self.rows
        if is_text and not (text is not None and text.shape[1]):
            raise ValueError(
                "expected words among the tokens of a block for stream='text', got none: this "
                "model looks at them from outside, or was told nothing; take stream='image'"
            )
        stream = text if is_text else image
        part, is_changed = stream[:, rows], False
        for edit in self.edits:
            if edit.block == number and (edit.time is None or self.time in (None, edit.time)):
                part, is_changed = edit.change(part).to(part), True
        self.first.setdefault(number, part)
        self.last[number] = part
        if not is_changed:
            return None
        stream = stream.clone()
        stream[:, rows] = part
        text, image = (stream, image) if is_text else (text, stream)
        return (text, image) if isinstance(output, tuple) else torch.cat((text, image), dim=1)


def token_rows(
    model: MapModel, context: Context, queries: Tensor, tokens: str
) -> Int[Tensor, " tokens"]:
    """Return which tokens of the image stream are of the map, the query's photo or the examples.

    In the layout `stacked` a token joins the same part of both photo and map.

    Raises:
        ValueError: tokens that the sequence of a query does not hold.
    """
    rows, shots = model.layout.token_rows(context.tensors, context.shots, queries), context.shots
    if not len(rows.get(tokens, ())):
        raise ValueError(
            f"expected tokens of {[name for name, part in rows.items() if len(part)]} in the "
            f"sequence of a query with {shots} examples, layout {model.settings.layout!r} and "
            f"attention {model.settings.attention!r}, got {tokens!r}; examples stand in it with "
            "attention='full'"
        )
    return rows[tokens]
