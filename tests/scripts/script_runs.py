"""Scripts as functions, and an untrained checkpoint, small and quick."""

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

import torch

from icgeo import config, maps
from icgeo.models.map_model import MapModel
from icgeo.models.settings import Settings
from icgeo.training.episodes import PROMPTS
from icgeo.training.pretrain import STYLE, build_learner

SCRIPTS = Path(__file__).parents[2] / "scripts"


@lru_cache(maxsize=1)
def untrained() -> Path:
    """Make a checkpoint folder, once a process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = build_learner(heads=2, single_layers=1, photo_channels=8, codec_places=400)
    noise = maps.Noise(0.1, 0.2, 0.05)
    settings = Settings(STYLE, PROMPTS, default_prompt=PROMPTS[0], noise=noise, calibration={})
    folder = Path(mkdtemp())
    learner.shift = 2.0
    MapModel(learner.eval().requires_grad_(False), settings).save(folder)
    return folder


def load_script(name: str) -> ModuleType:
    """Import a script, such as "zero_shot" or "experiments/worlds"."""
    module_name = f"scripts_{Path(name).stem}"
    spec = importlib.util.spec_from_file_location(module_name, SCRIPTS / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *options: object) -> None:
    """Run a script in the working directory, with options as on its command line."""
    module = load_script(name)
    module.main(config.parse(module.Options, [str(option) for option in options]))
