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

from pipeline.config import Config
from pipeline.deepspeed_settings import deepspeed_settings
from pipeline.workers.ddp import Worker
from pipeline.workers.host_memory import keep_freed_memory
from pipeline.workers.ranks import cores_per_rank
from pipeline.workers.switches import require_usable, set_float32_precision


def start_worker(config: Config, engine: str = "") -> Worker:
    """Joins the process group that torchrun describes in the environment, if there is one.

    `engine` takes the place of `config.parallel.engine`. Collective: every rank must call. Raises
    ValueError and RuntimeError, before it joins, for what this machine cannot do.
    """
    if config.train.precision == "auto":
        raise ValueError("train.precision is 'auto': pipeline.precision.with_precision decides it")
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
    set_process_switches(config, device, local_world_size)
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
        from pipeline.workers.accelerate import AccelerateWorker

        return AccelerateWorker(backend=backend, timeout=timeout, **place)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group(backend, timeout=timeout)
    if engine == "deepspeed":
        from pipeline.workers.deepspeed import DeepSpeedWorker

        settings = deepspeed_settings(config, config.train.batch_size // world_size)
        return DeepSpeedWorker(settings=settings, **place)
    return Worker(**place)


def set_process_switches(config: Config, device: torch.device, local_world_size: int) -> None:
    """What torch keeps for a process, whichever network computes."""
    if device.type == "cuda":
        set_determinism(config.train.deterministic)
    else:
        if config.train.keep_memory:
            keep_freed_memory()
        torch.set_num_threads(config.train.threads or cores_per_rank(local_world_size))
    set_float32_precision(config.train.tf32)


def set_determinism(deterministic: bool) -> None:
    """On CUDA, whether two runs of the same configuration have the same bits.

    Some of cuDNN's gradients add in an order that changes from run to run; a resumed run could not
    be held against the one that was interrupted. Without it cuDNN times its algorithms and takes
    the fastest. The CPU's algorithms are deterministic as they are, for one number of threads.
    """
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # cuBLAS reads it when it is first used, which is after this.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # A debugging aid, on by default, that costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
