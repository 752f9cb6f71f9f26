"""Shared settings of the tests: hypothesis is deterministic, a process has a thread.

Tests run in a process a core, and torch's threads would wait for each other.
"""

import gc
import os
import shutil

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.set_threshold(50_000, 20, 100)  # a million objects of imports stay, and are not looked at again


def pytest_collection_finish():
    """Leave what collection made, all of which stays, out of every collection to come."""
    gc.freeze()


settings.register_profile("icgeo", derandomize=True, deadline=None)
settings.load_profile("icgeo")


@pytest.fixture
def forget_accelerator():
    """Forget the precision that other tests of this process chose, which Accelerate keeps."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def chromium(request):
    """Start a headless Chromium, for tests under the marker `browser`."""
    if "browser" not in request.config.option.markexpr:
        pytest.skip("needs a browser and the extra [demo]; run pytest -m browser")
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("expected chromium on the path, found none; apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
