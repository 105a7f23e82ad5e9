"""Export the metrics of one rank of a training to Prometheus, from values that are on the host
already.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from pipeline.config.run_identity import config_digest
from pipeline.config.schedule import Phase, Schedule
from pipeline.config.schema import Config
from pipeline.monitoring.exporter import Exporter
from pipeline.monitoring.metric_definitions import TRAINING
from pipeline.monitoring.node_totals import gather_node_values
from pipeline.monitoring.registry import MetricSet

if TYPE_CHECKING:
    from pipeline.engines.ddp import Worker
    from pipeline.reporting.run_folder import RunFiles
    from shards.reading.reader import ShardReader

JOB = "glcic_train"
_PHASES = list(Phase)
_LOSSES = ("reconstruction", "adversarial", "discriminator", "map_distance", "discriminator_slope")
_NETWORKS = ("completion", "discriminator")
_REGIONS = {"image": "", "hole": "hole_"}  # region -> prefix of an evaluation's metrics


class TrainingMetrics:
    """Every rank has one, and the first of each node exports it, if `telemetry` names a way.

    Nothing here reads a tensor of the device.
    """

    def __init__(self, config: Config, worker: Worker, schedule: Schedule) -> None:
        self._config, self._worker, self._schedule = config, worker, schedule
        mine = [metric for metric in TRAINING if metric.by == "node" or worker.is_main]
        self.set = MetricSet(mine, config.name)
        self._began = self._step_began = time.perf_counter()
        self._waited_s = 0.0  # by the reader's clock, up to the last step
        self._made_a_step = False
        self.enter("starting")
        self.set.set("glcic_train_start_timestamp_seconds", time.time())
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.set.set("glcic_train_launcher_restarts", float(restarts))
        if worker.is_main:
            self._describe_run()

    @contextmanager
    def exported(self, log: Callable[[str], None]) -> Iterator[None]:
        """Export while entered; an error that ends it becomes the state `failed`."""
        telemetry = self._config.telemetry
        is_first = self._worker.local_rank == 0
        exporter = Exporter(self.set, telemetry, JOB, self._config.name, log)
        with exporter if is_first else nullcontext():
            try:
                yield
            except BaseException:
                self.enter("failed")
                raise

    def enter(self, state: str) -> None:
        self.set.choose("glcic_train_state", "state", state)

    def begin_at(self, step: int, files: RunFiles | None) -> None:
        self.set.set("glcic_train_step", step)
        if files is None:
            return
        self.set.set("glcic_checkpoint_last_success_timestamp_seconds", time.time())
        self.set.set("glcic_checkpoint_last_success_step", step)
        self.set.sources.append(lambda: self._read_files(files))

    def step_begins(self) -> None:
        """And the wait for its batch."""
        self._step_began = time.perf_counter()

    def step_made(self, step: int, phase: Phase, waited_s: float) -> None:
        """`step` steps are made, this one in `phase`; `waited_s` is what the reader has counted."""
        now = time.perf_counter()
        self.set.add("glcic_train_steps_total", phase=phase.value)
        self.set.set("glcic_train_step", step)
        self.set.observe("glcic_train_step_seconds", now - self._step_began, phase=phase.value)
        self.set.observe(
            "glcic_train_data_wait_seconds", waited_s - self._waited_s, phase=phase.value
        )
        self._waited_s = waited_s
        if not self._made_a_step:
            self._made_a_step = True
            self.set.set("glcic_train_startup_seconds", now - self._began)
        if self._worker.is_main:
            self.set.add(
                "glcic_train_images_total", self._config.train.batch_size, phase=phase.value
            )
            self.set.set("glcic_train_phase", _PHASES.index(phase))

    def record(self, phase: Phase, values: Mapping[str, float], reader: ShardReader) -> None:
        """The values that are logged. Collective where anything is exported: every rank must
        call.
        """
        if self._config.telemetry.is_on:
            share = self._config.train.batch_size // self._worker.world_size
            gather_node_values(self.set, self._worker, reader, share)
        if self._worker.is_main:
            self._record(phase, values)

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self._worker.is_main:
            return
        self.set.set("glcic_evaluation_step", step)
        for region, prefix in _REGIONS.items():
            for figure, name in (
                ("psnr_db", "glcic_evaluation_psnr_decibels"),
                ("ssim", "glcic_evaluation_ssim_ratio"),
            ):
                if prefix + figure in metrics:
                    self.set.set(name, metrics[prefix + figure], region=region)

    def saved(self, seconds: float) -> None:
        """A copy of the state was taken, which held training up so long. On rank 0."""
        self.set.observe("glcic_checkpoint_save_seconds", seconds)

    def committed(self, step: int, seconds: float, size_bytes: int) -> None:
        """Record that a checkpoint is stored, so long after its copy was taken. On rank 0; any
        thread.
        """
        self.set.observe("glcic_checkpoint_write_seconds", seconds)
        self.set.set("glcic_checkpoint_bytes", size_bytes)
        self.set.set("glcic_checkpoint_last_success_timestamp_seconds", time.time())
        self.set.set("glcic_checkpoint_last_success_step", step)

    def _describe_run(self) -> None:
        config, worker = self._config, self._worker
        self.set.set(
            "glcic_train_info", 1, engine=config.parallel.engine, precision=config.train.precision,
            device=worker.device.type, config_sha256=config_digest(config),
        )  # fmt: skip
        self.set.set("glcic_train_world_size", worker.world_size)
        self.set.set("glcic_train_target_steps", self._schedule.total)
        self.set.set("glcic_checkpoint_interval_steps", config.checkpoint.every_steps)
        for network in _NETWORKS:
            optimizer = getattr(config, f"{network}_optimizer")
            self.set.set("glcic_train_learning_rate", optimizer.learning_rate, network=network)

    def _record(self, phase: Phase, values: Mapping[str, float]) -> None:
        def known(names: Mapping[str, str]) -> dict[str, float]:
            return {label: values[name] for label, name in names.items() if name in values}

        self.set.replace("glcic_train_loss", "term", known({name: name for name in _LOSSES}))
        self.set.replace(
            "glcic_train_discriminator_accuracy_ratio", "side",
            known({side: f"accuracy_{side}" for side in ("real", "fake")}),
        )  # fmt: skip
        self.set.replace(
            "glcic_train_gradient_norm", "network",
            known({network: f"{network}_gradient_norm" for network in _NETWORKS}),
        )  # fmt: skip
        if "images_per_second" in values:
            speed = {phase.value: values["images_per_second"]}
            self.set.replace("glcic_train_images_per_second", "phase", speed)
        alpha = values.get("alpha", self._config.loss.alpha)
        if not isinstance(alpha, str):
            self.set.set("glcic_train_adversarial_weight", alpha)
        for network in _NETWORKS:
            skipped = values.get(f"{network}_skipped_steps", 0)
            self.set.count_to("glcic_train_skipped_updates_total", skipped, network=network)

    def _read_files(self, files: RunFiles) -> None:
        """When metrics are collected: a run that waits for its storage still reports it."""
        metrics = files.checkpoints.metrics()
        self.set.set("glcic_checkpoint_pending", metrics["checkpoint_pending"])
        self.set.count_to("glcic_checkpoint_failures_total", metrics["checkpoint_failures"])
        self.set.count_to("glcic_checkpoint_superseded_total", metrics["checkpoints_superseded"])
        self.set.set("glcic_run_files_pending", files.queue.pending)
        self.set.count_to("glcic_run_file_failures_total", files.queue.failures)
