"""Freed blocks stay in the process, and idle threads sleep unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stream_detr.runtime import let_idle_threads_sleep

ROUNDS = """
import resource, sys, threading
import numpy as np
from stream_detr.runtime import keep_freed_memory

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


def test_idle_threads_sleep_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    let_idle_threads_sleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
