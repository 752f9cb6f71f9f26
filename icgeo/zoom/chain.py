"""The chain of the zoom: planet, windows, place; each level a density that holds the one before.

p(place) = p(window) p(place | window): each window is a pose at which the query may lie. Its
probability comes from how alike query and map are there, what no window holds stays with the
density of the level before.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from icgeo import sphere
from icgeo.data.base_maps import BaseMap
from icgeo.data.poses import Poses
from icgeo.models.map_model import MapModel
from icgeo.models.matching import MatchSettings
from icgeo.prediction import Prediction, ZoomLevel, informs
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz
from icgeo.sphere.multi_order import MultiOrderDensity
from icgeo.zoom.align import align, register
from icgeo.zoom.index import WIDEST_DEG, Describe, MapIndex, turned
from icgeo.zoom.refine import CLOSE, UPRIGHT, WIDE, Tries, tried

logger = logging.getLogger(__name__)

SIZE = 64
"""Side in pixels of the photo and of the views cut at its pose."""
LOOKED, LOOKED_WIDE = 96, 4
"""Windows that are looked into at most: of the index, and of what wide views say."""
WIDE_DEG, LEAST_WIDE_DEG, TURNS = (28.0, 46.0), 18.0, 2
"""Fields of view of the latter, the least that wide views can place, and how many headings of the
former they are asked for."""
SHOWN, SURE = 16, 40.0
"""Windows that are looked into at a time, and the evidence of alike cells in nats from which on no
more are."""
KEPT_DEG = 5.0
"""How far a heading that is known may be off."""
ALIGNED, ROUNDS, STEPS = 3, 2, 3
"""How many windows are aligned, how often by the brightness alone, and then by steps of least
squares in colour: each time the map is cut again at the pose that was found."""
APART, TURN_APART_DEG, SCALE_APART = 0.25, 40.0, 0.3
"""Two poses are two windows if farther apart than this share of a field of view, than this turn,
or than this logarithm of their fields of view."""
KERNEL = 0.045
"""Standard deviation of the place of a view of the index, as a share of its field of view."""
LEAST_WIDTH = 1e-3
"""Error in pixels of the map, of which none is less: of pictures that are the same."""


LocateWide = Callable[[UInt8[Tensor, "photos 3 size size"]], list[Density]]
"""Places wide photos whose north is up, as by the views of a map as examples."""


LEAST_SHARE = 0.3
"""Wide views are listened to at least so much, however narrow the index takes a photo for."""


@dataclass(frozen=True)
class ZoomSettings:
    """How likenesses become probabilities and widths.

    `bias`, `parts` and all widths are what `scripts/experiments/fit_zoom.py` fits by the likelihood
    of places, on photos of other seeds than those of `scripts/experiments/zoom.py`: of Blue Marble,
    planets of the training families, and shaded relief looked for on Blue Marble and the reverse.
    `sharpness` and `wide` are of a fit before, the others are set by hand.
    """

    sharpness: float = 55.0
    """Weight of the likeness of a view of the index."""
    floor: float = 0.3
    """Share of level 0 that is spread evenly; set by hand: where no window agrees the index is
    mostly wrong, too, and with less than a tenth no 90 % region reaches beyond it."""
    wide: float = 0.85
    """Share that wide views have in level 0, of a photo that is wide."""
    temperature: float = 2.0
    """Of what wide views say, where windows are weighed by it: both see the same photo."""
    even: float = 0.1
    """Share of that prior that is spread evenly; set by hand, as `floor`."""
    bias: float = -2.85
    """Log-odds of a window as wide as any against none, to start with."""
    parts: float = 0.123
    """Weight of the evidence of alike cells, in nats."""
    alignment: float = 2.0
    """Weight of -log(1 - likeness^2) after the alignment; hardly a window that agrees is wrong."""
    least_likeness: float = 0.8
    """Less than that, and what was aligned is not moved."""
    width: float = 1.09
    """Error of an aligned pose, as a multiple of what least squares say."""
    tail: float = 0.29
    """Share of a kernel that is wider."""
    tail_width: float = 2.31
    """How much wider that is."""
    loose_width: float = 1.41
    """Error of a pose that is not aligned, in pixels."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Poses at which a query may lie, the likeliest first, and what speaks for each."""

    poses: Poses
    views: UInt8[Tensor, "windows 3 size size"]
    """The map there, as it was shown."""
    parts: Float[Tensor, " windows"]
    """Evidence of alike cells in nats."""
    likeness: Float[Tensor, " windows"]
    """Of query and view in colour after the alignment, 0 where they do not agree."""
    error: Float[Tensor, " windows"]
    """Standard error of the alignment in pixels, as least squares say."""

    def __getitem__(self, indices: Int[Tensor, " chosen"]) -> "Windows":
        return Windows(*(getattr(self, one.name)[indices] for one in fields(self)))

    def joined(self, other: "Windows") -> "Windows":
        """Return these and others behind them."""
        pairs = [(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)[1:]]
        return Windows(self.poses.joined(other.poses), *(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class FirstLevel:
    """What index and wide views say of a photo, before a window is looked into."""

    poses: Poses
    """Windows that may be looked into, the likeliest first."""
    share: Float[Tensor, " windows"]
    density: Density
    prior: Density
    """What holds before windows are looked into, and where none agrees. The index, which only says
    where to look, has no part in it where wide views answer: if no window agrees it was wrong."""


@dataclass(frozen=True, eq=False)
class MapZoom:
    """Locates photos on a map: from the planet to the place."""

    base_map: BaseMap
    index: MapIndex
    describe: Describe
    matching: MatchSettings
    wide: LocateWide | None = None
    settings: ZoomSettings = ZoomSettings()

    @classmethod
    def open(
        cls, base_map: BaseMap, model: MapModel, *, wide: LocateWide | None = None
    ) -> "MapZoom":
        """Index a map by the parts of a model, or read its index from disk."""
        describe = model.describe_parts
        index = MapIndex.open(base_map, describe, str(model.fingerprint["model"]))
        return cls(base_map, index, describe, model.settings.matching, wide)

    def locate(
        self, photo: UInt8[Tensor, "3 size size"], *, heading_deg: float | None = None
    ) -> Prediction:
        """Locate a photo.

        Args:
            photo: a square of `SIZE` pixels.
            heading_deg: compass direction of its upper edge; None tries them all.
        """
        start = time.perf_counter()
        first = self._search(photo, heading_deg)
        poses, share = first.poses[:SHOWN], first.share[:SHOWN]
        none = torch.zeros(len(poses))
        levels = [ZoomLevel("planet", poses, self._cut(poses), share, none, first.density)]
        matched = self._matched(photo, first.poses, heading_deg)
        aligned = self._aligned(photo, matched, heading_deg)
        for name, windows in (("windows", matched), ("place", aligned)):
            density, probability = self._chained(first.prior, windows)
            best = probability.argsort(descending=True)
            poses, views, alike = windows.poses[best], windows.views[best], windows.likeness[best]
            levels.append(ZoomLevel(name, poses, views, probability[best], alike, density))
        probability = levels[-1].probability
        located = informs(density)
        return replace(
            Prediction.from_density(
                density,
                legibility=min(1.0, float(probability.sum())),
                located=located,
                seconds=time.perf_counter() - start,
            ),
            levels=tuple(levels),
        )

    def _cut(self, poses: Poses) -> UInt8[Tensor, "windows 3 size size"]:
        looks = (poses.lat_lon, poses.field_of_view_deg, poses.heading_deg)
        return self.base_map.views(*looks, size=SIZE)[0]

    def _search(self, photo: UInt8[Tensor, "3 size size"], heading_deg: float | None) -> FirstLevel:
        """Look a photo up in the index, and ask wide views."""
        how, likeness = self.index.search(photo, self.describe, heading_deg=heading_deg)
        before = _prior(self.index.poses.field_of_view_deg).float()
        nats = likeness.mul_(self.settings.sharpness).add_(before)
        best = nats.flatten().topk(min(5 * LOOKED, nats.numel()))
        tries, number = best.indices // likeness.shape[1], best.indices % likeness.shape[1]
        views = self.index.poses[number]
        # a crop of the query is as wide as the view
        field = 2 * torch.rad2deg(torch.atan(views.tangent / how.field_of_view_deg[tries]))
        heading = (views.heading_deg + how.heading_deg[tries]) % 360
        poses = _held(Poses(views.xyz, field.clamp_max(100), heading), heading_deg)
        nats = best.values.double()
        shares = nats.softmax(0)
        spread = torch.deg2rad(KERNEL * field)
        few = shares > 1e-4 * shares.max()
        even = Density.from_mixture(poses.lat_lon[few], spread[few] ** -2, shares[few])
        floor = self.settings.floor
        level = Density((1 - floor) * even.mass + floor / len(even.mass))
        distinct = apart(poses, LOOKED)
        is_wide = float(shares[field >= LEAST_WIDE_DEG].sum())
        poses, shares = poses[distinct], nats[distinct].softmax(0)
        first = FirstLevel(poses, shares, level, level)
        if self.wide is not None:
            share = self.settings.wide * min(max(is_wide, LEAST_SHARE), 0.9)
            one = torch.ones_like(poses.heading_deg)
            same = Poses(poses.xyz[:1].expand(len(poses), 3), one, poses.heading_deg)
            turns = poses.heading_deg[apart(same, TURNS)]
            up = turned(photo, turns.float(), torch.ones(len(turns)), size=SIZE)
            first = _with_wide(self.wide(up), turns, first, share=share)
        return replace(first, prior=_softened(first.prior, self.settings))

    def _matched(
        self, photo: UInt8[Tensor, "3 size size"], poses: Poses, heading_deg: float | None
    ) -> Windows:
        """Move poses to where their cells are most alike: many widely, the best of them closely."""
        query = self.describe(photo[None])[0]

        def look(some: Poses, tries: Tries) -> tuple[Poses, Float[Tensor, " some"]]:
            views = self.describe(self._cut(some))
            warps, nats = tried(query, views, self.matching, tries)
            moved = some.warped(warps[nats.argmax(1)].double())
            return _held(moved, heading_deg), nats.logsumexp(1) - math.log(len(warps))

        wide = WIDE if heading_deg is None else UPRIGHT
        moved, evidence = look(poses[:SHOWN], wide)
        while evidence.max() < SURE and len(moved) < len(poses):
            more, nats = look(poses[len(moved) : len(moved) + SHOWN], wide)
            moved, evidence = moved.joined(more), torch.cat((evidence, nats))
        moved, evidence = look(moved[evidence.topk(min(SHOWN, len(evidence))).indices], CLOSE)
        order = evidence.argsort(descending=True)
        moved, none = moved[order], torch.zeros(len(order))
        return Windows(moved, self._cut(moved), evidence[order], none, none)

    def _aligned(
        self, photo: UInt8[Tensor, "3 size size"], windows: Windows, heading_deg: float | None
    ) -> Windows:
        """Align the photo with the map in the likeliest windows; those that agree are moved."""
        if find_spec("cv2") is None:
            _warn_of_no_alignment()
            return windows
        for number in range(min(ALIGNED, len(windows.poses))):
            registered = self._registered(photo, windows[torch.tensor([number])], heading_deg)
            if registered is not None:
                order = torch.arange(len(windows.poses))
                order[number] = len(order)
                windows = windows.joined(registered)[order]
        return windows

    def _registered(
        self, photo: UInt8[Tensor, "3 size size"], window: Windows, heading_deg: float | None
    ) -> Windows | None:
        """Align the photo from a window on; None where it does not agree with the map."""
        pose = window.poses
        for number in range(ROUNDS + STEPS):
            (view,) = self._cut(pose)
            registration = align(photo, view) if number < ROUNDS else register(photo, view)
            if registration is None:
                return None
            pose = pose.warped(registration.warp[None])
        views = self._cut(pose)
        registration = register(photo, views[0])
        if registration is None or registration.likeness <= self.settings.least_likeness:
            return None
        if _held(pose, heading_deg).heading_deg != pose.heading_deg:
            return None
        likeness, error = torch.tensor([[registration.likeness], [registration.error]])
        return Windows(pose, views, window.parts, likeness, error)

    def _chained(
        self, prior: Density, windows: Windows
    ) -> tuple[MultiOrderDensity, Float[Tensor, " windows"]]:
        """Multiply a prior by what windows say; return also how likely each of them is."""
        distinct = apart(windows.poses, len(windows.poses))
        share, sigma = weighed(windows[distinct], self.settings)
        sigma = sigma.clamp_min(LEAST_WIDTH * self.base_map.resolution_deg)
        lat_lon = windows.poses[distinct].lat_lon
        tail, tail_width = self.settings.tail, self.settings.tail_width
        likelihood = MultiOrderDensity.refined(
            Density.uniform(prior.nside),
            lat_lon.repeat(2, 1),
            torch.cat((sigma, tail_width * sigma)),
            torch.cat(((1 - tail) * share, tail * share)),
        )
        weight = share * raised(prior, lat_lon, sigma)
        probability = torch.zeros(len(windows.poses), dtype=torch.float64)
        probability[distinct] = weight / (1 - share.sum() + weight.sum())
        return likelihood * prior, probability


def weighed(
    windows: Windows, settings: ZoomSettings
) -> tuple[Float[Tensor, " windows"], Float[Tensor, " windows"]]:
    """Return how likely each window is, none of which is about another, and its width in degrees.

    What is missing to 1 is the probability that the query lies in none; all this before the prior.
    """
    unlike = 1 - windows.likeness.double().square().clamp_max(1 - 1e-4)
    nats = settings.bias + settings.parts * windows.parts - settings.alignment * unlike.log()
    nats += _prior(windows.poses.field_of_view_deg)
    share = torch.cat((nats, torch.zeros(1))).softmax(0)[:-1]
    tight = settings.width * windows.error.double()
    pixels = torch.where(windows.likeness > 0, tight, settings.loose_width)
    return share, pixels * windows.poses.field_of_view_deg / SIZE


def raised(
    prior: Density, lat_lon: Float[Tensor, "windows 2"], sigma_deg: Float[Tensor, " windows"]
) -> Float[Tensor, " windows"]:
    """Return how much likelier than an even density a prior is where windows are, on average."""
    chords = torch.cdist(sphere.to_xyz(lat_lon).double(), cell_xyz(prior.nside).double())
    # widened by the second moment of a cell, as in `Density.from_mixture`
    spread = torch.deg2rad(sigma_deg).square() + math.pi / 36 / prior.nside**2
    kernels = torch.exp(-chords.square() / 2 / spread[:, None])
    return kernels @ prior.mass / kernels.mean(1)


@cache
def _warn_of_no_alignment() -> None:
    """Warn once in a process."""
    logger.warning(
        "photos are placed to a few pixels, for opencv-python-headless is not there to align them "
        "with the map: pip install 'icgeo[map]'"
    )


def _softened(answer: Density, settings: ZoomSettings) -> Density:
    """Return a prior of an answer, which saw the photo whose windows are to be weighed by it."""
    mass = answer.tempered(settings.temperature).mass
    return Density((1 - settings.even) * mass + settings.even / len(mass))


def _with_wide(
    answers: list[Density], turns: Float[Tensor, " turns"], first: FirstLevel, *, share: float
) -> FirstLevel:
    """Mix what wide views say of each heading into level 0; add windows where they see a photo."""
    poses = first.poses
    turn = _turn(poses.heading_deg[:, None], turns)
    likely = torch.zeros(len(turns), dtype=first.share.dtype)
    likely.index_add_(0, turn.abs().argmin(1), first.share)
    mass = torch.stack([density.mass for density in answers]) * likely[:, None]
    best = mass.sum(0).topk(20 * LOOKED_WIDE).indices
    which = best.repeat_interleave(len(WIDE_DEG))
    wide = torch.tensor(WIDE_DEG).double().repeat(len(best))
    more = Poses(cell_xyz(first.density.nside)[which], wide, turns[mass.argmax(0)[which]])
    distinct = apart(more, LOOKED_WIDE)
    mass_there = mass.sum(0)[which[distinct]]
    shares = torch.cat(((1 - share) * first.share, share * mass_there / mass_there.sum()))
    order = shares.argsort(descending=True)
    mixed = Density((1 - share) * first.density.mass + share * mass.sum(0))
    return FirstLevel(
        poses.joined(more[distinct])[order], shares[order], mixed, Density(mass.sum(0))
    )


def _prior(field_of_view_deg: Float[Tensor, " views"]) -> Float[Tensor, " views"]:
    """Return the logarithm of how likely views are before they are seen, but for a constant.

    Every field of view is as likely as any other; the narrower, the more views there are.
    """
    return 2 * (field_of_view_deg / WIDEST_DEG).log()


def _turn(heading_deg: Tensor, other: Tensor | float) -> Tensor:
    """Return how far headings are turned from others, in [-180, 180)."""
    return (heading_deg - other + 180) % 360 - 180


def _held(poses: Poses, heading_deg: float | None) -> Poses:
    """Turn poses to within `KEPT_DEG` of a heading, if one is known."""
    if heading_deg is None:
        return poses
    turn = _turn(poses.heading_deg, heading_deg)
    held = (heading_deg + turn.clamp(-KEPT_DEG, KEPT_DEG)) % 360
    return replace(poses, heading_deg=torch.where(turn.abs() > KEPT_DEG, held, poses.heading_deg))


def apart(poses: Poses, count: int) -> Int[Tensor, " kept"]:
    """Return the first poses that are not about the same as one before them, `count` at most."""
    indices: list[int] = []
    scale, reach = poses.field_of_view_deg.log(), torch.deg2rad(APART * poses.field_of_view_deg)
    left = torch.ones(len(poses), dtype=torch.bool)
    while len(indices) < count and left.any():
        one = int(left.int().argmax())
        indices.append(one)
        near = sphere.angle(poses.xyz, poses.xyz[one]) < reach
        turn = _turn(poses.heading_deg, poses.heading_deg[one]).abs() < TURN_APART_DEG
        left &= ~(near & turn & ((scale - scale[one]).abs() < SCALE_APART))
    return torch.tensor(indices, dtype=torch.long)
