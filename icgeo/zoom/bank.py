"""Zoom on examples, without a map: a photo is laid over those most alike, and lies where they are.

Each example that agrees is aligned with the photo: its middle then lies somewhere in the photo. Of
several of them the place, the field of view and the heading of the photo follow, whatever the
fields of view of the examples are: resection, as surveyors do it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.optimize import least_squares
from torch import Tensor
from torch.nn import functional

from icgeo import sphere
from icgeo.data.pixels import square_pixels
from icgeo.data.poses import Poses
from icgeo.models.map_model import MapModel
from icgeo.prediction import Example, Prediction, ZoomLevel, informs
from icgeo.sphere.multi_order import MultiOrderDensity
from icgeo.zoom.align import align
from icgeo.zoom.chain import SIZE
from icgeo.zoom.refine import WIDE, tried

FIELD_OF_VIEW_DEG, SPREAD = 42.0, 0.35
"""Of photos and of examples, if nothing else tells: the middle, and the deviation of log tan."""
LOG_TANGENT = math.log(math.tan(math.radians(FIELD_OF_VIEW_DEG / 2)))
TURN_DEG = 5.0
"""Standard deviation of a photo's heading from north."""
LEAST_LIKENESS = 0.8
"""Correlation of a photo with an aligned example, below which they do not agree."""
ERROR = 0.0045
"""Standard deviation of where the middle of an aligned example lies in a photo, in half widths."""
AGREES = 7.0
"""An example agrees with a pose if it lies so many deviations from where that has it, at most."""
DOUBT, LEAST_DOUBT = 0.4, 1e-3
"""Probability that the pose is wrong though an example agrees; that of two is its square, and so
on, down to the least."""
TAIL, TAIL_WIDTH = 0.1, 3.0
"""Share of the kernel that is wider, and how much; fitted with `ERROR` and `DOUBT` on banks of
1,000 views of Blue Marble and of planets of training families, of another seed than the table's."""
STARTS = 4


@dataclass(frozen=True, eq=False)
class Aligned:
    """Examples that agree with a photo, the most alike first."""

    lat_lon: Float[Tensor, "examples 2"]
    warps: Float[Tensor, "examples 2 3"]
    """Of places in the photo to those in the example."""
    views: UInt8[Tensor, "examples 3 size size"]
    """The examples, moved to where the photo is."""
    likeness: Float[Tensor, " examples"]

    @property
    def middles(self) -> Float[Tensor, "examples 2"]:
        """Where the middle of each example lies in the photo."""
        return -torch.linalg.solve(self.warps[..., :2], self.warps[..., 2])


def lay_over(
    photo: UInt8[Tensor, "3 size size"], examples: Sequence[Example], model: MapModel
) -> Aligned:
    """Align examples with a photo: by their alike cells, and from there by their pixels."""
    pixels = square_pixels([one.image for one in examples], SIZE)
    query = model.describe_parts(photo[None])[0]
    warps, nats = tried(query, model.describe_parts(pixels), model.settings.matching, WIDE)
    warps = warps[nats.argmax(1)]
    grid = functional.affine_grid(warps, [*pixels.shape], align_corners=False)
    moved = functional.grid_sample(pixels.float(), grid, align_corners=False)
    moved, valid = moved.round().to(torch.uint8), grid.abs().amax(-1) < 1
    registrations = [align(photo, view, mask) for view, mask in zip(moved, valid, strict=True)]
    alike = torch.tensor([0.0 if one is None else one.likeness for one in registrations])
    order = alike.argsort(descending=True)
    order = order[alike[order] > LEAST_LIKENESS]
    last = torch.tensor([[0.0, 0, 1]]).double()
    whole = [warps[i].double() @ torch.cat((registrations[i].warp, last)) for i in order.tolist()]
    places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
    joined = torch.stack(whole) if whole else torch.zeros(0, 2, 3).double()
    return Aligned(places[order], joined, moved[order], alike[order])


@dataclass(frozen=True, eq=False)
class Resection:
    """A photo that sees the middles of examples, whose places are known, somewhere in it."""

    start: Poses
    """Of one view, about where the photo is."""
    xyz: Float[Tensor, "examples 3"]
    middles: Float[Tensor, "examples 2"]

    def pose(self, x: Float[np.ndarray, "4"]) -> Poses:
        """Return the pose of parameters: steps east and north, log tangent, and heading."""
        (north, east), values = sphere.north_east(self.start.xyz), torch.from_numpy(x)
        at = functional.normalize(self.start.xyz + x[0] * east + x[1] * north, dim=-1)
        return Poses(at, 2 * torch.rad2deg(torch.atan(values[2:3].exp())), values[3:4])

    def misfit(self, x: Float[np.ndarray, "4"]) -> Float[np.ndarray, "misfits"]:
        """Return in standard deviations how far off middles lie, and what is usual of photos."""
        gaps = ((self.pose(x).places(self.xyz[None])[0] - self.middles) / ERROR).clamp(-1e3, 1e3)
        return np.concatenate((gaps.flatten(), ((x[2] - LOG_TANGENT) / SPREAD, x[3] / TURN_DEG)))


def resect(aligned: Aligned) -> tuple[Poses, float, Bool[Tensor, " examples"]]:
    """Return the pose in which a photo sees the middles of examples where they are.

    Robust least squares from the most alike examples in turn; returned are also its standard
    deviation in degrees, and which examples agree.
    """
    middles, xyz = aligned.middles, sphere.to_xyz(aligned.lat_lon)
    field = torch.full_like(xyz[:, 0], FIELD_OF_VIEW_DEG)
    starts = Poses(xyz, field, torch.zeros_like(field)).warped(aligned.warps)
    first, scale = np.array([0, 0, LOG_TANGENT, 0]), np.array([0.05, 0.05, 0.2, 5.0])
    tries = []
    for number in range(min(STARTS, len(xyz))):
        sight = Resection(starts[number : number + 1], xyz, middles)
        fit = least_squares(sight.misfit, first, loss="soft_l1", x_scale=scale)
        tries.append((sight, fit))
    sight, best = min(tries, key=lambda one: one[1].cost)
    gaps = torch.from_numpy(best.fun[:-2].reshape(-1, 2))
    agrees = gaps.norm(dim=-1) < AGREES
    spread = np.trace(np.linalg.pinv(best.jac.T @ best.jac)[:2, :2]) / 2
    misfit = gaps[agrees].square().mean().nan_to_num().clamp_min(1)
    return sight.pose(best.x), math.degrees(math.sqrt(spread * float(misfit))), agrees


def zoom_on(
    photo: UInt8[Tensor, "3 size size"],
    examples: Sequence[Example],
    prediction: Prediction,
    model: MapModel,
) -> Prediction:
    """Refine what examples say of a photo by laying it over them; it stays where none agrees."""
    aligned = lay_over(photo, examples, model)
    if not len(aligned.likeness):
        return prediction
    pose, sigma_deg, agrees = resect(aligned)
    if not agrees.any():
        return prediction
    share = 1 - max(DOUBT ** int(agrees.sum()), LEAST_DOUBT)
    parts = torch.tensor([1 - TAIL, TAIL], dtype=torch.float64) * share
    density = MultiOrderDensity.refined(
        prediction.density,
        pose.lat_lon.repeat(2, 1),
        sigma_deg * torch.tensor([1.0, TAIL_WIDTH]),
        parts,
    )
    weight = aligned.likeness.double() * agrees
    order = weight.argsort(descending=True)
    weight = (weight / weight.sum())[order]
    scale = torch.linalg.det(aligned.warps[order, :, :2]).abs().sqrt()
    fields = 2 * torch.rad2deg(torch.atan(pose.tangent / scale))
    poses = Poses(sphere.to_xyz(aligned.lat_lon[order]), fields, torch.zeros_like(fields))
    views, likeness = aligned.views[order], aligned.likeness[order]
    first = ZoomLevel("alike", poses, views, weight, likeness, prediction.density)
    one = torch.tensor([share]).double()
    last = ZoomLevel("place", pose, views[:1], one, likeness[:1], density)
    zoomed = Prediction.from_density(
        density, legibility=prediction.legibility, seconds=prediction.seconds
    )
    return replace(
        prediction,
        density=density,
        lat=zoomed.lat,
        lon=zoomed.lon,
        located=informs(density),
        levels=(first, last),
    )
