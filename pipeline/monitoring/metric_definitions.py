"""Every metric that a run exports to Prometheus; docs/metrics.md is made from it."""

from __future__ import annotations

from functools import partial

from pipeline.config.schedule import Phase
from pipeline.monitoring.metric import Metric

STATES = ("starting", "training", "looking", "storing", "finished", "stopped", "failed")

_PHASE = {"phase": tuple(phase.value for phase in Phase)}
_NETWORK = {"network": ("completion", "discriminator")}
_PROCESS = {"process": ("trainer", "reader")}
_LOCAL_RANK: dict[str, tuple[str, ...]] = {"local_rank": ()}


_counter = partial(Metric, kind="counter")
_gauge = partial(Metric, kind="gauge")
_histogram = partial(Metric, kind="histogram")

COMMON = (
    _gauge(
        "glcic_build_info",
        "Always 1; the versions that are at work.",
        labels={"version": (), "python": (), "torch": ()},
        by="node",
    ),
    _gauge(
        "glcic_metrics_timestamp_seconds",
        "When these values were read, Unix time: old values are those of a run that has ended.",
        by="node",
    ),
)

TRAINING = (
    *COMMON,
    _gauge(
        "glcic_train_info",
        "Always 1; what is trained, and how.",
        labels={"engine": (), "precision": (), "device": (), "config_sha256": ()},
    ),
    _gauge(
        "glcic_train_state",
        "Is 1 for what the run does now, 0 for the rest: looking is a sheet or an evaluation, "
        "storing the wait for the storage, stopped the end by a signal after a save.",
        labels={"state": STATES},
        by="node",
    ),
    _gauge(
        "glcic_train_start_timestamp_seconds",
        "When this process began, Unix time; it changes with every restart.",
        by="node",
    ),
    _gauge(
        "glcic_train_startup_seconds",
        "From the start of training, resume included, to the end of the first step.",
        by="node",
    ),
    _gauge(
        "glcic_train_launcher_restarts",
        "How often the launcher of this node has started its workers again.",
        by="node",
    ),
    _gauge("glcic_train_world_size", "Workers that train together."),
    _gauge("glcic_train_step", "Steps made since the start of the schedule.", by="node"),
    _gauge("glcic_train_target_steps", "Steps of the whole schedule."),
    _gauge(
        "glcic_train_phase",
        "Phase of the last step: 0 completion, 1 discriminator, 2 joint.",
    ),
    _counter("glcic_train_steps_total", "Steps made by this process.", labels=_PHASE, by="node"),
    _counter(
        "glcic_train_images_total",
        "Images trained on by all workers, since this process began.",
        labels=_PHASE,
    ),
    _histogram(
        "glcic_train_step_seconds",
        "Time of a step by the host's clock, the wait for its batch included, sheets, evaluations "
        "and checkpoints not. The device is not waited for: on a GPU the mean is right, a single "
        "step may be early.",
        labels=_PHASE,
        by="node",
    ),
    _histogram(
        "glcic_train_data_wait_seconds",
        "Part of a step in which the first worker of the node waited for its reader.",
        labels=_PHASE,
        by="node",
    ),
    _gauge(
        "glcic_train_images_per_second",
        "Images of all workers a second, since the last values were logged; of the phase at hand.",
        labels={"phase": ()},
    ),
    _gauge(
        "glcic_train_loss",
        "Mean of a loss since the last values were logged; only those of the phase at hand.",
        labels={"term": ()},
    ),
    _gauge(
        "glcic_train_discriminator_accuracy_ratio",
        "Share of images that the discriminators classify correctly, real and completed.",
        labels={"side": ()},
    ),
    _gauge(
        "glcic_train_gradient_norm",
        "Norm of the gradient of a network, mean since the last values were logged.",
        labels={"network": ()},
    ),
    _gauge("glcic_train_learning_rate", "Learning rate of a network.", labels={"network": ()}),
    _gauge(
        "glcic_train_adversarial_weight",
        "Weight of the adversarial loss beside the reconstruction; it moves with loss.alpha auto.",
    ),
    _counter(
        "glcic_train_skipped_updates_total",
        "Updates of a network that were skipped since a loss or gradient was not finite.",
        labels=_NETWORK,
    ),
    _gauge(
        "glcic_evaluation_psnr_decibels",
        "Peak signal-to-noise ratio of the last evaluation, by region.",
        labels={"region": ()},
    ),
    _gauge(
        "glcic_evaluation_ssim_ratio",
        "Structural similarity of the last evaluation, by region.",
        labels={"region": ()},
    ),
    _gauge("glcic_evaluation_step", "Steps made before the last evaluation."),
    _histogram(
        "glcic_checkpoint_save_seconds",
        "Time for which a save holds training up: the copy to host memory.",
        buckets=(0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
    ),
    _histogram(
        "glcic_checkpoint_write_seconds",
        "From the copy of a state to its commit in the storage, in the background.",
        buckets=(0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
    ),
    _gauge("glcic_checkpoint_bytes", "Size of the last committed checkpoint."),
    _gauge(
        "glcic_checkpoint_last_success_timestamp_seconds",
        "When the last checkpoint was committed, Unix time; before the first: when the run began.",
    ),
    _gauge(
        "glcic_checkpoint_last_success_step",
        "Steps in the last committed checkpoint; before the first: those the run began with.",
    ),
    _gauge("glcic_checkpoint_interval_steps", "Steps between two checkpoints, as configured."),
    _gauge("glcic_checkpoint_pending", "Copies in host memory that are not committed: 0 to 2."),
    _counter(
        "glcic_checkpoint_failures_total",
        "Failed attempts to store a checkpoint, each after the retries of single requests.",
    ),
    _counter(
        "glcic_checkpoint_superseded_total",
        "Checkpoints that a newer one overtook before they were stored.",
    ),
    _gauge("glcic_run_files_pending", "Metrics, sheets and figures that wait to be stored."),
    _counter("glcic_run_file_failures_total", "Failed attempts to store one of them."),
    _counter(
        "glcic_storage_retries_total",
        "Requests to a file system or object storage that were retried.",
        labels=_PROCESS,
        by="node",
    ),
    _counter(
        "glcic_storage_failures_total",
        "Requests that were given up after the last attempt.",
        labels=_PROCESS,
        by="node",
    ),
    _counter(
        "glcic_storage_read_bytes_total", "Bytes read in whole files.", labels=_PROCESS, by="node"
    ),
    _counter("glcic_storage_written_bytes_total", "Bytes written.", labels=_PROCESS, by="node"),
    _counter("glcic_data_samples_total", "Samples handed to the workers of the node.", by="node"),
    _counter("glcic_data_read_bytes_total", "Bytes of stored images read.", by="node"),
    _counter(
        "glcic_data_decode_seconds_total",
        "Time of all reading threads of the node, from the shard to the pixels.",
        by="node",
    ),
    _counter("glcic_data_damaged_samples_total", "Samples that could not be decoded.", by="node"),
    _counter(
        "glcic_data_substituted_samples_total",
        "Samples delivered in the place of damaged ones.",
        by="node",
    ),
    _counter(
        "glcic_data_unreadable_shards_total", "Shards of which nothing could be read.", by="node"
    ),
    _counter("glcic_cache_hits_total", "Files of the set found in the local cache.", by="node"),
    _counter("glcic_cache_downloads_total", "Files fetched into the local cache.", by="node"),
    _counter("glcic_cache_downloaded_bytes_total", "Bytes of these.", by="node"),
    _counter("glcic_cache_download_seconds_total", "Time of all downloads, one by one.", by="node"),
    _counter("glcic_cache_evictions_total", "Files removed to make room.", by="node"),
    _counter(
        "glcic_cache_refetched_total",
        "Files fetched again since the download or the cached file was damaged.",
        by="node",
    ),
    _gauge(
        "glcic_gpu_memory_allocated_peak_bytes",
        "Most memory that tensors of a worker have taken on its GPU.",
        labels=_LOCAL_RANK,
        by="node",
    ),
    _gauge(
        "glcic_gpu_memory_reserved_bytes",
        "Memory that the allocator of a worker holds on its GPU.",
        labels=_LOCAL_RANK,
        by="node",
    ),
    _counter(
        "glcic_gpu_allocation_retries_total",
        "Allocations of a worker that succeeded only after cached memory was given back.",
        labels=_LOCAL_RANK,
        by="node",
    ),
)

PACKING = (
    *COMMON,
    _gauge(
        "glcic_pack_state",
        "Is 1 for what the pack does now, 0 for the rest.",
        labels={"state": ("starting", "packing", "finished", "failed")},
        by="node",
    ),
    _gauge(
        "glcic_pack_planned_images", "Images that this pack or slice is to go through.", by="node"
    ),
    _gauge(
        "glcic_pack_done_images",
        "Those it has gone through, with those of earlier attempts.",
        by="node",
    ),
    _gauge("glcic_pack_planned_shards", "Shards that this pack or slice is to make.", by="node"),
    _gauge(
        "glcic_pack_done_shards", "Those that are there, with those of earlier attempts.", by="node"
    ),
    _counter(
        "glcic_pack_images_total",
        "Images in the shards that this process has finished: stored or refused.",
        labels={"result": ("stored", "refused")},
        by="node",
    ),
    _counter(
        "glcic_pack_samples_total",
        "Samples, pairs of an image and a mask, in these shards.",
        by="node",
    ),
    _counter("glcic_pack_shards_total", "Shards that this process has finished.", by="node"),
    _counter("glcic_pack_written_bytes_total", "Bytes of these shards.", by="node"),
    _counter(
        "glcic_pack_storage_retries_total",
        "Requests of this process to a storage that were retried; workers have their own.",
        by="node",
    ),
)
