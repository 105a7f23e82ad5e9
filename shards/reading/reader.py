"""The reader of a training process: batches in the order of the steps, decoded by a child process.

Threads inside the training process would lose half their speed to its interpreter lock. The child
decodes straight into memory shared with it, and only the numbers of slots cross the pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from shards.child_process import child_environment
from shards.reading.batches import Batch, BatchAssembler
from shards.reading.in_order import read_in_order
from shards.reading.reader_process import REPORTED_AS
from shards.reading.reader_spec import ReaderSpec
from shards.reading.ring import create_ring_file, map_ring

__all__ = ["Batch", "BatchAssembler", "ShardReader", "read_in_order"]

CLOSING_SECONDS = 2.0  # what the child gets to end by itself


class ShardReader:
    """Starts the child process at once, so that it opens the set while the caller prepares.

    Raises ValueError and FileNotFoundError for a set or a specification that cannot be used; those
    that only the child finds are raised by the iteration, and so is RuntimeError if it dies.
    """

    def __init__(self, spec: ReaderSpec, timeout_s: float = 300.0) -> None:
        mixture = spec.load()
        self._num_slots = spec.prefetch_batches
        self._layout = spec.layout(mixture)
        self._timeout_s = timeout_s
        self.steps_per_epoch = mixture.steps_per_epoch(spec.split)
        self.batches = 0  # handed out
        self.wait_seconds = 0.0  # that the caller spent waiting for a batch
        self.counters: dict[str, float] = {}  # of the child: see BatchAssembler.counters
        self._next_step = self._stop = 0
        self._held: set[int] = set()  # slots of batches that were not yet released
        self._received = bytearray()
        self._failure: Exception | None = None
        self._launch(spec)

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, step: int, stop: int) -> None:
        """Batches of `step` up to, but without, `stop`. To be called once."""
        self._next_step, self._stop = step, stop
        self._send({"start": step, "stop": stop})

    def __iter__(self) -> ShardReader:
        return self

    def __next__(self) -> Batch:
        if self._failure is not None:
            raise self._failure
        step = self._next_step
        if step >= self._stop:
            raise StopIteration
        if len(self._held) == self._num_slots:
            raise RuntimeError(
                f"all {self._num_slots} batches of the ring are in use: release one before asking "
                f"for step {step}, or raise data.prefetch_batches"
            )
        begin = time.monotonic()
        try:
            report = self._receive(step)
        except Exception as error:
            self._failure = error
            raise
        finally:
            self.wait_seconds += time.monotonic() - begin
        return self._hand_out(step, report)

    def ring_view(self) -> np.ndarray:
        """Return the whole ring as one uint8 array, for pinning it. Never written by
        this process.
        """
        return self._ring

    @property
    def ready_batches(self) -> int:
        """Batches that are known to be filled and were not yet asked for."""
        return self._received.count(b"\n")

    @property
    def process_id(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the child. Batches handed out keep their memory, which no one writes any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _launch(self, spec: ReaderSpec) -> None:
        num_bytes = self._num_slots * self._layout.slot_bytes
        ring_file = create_ring_file(num_bytes)
        try:
            self._ring = map_ring(ring_file, num_bytes)
            self._slots = [self._layout.arrays(self._ring, k) for k in range(self._num_slots)]
            self._process = subprocess.Popen(
                # -P: a folder or file of the caller's must not stand in for a module.
                [sys.executable, "-P", "-m", "shards.reading.reader_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=child_environment(),
                pass_fds=(ring_file,),
            )
        finally:
            os.close(ring_file)
        self._send(
            {"spec": dataclasses.asdict(spec), "ring_file": ring_file, "ring_bytes": num_bytes}
        )

    def _hand_out(self, step: int, report: dict[str, Any]) -> Batch:
        assert report["step"] == step, (report, step)
        slot = report["slot"]
        self._next_step += 1
        self._held.add(slot)
        self.batches += 1
        self.counters = report["counters"]
        return Batch.over(self._slots[slot], step, lambda: self._give_back(slot))

    def _give_back(self, slot: int) -> None:
        self._held.discard(slot)
        self._send({"free": slot})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        # A child that died is reported by the next read, with its exit code.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def _receive(self, step: int) -> dict[str, Any]:
        report = json.loads(self._receive_line(step))
        if "error" in report:
            kinds = {kind.__name__: kind for kind in REPORTED_AS}
            raise kinds.get(report["error"], RuntimeError)(report["message"])
        return report

    def _receive_line(self, step: int) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + self._timeout_s
        while b"\n" not in self._received:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise RuntimeError(
                    f"the reader process gave no batch for step {step} in {self._timeout_s:g} s; "
                    "is the storage of the shards reachable, and are there cores to decode with?"
                )
            received = os.read(descriptor, 65536)
            if not received:
                raise RuntimeError(self._exit_message(step))
            self._received += received
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    def _exit_message(self, step: int) -> str:
        code = self._process.wait()
        cause = f"exit code {code}"
        if code < 0:
            cause += f", killed by {signal.Signals(-code).name}"
        remedy = {
            -signal.SIGKILL: "; the system does this when memory runs out",
            -signal.SIGBUS: "; a shard was cut short, or its disk failed, while it was read",
        }.get(code, "; its messages stand above")
        return f"the reader process died ({cause}) before step {step} was read{remedy}"
