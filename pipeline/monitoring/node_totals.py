"""What the workers of a node have counted, brought together in the one that exports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shards.storage.files import storage_counters

if TYPE_CHECKING:
    from pipeline.distributed.process_group import ProcessGroup
    from pipeline.monitoring.registry import MetricSet
    from shards.reading.reader import ShardReader

# Of the reader's process, by the names of `BatchAssembler.counters`.
READER = {
    "bytes_read": "glcic_data_read_bytes_total",
    "decode_seconds": "glcic_data_decode_seconds_total",
    "damaged_samples": "glcic_data_damaged_samples_total",
    "substituted_samples": "glcic_data_substituted_samples_total",
    "unreadable_shards": "glcic_data_unreadable_shards_total",
    "cache_hits": "glcic_cache_hits_total",
    "cache_downloads": "glcic_cache_downloads_total",
    "cache_bytes_downloaded": "glcic_cache_downloaded_bytes_total",
    "cache_download_seconds": "glcic_cache_download_seconds_total",
    "cache_evictions": "glcic_cache_evictions_total",
    "cache_refetched": "glcic_cache_refetched_total",
}
STORAGE = {
    "retries": "glcic_storage_retries_total",
    "failures": "glcic_storage_failures_total",
    "bytes_read": "glcic_storage_read_bytes_total",
    "bytes_written": "glcic_storage_written_bytes_total",
}


def gather_node_values(
    metrics: MetricSet, worker: ProcessGroup, reader: ShardReader, samples_per_batch: int
) -> None:
    """Sums over the workers of each node, into the metrics of its first.

    Numbers of the host, exchanged on the CPU: the device is not waited for. Collective: every rank
    must call.
    """
    mine = [
        reader.batches * samples_per_batch,
        *(reader.counters.get(name, 0) for name in READER),
        *(getattr(storage_counters, name) for name in STORAGE),
        *(reader.counters.get(f"storage_{name}", 0) for name in STORAGE),
        *_memory(worker.device),
    ]
    everyones = worker.all_gather(torch.tensor(mine, dtype=torch.float64))
    rows = everyones.view(worker.world_size, len(mine))
    # torchrun numbers the ranks of a node one after another.
    ours = rows[worker.rank : worker.rank + worker.local_world_size]
    samples, *sums = ours.sum(0).tolist()
    metrics.count_to("glcic_data_samples_total", samples)
    values = iter(sums)
    for name in READER.values():
        metrics.count_to(name, next(values))
    for process in ("trainer", "reader"):
        for name in STORAGE.values():
            metrics.count_to(name, next(values), process=process)
    if worker.device.type == "cuda":
        for local_rank, row in enumerate(ours.tolist()):
            allocated, reserved, retries = row[-3:]
            label = str(local_rank)
            metrics.set("glcic_gpu_memory_allocated_peak_bytes", allocated, local_rank=label)
            metrics.set("glcic_gpu_memory_reserved_bytes", reserved, local_rank=label)
            metrics.count_to("glcic_gpu_allocation_retries_total", retries, local_rank=label)


def _memory(device: torch.device) -> tuple[float, float, float]:
    """Peak allocated and reserved bytes, and retries: the allocator's own books, on the host."""
    if device.type != "cuda":
        return 0.0, 0.0, 0.0
    return (
        torch.cuda.max_memory_allocated(device),
        torch.cuda.memory_reserved(device),
        torch.cuda.memory_stats(device).get("num_alloc_retries", 0),
    )
