"""Two hours of a healthy cluster as series of promtool, and what each fault changes in them.

`0+60x119` is a value at each minute: 0, 60, 120 and so on. Time begins at zero there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RUN = 'namespace="lab", run="places", host="train-0", instance="10.0.0.1:9464"'
PACK = 'namespace="lab", run="set", host="pack-0", instance="10.0.0.2:9464"'


def constant(value: float, minutes: int = 120) -> str:
    return f"{value:g}+0x{minutes - 1}"


def growing(per_minute: float, start: float = 0) -> str:
    return f"{start:g}+{per_minute:g}x119"


def until_half_an_hour(per_minute: float) -> str:
    """Grows, and then stays."""
    return f"0+{per_minute:g}x29 {29 * per_minute:g}+0x89"


HEALTHY = {
    f"glcic_metrics_timestamp_seconds{{{RUN}}}": growing(60),
    f'glcic_train_state{{{RUN}, state="starting"}}': constant(0),
    f'glcic_train_state{{{RUN}, state="training"}}': constant(1),
    f'glcic_train_state{{{RUN}, state="finished"}}': constant(0),
    f'glcic_train_state{{{RUN}, state="failed"}}': constant(0),
    f"glcic_train_start_timestamp_seconds{{{RUN}}}": constant(0),
    f"glcic_train_step{{{RUN}}}": growing(60),
    f'glcic_train_steps_total{{{RUN}, phase="completion"}}': constant(0),
    f'glcic_train_steps_total{{{RUN}, phase="joint"}}': growing(60),
    f'glcic_train_step_seconds_sum{{{RUN}, phase="joint"}}': growing(60),
    f'glcic_train_data_wait_seconds_sum{{{RUN}, phase="joint"}}': growing(1),
    f'glcic_train_skipped_updates_total{{{RUN}, network="completion"}}': constant(0),
    f'glcic_train_skipped_updates_total{{{RUN}, network="discriminator"}}': constant(0),
    f'glcic_train_images_per_second{{{RUN}, phase="joint"}}': constant(100),
    f'glcic_train_discriminator_accuracy_ratio{{{RUN}, side="real"}}': constant(0.995),
    f'glcic_train_discriminator_accuracy_ratio{{{RUN}, side="fake"}}': constant(0.8),
    f"glcic_checkpoint_interval_steps{{{RUN}}}": constant(100),
    f"glcic_checkpoint_last_success_step{{{RUN}}}": growing(60, start=-90),
    f"glcic_checkpoint_failures_total{{{RUN}}}": constant(0),
    f"glcic_data_damaged_samples_total{{{RUN}}}": constant(0),
    f"glcic_data_unreadable_shards_total{{{RUN}}}": constant(0),
    f"glcic_metrics_timestamp_seconds{{{PACK}}}": growing(60),
    f'glcic_pack_state{{{PACK}, state="packing"}}': constant(1),
    f"glcic_pack_done_images{{{PACK}}}": growing(160),
    'kube_job_status_active{namespace="lab", job_name="glcic-train"}': constant(1),
    'kube_job_status_failed{namespace="lab", job_name="glcic-pack"}': constant(0),
    'DCGM_FI_DEV_XID_ERRORS{namespace="lab", pod="glcic-train-0-x", gpu="3"}': constant(0),
}


@dataclass(frozen=True)
class Finding:
    """`series` take the place of healthy ones; those of `gone` are not there."""

    alert: str
    series: dict[str, str]
    labels: dict[str, str] = field(default_factory=lambda: {"namespace": "lab", "run": "places"})
    severity: str = "warning"
    gone: str = "nothing"  # what their names begin with
    name: str = ""  # where an alert has several faults

    def all_series(self) -> dict[str, str]:
        kept = {name: values for name, values in HEALTHY.items() if not name.startswith(self.gone)}
        return kept | self.series


_STOPPED = {
    f"glcic_train_step{{{RUN}}}": until_half_an_hour(60),
    f'glcic_train_steps_total{{{RUN}, phase="joint"}}': until_half_an_hour(60),
    f'glcic_train_step_seconds_sum{{{RUN}, phase="joint"}}': until_half_an_hour(60),
    f'glcic_train_data_wait_seconds_sum{{{RUN}, phase="joint"}}': until_half_an_hour(1),
    f"glcic_checkpoint_last_success_step{{{RUN}}}": constant(1700),
}

FAULTS = [
    Finding("GlcicTrainingStalled", _STOPPED, severity="critical"),
    Finding(
        "GlcicTrainerAbsent", {}, {"namespace": "lab"}, "critical", gone="glcic_train",
    ),
    Finding(
        "GlcicTrainerLost",
        {**_STOPPED, f"glcic_metrics_timestamp_seconds{{{RUN}}}": until_half_an_hour(60)},
        severity="critical",
        name="what a node exporter still shows of it",
    ),
    Finding(
        "GlcicTrainingFailed",
        {
            **_STOPPED,
            f'glcic_train_state{{{RUN}, state="training"}}': f"{constant(1, 30)} {constant(0, 90)}",
            f'glcic_train_state{{{RUN}, state="failed"}}': f"{constant(0, 30)} {constant(1, 90)}",
        },
        severity="critical",
    ),
    Finding(
        "GlcicLossNonFinite",
        {f'glcic_train_skipped_updates_total{{{RUN}, network="completion"}}': growing(1)},
        {"namespace": "lab", "run": "places", "network": "completion"},
        "critical",
    ),
    Finding(
        "GlcicCheckpointStale", {f"glcic_checkpoint_last_success_step{{{RUN}}}": constant(0)}
    ),
    Finding(
        "GlcicCheckpointFailing",
        {f"glcic_checkpoint_failures_total{{{RUN}}}": f"{constant(0, 100)} {constant(1, 20)}"},
    ),
    Finding(
        "GlcicDataStarved",
        {f'glcic_train_data_wait_seconds_sum{{{RUN}, phase="joint"}}': growing(12)},
    ),
    Finding(
        "GlcicDataDamaged",
        {f"glcic_data_damaged_samples_total{{{RUN}}}": f"{constant(0, 80)} {constant(2, 40)}"},
        name="a sample",
    ),
    Finding(
        "GlcicDataDamaged",
        {f"glcic_data_unreadable_shards_total{{{RUN}}}": f"{constant(0, 80)} {constant(1, 40)}"},
        name="a shard",
    ),
    Finding(
        "GlcicThroughputDrop",
        {
            f'glcic_train_images_per_second{{{RUN}, phase="joint"}}': (
                f"{constant(100, 90)} {constant(50, 30)}"
            )
        },
        {"namespace": "lab", "run": "places", "phase": "joint"},
    ),
    Finding(
        "GlcicDiscriminatorSaturated",
        {f'glcic_train_discriminator_accuracy_ratio{{{RUN}, side="fake"}}': constant(1)},
    ),
    Finding(
        "GlcicRestartLoop",
        {
            f"glcic_train_start_timestamp_seconds{{{RUN}}}": " ".join(
                [constant(0, 80), *(constant(60 * begin, 8) for begin in range(80, 120, 8))]
            )
        },
    ),
    Finding(
        "GlcicGpuXid",
        {
            'DCGM_FI_DEV_XID_ERRORS{namespace="lab", pod="glcic-train-0-x", gpu="3"}': (
                f"{constant(0, 110)} {constant(79, 10)}"
            )
        },
        {"namespace": "lab", "pod": "glcic-train-0-x", "gpu": "3"},
        "critical",
    ),
    Finding(
        "GlcicPackIndexFailed",
        {'kube_job_status_failed{namespace="lab", job_name="glcic-pack"}': constant(1)},
        {"namespace": "lab", "job_name": "glcic-pack"},
    ),
    Finding(
        "GlcicPackStalled",
        {f"glcic_pack_done_images{{{PACK}}}": until_half_an_hour(160)},
        {"namespace": "lab", "run": "set", "host": "pack-0", "instance": "10.0.0.2:9464"},
    ),
]  # fmt: skip

# No fault, though part of a series looks like one.
QUIET = {
    "a run that makes a long evaluation": {
        **_STOPPED,
        f'glcic_train_state{{{RUN}, state="training"}}': f"{constant(1, 30)} {constant(0, 90)}",
        f'glcic_train_state{{{RUN}, state="looking"}}': f"{constant(0, 30)} {constant(1, 90)}",
    },
    "a run that has finished": {
        **_STOPPED,
        f'glcic_train_state{{{RUN}, state="training"}}': f"{constant(1, 30)} {constant(0, 90)}",
        f'glcic_train_state{{{RUN}, state="finished"}}': f"{constant(0, 30)} {constant(1, 90)}",
    },
    "a finished run of which a node exporter still has the textfile": {
        **_STOPPED,
        f"glcic_metrics_timestamp_seconds{{{RUN}}}": until_half_an_hour(60),
        f'glcic_train_state{{{RUN}, state="training"}}': f"{constant(1, 30)} {constant(0, 90)}",
        f'glcic_train_state{{{RUN}, state="finished"}}': f"{constant(0, 30)} {constant(1, 90)}",
    },
    "a run that failed on one host and trains on another": {
        'glcic_train_state{namespace="lab", run="places", host="train-9", state="failed"}': (
            constant(1)
        ),
    },
    "a phase that is slower than the one before": {
        f'glcic_train_images_per_second{{{RUN}, phase="completion"}}': (
            f"{constant(100, 60)} stale"
        ),
        f'glcic_train_images_per_second{{{RUN}, phase="joint"}}': f"_x59 {constant(40, 60)}",
    },
    "two restarts in an hour": {
        f"glcic_train_start_timestamp_seconds{{{RUN}}}": " ".join(
            constant(60 * begin, 40) for begin in (0, 40, 80)
        )
    },
}
