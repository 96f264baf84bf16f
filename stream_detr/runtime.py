"""Settings of the process that a run on the CPU profits from; for programs, not for a library, to choose."""

from __future__ import annotations

import ctypes
import os

# Parameter numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks for the next forward pass instead of handing them back to the system.

    A forward pass on the CPU frees and asks again for hundreds of megabytes; by default each large block is
    mapped afresh, and the page faults cost as much as some of the layers. Call it before other threads have
    started: the inference thread then shares the one arena, whereas blocks of more than 64 MB would not fit
    into its own.

    Returns:
        Whether the settings took hold; False, and nothing changed, where the C library is not glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        _, mallopt = libc.gnu_get_libc_version, libc.mallopt  # other C libraries lack the first
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    took = [mallopt(parameter, value) for parameter, value in settings]
    return took == [1] * len(settings)


def let_idle_threads_sleep() -> None:
    """Make PyTorch's idle worker threads sleep rather than spin; it has to come before torch is first imported.

    Spinning gains microseconds for a program that does nothing else. Here decoding, drawing and encoding want the
    cores in between: it costs them 8 ms of CPU time a 1080p frame. A choice in the environment stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
