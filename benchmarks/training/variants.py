"""Variants of a configuration, each with networks, optimizers and switches of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

from benchmarks.harness.device_peak import Peak
from benchmarks.training.measured_steps import Block, MeasuredSteps
from benchmarks.training.step_parts import Parts
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.engines.start import start_worker

AS_CONFIGURED = "as configured"
PLAIN = "plain"
PLAIN_FIELDS = (  # torch as it comes, in float32, without any switch
    "train.precision=fp32",
    "train.tf32=false",
    "train.channels_last=false",
    "train.compile=false",
    "train.cuda_graphs=false",
    "train.dilation=native",
    "train.convolution=direct",
    "train.keep_memory=false",
    "parallel.compress_gradients=false",
)
_FIELD = re.compile(r"[a-z][\w-]*(\.[\w-]+)+=.+")


def variants_of(
    texts: Sequence[str], config: Config, parse: Callable[[list[str]], Config]
) -> dict[str, Config]:
    """By their own words: "train.compile=true train.tf32=true", or "plain", alone or with fields.

    `parse` makes a configuration with these further overrides. Raises ValueError.
    """
    variants = {}
    for text in texts:
        fields: list[str] = []
        for word in text.split():
            if word != PLAIN and not _FIELD.fullmatch(word.removeprefix("--")):
                raise ValueError(
                    f"--compare {text!r}: {word} is not section.field=value, nor the word {PLAIN}"
                )
            fields += PLAIN_FIELDS if word == PLAIN else [word.removeprefix("--")]
        try:
            variant = parse([f"--{field}" for field in fields])
        except ValueError as error:
            raise ValueError(f"--compare {text!r}: {error}") from error
        if variant == config:
            raise ValueError(f"--compare {text!r}: this is the configuration as it is")
        if variant.crop_size != config.crop_size:
            raise ValueError(f"--compare {text!r}: images of another size are other work")
        variants[" ".join(text.split())] = variant
    return variants


class StepsInOwnProcess:
    """`MeasuredSteps` in a process that was started afresh: switches and caches stay in it."""

    def __init__(self, config: Config, kinds: tuple[str, ...]) -> None:
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        # Not waited for: those of several variants start beside one another.
        self._opening = self._pool.submit(_open, config, kinds)

    def warm_up(self, steps: int) -> None:
        self._call(_of_own, "warm_up", steps)

    def block(self, phase: Phase, kind: str, steps: int) -> Block:
        return self._call(_of_own, "block", phase, kind, steps)

    def parts(self, phase: Phase, steps: int) -> Parts:
        return self._call(_of_own, "parts", phase, steps)

    def peak(self) -> Peak:
        return self._call(_of_own, "peak")

    can_skip_all_reduce = False  # a worker alone has none

    def close(self) -> None:
        with self._pool, suppress(BrokenProcessPool):
            self._pool.submit(_close).result()

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            self._opening.result()
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a variant's process was killed; the system does this when memory runs out: lower "
                "train.batch_size, or compare fewer variants at once"
            ) from error


_own: list[MeasuredSteps] = []  # of this process, which was started for them


def _open(config: Config, kinds: tuple[str, ...]) -> None:
    _own.append(MeasuredSteps(config, start_worker(config), kinds))


def _of_own(method: str, *arguments: Any) -> Any:
    return getattr(_own[0], method)(*arguments)


def _close() -> None:
    while _own:
        _own.pop().close()
