"""The training loop: from a configuration and a packed set to trained networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from torch import nn

from pipeline.config.schedule import Phase, Schedule, resolve_schedule
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import Evaluation, evaluate_network, recalibrate
from pipeline.exports.network_folder import EXPORT_FOLDER, save_completion_network
from pipeline.failures.lost_ranks import lost_ranks_named
from pipeline.failures.out_of_memory import is_out_of_memory, out_of_memory
from pipeline.failures.stop_signals import StopSignal
from pipeline.failures.watchdog import Watchdog
from pipeline.monitoring.training_metrics import TrainingMetrics
from pipeline.reporting.curves import draw_curves
from pipeline.reporting.run_folder import RunFiles
from pipeline.reporting.sample_log import SampleRecord
from pipeline.reporting.sample_sheets import validation_sheet
from pipeline.step.cuda_graph_step import GraphedStep
from pipeline.step.device_feed import DeviceFeed
from pipeline.step.running_means import MetricAverager
from pipeline.step.skipped_updates import SkippedUpdates
from pipeline.step.training_data import reader_spec, training_data
from pipeline.step.training_step import StepMetrics, TrainingBatch, TrainingStep
from pipeline.training.resume import resume_, state_facts
from pipeline.training.run_state import RunState
from pipeline.training.warm_start import warm_start_
from shards.reading.reader import ShardReader
from shards.sampling.mixture import Mixture
from shards.storage.files import join_url


@dataclass(frozen=True)
class Outcome:
    """The end of a call of `train`: `finished` is False when a signal stopped it after a save."""

    step: int
    finished: bool
    evaluation: Evaluation | None


_WAIT_TURN_S = 5.0
_CLOSE_S = 60.0  # after an error, for writes that are still pending
# Timeout multiplier for one-off work: the first step of a phase, a sheet, an evaluation.
_GRACE = 3


def train(config: Config, worker: Worker, console: Console | None = None) -> Outcome:
    """Train from the newest checkpoint, or from the start, to the end of the schedule.

    Collective: every rank must call.
    """
    with lost_ranks_named(worker.rank):
        return _train(config, worker, console)


def _train(config: Config, worker: Worker, console: Console | None) -> Outcome:
    data = training_data(config)
    schedule = resolve_schedule(config.schedule, data.steps_per_epoch("train"))
    console = console or Console(soft_wrap=True, quiet=not worker.is_main)
    metrics = TrainingMetrics(config, worker, schedule)
    log = partial(console.print, highlight=False, markup=False) if worker.is_main else print
    with metrics.exported(log):
        return _train_on(config, worker, data, schedule, console, metrics)


def _train_on(
    config: Config, worker: Worker, data: Mixture, schedule: Schedule, console: Console,
    metrics: TrainingMetrics,
) -> Outcome:  # fmt: skip
    state = RunState(config, worker, data)
    start = resume_(state, config, data, worker, log=console.print)
    if not start and config.start.checkpoint:
        warm_start_(state, config, worker, log=console.print)
    watchdog = Watchdog()
    run = Run(config, worker, data, schedule, state, start, console, watchdog, metrics)
    # Until the last write is done: a second signal must not cut it short.
    with StopSignal() as stop, watchdog:
        try:
            step = run.train_from(start, stop)
            run.wait_until_written()
            finished = step >= schedule.total
            evaluation = run.finish(step) if finished else None
        except BaseException as error:
            with suppress(Exception):  # most likely more of the same; report the first error
                run.close(hurried=isinstance(error, KeyboardInterrupt))
            raise
        run.close()
    metrics.enter("finished" if finished else "stopped")
    return Outcome(step, finished, evaluation)


class Run:
    """One rank's part in a run. Methods are collective unless they say otherwise."""

    def __init__(
        self, config: Config, worker: Worker, data: Mixture, schedule: Schedule,
        state: RunState, start: int, console: Console, watchdog: Watchdog,
        metrics: TrainingMetrics,
    ) -> None:  # fmt: skip
        self.watchdog, self.metrics = watchdog, metrics
        self.config, self.worker, self.data = config, worker, data
        self.schedule, self.state = schedule, state
        training_step = TrainingStep(
            state.completion, state.discriminator, config.loss, config.discriminator.local_size,
            worker, config.train.micro_batch_size,
        )  # fmt: skip
        self.training_step = GraphedStep(training_step) if worker.cuda_graphs else training_step
        self.averager = MetricAverager(worker, config.train.batch_size)
        self.skipped_updates = SkippedUpdates()
        self.record = SampleRecord(config, worker.rank, worker.world_size, start)
        self.files = worker.on_main(
            lambda: RunFiles(config, schedule, start, console, metrics.committed)
        )
        metrics.begin_at(start, self.files)

    def train_from(self, step: int, stop: StopSignal) -> int:
        """Train until the schedule or a signal ends it; return the number of steps made."""
        if step >= self.schedule.total:
            return step
        with ShardReader(reader_spec(self.config, self.worker)) as reader:
            feed = DeviceFeed(
                reader, self.config, self.worker.rank, self.worker.world_size, self.worker.device
            )
            reader.start(step, self.schedule.total)
            self.metrics.enter("training")
            if step:
                # The run may have been lost between its checkpoint and this evaluation.
                self._evaluate_and_log(step, self.schedule.phase(step - 1))
            self._expect_step(step, _GRACE)
            self.averager.restart()
            for source, batch in self.averager.timed(feed.batches()):
                phase = self.schedule.phase(step)
                self.record.append(source)
                step_metrics = self._make_step(phase, batch, step)
                self.averager.add(step_metrics)
                self.skipped_updates.add(step_metrics)
                if phase is not Phase.DISCRIMINATOR and self.state.average is not None:
                    self.state.average.update_(
                        self.state.completion.network, self.schedule.completion_updates(step)
                    )
                step += 1
                stopping = self.worker.raised_anywhere(stop.raised)
                self.metrics.step_made(step, phase, reader.wait_seconds)
                self._after_step(step, phase, stopping, reader)
                if stopping:
                    break
                if step < self.schedule.total:
                    new_phase = self.schedule.phase(step) is not phase
                    self._expect_step(step, _GRACE if new_phase else 1)
            feed.close()
        return step

    def _make_step(self, phase: Phase, batch: TrainingBatch, step: int) -> StepMetrics:
        try:
            return self.training_step(phase, batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            trainables = (self.state.completion, self.state.discriminator)
            where = f"step {step + 1} ({phase.value})"
            raise out_of_memory(error, where, self.config, self.worker, trainables) from error

    def _expect_step(self, step: int, grace: int) -> None:
        """Start the time-out of the next step and of the wait for its batch. Not collective."""
        what = f"step {step + 1} ({self.schedule.phase(step).value})"
        self.metrics.step_begins()
        self.watchdog.expect(what, grace * self.config.train.timeout_s)

    def _expect_long_task(self, what: str) -> None:
        """Start the time-out of work that takes longer than a step. Not collective."""
        self.watchdog.expect(what, _GRACE * self.config.train.timeout_s)

    def _after_step(self, step: int, phase: Phase, stopping: bool, reader: ShardReader) -> None:
        config, last = self.config, step == self.schedule.total
        phase_ends = last or self.schedule.phase(step) is not phase
        if step % config.log.every_steps == 0 or phase_ends:
            self._log(step, phase, reader)
        if self.files is not None:
            self.files.telemetry.advance(step)
        if step % config.checkpoint.every_steps == 0 or last or stopping:
            self._save(step)
        if not stopping and not last:
            self._evaluate_and_log(step, phase)

    def _evaluate_and_log(self, step: int, phase: Phase) -> None:
        """Draw a sheet and evaluate, where they are due."""
        sheet = _is_due(step, self.config.log.sheet_every_steps)
        evaluation = _is_due(step, self.config.evaluation.every_steps)
        if not sheet and not evaluation:
            return
        self._expect_long_task(f"the sheet or the evaluation after step {step}")
        self.metrics.enter("looking")
        network = self._network_to_evaluate()
        if sheet:
            self._draw_sheet(network, step)
        if evaluation:
            self._evaluate(network, step, phase, baselines=False)  # those do not change
        self.averager.restart()
        self.metrics.enter("training")

    def _log(self, step: int, phase: Phase, reader: ShardReader) -> None:
        values = self.averager.reduce()
        values |= {
            f"{name}_skipped_steps": n for name, n in self.skipped_updates.totals().items() if n
        }
        self.metrics.record(phase, values, reader)
        self._on_main(
            lambda files: files.telemetry.record(step, phase.value, values | files.metrics())
        )
        for name, streak in self.skipped_updates.longest_streaks().items():
            if streak >= self.config.train.skip_limit:
                self._give_up(step, name, streak)

    def _give_up(self, step: int, network: str, streak: int) -> None:
        """Save the state, which is that of the last good step, and end every rank."""
        self._save(step)
        self.wait_until_written()

        def raise_on_main(files: RunFiles) -> None:
            raise RuntimeError(
                f"{streak} updates in a row of the {network} network were skipped up to "
                f"step {step}, since a loss or a gradient was not finite. The last good state is "
                f"saved at step {step}. Start under another --name with lower learning rates, or "
                "with --train.precision fp32"
            )

        self._on_main(raise_on_main)

    def _save(self, step: int) -> None:
        """Copy the state on rank 0, which writes it in the background."""
        self.record.flush()
        if self.config.log.record_samples:
            self.worker.barrier()  # a checkpoint must not outlive any rank's record before it
        tensors = self.state.tensors()

        def save(files: RunFiles) -> None:
            files.telemetry.flush()  # first: a checkpoint must not outlive the metrics before it
            facts = state_facts(self.config, self.data, self.worker, step, self.state.dilation)
            began = time.perf_counter()
            files.checkpoints.save(step, tensors, facts)
            self.metrics.saved(time.perf_counter() - began)

        self._on_main(save)

    def _network_to_evaluate(self) -> nn.Module:
        """Return a copy with re-estimated batch norm; evaluating it does not affect training."""
        weights = self.state.weights(self.config.evaluation.weights)
        return recalibrate(weights, self.config, self.worker)

    def _draw_sheet(self, network: nn.Module, step: int) -> None:
        def draw(files: RunFiles) -> None:
            picture, png = validation_sheet(
                network, self.config.validation_shards, count=self.config.log.sheet_images,
                device=self.worker.device, caption=f"{self.config.name}, step {step}",
                cache=self.config.data.cache,
                cache_limit_bytes=self.config.data.cache_limit_bytes,
                map_scale=self.config.loss.map_scale,
            )  # fmt: skip
            files.write(f"sheets/step-{step:09d}.png", png, needed=step == self.schedule.total)
            files.telemetry.picture("validation", step, picture)

        self._on_main(draw)

    def _evaluate(
        self, network: nn.Module, step: int, phase: Phase, *, baselines: bool
    ) -> Evaluation:
        evaluation = evaluate_network(
            network, self.config, self.worker, baselines=baselines, alive=self.watchdog.still_alive
        )
        values = {f"evaluation_{name}": v for name, v in evaluation.methods["glcic"].items()}
        self._on_main(lambda files: files.telemetry.record(step, phase.value, values))
        self.metrics.record_evaluation(step, evaluation.methods["glcic"])
        return evaluation

    def finish(self, step: int) -> Evaluation:
        """Write the last sheet, the evaluation, the exported network and the curves."""
        self._expect_long_task("the evaluation at the end")
        self.metrics.enter("looking")
        network = self._network_to_evaluate()
        self._draw_sheet(network, step)
        evaluation = self._evaluate(network, step, self.schedule.phase(step), baselines=True)

        def write(files: RunFiles) -> None:
            facts: dict[str, Any] = {
                "weights": self.config.evaluation.weights,
                "data_fingerprint": self.data.fingerprint,
                "evaluation": evaluation.methods["glcic"],
            }
            url = join_url(files.folder, EXPORT_FOLDER)
            files.run_in_background(
                EXPORT_FOLDER,
                lambda: save_completion_network(url, network, self.config.completion, step, facts),
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
        self._expect_long_task("the wait for the storage")
        self.metrics.enter("storing")
        turn_s = min(_WAIT_TURN_S, self.config.train.timeout_s / 3)

        def is_written() -> bool:
            assert self.files is not None
            return self.files.wait_until_written(turn_s)

        if self.worker.broadcast_value(self.worker.on_main(is_written)):
            return
        self._on_main(lambda files: files.log_wait())
        while not self.worker.broadcast_value(self.worker.on_main(is_written)):
            self.watchdog.still_alive()

    def close(self, *, hurried: bool = False) -> None:
        """Close all files. Always called on exit; safe to call on one rank."""
        self._expect_long_task("the end of the run")
        with ExitStack() as closing:
            closing.callback(self.record.flush)
            if self.files is not None:
                closing.callback(self.files.close, 0 if hurried else _CLOSE_S)

    def _on_main(self, call: Callable[[RunFiles], None]) -> None:
        """Call on rank 0 alone; if it fails there, every rank ends."""
        self.worker.on_main(lambda: call(self.files) if self.files is not None else None)


def _is_due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
