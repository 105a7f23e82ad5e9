"""A record of what each rank was shown, step by step, to hold one run against another."""

from __future__ import annotations

import json

from pipeline.config.schema import Config
from shards.reading.reader import Batch
from shards.storage.files import join_url, read_bytes, write_bytes


class SampleRecord:
    """`samples/rank-R.jsonl` in the run's folder: step, samples and holes. Off unless asked for.

    A line also holds the number of workers: where that changed, files of ranks that are gone hold
    steps that were made again without them.
    """

    def __init__(self, config: Config, rank: int, world_size: int, start_step: int) -> None:
        self._enabled = config.log.record_samples
        self._world_size = world_size
        self._url = join_url(config.run_folder, "samples", f"rank-{rank}.jsonl")
        self._lines: list[str] = []
        if self._enabled and start_step:
            try:
                lines = read_bytes(self._url).decode().splitlines()
            except FileNotFoundError:
                lines = []
            self._lines = [line for line in lines if json.loads(line)["step"] < start_step]

    def append(self, batch: Batch) -> None:
        if self._enabled:
            record = {
                "step": batch.step,
                "world_size": self._world_size,
                "samples": batch.samples.tolist(),
                "holes": batch.completion_holes.tolist(),
                "real_holes": batch.discriminator_holes.tolist(),
            }
            self._lines.append(json.dumps(record))

    def flush(self) -> None:
        if self._enabled:
            write_bytes(self._url, "".join(line + "\n" for line in self._lines).encode())
