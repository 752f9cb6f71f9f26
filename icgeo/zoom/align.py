"""The last level: the query against the view cut at its pose, to a part of a pixel."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from icgeo.config import require

ITERATIONS, LEAST_GAIN = 100, 1e-7
SMOOTHING = 5
"""Side of the Gaussian filter in pixels, by which the two are compared."""
PATCH = 9
"""Side in pixels of what is taken to differ together."""
MOST_SHIFT, MOST_CHANGE = 0.5, 0.35
"""Shift in half widths, and change of scale and of axes, beyond which two do not agree."""


@dataclass(frozen=True)
class Registration:
    """How a photo lies in a view in which it nearly lies already."""

    warp: Float[Tensor, "2 3"]
    """Takes places of the photo to those of the view, in half widths from the middle."""
    likeness: float
    """Correlation, 1 where they are the same but for haze and exposure."""
    error: float = math.nan
    """Standard error of the shift in pixels, in each direction; NaN if it was not computed."""


def align(
    query: UInt8[Tensor, "3 size size"],
    view: UInt8[Tensor, "3 size size"],
    valid: Bool[Tensor, "size size"] | None = None,
) -> Registration | None:
    """Align a query with a view by their brightness.

    By the enhanced correlation coefficient (Evangelidis and Psarakis 2008), which is free of haze
    and exposure, as OpenCV computes it; None where it does not converge near the start. Of the
    view only what is `valid` counts.
    """
    cv2: Any = require("cv2", "aligning a photo with a map", "map")
    template, image = (_grey(one) for one in (query, view))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, LEAST_GAIN)
    warp = np.eye(2, 3, dtype=np.float32)
    mask = None if valid is None else valid.numpy().astype(np.uint8)
    try:
        alike, warp = cv2.findTransformECC(
            template, image, warp, cv2.MOTION_AFFINE, criteria, mask, SMOOTHING
        )
    except cv2.error:  # what has no texture, or nothing in common
        return None
    if not np.isfinite(warp).all():
        return None
    half = query.shape[-1] / 2
    affine = torch.from_numpy(warp).double()
    # pixel centres (0 .. size - 1) to half widths from the middle
    middle = torch.tensor([half - 0.5, half - 0.5], dtype=torch.float64)
    shift = (affine[:, :2] @ middle + affine[:, 2] - middle) / half
    affine = torch.cat((affine[:, :2], shift[:, None]), dim=1)
    return Registration(affine, float(alike)) if _is_small(affine) else None


def register(
    photo: UInt8[Tensor, "3 size size"], view: UInt8[Tensor, "3 size size"]
) -> Registration | None:
    """Take one step of least squares over all colours from a pose that is off by part of a pixel.

    Least squares of the photo on the view and on its changes with six numbers of an affine warp, by
    the mean gradient of both (Benhimane and Malis 2004). Pictures of two kinds that agree in
    brightness, as ECC sees them, hardly agree in colour. What differs between photo and view is no
    white noise, but stands in patches and where there are edges; the error is that of least squares
    under such noise (the spatial covariance of Conley 1999, over squares of `PATCH` pixels). None
    if the step leads too far away.
    """
    first, second = (_smooth(one) for one in (photo, view))
    first, second = (one / one.norm().clamp_min(1e-9) for one in (first, second))
    down, right = torch.gradient((first + second) / 2, dim=(1, 2))
    step = torch.linspace(-1, 1, first.shape[-1], dtype=first.dtype)
    scales = (1, step, step[:, None])
    slopes = [slope * by for by in scales for slope in (right, down)]
    design = rearrange([*slopes, second], "number c h w -> number (c h w)")
    estimator = torch.linalg.pinv(design @ design.T, hermitian=True) @ design
    coefficients = estimator @ first.flatten()
    residual = first - (coefficients @ design).view_as(first)
    by_pixel = estimator[:2].view(2, *residual.shape) * residual
    score = reduce(by_pixel, "way c h w -> way 1 h w", "sum")
    sums = PATCH**2 * avg_pool2d(pad(score, 4 * (PATCH - 1,)), PATCH, stride=1)
    half, reach = photo.shape[-1] / 2, (first.shape[-1] - 1) / 2
    ways = rearrange(coefficients[:6], "(by way) -> way by", way=2)
    warp = torch.eye(2, 3).double() + ways[:, [1, 2, 0]] / torch.tensor([reach, reach, half])
    if not _is_small(warp):
        return None
    error = math.sqrt(float(sums.square().sum()) / 2) / PATCH
    return Registration(warp, float((first * second).sum()), error)


def _is_small(warp: Float[Tensor, "2 3"]) -> bool:
    change = (warp[:, :2] - torch.eye(2)).abs().max()
    return bool(warp[:, 2].abs().max() <= MOST_SHIFT and change <= MOST_CHANGE)


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
