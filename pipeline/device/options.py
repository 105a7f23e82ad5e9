"""What the switches of a configuration ask of the machine, and what they make of a network."""

from __future__ import annotations

import os

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.device.compilation import compile_, require_compiler
from pipeline.device.host_memory import keep_freed_memory
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.kernels.winograd import WINOGRAD
from shards.cores import available_cores


def require_usable(config: Config, device: torch.device, world_size: int) -> None:
    """Check the options before any process group exists. Raises ValueError for options that this
    machine or this number of workers cannot follow, RuntimeError where a compiler is missing.
    """
    errors = []
    if config.parallel.sync_batch_norm and device.type != "cuda":
        errors.append(
            "parallel.sync_batch_norm is True: torch's SyncBatchNorm runs on CUDA alone, and this "
            f"run is on the {device.type.upper()}; set --parallel.sync_batch_norm false"
        )
    if config.train.cuda_graphs and device.type != "cuda":
        errors.append(
            "train.cuda_graphs is True: CUDA graphs need a GPU, and this run is on the "
            f"{device.type.upper()}; set --train.cuda_graphs false"
        )
    if config.train.cuda_graphs and world_size > 1:
        errors.append(
            f"train.cuda_graphs is True: with {world_size} workers the reducer decides on the CPU "
            "in each backward which buckets are ready, which a graph cannot record; set "
            "--train.cuda_graphs false, or train on one worker"
        )
    if config.train.convolution == WINOGRAD and device.type != "cpu":
        errors.append(
            f"train.convolution is {WINOGRAD!r}: it wins on CPUs, where arithmetic is the limit; "
            f"on the {device.type.upper()} set --train.convolution direct"
        )
    if errors:
        raise ValueError("the run cannot start:\n  " + "\n  ".join(errors))
    if config.train.compile:
        require_compiler(device, "train.compile", "false")
    if config.train.convolution == WINOGRAD:
        require_compiler(device, "train.convolution winograd", "direct")


def set_float32_precision(tf32: bool) -> None:
    """Whether float32 on CUDA may round its factors to TensorFloat-32, for products and
    convolutions alike; torch's own defaults allow it for convolutions alone.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def apply_options(network: nn.Module, config: Config) -> nn.Module:
    """Return the network, changed in place, as it trains; names of parameters and buffers stay."""
    if config.parallel.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if isinstance(network, CompletionNetwork):
        network.set_convolution(config.train.convolution)
    if config.train.compile:
        compile_(network)
    return network


def cores_per_rank(local_world_size: int) -> int:
    return max(1, available_cores() // local_world_size)


def set_process_options(config: Config, device: torch.device, local_world_size: int) -> None:
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
    be compared with the one that was interrupted. Without it cuDNN times its algorithms and takes
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
