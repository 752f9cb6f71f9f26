"""Shared settings of the tests: hypothesis is deterministic, torch is reproducible."""

from hypothesis import settings

settings.register_profile("icgeo", derandomize=True, deadline=None)
settings.load_profile("icgeo")
