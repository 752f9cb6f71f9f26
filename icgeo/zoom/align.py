"""The last level: the query against the view cut at its pose, to a part of a pixel."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from icgeo.config import require

ITERATIONS, LEAST_GAIN = 60, 1e-5
SMOOTHING = 5
"""Side of the Gaussian filter in pixels, by which the two are compared."""
MOST_SHIFT, MOST_CHANGE = 0.5, 0.35
"""Shift in half widths, and change of scale and of axes, beyond which two do not agree."""


def align(
    query: UInt8[Tensor, "3 size size"],
    view: UInt8[Tensor, "3 size size"],
    known: Bool[Tensor, "size size"] | None = None,
) -> tuple[Float[Tensor, "2 3"], float] | None:
    """Return the affine warp that takes places of a query to those of a view, and how alike it is.

    By the enhanced correlation coefficient (Evangelidis and Psarakis 2008), which is free of haze
    and exposure, as OpenCV computes it; None where it does not converge near the start. Of the
    view only what is `known` counts.
    """
    cv2: Any = require("cv2", "aligning a photo with a map", "map")
    template, image = (_grey(one) for one in (query, view))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, LEAST_GAIN)
    warp = np.eye(2, 3, dtype=np.float32)
    mask = None if known is None else known.numpy().astype(np.uint8)
    try:
        alike, warp = cv2.findTransformECC(
            template, image, warp, cv2.MOTION_AFFINE, criteria, mask, SMOOTHING
        )
    except cv2.error:  # what has no texture, or nothing in common
        return None
    if not np.isfinite(warp).all():
        return None
    half = query.shape[-1] / 2
    found = torch.from_numpy(warp).double()
    # pixel centres (0 .. size - 1) to half widths from the middle
    middle = torch.tensor([half - 0.5, half - 0.5], dtype=torch.float64)
    shift = (found[:, :2] @ middle + found[:, 2] - middle) / half
    if shift.abs().max() > MOST_SHIFT or (found[:, :2] - torch.eye(2)).abs().max() > MOST_CHANGE:
        return None
    return torch.cat((found[:, :2], shift[:, None]), dim=1), float(alike)


def _grey(image: UInt8[Tensor, "3 size size"]) -> Any:
    return image.float().mean(0).numpy()
