"""What rank 0 writes for a run: its folder, its metrics and its checkpoints."""

from __future__ import annotations

from contextlib import ExitStack

import yaml
from rich.console import Console

from pipeline.checkpoint import CheckpointWriter
from pipeline.config import Config, config_mapping
from pipeline.schedule import Schedule
from pipeline.telemetry import Telemetry
from shards.storage import join_url, remove_unfinished, write_bytes


class RunFiles:
    """Raises OSError at once where the run's folder or its checkpoints cannot be written."""

    def __init__(self, config: Config, schedule: Schedule, start: int, console: Console) -> None:
        self.folder = config.run_folder
        remove_unfinished(self.folder)  # of generations that were killed; this one is yet to write
        self.checkpoints = CheckpointWriter(
            config.checkpoint_url, config.checkpoint.keep, announce=self._say
        )
        self.checkpoints.probe()
        self.write("config.yaml", yaml.safe_dump(config_mapping(config), sort_keys=False).encode())
        self.telemetry = Telemetry(
            self.folder, start_step=start, total_steps=schedule.total,
            tensorboard=config.log.tensorboard, console=console,
        )  # fmt: skip
        if start:
            self._say(f"resuming at step {start} of {schedule.total}")

    def write(self, name: str, data: bytes) -> None:
        """A file of the run's folder; `name` may hold folders."""
        write_bytes(join_url(self.folder, name), data)

    def close(self) -> None:
        """Waits for the last checkpoint, then closes the rest, each even if one fails."""
        with ExitStack() as closing:  # in the reverse of this order
            closing.callback(self.telemetry.close)
            closing.callback(self.checkpoints.close)

    def _say(self, message: str) -> None:
        self.telemetry.say(message)
