from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

# PyDLL keeps the interpreter's lock: no thread of the process can run any Python.
PROGRAM = """
import ctypes, os, signal, time
from pipeline.failures.watchdog import Watchdog
with Watchdog() as watchdog:
    watchdog.expect("a short step", 1.0)
    for _ in range(15):
        time.sleep(0.1)
        watchdog.still_alive()
    print("1.5 s passed", flush=True)
    watchdog.expect("step 7 (joint)", 0.5)
    {ending}
"""


def run_program(ending: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ending=ending)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_process_that_hangs_with_the_interpreters_lock_is_ended_and_says_where() -> None:
    result = run_program("ctypes.PyDLL(None).sleep(50)")
    assert result.returncode < 0
    assert "1.5 s passed" in result.stdout, "a sign of life grants all of the time anew"
    assert "rank 0 hangs: step 7 (joint) has not ended within 0.5 s" in result.stderr
    assert 'File "<string>", line 11 in <module>' in result.stderr


def test_a_stopped_process_writes_its_stacks_and_never_goes_on() -> None:
    # Continued, it would make more steps, and checkpoints, after it was said to hang.
    result = run_program("os.kill(os.getpid(), signal.SIGSTOP)\n    print('went on', flush=True)")
    assert result.returncode < 0
    assert 'File "<string>", line 11 in <module>' in result.stderr
    assert "went on" not in result.stdout


def test_what_ends_in_time_is_left_alone_and_so_is_all_that_follows() -> None:
    result = run_program("pass\ntime.sleep(1.5)")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
