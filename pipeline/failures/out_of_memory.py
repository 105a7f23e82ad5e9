"""A step that did not fit into memory: what took it, and what to do about it."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.distributed.trainable import TrainableNetwork
from pipeline.engines.ddp import Worker

# What the allocators of the CPU say, in a RuntimeError of no kind of its own.
_CPU_ALLOCATOR_WORDS = ("DefaultCPUAllocator", "bad_alloc", "not enough memory")

_PAGES = Path("/proc/self/statm")  # of Linux: in pages, all and resident


class OutOfMemory(RuntimeError):
    """Its message holds the memory account."""


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(w in str(error) for w in _CPU_ALLOCATOR_WORDS)


def out_of_memory(
    error: BaseException,
    where: str,
    config: Config,
    worker: Worker,
    trainables: Iterable[TrainableNetwork],
) -> OutOfMemory:
    """Return the error that ends the run; `where` is the step and its phase."""
    lines = [
        f"rank {worker.rank} ran out of memory in {where}: {_first_line(error)}",
        *(f"  {name}: {value}" for name, value in _account(config, worker, trainables).items()),
        "What can be done:",
        *(f"  {remedy}" for remedy in _remedies(config, worker)),
    ]
    return OutOfMemory("\n".join(lines))


def _account(
    config: Config, worker: Worker, trainables: Iterable[TrainableNetwork]
) -> dict[str, str]:
    share = config.train.batch_size // worker.world_size
    account = {
        "device": _device_name(worker.device),
        "batch": f"{share} samples for each of {worker.world_size} workers, "
        f"{config.train.micro_batch_size or share} at a time, {config.crop_size} pixels, "
        f"{config.train.precision}",
    }
    for trainable in trainables:
        parameters = list(trainable.network.parameters())
        state = [t for s in trainable.optimizer.state.values() for t in s.values()]
        account[f"{trainable.name} network"] = (
            f"{sum(p.numel() for p in parameters) / 1e6:.1f} million parameters, "
            f"{_size(parameters)}, gradients as much again, optimizer {_size(state)}"
        )
    if worker.device.type == "cuda":
        account |= _gpu_memory(worker.device)
    return account | _host_memory()


def _remedies(config: Config, worker: Worker) -> list[str]:
    train = config.train
    share = train.batch_size // worker.world_size
    at_a_time = train.micro_batch_size or share
    remedies = []
    smaller = [size for size in range(1, at_a_time // 2 + 1) if share % size == 0]
    if smaller:
        remedies.append(
            f"--train.micro-batch-size {smaller[-1]}: fewer samples at a time, in the same batch "
            "(as batch norm sees another part of it, under another --name)"
        )
    more = [n for n in range(worker.world_size + 1, train.batch_size + 1)
            if train.batch_size % n == 0]  # fmt: skip
    if more and not train.micro_batch_size:
        remedies.append(f"{more[0]} workers or more, on other devices: the run goes on as it is")
    if train.precision == "fp32":
        remedies.append("--train.precision bf16: half the activations (under another --name)")
    if not smaller:
        remedies.append("a smaller pack.crop_size or completion.width (under another --name)")
    return remedies


def _gpu_memory(device: torch.device) -> dict[str, str]:
    free, total = torch.cuda.mem_get_info(device)
    return {
        "GPU memory": f"{_gigabytes(total)} in all, {_gigabytes(free)} free",
        "of this process": f"{_gigabytes(torch.cuda.memory_allocated(device))} allocated, "
        f"{_gigabytes(torch.cuda.memory_reserved(device))} reserved, "
        f"{_gigabytes(torch.cuda.max_memory_allocated(device))} allocated at most",
    }


def _host_memory() -> dict[str, str]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    now = ""
    if _PAGES.exists():
        now = f"{_gigabytes(int(_PAGES.read_text().split()[1]) * resource.getpagesize())} now, "
    account = {"resident memory of this process": f"{now}{_gigabytes(peak)} at most"}
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        account["limit of its address space (ulimit -v)"] = _gigabytes(limit)
    return account


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return str(device)


def _size(tensors: Iterable[Tensor]) -> str:
    return _gigabytes(sum(t.numel() * t.element_size() for t in tensors))


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
