from __future__ import annotations

import ctypes
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.checkpoint import HELD, STEP, measure_loop, measure_store
from benchmarks.checkpoint_parts import longest_pause_s
from pipeline.workers import Worker


def small_state() -> SimpleNamespace:
    tensors = {"completion": {"weight": torch.rand(100, 100)}}
    return SimpleNamespace(tensors=lambda: tensors, load_=lambda loaded: None)


def test_a_round_of_the_loop_ends_also_with_a_store_that_hangs(tmp_path: Path) -> None:
    runs = measure_loop(small_state(), lambda: time.sleep(0.001), str(tmp_path), 3, Worker())
    assert runs[STEP][0] >= 0.001
    assert runs[HELD][0] > 0


def test_the_store_is_measured_by_what_it_really_reads_and_writes(tmp_path: Path) -> None:
    assert all(value > 0 for runs in measure_store(small_state(), str(tmp_path), Worker()).values()
               for value in runs)  # fmt: skip
    assert (tmp_path / "step-000000001" / "completion.safetensors").stat().st_size > 40_000


def test_a_thread_that_keeps_the_interpreters_lock_is_seen_as_a_pause() -> None:
    keeping = ctypes.PyDLL(None).usleep
    assert longest_pause_s(lambda: keeping(200_000)) >= 0.2
