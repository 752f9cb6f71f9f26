"""Fit the weights and widths of `icgeo.zoom.chain.ZoomSettings` by the likelihood of places.

What does not depend on them is computed once a photo and kept in files: the windows, and the prior
there and at the truth. The settings of level 0 (`sharpness`, `floor`, `wide`), those of the prior,
`alignment` and `least_likeness` stay as they are. Photos are of other seeds than those of
`scripts/experiments/zoom.py`, and procedural planets of families that training saw.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zoom
from scipy.optimize import minimize
from scipy.special import expit, logit
from zoom import NARROW, Row

import icgeo
from icgeo import config

MIX = (
    (Row("blue-marble", "shaded-relief"), 64),
    (Row("blue-marble"), 48),
    (Row("dunes"), 24),
    (Row("mixture"), 24),
    (Row("terrain"), 24),
    (Row("bands"), 24),
    (Row("shaded-relief", "blue-marble"), 64),
    (Row("blue-marble", any_heading=True), 32),
    (Row("blue-marble", field_of_view_deg=NARROW), 32),
    (Row("blue-marble", field_of_view_deg=NARROW, any_heading=True), 40),
)
"""Rows and how many photos of each."""
FREE: dict[str, tuple[Any, Any]] = {
    "bias": (float, float),
    "parts": (np.log, np.exp),
    "width": (np.log, np.exp),
    "tail": (logit, expit),
    "tail_width": (np.log, np.exp),
    "loose_width": (np.log, np.exp),
}
"""Settings that are fitted, as numbers that may be any, and back."""


@dataclass(frozen=True)
class Options:
    """Seeds, and the files of what was computed."""

    seed: int = 7001
    """Of the first row of `MIX`, the next has the next."""
    evaluations: int = 600
    """Of the likelihood of all photos, at most."""
    rows: tuple[int, ...] = tuple(range(len(MIX)))
    """Numbers of `MIX`."""
    out: Path = Path("runs/zoom/fit")
    """Folder of a file a row; remove it when the chain has changed."""


def observe(row: Row, count: int, seed: int) -> list[dict[str, Any]]:
    """Take photos and look into their windows."""
    from icgeo import sphere
    from icgeo.zoom.chain import apart, raised, weighed

    plain = zoom.Options()
    own = zoom.planet(row.photos or row.map, seed, plain)
    picture = zoom.planet(row.map, seed, plain) if row.photos else own
    taken = zoom.take_photos(own, row, count, seed)
    locator = icgeo.Geolocator("tiny", map=picture, heading="any" if row.any_heading else 0.0)
    locator.prepare()
    chain, seen = locator.map_zoom, []
    heading = None if row.any_heading else 0.0
    for photo, place in zip(taken["photos"], taken["lat_lon"], strict=True):
        first = chain._search(photo, heading)
        windows = chain._aligned(photo, chain._matched(photo, first.poses, heading), heading)
        windows = windows[apart(windows.poses, len(windows.poses))]
        angle = sphere.angle(windows.poses.xyz, sphere.to_xyz(place.double()))
        _, sigma = weighed(windows, chain.settings)
        at_windows = raised(first.prior, windows.poses.lat_lon, sigma)
        at_truth = first.prior.log_prob(place).exp()
        seen.append({"prior": (at_truth, at_windows), "windows": windows, "angle": angle})
    return seen


def nll(one: dict[str, Any], settings: Any) -> float:
    """Return the NLL of a photo's place, as `MapZoom` would tell it."""
    import torch

    from icgeo.sphere.multi_order import FINEST
    from icgeo.zoom.chain import weighed

    share, sigma = weighed(one["windows"], settings)
    at_truth, at_windows = one["prior"]
    none = 1 - share.sum()
    likelihood = none / (4 * math.pi)
    for part, width in ((1 - settings.tail, 1.0), (settings.tail, settings.tail_width)):
        spread = torch.deg2rad(width * sigma).square() + math.pi / 36 / FINEST**2
        fall = torch.exp(-one["angle"].square() / 2 / spread)
        likelihood += (part * share * fall / (2 * math.pi * spread)).sum()
    density = 4 * math.pi * at_truth * likelihood / (none + (share * at_windows).sum())
    return -float(density.log())


def to_settings(x: Any, start: Any) -> Any:
    """Return the settings that a vector stands for."""
    named = zip(FREE.items(), x, strict=True)
    return replace(start, **{name: float(back(value)) for (name, (_, back)), value in named})


def main(options: Options) -> None:
    """Observe what is not in the files, fit, and print settings and the NLL of each row."""
    import torch

    from icgeo.zoom.chain import ZoomSettings

    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in options.rows:
        path = options.out / f"{options.seed + number}.pt"
        if not path.exists():
            torch.save(observe(*MIX[number], options.seed + number), path)
        rows.append(torch.load(path, weights_only=False))
    start, mix = ZoomSettings(), [MIX[number] for number in options.rows]
    first = [to(getattr(start, name)) for name, (to, _) in FREE.items()]

    def means(settings: Any) -> list[float]:
        return [float(np.mean([nll(one, settings) for one in row])) for row in rows]

    counts = [len(row) for row in rows]
    best = minimize(
        lambda x: np.average(means(to_settings(x, start)), weights=counts),
        first,
        method="Nelder-Mead",
        options={"maxfev": options.evaluations, "adaptive": True},
    )
    fitted = to_settings(best.x, start)
    print(fitted)
    for (row, count), before, after in zip(mix, means(start), means(fitted), strict=True):
        print(f"{row.name}: {count} photos, NLL {before:.2f} before, {after:.2f} after")


if __name__ == "__main__":
    config.run(main, Options)
