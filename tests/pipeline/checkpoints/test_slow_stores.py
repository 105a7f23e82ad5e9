"""Checkpoints and run files on a store that hangs or fails: training waits for neither."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from rich.console import Console

from pipeline.checkpoints import retry_policy
from pipeline.checkpoints.file_queue import FileQueue
from pipeline.checkpoints.format import COMMITTED, committed_steps, read_checkpoint, step_name
from pipeline.checkpoints.writer import CheckpointWriter
from pipeline.engines.ddp import Worker
from pipeline.reporting.metrics_log import read_metrics
from pipeline.step.training_step import TrainingStep
from pipeline.training.trainer import train
from shards.storage import files as storage
from shards.storage.files import join_url, list_names, read_bytes, remove_tree
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config

URL = "memory://slow"  # each test has one of its own, see `store`
_NUMBERS = itertools.count()


class Store:
    """What is written to memory:// waits until the store answers, and fails while it is to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.called = threading.Event()
        self.errors: list[Exception] = []
        self.written: list[str] = []

    def write(self, path: str, store: Callable[[], None]) -> None:
        self.called.set()
        self.answers.wait()
        if self.errors:
            raise self.errors.pop(0)
        store()
        self.written.append(path)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    faulty = Store()
    pipe_file = MemoryFileSystem.pipe_file
    folder = f"slow-{next(_NUMBERS)}/"
    monkeypatch.setattr(sys.modules[__name__], "URL", f"memory://{folder.rstrip('/')}")

    def write(filesystem, path, value, **options):
        if folder not in path:  # a thread that an earlier test has left
            return pipe_file(filesystem, path, value, **options)
        faulty.write(path, lambda: pipe_file(filesystem, path, value, **options))

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", write)
    monkeypatch.setattr(storage, "ATTEMPTS", 1)  # its own pauses are tested elsewhere
    monkeypatch.setattr(retry_policy, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry_policy, "MAX_PAUSE_S", 0.02)
    yield faulty
    faulty.answers.set()
    remove_tree(URL)


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"completion": {"weight": torch.full((4, 3), value)}}


def writer(said: list[str] | None = None, give_up_after_s: float = 60.0) -> CheckpointWriter:
    log = (said if said is not None else []).append
    return CheckpointWriter(URL, 5, log, give_up_after_s=give_up_after_s)


def wait_as_a_run_does(checkpoints: CheckpointWriter) -> None:
    while not checkpoints.wait(0.05):
        pass


def test_while_a_store_hangs_saves_return_and_the_newest_arrives_when_it_answers(
    store: Store,
) -> None:
    said: list[str] = []
    checkpoints = writer(said)
    store.answers.clear()
    checkpoints.save(1, tensors(1), {})
    assert store.called.wait(60)
    for step in (2, 3, 4, 5):
        checkpoints.save(step, tensors(step), {})
        assert checkpoints.metrics()["checkpoint_pending"] == 2, "copies in memory"
    assert checkpoints.metrics()["checkpoints_superseded"] == 3
    assert not checkpoints.wait(0.01)
    store.answers.set()
    assert checkpoints.wait(60)
    assert committed_steps(URL) == [1, 5]
    assert list_names(URL) == [step_name(1), step_name(5)], "nothing of those left out"
    for step in (1, 5):  # what was written while newer copies were taken is what was saved
        found = read_checkpoint(join_url(URL, step_name(step))).tensors["completion"]["weight"]
        assert torch.equal(found, tensors(step)["completion"]["weight"])
    assert (
        f"checkpoint {step_name(2)} was not stored in time and is dropped for {step_name(3)}"
        in said
    )
    assert checkpoints.metrics()["checkpoint_pending"] == 0


def test_faults_that_pass_are_tried_again_and_counted(store: Store) -> None:
    said: list[str] = []
    store.errors = [OSError(errno.EIO, "reset"), TimeoutError(), ConnectionError("refused")]
    checkpoints = writer(said)
    checkpoints.save(1, tensors(1), {})
    assert checkpoints.wait(60)
    assert committed_steps(URL) == [1]
    assert checkpoints.metrics()["checkpoint_failures"] == 3
    assert sum("could not be stored, next attempt in" in line for line in said) == 3


def test_a_checkpoint_that_failed_gives_way_to_a_newer_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "FIRST_PAUSE_S", 60.0)
    monkeypatch.setattr(retry_policy, "MAX_PAUSE_S", 60.0)
    failed = threading.Event()

    def log(message: str) -> None:
        if "next attempt" in message:
            failed.set()

    checkpoints = CheckpointWriter(URL, 5, log)
    store.errors = [OSError(errno.EIO, "reset")]
    checkpoints.save(1, tensors(1), {})
    assert failed.wait(60)
    checkpoints.save(2, tensors(2), {})
    assert checkpoints.wait(60), "who waits for the last checkpoint ends the pause"
    assert committed_steps(URL) == [2]
    assert list_names(URL) == [step_name(2)], "what the failed one left is gone"


def test_a_store_that_only_fails_is_given_up_and_the_last_reason_told(store: Store) -> None:
    store.errors = [OSError(errno.EIO, f"fault {number}") for number in range(10_000)]
    checkpoints = writer(give_up_after_s=0.1)
    checkpoints.save(1, tensors(1), {})
    with pytest.raises(OSError, match=r"fault \d+.*limit of checkpoint.give_up_after_s"):
        wait_as_a_run_does(checkpoints)


def test_a_store_that_hangs_for_ever_is_given_up_too(store: Store) -> None:
    checkpoints = writer(give_up_after_s=0.1)
    checkpoints.save(1, tensors(1), {})
    assert checkpoints.wait(60)
    store.answers.clear()
    checkpoints.save(2, tensors(2), {})
    with pytest.raises(OSError, match=f"does not answer.*committed is {step_name(1)}"):
        wait_as_a_run_does(checkpoints)
    with pytest.raises(OSError, match="does not answer"):
        checkpoints.save(3, tensors(3), {})


@pytest.mark.parametrize(
    "error",
    [PermissionError("denied"), OSError(errno.ENOSPC, "full"), OSError(errno.EFBIG, "too large")],
)
def test_what_waiting_does_not_mend_is_raised_at_once(store: Store, error: OSError) -> None:
    store.errors = [error]
    checkpoints = writer()
    checkpoints.save(1, tensors(1), {})
    with pytest.raises(OSError, match="a checkpoint could not be written to memory://slow"):
        checkpoints.wait(60)
    assert checkpoints.metrics()["checkpoint_failures"] == 1


def test_of_the_writes_of_a_file_that_waits_only_the_newest_is_made(store: Store) -> None:
    queue = FileQueue(print, 60.0)
    store.answers.clear()
    written: list[str] = []
    queue.put("first", lambda: storage.write_bytes(join_url(URL, "first"), b"1"))
    assert store.called.wait(60)
    for number in range(5):
        queue.put("metrics", lambda number=number: written.append(f"metrics {number}"))
        queue.put("sheet", lambda number=number: written.append(f"sheet {number}"))
    assert queue.pending == 3
    store.answers.set()
    assert queue.wait(60)
    assert written == ["metrics 4", "sheet 4"]


def test_what_waits_has_a_limit_and_what_is_left_out_is_told(store: Store) -> None:
    said: list[str] = []
    queue = FileQueue(said.append, 60.0, limit_bytes=250)
    store.answers.clear()
    written: list[str] = []
    queue.put("first", lambda: storage.write_bytes(join_url(URL, "first"), b"1"))
    assert store.called.wait(60)
    queue.put("metrics", lambda: written.append("metrics"))
    for number in range(5):
        queue.put(f"sheet {number}", lambda n=number: written.append(f"sheet {n}"), size_bytes=100)
    store.answers.set()
    assert queue.wait(60)
    assert written == ["metrics", "sheet 3", "sheet 4"]
    assert [line.split(" is")[0] for line in said] == ["sheet 0", "sheet 1", "sheet 2"]


def test_a_file_of_the_run_that_cannot_be_written_is_told(store: Store) -> None:
    queue = FileQueue(print, 60.0)
    store.errors = [PermissionError("denied")]
    queue.put("metrics", lambda: storage.write_bytes(join_url(URL, "metrics"), b"1"))
    with pytest.raises(OSError, match=r"a file of the run could not be written.*denied"):
        queue.wait(60)


def test_a_run_trains_on_while_its_store_hangs_and_ends_with_all_its_files(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If any step waited for the store, this test would never end: step 9 makes it answer."""
    shards = pack_small_set(tmp_path, images=36, images_per_shard=7)
    config = small_config(
        shards, tmp_path, checkpoint={"skip_late": True, "keep": 20},
        log={"every_steps": 1, "sheet_every_steps": 4},
    )  # fmt: skip
    config = dataclasses.replace(config, folder=URL)
    make_step = TrainingStep.__call__
    steps = 0

    def make_step_beside_the_store(self, phase, batch):
        nonlocal steps
        steps += 1
        if steps in (2, 9):
            (store.answers.clear if steps == 2 else store.answers.set)()
        return make_step(self, phase, batch)

    monkeypatch.setattr(TrainingStep, "__call__", make_step_beside_the_store)
    assert train(config, Worker(), Console(quiet=True)).finished
    records = [r for r in read_metrics(URL) if "reconstruction" in r or "discriminator" in r]
    assert [record["step"] for record in records] == list(range(1, 13))
    at_worst = records[7]
    assert at_worst["checkpoint_pending"] == 2
    assert at_worst["checkpoints_superseded"] >= 3
    assert at_worst["run_files_pending"] > 1
    assert {"checkpoint_age_s", "checkpoint_failures", "storage_retries"} <= at_worst.keys()
    checkpoints = join_url(URL, "checkpoints")
    steps_stored = committed_steps(checkpoints)
    assert steps_stored[-1] == 12
    assert not {4, 5, 6} & set(steps_stored)
    assert list_names(checkpoints) == [step_name(step) for step in steps_stored]
    for name in ("evaluation.json", "curves.png", f"sheets/{step_name(12)}.png"):
        assert read_bytes(join_url(URL, name))
    # The metrics up to a checkpoint are stored before it.
    folder = URL.removeprefix("memory:/")
    for step in steps_stored:
        mark = store.written.index(f"{folder}/checkpoints/{step_name(step)}/{COMMITTED}")
        assert f"{folder}/metrics.jsonl" in store.written[:mark]
