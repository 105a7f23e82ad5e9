"""What the switches of a configuration ask of the machine, and what they make of a network."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.config import Config
from pipeline.networks.completion import CompletionNetwork
from pipeline.networks.winograd import WINOGRAD
from pipeline.workers.compilation import compile_, require_compiler


def require_usable(config: Config, device: torch.device, world_size: int) -> None:
    """Before any process group exists. Raises ValueError for switches that this machine or this
    number of workers cannot follow, RuntimeError where a compiler is missing.
    """
    faults = []
    if config.parallel.sync_batch_norm and device.type != "cuda":
        faults.append(
            "parallel.sync_batch_norm is True: torch's SyncBatchNorm runs on CUDA alone, and this "
            f"run is on the {device.type.upper()}; set --parallel.sync_batch_norm false"
        )
    if config.train.cuda_graphs and device.type != "cuda":
        faults.append(
            "train.cuda_graphs is True: there are no CUDA graphs on the "
            f"{device.type.upper()}; set --train.cuda_graphs false"
        )
    if config.train.cuda_graphs and world_size > 1:
        faults.append(
            f"train.cuda_graphs is True: with {world_size} workers the reducer decides on the CPU "
            "in each backward which buckets are ready, which a graph cannot record; set "
            "--train.cuda_graphs false, or train on one worker"
        )
    if config.train.convolution == WINOGRAD and device.type != "cpu":
        faults.append(
            f"train.convolution is {WINOGRAD!r}: it wins on CPUs, where arithmetic is the limit; "
            f"on the {device.type.upper()} set --train.convolution direct"
        )
    if faults:
        raise ValueError("the run cannot start:\n  " + "\n  ".join(faults))
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


def with_switches(network: nn.Module, config: Config) -> nn.Module:
    """The network, changed in place, as it trains; names of parameters and buffers stay."""
    if config.parallel.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if isinstance(network, CompletionNetwork):
        network.set_convolution(config.train.convolution)
    if config.train.compile:
        compile_(network)
    return network
