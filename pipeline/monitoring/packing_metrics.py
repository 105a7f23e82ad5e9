"""Export the metrics of a packing process to Prometheus. Its workers report to it; torch is not
needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.config.schema import TelemetryConfig
from pipeline.monitoring.exporter import Exporter
from pipeline.monitoring.metric_definitions import PACKING
from pipeline.monitoring.registry import MetricSet
from shards.packing.records import ShardRecord
from shards.storage.files import storage_counters

JOB = "glcic_pack"


class PackingMetrics:
    """The `PackWatch` of a pack or slice."""

    def __init__(self, destination: str) -> None:
        self.run = run_label(destination)
        self.set = MetricSet(PACKING, self.run)
        self.set.choose("glcic_pack_state", "state", "starting")
        self.set.sources.append(
            lambda: self.set.count_to("glcic_pack_storage_retries_total", storage_counters.retries)
        )
        self._done_shards = 0

    @contextmanager
    def exported(self, config: TelemetryConfig, log: Callable[[str], None]) -> Iterator[None]:
        """Export while entered; how it ends becomes a state."""
        with Exporter(self.set, config, JOB, self.run, log):
            try:
                yield
            except BaseException:
                self.set.choose("glcic_pack_state", "state", "failed")
                raise
            self.set.choose("glcic_pack_state", "state", "finished")

    def planned(self, shards: int, images: int) -> None:
        self.set.choose("glcic_pack_state", "state", "packing")
        self.set.set("glcic_pack_planned_shards", shards)
        self.set.set("glcic_pack_planned_images", images)
        self.set.set("glcic_pack_done_images", 0)
        self.set.set("glcic_pack_done_shards", 0)

    def images_done(self, images: int) -> None:
        self.set.set("glcic_pack_done_images", images)

    def shard_done(self, record: ShardRecord, masks_per_image: int, *, earlier: bool) -> None:
        self._done_shards += 1
        self.set.set("glcic_pack_done_shards", self._done_shards)
        if earlier:
            return
        self.set.add("glcic_pack_shards_total")
        self.set.add("glcic_pack_images_total", len(record.refused), result="refused")
        if record.entry is not None:
            self.set.add("glcic_pack_images_total", record.entry.num_images, result="stored")
            self.set.add("glcic_pack_samples_total", record.entry.num_images * masks_per_image)
            self.set.add("glcic_pack_written_bytes_total", record.entry.size_bytes)


def run_label(destination: str) -> str:
    """Return the last part of a folder or URL, and nothing of it that might be secret."""
    path = re.split(r"[?#]", destination)[0].rstrip("/")
    return re.sub(r"[^\w.-]", "_", path.rpartition("/")[2].rpartition("@")[2]) or "pack"
