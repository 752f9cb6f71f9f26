"""What the layouts of pretrained models share.

A layout is made of a backbone, settings and a kernel of attention. `modes` are the modes of
attention that it knows, and `fixed` the settings that belong to the weights. If `is_one_picture`,
examples and query are drawn again as a whole; if `takes_groups`, queries with examples, times and
prompts of their own go through in one pass.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from icgeo.models.instructions import instruction

Predict = Callable[[Tensor, float, Any], Tensor]
"""Velocity of noisy latents [queries, samples, ...] at a time, given an embedded text."""


def colours(layout: Any, photos: Tensor) -> Float[Tensor, "photos features"]:
    """Describe photos in [0, 1] by their colours at 8 x 8 pixels."""
    return functional.adaptive_avg_pool2d(photos.float(), 8).flatten(1)


def instructed(layout: Any, prompt: str, shots: int) -> Any:
    """Embed the instruction of a layout for a pretrained model; "" is nothing."""
    words = instruction(prompt, shots=shots, layout=layout.settings.layout) if prompt else ""
    return layout.backbone.prompts(words)
