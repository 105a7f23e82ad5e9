from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Pages that the system had to clear while 64 MB were allocated, written and freed ten times, in
# this thread and in another one.
PROGRAM = """
import resource, sys, threading
import torch
from pipeline.device.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def allocate():
    for _ in range(10):
        torch.ones(16_000_000)
def in_a_thread():
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
allocate(); in_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
allocate(); in_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_memory_that_was_freed_is_used_again_without_the_system() -> None:
    assert page_faults("kept") < page_faults("as_it_is") / 20
