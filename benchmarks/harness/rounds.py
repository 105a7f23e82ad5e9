"""Interleaved measuring: every round runs every candidate once, in a process of its own.

What disturbs a machine for some seconds then disturbs all candidates of a round; the ratios of one
round stand it, the absolute figures do not. Under torchrun all workers run the same candidate at
once: they share a node's power, memory, disks and network, as a training's workers do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

import cv2

from benchmarks.harness.launched_workers import ALONE, Workers
from benchmarks.harness.peer_process import PeerCall, PeerProcess
from benchmarks.harness.result import Measurement

Measured = TypeVar("Measured")
MeasureCall = Callable[[], Measured]  # called in the candidate's process; must be picklable
Pair = tuple[str, str]  # numerator and denominator of a ratio, by name


def measure_in_rounds(
    candidates: Mapping[str, MeasureCall[Measured] | PeerCall],
    rounds: int,
    progress: Callable[[str], None] = lambda message: None,
    workers: Workers = ALONE,
) -> dict[str, list[list[Measured]]]:
    """Return what every candidate measured in every round, such as images per second, on every
    worker, by rank.

    A round before the first warms up the processes and the page cache, and is not counted. The
    order turns round every time, so that none always follows the same neighbour. A candidate that
    fails on one worker ends all of them. Collective: every rank must call.
    """
    measured: dict[str, list[list[Measured]]] = {name: [] for name in candidates}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(_own_process(candidate))
            for name, candidate in candidates.items()
        }
        for number in range(-1, rounds):
            progress(f"round {number + 1} of {rounds}" if number >= 0 else "warming up")
            for name in list(candidates)[:: 1 if number % 2 == 0 else -1]:
                values = workers.each(processes[name])
                if number >= 0:
                    measured[name].append(values)
    return measured


def sum_over_workers(measured: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Return the sum over all workers, in each round."""
    return {name: [sum(values) for values in rounds] for name, rounds in measured.items()}


def of_median_worker(measured: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """In each round."""
    return {
        name: [statistics.median(values) for values in rounds] for name, rounds in measured.items()
    }


def figures_of(
    group: str, unit: str, measured: Mapping[str, Sequence[float]], pairs: Sequence[Pair]
) -> list[Measurement]:
    """Return the candidates' own figures, then the ratios, each divided within its round."""
    figures = [Measurement.of_runs(group, name, unit, runs) for name, runs in measured.items()]
    for first, second in pairs:
        ratios = [a / b for a, b in zip(measured[first], measured[second], strict=True)]
        figures.append(Measurement.of_runs(group, f"{first} / {second}", "ratio", ratios))
    return figures


@contextmanager
def _own_process(candidate: MeasureCall[Any] | PeerCall) -> Iterator[Callable[[], Any]]:
    """Started afresh: it inherits no memory and no threads of this process."""
    if isinstance(candidate, PeerCall):
        with PeerProcess(candidate.interpreter) as process:
            yield lambda: process.call(candidate.function, candidate.arguments)
    else:
        spawn = get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=_single_threaded_opencv) as pool:
            yield lambda: pool.submit(candidate).result()


def _single_threaded_opencv() -> None:
    cv2.setNumThreads(1)  # a candidate has the threads that it is said to have
