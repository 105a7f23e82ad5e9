"""Workers: how the ranks of a run train together. Every process-group call is made here."""

from pipeline.workers.ddp import Worker
from pipeline.workers.player import Player
from pipeline.workers.start import start_worker

__all__ = ["Player", "Worker", "start_worker"]
