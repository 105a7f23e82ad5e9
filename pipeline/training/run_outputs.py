"""What a run writes: metrics, checkpoints, sample sheets, evaluations, the exported network."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from torch import nn

from pipeline.config.schedule import Phase, Schedule
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import Evaluation, evaluate_network, recalibrate
from pipeline.exports.network_folder import EXPORT_FOLDER, save_completion_network
from pipeline.failures.watchdog import Watchdog
from pipeline.monitoring.training_metrics import TrainingMetrics
from pipeline.reporting.curves import draw_curves
from pipeline.reporting.run_folder import RunFiles
from pipeline.reporting.sample_log import SampleRecord
from pipeline.reporting.sample_sheets import validation_sheet
from pipeline.training.resume import state_facts
from pipeline.training.run_state import RunState
from shards.sampling.mixture import Mixture
from shards.storage.files import join_url

# Timeout multiplier for one-off work: the first step of a phase, a sheet, an evaluation.
GRACE = 3
_WAIT_TURN_S = 5.0
_CLOSE_S = 60.0  # after an error, for writes that are still pending


@dataclass(frozen=True)
class RunContext:
    """What does not change while a run goes on."""

    config: Config
    worker: Worker
    data: Mixture
    schedule: Schedule
    metrics: TrainingMetrics
    watchdog: Watchdog


class RunOutputs:
    """One rank's part in what a run writes. Rank 0 alone has files.

    A context manager that closes the files, whatever happened. Methods are collective unless they
    say otherwise.
    """

    def __init__(
        self, context: RunContext, state: RunState, first_step: int, console: Console
    ) -> None:
        self.context, self.state = context, state
        config, worker = context.config, context.worker
        self.samples = SampleRecord(config, worker.rank, worker.world_size, first_step)
        self.files = worker.on_main(
            lambda: RunFiles(
                config, context.schedule, first_step, console, context.metrics.committed
            )
        )
        context.metrics.begin_at(first_step, self.files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._close(_CLOSE_S)
            return
        with suppress(Exception):  # most likely more of the same; the first error is reported
            self._close(0 if isinstance(error, KeyboardInterrupt) else _CLOSE_S)

    def log(self, step: int, phase: Phase, values: dict[str, float]) -> None:
        """Write the metrics of the steps since the last call."""
        self._on_main(
            lambda files: files.telemetry.record(step, phase.value, values | files.metrics())
        )

    def show_progress(self, step: int) -> None:
        """Move the progress bar. Not collective."""
        if self.files is not None:
            self.files.telemetry.advance(step)

    def save(self, step: int) -> None:
        """Copy the state on rank 0, which writes it in the background."""
        config, worker = self.context.config, self.context.worker
        self.samples.flush()
        if config.log.record_samples:
            worker.barrier()  # a checkpoint must not outlive any rank's record before it
        tensors = self.state.tensors()

        def save(files: RunFiles) -> None:
            files.telemetry.flush()  # first: a checkpoint must not outlive the metrics before it
            facts = state_facts(config, self.context.data, worker, step, self.state.dilation)
            began = time.perf_counter()
            files.checkpoints.save(step, tensors, facts)
            self.context.metrics.saved(time.perf_counter() - began)

        self._on_main(save)

    def end_after_skipped_updates(self, step: int, network: str, streak: int) -> None:
        """Save the state, which is that of the last good step, and end every rank.

        Raises RuntimeError on every rank.
        """
        self.save(step)
        self.wait_until_written()

        def raise_on_main(files: RunFiles) -> None:
            raise RuntimeError(
                f"{streak} updates in a row of the {network} network were skipped up to "
                f"step {step}, since a loss or a gradient was not finite. The last good state is "
                f"saved at step {step}. Start under another --name with lower learning rates, or "
                "with --train.precision fp32"
            )

        self._on_main(raise_on_main)

    def evaluate_where_due(self, step: int, phase: Phase) -> bool:
        """Draw a sheet and evaluate, if `step` is one for it; return whether it was."""
        config = self.context.config
        sheet = _is_due(step, config.log.sheet_every_steps)
        evaluation = _is_due(step, config.evaluation.every_steps)
        if not sheet and not evaluation:
            return False
        self._expect_long_task(f"the sheet or the evaluation after step {step}")
        self.context.metrics.enter("looking")
        network = self._network_to_evaluate()
        if sheet:
            self._draw_sheet(network, step)
        if evaluation:
            self._evaluate(network, step, phase, baselines=False)  # those do not change
        self.context.metrics.enter("training")
        return True

    def finish(self, step: int) -> Evaluation:
        """Write the last sheet, the evaluation, the exported network and the curves."""
        config = self.context.config
        self._expect_long_task("the evaluation at the end")
        self.context.metrics.enter("looking")
        network = self._network_to_evaluate()
        self._draw_sheet(network, step)
        phase = self.context.schedule.phase(step)
        evaluation = self._evaluate(network, step, phase, baselines=True)

        def write(files: RunFiles) -> None:
            facts: dict[str, Any] = {
                "weights": config.evaluation.weights,
                "data_fingerprint": self.context.data.fingerprint,
                "evaluation": evaluation.methods["glcic"],
            }
            url = join_url(files.folder, EXPORT_FOLDER)
            files.run_in_background(
                EXPORT_FOLDER,
                lambda: save_completion_network(url, network, config.completion, step, facts),
            )
            files.write("evaluation.json", evaluation.to_json().encode())
            files.telemetry.flush()
            files.write("curves.png", draw_curves(files.telemetry.records))

        self._on_main(write)
        self.wait_until_written()
        return evaluation

    def wait_until_written(self) -> None:
        """Wait until all files are stored. Raises OSError when storing them is given up.

        The ranks wait together, in turns shorter than the time-out of a collective.
        """
        worker = self.context.worker
        self._expect_long_task("the wait for the storage")
        self.context.metrics.enter("storing")
        turn_s = min(_WAIT_TURN_S, self.context.config.train.timeout_s / 3)

        def is_written() -> bool:
            assert self.files is not None
            return self.files.wait_until_written(turn_s)

        if worker.broadcast_value(worker.on_main(is_written)):
            return
        self._on_main(lambda files: files.log_wait())
        while not worker.broadcast_value(worker.on_main(is_written)):
            self.context.watchdog.still_alive()

    def _close(self, pending_s: float) -> None:
        """Close all files; pending writes get `pending_s` seconds. Safe to call on one rank."""
        self._expect_long_task("the end of the run")
        with ExitStack() as closing:
            closing.callback(self.samples.flush)
            if self.files is not None:
                closing.callback(self.files.close, pending_s)

    def _network_to_evaluate(self) -> nn.Module:
        """Return a copy with re-estimated batch norm; evaluating it does not affect training."""
        config = self.context.config
        weights = self.state.weights(config.evaluation.weights)
        return recalibrate(weights, config, self.context.worker)

    def _draw_sheet(self, network: nn.Module, step: int) -> None:
        config, is_last = self.context.config, step == self.context.schedule.total

        def draw(files: RunFiles) -> None:
            picture, png = validation_sheet(
                network, config.validation_shards, count=config.log.sheet_images,
                device=self.context.worker.device, caption=f"{config.name}, step {step}",
                cache=config.data.cache, cache_limit_bytes=config.data.cache_limit_bytes,
                map_scale=config.loss.map_scale,
            )  # fmt: skip
            files.write(f"sheets/step-{step:09d}.png", png, needed=is_last)
            files.telemetry.picture("validation", step, picture)

        self._on_main(draw)

    def _evaluate(
        self, network: nn.Module, step: int, phase: Phase, *, baselines: bool
    ) -> Evaluation:
        context = self.context
        evaluation = evaluate_network(
            network, context.config, context.worker,
            baselines=baselines, alive=context.watchdog.still_alive,
        )  # fmt: skip
        values = {f"evaluation_{name}": v for name, v in evaluation.methods["glcic"].items()}
        self._on_main(lambda files: files.telemetry.record(step, phase.value, values))
        context.metrics.record_evaluation(step, evaluation.methods["glcic"])
        return evaluation

    def _expect_long_task(self, what: str) -> None:
        """Start the time-out of work that takes longer than a step. Not collective."""
        self.context.watchdog.expect(what, GRACE * self.context.config.train.timeout_s)

    def _on_main(self, call: Callable[[RunFiles], None]) -> None:
        """Call on rank 0 alone; if it fails there, every rank ends."""
        self.context.worker.on_main(lambda: call(self.files) if self.files is not None else None)


def _is_due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
