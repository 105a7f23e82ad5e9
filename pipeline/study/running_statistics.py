"""How a finished run would be judged without batch norm being estimated anew.

What looks like a broken network may be one whose running statistics trail behind its weights: the
difference tells the two apart.
"""

from __future__ import annotations

import torch

from pipeline.config import Config
from pipeline.evaluation import evaluate
from pipeline.export import find_checkpoint, load_from_checkpoint
from pipeline.measuring import Measuring
from pipeline.study.results import RUNNING
from shards.storage import exists, join_url, write_bytes


def evaluate_running_statistics(config: Config, threads: int = 1) -> None:
    """Of the newest checkpoint's raw weights; writes a file of its own into the run's folder."""
    url = join_url(config.run_folder, RUNNING)
    if exists(url):
        return
    network, _ = load_from_checkpoint(
        find_checkpoint(config.checkpoint_url), "raw", torch.device("cpu")
    )
    evaluation = evaluate(
        network,
        config.validation_shards,
        Measuring(device=torch.device("cpu"), map_scale=config.loss.map_scale, threads=threads),
        batch_size=config.evaluation.batch_size,
        limit=config.evaluation.limit,
        baselines=(),
        blend=False,
        cache=config.data.cache,
        cache_limit_bytes=config.data.cache_limit_bytes,
    )
    write_bytes(url, evaluation.to_json().encode())
