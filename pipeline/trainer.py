"""The training loop: from a configuration and a packed set to trained networks."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from torch import nn

from pipeline.checkpoint import CheckpointWriter
from pipeline.config import Config, config_mapping
from pipeline.curves import draw_curves
from pipeline.evaluation import Evaluation, evaluate_network, recalibrate
from pipeline.export import EXPORT_FOLDER, save_completion_network
from pipeline.feed import DeviceFeed
from pipeline.figures import RunningFigures
from pipeline.preemption import StopRequest
from pipeline.sample_record import SampleRecord
from pipeline.schedule import Phase, Schedule, resolve_schedule
from pipeline.sheets import validation_sheet
from pipeline.state import RunState, resume_, state_facts
from pipeline.step import TrainingStep
from pipeline.telemetry import Telemetry, read_metrics
from pipeline.workers import Worker
from shards.manifest import Manifest, load_manifest
from shards.reader import ReaderSpec, ShardReader
from shards.storage import join_url, write_bytes


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: `finished` is False when a signal stopped it after a save."""

    step: int
    finished: bool
    evaluation: Evaluation | None


def train(config: Config, worker: Worker, console: Console | None = None) -> Outcome:
    """Trains from the newest checkpoint, or from the start, to the end of the schedule.

    Collective: every rank must call.
    """
    manifest = load_manifest(config.data.shards)
    schedule = resolve_schedule(
        config.schedule, manifest.num_samples("train") // config.train.batch_size
    )
    console = console or Console(soft_wrap=True, quiet=not worker.is_main)
    state = RunState(config, worker, manifest)
    start = resume_(state, config, manifest, worker, say=console.print)
    run = Run(config, worker, manifest, schedule, state, start, console)
    # Until the last write is done: a second signal must not cut it short.
    with StopRequest() as stop:
        try:
            step = run.train_from(start, stop)
            finished = step >= schedule.total
            evaluation = run.finish(step) if finished else None
        except BaseException:
            with suppress(Exception):  # most likely more of the same; the first fault is to be told
                run.close()
            raise
        run.close()
    return Outcome(step, finished, evaluation)


class Run:
    """One rank's part in a run. Methods without another word are collective."""

    def __init__(
        self, config: Config, worker: Worker, manifest: Manifest, schedule: Schedule,
        state: RunState, start: int, console: Console,
    ) -> None:  # fmt: skip
        self.config, self.worker, self.manifest = config, worker, manifest
        self.schedule, self.state = schedule, state
        self.training_step = TrainingStep(
            state.completion, state.discriminator, config.loss, config.discriminator.local_size,
            worker.autocast(),
        )  # fmt: skip
        self.figures = RunningFigures(worker, config.train.batch_size)
        self.record = SampleRecord(config, worker.rank, start)
        self.telemetry: Telemetry | None = None
        self.checkpoints: CheckpointWriter | None = None
        worker.on_main(lambda: self._open_files(start, console))

    def _open_files(self, start: int, console: Console) -> None:
        """For rank 0 alone."""
        config, folder = self.config, self.config.run_folder
        self.checkpoints = CheckpointWriter(
            config.checkpoint_url, config.checkpoint.keep, announce=self.say
        )
        self.checkpoints.probe()
        text = yaml.safe_dump(config_mapping(config), sort_keys=False)
        write_bytes(join_url(folder, "config.yaml"), text.encode())
        self.telemetry = Telemetry(
            folder, start_step=start, total_steps=self.schedule.total,
            tensorboard=config.log.tensorboard, console=console,
        )  # fmt: skip
        if start:
            self.say(f"resuming at step {start} of {self.schedule.total}")

    def train_from(self, step: int, stop: StopRequest) -> int:
        """Trains until the schedule or a signal ends it; returns the number of steps made."""
        if step >= self.schedule.total:
            return step
        with ShardReader(reader_spec(self.config, self.worker)) as reader:
            feed = DeviceFeed(
                reader, self.config, self.worker.rank, self.worker.world_size, self.worker.device
            )
            reader.start(step, self.schedule.total)
            if step:
                # The run may have been lost between its checkpoint and this look.
                self._look(step, self.schedule.phase(step - 1))
            self.figures.restart()
            for source, batch in self.figures.timed(feed.batches()):
                phase = self.schedule.phase(step)
                self.record.append(source)
                self.figures.add(self.training_step(phase, batch))
                if phase is not Phase.DISCRIMINATOR and self.state.average is not None:
                    self.state.average.update_(
                        self.state.completion.network, self.schedule.completion_updates(step)
                    )
                step += 1
                stopping = self.worker.raised_anywhere(stop.raised)
                self._after_step(step, phase, stopping)
                if stopping:
                    break
            feed.close()
        return step

    def _after_step(self, step: int, phase: Phase, stopping: bool) -> None:
        config, last = self.config, step == self.schedule.total
        phase_ends = last or self.schedule.phase(step) is not phase
        if step % config.log.every_steps == 0 or phase_ends:
            self._log(step, phase)
        if self.telemetry is not None:
            self.telemetry.advance(step)
        if step % config.checkpoint.every_steps == 0 or last or stopping:
            self._save(step)
        if not stopping and not last:
            self._look(step, phase)

    def _look(self, step: int, phase: Phase) -> None:
        """A sheet and an evaluation where they are due."""
        sheet = _is_due(step, self.config.log.sheet_every_steps)
        evaluation = _is_due(step, self.config.evaluation.every_steps)
        if not sheet and not evaluation:
            return
        network = self._network_to_look_at()
        if sheet:
            self._draw_sheet(network, step)
        if evaluation:
            self._evaluate(network, step, phase, baselines=False)  # those do not change
        self.figures.restart()

    def _log(self, step: int, phase: Phase) -> None:
        self._require_finite(step)
        values = self.figures.reduce()
        if self.telemetry is not None:
            self.telemetry.record(step, phase.value, values)

    def _require_finite(self, step: int) -> None:
        if self.figures.finite():
            return
        self.worker.on_main(lambda: self._tell_not_finite(step))

    def _tell_not_finite(self, step: int) -> None:
        raise RuntimeError(
            f"a loss or a gradient was no longer finite at step {step} or shortly before; nothing "
            "was saved since. Start under another --name with lower learning rates, or with "
            "--train.precision fp32"
        )

    def _save(self, step: int) -> None:
        """Takes a copy on rank 0, which writes it in the background."""
        self._require_finite(step)
        self.record.flush()
        if self.checkpoints is not None and self.telemetry is not None:
            self.telemetry.flush()  # first: a checkpoint must not outlive the metrics before it
            facts = state_facts(self.config, self.manifest, self.worker, step)
            self.checkpoints.save(step, self.state.tensors(), facts)

    def _network_to_look_at(self) -> nn.Module:
        """A copy with re-estimated batch norm; looking at it leaves the training as it is."""
        weights = self.state.weights(self.config.evaluation.weights)
        return recalibrate(weights, self.config, self.worker)

    def _draw_sheet(self, network: nn.Module, step: int) -> None:
        if self.telemetry is None:
            return
        picture, png = validation_sheet(
            network, self.config.data.shards, count=self.config.log.sheet_images,
            device=self.worker.device, caption=f"{self.config.name}, step {step}",
            cache=self.config.data.cache,
        )  # fmt: skip
        write_bytes(join_url(self.config.run_folder, "sheets", f"step-{step:09d}.png"), png)
        self.telemetry.picture("validation", step, picture)

    def _evaluate(
        self, network: nn.Module, step: int, phase: Phase, *, baselines: bool
    ) -> Evaluation:
        evaluation = evaluate_network(network, self.config, self.worker, baselines=baselines)
        if self.telemetry is not None:
            figures = evaluation.methods["glcic"]
            self.telemetry.record(
                step, phase.value, {f"evaluation_{name}": v for name, v in figures.items()}
            )
        return evaluation

    def finish(self, step: int) -> Evaluation:
        """The last sheet, the evaluation, the exported network and the curves."""
        if self.checkpoints is not None:
            self.checkpoints.wait()
        network = self._network_to_look_at()
        self._draw_sheet(network, step)
        evaluation = self._evaluate(network, step, self.schedule.phase(step), baselines=True)
        if self.telemetry is not None:
            folder = self.config.run_folder
            facts: dict[str, Any] = {"evaluation": evaluation.methods["glcic"]}
            facts["data_fingerprint"] = self.manifest.fingerprint
            facts["weights"] = self.config.evaluation.weights
            save_completion_network(
                join_url(folder, EXPORT_FOLDER), network, self.config.completion, step, facts
            )
            write_bytes(join_url(folder, "evaluation.json"), evaluation.to_json().encode())
            self.telemetry.flush()
            write_bytes(join_url(folder, "curves.png"), draw_curves(read_metrics(folder)))
        return evaluation

    def say(self, message: str) -> None:
        if self.telemetry is not None:
            self.telemetry.say(message)

    def close(self) -> None:
        """On the way out, whatever happened, the checkpoint first. Not collective."""
        with ExitStack() as closing:  # in the reverse of this order, each even if one fails
            closing.callback(self.record.flush)
            if self.telemetry is not None:
                closing.callback(self.telemetry.close)
            if self.checkpoints is not None:
                closing.callback(self.checkpoints.close)


def reader_spec(config: Config, worker: Worker) -> ReaderSpec:
    """What this rank reads."""
    data = config.data
    return ReaderSpec(
        shards=data.shards, split="train", batch_size=config.train.batch_size, rank=worker.rank,
        world_size=worker.world_size, seed=config.seed, short_side_min=data.short_side_min,
        short_side_max=data.short_side_max, horizontal_flip=data.horizontal_flip,
        decode_threads=data.decode_threads or worker.cores_per_rank,
        prefetch_batches=data.prefetch_batches, cache=data.cache,
    )  # fmt: skip


def _is_due(step: int, every_steps: int) -> bool:
    return every_steps > 0 and step % every_steps == 0
