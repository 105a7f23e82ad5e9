"""Workers: how the ranks of a run hold together. Every process-group call is made here."""

from pipeline.workers.ddp import Worker, start_worker

__all__ = ["Worker", "start_worker"]
