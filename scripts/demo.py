"""Open the page on which photos are located with a mouse, as `icgeo demo` does."""

from icgeo import config
from icgeo.cli import demo
from icgeo.options import DemoOptions

if __name__ == "__main__":
    config.run(demo, DemoOptions)
