"""Keep freed memory in the process: on Linux, large tensors are else unmapped at every step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Let glibc reuse large blocks instead of returning them to the system.

    A training step frees and asks for the same gigabyte each time, and page faults can outweigh
    the arithmetic. Does nothing where the C library is not glibc.

    Returns:
        whether the settings took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    largest = 2**31 - 1
    pairs = ((M_MMAP_THRESHOLD, largest), (M_TRIM_THRESHOLD, largest), (M_TOP_PAD, 2**28))
    return all(mallopt(name, value) == 1 for name, value in pairs)
