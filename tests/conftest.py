"""Shared settings of the tests: hypothesis is deterministic, a process has a thread.

Tests run in a process a core, and torch's threads would wait for each other.
"""

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("icgeo", derandomize=True, deadline=None)
settings.load_profile("icgeo")


@pytest.fixture(autouse=True)
def forget_accelerator() -> Iterator[None]:
    """Let each test choose device and precision anew: accelerate keeps those of its process."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
