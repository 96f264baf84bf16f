"""Freed blocks stay in the process: the second round of the same work touches no new page."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROUNDS = """
import resource, sys, threading
import numpy as np
from stream_detr.memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()

def work():
    for size in (3_000_000, 40_000_000, 90_000_000):
        np.ones(size, np.uint8)

def count():
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


def faults(setting: str) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS, setting], capture_output=True, text=True, timeout=60, check=True
    )
    kept, count = done.stdout.split()
    return kept == "1", int(count)


def test_large_blocks_are_reused_in_the_inference_thread() -> None:
    kept, count = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert count < 50
    assert faults("leave")[1] > 10 * max(count, 1)
