from __future__ import annotations

import ctypes
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.checkpoint import __main__ as checkpoint
from benchmarks.checkpoint.__main__ import COPY, HELD, SEND, STEP, measure_loop, measure_store
from benchmarks.checkpoint.parts import longest_pause_s
from benchmarks.harness.result import read_result
from pipeline.engines.ddp import Worker
from shards.storage.files import list_tree
from tests.torchrun import run, torchrun_command

SMALL = [
    "--pack.crop-size=32", "--pack.short-side=48", "--pack.masks.side-min=8",
    "--pack.masks.side-max=16", "--data.short-side-min=32", "--data.short-side-max=48",
    "--completion.width=8", "--discriminator.width=4", "--discriminator.local-size=16",
    "--discriminator.num-features=8", "--train.precision=fp32", "--train.threads=1",
    "--train.batch-size=4", "--steps=1", "--rounds=1",
]  # fmt: skip


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


def test_checkpoints_are_measured_on_the_store_that_is_named_and_leave_nothing_there(
    tmp_path: Path,
) -> None:
    url, output = f"memory://{tmp_path.name}", tmp_path / "checkpoint.json"
    assert checkpoint.main([*SMALL, f"--store={url}", f"--output={output}"]) == 0
    result = read_result(output)
    names = [figure.name for figure in result.figures if figure.group == "the store, memory"]
    assert names == [checkpoint.WRITE, checkpoint.RATE, checkpoint.READ, checkpoint.LOAD]
    assert list_tree(url) == []
    assert url not in output.read_text()


@pytest.mark.dist
def test_two_workers_make_the_steps_and_the_state_is_sent_to_both(tmp_path: Path) -> None:
    output, log = tmp_path / "checkpoint.json", tmp_path / "log"
    command = torchrun_command(
        2, "--module", "benchmarks.checkpoint", *SMALL, f"--folder={tmp_path / 'run'}",
        f"--output={output}",
    )  # fmt: skip
    assert run(command, log) == 0, log.read_text()
    result = read_result(output)
    assert (result.parameters["workers"], result.parameters["batch size"]) == (2, 2)
    figures = {figure.name: figure.median for figure in result.figures}
    assert min(figures[name] for name in (STEP, COPY, HELD, SEND)) > 0
    assert list((tmp_path / "run").rglob("*.safetensors")) == []
    assert str(tmp_path) not in output.read_text()
