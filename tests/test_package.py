"""The package as installed: light to import, typed, and described alike everywhere."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import icgeo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SLOW = {"accelerate", "astropy", "diffusers", "geopandas", "matplotlib", "scipy", "transformers"}


def requirements():
    """Of the library and of those extras that constraints.txt covers."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["test"], *extras["dev"], *extras["docs"]]
    return [Requirement(text) for text in wanted if not text.startswith("icgeo")]


def pins():
    lines = [
        line.partition("#")[0].strip()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    ]
    return dict(line.split("==") for line in lines if line)


@pytest.fixture(scope="module")
def fresh():
    """Modules of a new process with icgeo, and with what locates: it takes seconds, so once."""
    code = """
import sys
def told():
    print(*{name.partition('.')[0] for name in sys.modules})
import icgeo
told()
icgeo.Geolocator
told()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_importing_icgeo_leaves_slow_libraries_for_later(fresh):
    """Import takes under 2 s only so: each of them costs 0.3 to 3 s."""
    assert "icgeo" in fresh[0]
    assert not set(fresh[0]) & SLOW


def test_what_locates_leaves_tables_and_shapes_for_later(fresh):
    """The first answer needs neither pandas nor shapely, which take a second to import."""
    assert "torch" in fresh[1]
    assert not {"pandas", "shapely"} & set(fresh[1])


@pytest.mark.slow
def test_the_collector_is_left_as_it_was():
    """While the library is imported it rests; what is imported is then in the oldest generation."""
    code = """
import gc, torch, icgeo
gc.disable()
icgeo.sphere
assert not gc.isenabled()
gc.enable()
icgeo.Geolocator
assert gc.isenabled() and gc.get_freeze_count() == 0
assert len(gc.get_objects(2)) > 100_000 > len(gc.get_objects(0))
gc.freeze()
icgeo.plots
assert gc.get_freeze_count() > 100_000, "what others have frozen stays so"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_imports_are_frozen_where_the_caller_has_no_tensors_yet():
    """Or exit would take their objects apart, for two seconds; later cycles are found as ever."""
    code = """
import gc, weakref, icgeo
icgeo.Geolocator
assert gc.isenabled() and gc.get_freeze_count() > 100_000
class Cycle:
    def __init__(self):
        self.itself = self
made = weakref.ref(Cycle())
icgeo.plots
gc.collect()
assert made() is None, "what the caller makes after the first import is not frozen by the next"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["metrics", "data", "features", "selection", "plots"])
def test_importing_icgeo_is_enough_for_its_modules(name):
    assert icgeo.__getattr__(name).__name__ == f"icgeo.{name}", "as when it is first used"
    assert name in dir(icgeo)


def test_every_public_name_is_there():
    assert {getattr(icgeo, name) is not None for name in icgeo.__all__} == {True}
    with pytest.raises(AttributeError, match="has no attribute 'plot'"):
        _ = icgeo.plot


def test_types_travel_with_the_package():
    assert (resources.files("icgeo") / "py.typed").is_file()


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert metadata.version("icgeo") == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_each_dependency_has_a_lower_bound_and_a_tested_version(requirement):
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    version = pinned[canonicalize_name(requirement.name)]
    assert any(bound.operator == ">=" for bound in requirement.specifier)
    assert version in requirement.specifier


def test_pins_name_no_build_and_no_host():
    for name, version in pins().items():
        assert re.fullmatch(r"[\w.-]+", name)
        assert re.fullmatch(r"[\d.]+", version), "a local version is of one machine"


@pytest.mark.parametrize(
    "command",
    [
        "pip install -c constraints.txt -e . && python scripts/zero_shot.py",
        'pip install -c constraints.txt -e ".[test]" && pytest',
    ],
)
def test_readme_says_how_to_begin_on_one_line(command):
    lines = [line.strip() for line in (ROOT / "README.md").read_text().splitlines()]
    assert any(line.startswith(command) for line in lines)
