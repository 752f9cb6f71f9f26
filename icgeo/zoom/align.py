"""The last level: the query against the view cut at its pose, to a part of a pixel."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from icgeo.config import require

ITERATIONS, LEAST_GAIN = 100, 1e-7
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


def compare(
    photo: UInt8[Tensor, "3 size size"], view: UInt8[Tensor, "3 size size"]
) -> tuple[float, float]:
    """Return how alike an aligned photo and view are in colour, and how surely they are aligned.

    The likeness is the correlation over all channels, each about its own mean: pictures of two
    kinds that agree in brightness alone, as ECC sees them, hardly agree in colour. The other is the
    Cramer-Rao bound of registration (Robinson and Milanfar 2004, here with the affine warp and a
    gain unknown) in pixels: what differs over the gradients, so that fine texture is placed better
    than smooth shades that look as alike. It takes what differs for white noise, so errors are
    larger than it, in proportion to a power of it that `ZoomSettings` holds.
    """
    photo, view = (_smooth(one) for one in (photo, view))
    alike = float((photo * view).sum() / (photo.norm() * view.norm()).clamp_min(1e-9))
    down, right = torch.gradient(photo, dim=(1, 2))
    step = torch.linspace(-1, 1, photo.shape[-1], dtype=photo.dtype)
    warped = [slope * by for by in (1, step, step[:, None]) for slope in (right, down)]
    changes = torch.stack([*warped, photo]).flatten(1)
    shift = torch.linalg.pinv(changes @ changes.T, hermitian=True)[:2, :2]
    unlike = (1 - alike**2) * photo.square().mean()
    return alike, math.sqrt(max(0.0, float(unlike * shift.trace() / 2)))


def _smooth(image: UInt8[Tensor, "3 size size"]) -> Float[Tensor, "3 inner inner"]:
    """Return the channels about their means, smoothed as ECC does it, without the margin."""
    cv2: Any = require("cv2", "aligning a photo with a map", "map")
    pixels = image.permute(1, 2, 0).double().numpy()
    margin = SMOOTHING // 2
    blurred = torch.from_numpy(cv2.GaussianBlur(pixels, (SMOOTHING, SMOOTHING), 0)).movedim(2, 0)
    inner = blurred[:, margin:-margin, margin:-margin]
    return inner - inner.mean((1, 2), keepdim=True)


def _grey(image: UInt8[Tensor, "3 size size"]) -> Any:
    return image.float().mean(0).numpy()
