"""Poses of views: where a view looks, how wide, which way up; and how one lies in another.

Conventions: views are gnomonic squares as in `icgeo.data.orbit`; a heading is the compass direction
of the upper edge in degrees; places in a view are (right, down) in half widths from its centre.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from icgeo import sphere

Chosen = Int[Tensor, "*_"] | Bool[Tensor, "*_"] | slice


@dataclass(frozen=True, eq=False)
class Poses:
    """Where views look; numbers are float64."""

    xyz: Float[Tensor, "views 3"]
    field_of_view_deg: Float[Tensor, " views"]
    heading_deg: Float[Tensor, " views"]

    def __len__(self) -> int:
        return len(self.xyz)

    def __getitem__(self, index: Chosen) -> "Poses":
        return Poses(self.xyz[index], self.field_of_view_deg[index], self.heading_deg[index])

    def joined(self, other: "Poses") -> "Poses":
        """Return these and others behind them."""
        names = ("xyz", "field_of_view_deg", "heading_deg")
        return Poses(*(torch.cat((getattr(self, name), getattr(other, name))) for name in names))

    @property
    def lat_lon(self) -> Float[Tensor, "views 2"]:
        """Centres in degrees."""
        return sphere.to_lat_lon(self.xyz)

    @property
    def tangent(self) -> Float[Tensor, " views"]:
        """Tangent of half of each field of view."""
        return torch.tan(torch.deg2rad(self.field_of_view_deg) / 2)

    @property
    def axes(self) -> Float[Tensor, "views 3 3"]:
        """Right, down and ahead of each view."""
        north, east = sphere.north_east(self.xyz)
        turn = torch.deg2rad(self.heading_deg)[:, None]
        up, right = (turn.cos() * north + turn.sin() * east, turn.cos() * east - turn.sin() * north)
        return torch.stack((right, -up, self.xyz), dim=-2)

    def rays(self, places: Float[Tensor, "#views points 2"]) -> Float[Tensor, "views points 3"]:
        """Return the directions of places in the views, of unit length."""
        axes, tangent = self.axes, self.tangent[:, None, None]
        return normalize(tangent * (places @ axes[:, :2]) + axes[:, 2:], dim=-1)

    def places(self, rays: Float[Tensor, "#views points 3"]) -> Float[Tensor, "views points 2"]:
        """Return where directions lie in the views; what is not ahead is infinitely far."""
        right, down, depth = einsum(
            self.axes, rays.expand(len(self), -1, -1), "v a c, v p c -> a v p"
        )
        depth = torch.where(depth > 0.05, depth, 0)
        return torch.stack((right, down), dim=-1) / (depth * self.tangent[:, None])[..., None]

    def warped(self, warp: Float[Tensor, "views 2 3"]) -> "Poses":
        """Return the poses of views whose places lie in these as affine warps say.

        To first order around the new centres, by a similarity: what is left is of second order.
        """
        step = 1e-3
        corners = torch.tensor([[0.0, 0, 1], [step, 0, 1], [0, step, 1]], dtype=self.xyz.dtype)
        centre, right, down = self.rays(corners @ warp.mT).unbind(1)
        right, down = (
            (ray / (ray * centre).sum(-1, keepdim=True) - centre) / step for ray in (right, down)
        )
        # the nearest similarity: the mean of right, and of down turned by a quarter
        across = (right + torch.linalg.cross(centre, down)) / 2
        tangent, (north, east) = across.norm(dim=-1), sphere.north_east(centre)
        heading = torch.atan2(-(across * north).sum(-1), (across * east).sum(-1))
        field = 2 * torch.rad2deg(torch.atan(tangent))
        return Poses(centre, field, torch.rad2deg(heading) % 360)

    def outline(self, per_side: int = 8) -> Float[Tensor, "views points 3"]:
        """Return directions along the edges of views, clockwise from the upper left corner."""
        step = torch.arange(per_side, dtype=self.xyz.dtype) * 2 / per_side - 1
        ones = torch.ones_like(step)
        sides = ((step, -ones), (ones, step), (-step, ones), (-ones, -step))
        places = torch.stack([torch.stack(side, dim=-1) for side in sides])
        return self.rays(rearrange(places, "s p c -> 1 (s p) c").expand(len(self), -1, -1))


def similarities(
    shift: Float[Tensor, "warps 2"],
    scale: Float[Tensor, " warps"],
    turn_deg: Float[Tensor, " warps"],
) -> Float[Tensor, "warps 2 3"]:
    """Return warps that turn clockwise, scale, then shift."""
    cos, sin = (scale * f(torch.deg2rad(turn_deg)) for f in (torch.cos, torch.sin))
    rows = (cos, -sin, shift[:, 0], sin, cos, shift[:, 1])
    return rearrange(torch.stack(rows, dim=-1), "w (r c) -> w r c", r=2)
