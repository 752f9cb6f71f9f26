"""Every architecture, found in the files of `icgeo.models.backbones`."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from icgeo.models import backbones
from icgeo.models.backbones import ArchitectureSpec
from icgeo.models.hub import LoadError

_FILES = [
    import_module(f"{backbones.__name__}.{file.name}") for file in iter_modules(backbones.__path__)
]
SPECS: tuple[ArchitectureSpec, ...] = tuple(
    spec for file in _FILES for spec in getattr(file, "SPECS", ())
)
ARCHITECTURES = {name: spec for spec in SPECS for name in spec.pipelines}
"""By the class that a checkpoint names."""
CONFIGURATIONS = {name: parts for spec in SPECS for name, parts in spec.public.items()}
"""Of public checkpoints, by hub id."""


def architecture_of(index: Mapping[str, Any], source: str | Path) -> ArchitectureSpec:
    """Find what loads a pipeline; raise LoadError for one that cannot be shown examples."""
    name = index["_class_name"]
    if name not in ARCHITECTURES:
        raise LoadError(f"expected a pipeline of {sorted(ARCHITECTURES)} in {source}, got {name!r}")
    ARCHITECTURES[name].check(index, source)
    return ARCHITECTURES[name]


def spec_of(transformer: Any) -> ArchitectureSpec:
    """Find the architecture of a transformer; raise LoadError for one that is not known."""
    specs = {spec.transformer: spec for spec in reversed(SPECS)}  # the first of several
    names = [kind.__name__ for kind in type(transformer).mro()]  # FSDP makes a class of its own
    for name in names:
        if name in specs:
            return specs[name]
    raise LoadError(f"expected a transformer of {sorted(specs)} to adapt, got {names[0]}")
