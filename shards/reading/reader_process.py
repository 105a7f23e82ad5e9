"""The reader's child process: fills the ring that it shares with the training process.

    python -m shards.reading.reader_process    (shards.reading.reader starts it; not for people)

Standard input brings JSON lines: the specification, then the range of steps, then slots that are
free again. Standard output carries one JSON line per filled slot, in the order of the steps, or one
about what went wrong. Torch is never imported here, and no signal of the terminal or of a job's
controller ends this process: the end of its input does, which also comes when its parent is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import cv2

from shards.reading.batches import BatchAssembler
from shards.reading.reader_spec import ReaderSpec
from shards.reading.ring import map_ring

REPORTED_AS = (FileNotFoundError, OSError, ValueError)  # the nearest kind, else RuntimeError


class _Reports:
    """The line to the parent. Whatever else is printed in this process goes to standard error."""

    def __init__(self) -> None:
        self._descriptor = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(self, message: dict[str, Any]) -> None:
        try:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the parent is gone
            os._exit(1)

    def send_error(self, error: BaseException) -> None:
        kind = next((kind for kind in REPORTED_AS if isinstance(error, kind)), None)
        message = str(error)
        if kind is None:
            traceback.print_exception(error)
            message = f"the reader process failed: {type(error).__name__}: {message}"
        self.send({"error": (kind or RuntimeError).__name__, "message": message})


class _RingFiller:
    """Gives every free slot the next step, and reports the steps in order as they are filled."""

    def __init__(
        self,
        assembler: BatchAssembler,
        opening: dict[str, Any],
        num_slots: int,
        reports: _Reports,
    ) -> None:
        ring = map_ring(opening["ring_file"], opening["ring_bytes"])
        self._assembler = assembler
        self._slots = [assembler.layout.arrays(ring, slot) for slot in range(num_slots)]
        self._reports = reports
        self._steps: Iterator[int] = iter(())
        self._pending: SimpleQueue[tuple[int, int, Future[None]]] = SimpleQueue()

    def run(self, requests: Iterator[dict[str, Any]]) -> None:
        threading.Thread(target=self._report_in_order, daemon=True).start()
        for request in requests:
            if "start" in request:
                self._steps = iter(range(request["start"], request["stop"]))
                for slot in range(len(self._slots)):
                    self._fill(slot)
            else:
                self._fill(request["free"])

    def _fill(self, slot: int) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._pending.put((step, slot, self._assembler.submit(step, self._slots[slot])))

    def _report_in_order(self) -> None:
        while True:
            step, slot, filled = self._pending.get()
            try:
                filled.result()
            except Exception as error:
                self._reports.send_error(error)
                return
            counters = self._assembler.counters()
            self._reports.send({"step": step, "slot": slot, "counters": counters})


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(1)  # the decoding threads are the parallelism
    reports = _Reports()
    requests = (json.loads(line) for line in sys.stdin.buffer)
    opening = next(requests, None)
    if opening is None:
        return
    try:
        spec = ReaderSpec.from_mapping(opening["spec"])
        assembler = BatchAssembler(spec)
        filler = _RingFiller(assembler, opening, spec.prefetch_batches, reports)
    except Exception as error:
        reports.send_error(error)
        for _ in requests:  # until the parent has read it and closes the line
            pass
        return
    filler.run(requests)
    assembler.close(wait_for_threads=False)
    os._exit(0)  # a thread may be in the middle of a long download


if __name__ == "__main__":
    main()
