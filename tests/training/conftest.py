"""What a training leaves in its process is put back: accelerate keeps its first precision."""

from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def forget_accelerator() -> Iterator[None]:
    """Let each test choose device and precision anew."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
