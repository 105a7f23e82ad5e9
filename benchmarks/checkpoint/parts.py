"""What the checkpoint benchmark needs: a run's state without data, and a store that hangs."""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Self

import fsspec
from fsspec.spec import AbstractFileSystem

from benchmarks.harness.device_peak import synchronize
from benchmarks.training.measured_steps import random_batch, state_without_data, training_step
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.training.run_state import RunState
from shards.storage.files import join_url, remove_tree


def training_state(
    config: Config, worker: Worker
) -> tuple[RunState, Callable[[], None], dict[str, Any]]:
    """Return the state of a run in its joint phase, what makes a step of it, and what to say of
    both.

    Collective: every rank must call, also what makes a step.
    """
    state = state_without_data(config, worker)
    step = training_step(config, worker, state.completion, state.discriminator)
    batch = random_batch(config, worker)

    def make_step() -> None:
        step(Phase.JOINT, batch)
        synchronize(worker.device)

    make_step()  # warms up, and makes the optimizers' state
    tensors = [t for group in state.tensors().values() for t in group.values()]
    return state, make_step, {
        "batch size": config.train.batch_size // worker.world_size,
        "crop size, pixels": config.crop_size,
        "tensors": len(tensors),
        "bytes of all tensors": sum(t.numel() * t.element_size() for t in tensors),
    }  # fmt: skip


@contextmanager
def checkpoint_store(url: str) -> Iterator[str]:
    """A folder of its own below `url`, removed afterwards; without one a temporary one."""
    if not url:
        with tempfile.TemporaryDirectory(prefix="glcic-benchmark-") as folder:
            yield folder
        return
    folder = join_url(url, f"checkpoint-benchmark-{uuid.uuid4().hex[:8]}")
    try:
        yield folder
    finally:
        remove_tree(folder)


class _HangingFileSystem(AbstractFileSystem):
    """Takes what is written and keeps nothing; does not answer while it hangs."""

    protocol = "hanging"
    answering: ClassVar[threading.Event] = threading.Event()
    sizes: ClassVar[dict[str, int]] = {}

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        self.answering.wait()
        self.sizes[path] = len(value)

    def size(self, path: str) -> int | None:
        return self.sizes.get(path)

    def exists(self, path: str, **options: Any) -> bool:
        return False

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        return []


class HangingStore:
    url = "hanging://checkpoints"

    def __enter__(self) -> Self:
        fsspec.register_implementation("hanging", _HangingFileSystem, clobber=True)
        self.answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.answer()

    def hang(self) -> None:
        _HangingFileSystem.answering.clear()

    def answer(self) -> None:
        _HangingFileSystem.answering.set()


def longest_pause_s(call: Callable[[], Any]) -> float:
    """That a thread which does nothing but look at the clock makes while `call` runs."""
    done = threading.Event()
    longest = 0.0

    def look() -> None:
        nonlocal longest
        before = time.perf_counter()
        while not done.is_set():
            now = time.perf_counter()
            longest = max(longest, now - before)
            before = now

    thread = threading.Thread(target=look)
    thread.start()
    try:
        call()
    finally:
        done.set()
        thread.join()
    return longest
