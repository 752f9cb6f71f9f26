"""Tests that help is quick: no command waits for torch to say what it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
SECONDS = 1.5
CHECK = """
import contextlib, io, os, runpy, sys
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stopped:
            assert stopped.code == 0, script
    assert "usage:" in shown.getvalue(), script
    assert "torch" not in sys.modules, script
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_no_script_imports_torch_to_show_its_help():
    command = [sys.executable, "-c", CHECK, *map(str, SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_shows_its_help_in_time(script):
    """The best of three, in time of the processor: others take their share of the machine."""
    assert min(seconds_of(str(script)) for _ in range(3)) < SECONDS


def test_the_command_shows_its_help_in_time():
    assert min(seconds_of("-m", "icgeo") for _ in range(2)) < SECONDS


def seconds_of(*command):
    before = os.times()
    subprocess.run(
        [sys.executable, *command, "--help"], check=True, capture_output=True, env=environment()
    )
    after = os.times()
    return after.children_user + after.children_system - sum(before[2:4])
