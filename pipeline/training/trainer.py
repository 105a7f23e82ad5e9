"""The training loop: from a configuration and a packed set to trained networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rich.console import Console

from pipeline.config.schedule import Phase, resolve_schedule
from pipeline.config.schema import Config
from pipeline.engines.ddp import Worker
from pipeline.evaluation.evaluate import Evaluation
from pipeline.failures.lost_ranks import lost_ranks_named
from pipeline.failures.out_of_memory import is_out_of_memory, out_of_memory
from pipeline.failures.stop_signals import StopSignal
from pipeline.failures.watchdog import Watchdog
from pipeline.monitoring.training_metrics import TrainingMetrics
from pipeline.step.cuda_graph_step import GraphedStep
from pipeline.step.device_feed import DeviceFeed
from pipeline.step.running_means import MetricAverager
from pipeline.step.skipped_updates import SkippedUpdates
from pipeline.step.training_data import reader_spec, training_data
from pipeline.step.training_step import StepMetrics, TrainingBatch, TrainingStep
from pipeline.training.resume import resume_
from pipeline.training.run_outputs import GRACE, RunContext, RunOutputs
from pipeline.training.run_state import RunState
from pipeline.training.warm_start import warm_start_
from shards.reading.reader import ShardReader


@dataclass(frozen=True)
class Outcome:
    """The end of a call of `train`: `finished` is False when a signal stopped it after a save."""

    step: int
    finished: bool
    evaluation: Evaluation | None


def train(config: Config, worker: Worker, console: Console | None = None) -> Outcome:
    """Train from the newest checkpoint, or from the start, to the end of the schedule.

    Collective: every rank must call.
    """
    console = console or Console(soft_wrap=True, quiet=not worker.is_main)
    log = partial(console.print, highlight=False, markup=False) if worker.is_main else print
    with lost_ranks_named(worker.rank):
        data = training_data(config)
        schedule = resolve_schedule(config.schedule, data.steps_per_epoch("train"))
        metrics = TrainingMetrics(config, worker, schedule)
        context = RunContext(config, worker, data, schedule, metrics, Watchdog())
        with metrics.exported(log):
            state = RunState(config, worker, data)
            first_step = resume_(state, config, data, worker, log=console.print)
            if not first_step and config.start.checkpoint:
                warm_start_(state, config, worker, log=console.print)
            outputs = RunOutputs(context, state, first_step, console)
            # The outputs are closed within: a second signal must not cut the last write short.
            with StopSignal() as stop, context.watchdog, outputs:
                step = TrainingLoop(context, state, outputs).run(first_step, stop)
                outputs.wait_until_written()
                finished = step >= schedule.total
                evaluation = outputs.finish(step) if finished else None
            metrics.enter("finished" if finished else "stopped")
            return Outcome(step, finished, evaluation)


class TrainingLoop:
    """One rank's part in the steps of a run. Methods are collective unless they say otherwise."""

    def __init__(self, context: RunContext, state: RunState, outputs: RunOutputs) -> None:
        config, worker = context.config, context.worker
        self.context, self.state, self.outputs = context, state, outputs
        training_step = TrainingStep(
            state.completion, state.discriminator, config.loss, config.discriminator.local_size,
            worker, config.train.micro_batch_size,
        )  # fmt: skip
        self.training_step = GraphedStep(training_step) if worker.cuda_graphs else training_step
        self.averager = MetricAverager(worker, config.train.batch_size)
        self.skipped_updates = SkippedUpdates()

    def run(self, step: int, stop: StopSignal) -> int:
        """Train until the schedule or a signal ends it; return the number of steps made."""
        config, worker, schedule = self.context.config, self.context.worker, self.context.schedule
        if step >= schedule.total:
            return step
        with ShardReader(reader_spec(config, worker)) as reader:
            feed = DeviceFeed(reader, config, worker.rank, worker.world_size, worker.device)
            reader.start(step, schedule.total)
            self.context.metrics.enter("training")
            if step:
                # The run may have been lost between its checkpoint and this evaluation.
                self._evaluate_where_due(step, schedule.phase(step - 1))
            self._expect_step(step, GRACE)
            self.averager.restart()
            for source, batch in self.averager.timed(feed.batches()):
                phase = schedule.phase(step)
                self.outputs.samples.append(source)
                self._make_step(phase, batch, step)
                step += 1
                stopping = worker.raised_anywhere(stop.raised)
                self.context.metrics.step_made(step, phase, reader.wait_seconds)
                self._after_step(step, phase, stopping, reader)
                if stopping:
                    break
                if step < schedule.total:
                    self._expect_step(step, GRACE if schedule.phase(step) is not phase else 1)
            feed.close()
        return step

    def _make_step(self, phase: Phase, batch: TrainingBatch, step: int) -> None:
        """Compute the step: losses, gradients, updates of the networks and of their average."""
        step_metrics = self._updated(phase, batch, step)
        self.averager.add(step_metrics)
        self.skipped_updates.add(step_metrics)
        if phase is not Phase.DISCRIMINATOR and self.state.average is not None:
            updates = self.context.schedule.completion_updates(step)
            self.state.average.update_(self.state.completion.network, updates)

    def _updated(self, phase: Phase, batch: TrainingBatch, step: int) -> StepMetrics:
        """Update the networks. Raises RuntimeError with an account of memory where it ran out."""
        try:
            return self.training_step(phase, batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            trainables = (self.state.completion, self.state.discriminator)
            where = f"step {step + 1} ({phase.value})"
            config, worker = self.context.config, self.context.worker
            raise out_of_memory(error, where, config, worker, trainables) from error

    def _after_step(self, step: int, phase: Phase, stopping: bool, reader: ShardReader) -> None:
        config, schedule = self.context.config, self.context.schedule
        last = step == schedule.total
        phase_ends = last or schedule.phase(step) is not phase
        if step % config.log.every_steps == 0 or phase_ends:
            self._log(step, phase, reader)
        self.outputs.show_progress(step)
        if step % config.checkpoint.every_steps == 0 or last or stopping:
            self.outputs.save(step)
        if not stopping and not last:
            self._evaluate_where_due(step, phase)

    def _log(self, step: int, phase: Phase, reader: ShardReader) -> None:
        values = self.averager.reduce()
        totals = self.skipped_updates.totals()
        values |= {f"{name}_skipped_steps": count for name, count in totals.items() if count}
        self.context.metrics.record(phase, values, reader)
        self.outputs.log(step, phase, values)
        for name, streak in self.skipped_updates.longest_streaks().items():
            if streak >= self.context.config.train.skip_limit:
                self.outputs.end_after_skipped_updates(step, name, streak)

    def _evaluate_where_due(self, step: int, phase: Phase) -> None:
        if self.outputs.evaluate_where_due(step, phase):
            self.averager.restart()  # its time is not that of steps

    def _expect_step(self, step: int, grace: int) -> None:
        """Start the time-out of the next step and of the wait for its batch. Not collective."""
        what = f"step {step + 1} ({self.context.schedule.phase(step).value})"
        self.context.metrics.step_begins()
        self.context.watchdog.expect(what, grace * self.context.config.train.timeout_s)
