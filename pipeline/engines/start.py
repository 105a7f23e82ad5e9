"""How a rank joins the group that the launcher describes in the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Before there is a group: arguments in it default to the group of the moment it is imported, which
# DistributedDataParallel does late. That group is never freed, and a thread of gloo's that still
# runs while Python ends aborts the process.
import torch.distributed.nn

from pipeline.config.schema import Config
from pipeline.device.options import (
    require_usable,
    set_process_options,
)
from pipeline.engines.ddp import Worker
from pipeline.engines.deepspeed_settings import deepspeed_settings


def start_worker(config: Config, engine: str = "") -> Worker:
    """Joins the process group that torchrun describes in the environment, if there is one.

    `engine` takes the place of `config.parallel.engine`. Collective: every rank must call. Raises
    ValueError and RuntimeError, before it joins, for what this machine cannot do.
    """
    if config.train.precision == "auto":
        raise ValueError(
            "train.precision is 'auto': pipeline.device.precision.with_precision decides it"
        )
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        num_devices = torch.cuda.device_count()
        if local_world_size > num_devices:
            raise ValueError(
                f"{local_world_size} workers were started on this machine, which has {num_devices} "
                f"GPUs; start --nproc_per_node={num_devices}"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    set_process_options(config, device, local_world_size)
    require_usable(config, device, world_size)
    engine = engine or config.parallel.engine
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=config.train.timeout_s)
    place: dict[str, Any] = {
        "rank": int(os.environ.get("RANK", "0")),
        "world_size": world_size,
        "local_rank": local_rank,
        "local_world_size": local_world_size,
        "device": device,
        "precision": config.train.precision,
        "compress_gradients": config.parallel.compress_gradients,
        "bucket_cap_mb": config.parallel.bucket_cap_mb,
        "cuda_graphs": config.train.cuda_graphs,
    }
    if engine == "accelerate":
        from pipeline.engines.accelerate import AccelerateWorker

        return AccelerateWorker(backend=backend, timeout=timeout, **place)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group(backend, timeout=timeout)
    if engine == "deepspeed":
        from pipeline.engines.deepspeed import DeepSpeedWorker

        settings = deepspeed_settings(config, config.train.batch_size // world_size)
        return DeepSpeedWorker(settings=settings, **place)
    return Worker(**place)
