"""Shared settings of the tests: hypothesis is deterministic, a process has a thread.

Tests run in a process a core, and torch's threads would wait for each other.
"""

import gc
import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.set_threshold(50_000, 20, 100)  # a million objects of imports stay, and are not looked at again

settings.register_profile("icgeo", derandomize=True, deadline=None)
settings.load_profile("icgeo")
