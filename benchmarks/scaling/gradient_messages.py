"""Which gradients a step exchanges, in what messages, and how much backward is left to hide them.

Read off the networks themselves, which are built without memory: what the parameters weigh, the
buckets that torch's DistributedDataParallel makes of them, and the multiplications of every layer.
Times within a step are shares of it by these multiplications, a backward counting twice a forward.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.generator.operation_counts import layer_counts
from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.distributed.batch_norm_statistics import running_statistics
from pipeline.engines.ddp import BUCKET_CAP_MB
from pipeline.networks.registry import build_completion, build_discriminator

FIRST_BUCKET_BYTES = 1 << 20  # DistributedDataParallel's limit, its default
_ELEMENT_BYTES = 4  # parameters and gradients are float32 in every precision


@dataclass(frozen=True)
class Bucket:
    num_bytes: int
    ready: float  # share of its network's backward after which all of its gradients are there


@dataclass(frozen=True)
class NetworkGradients:
    macs: float  # multiply-accumulates of one forward of one image
    buckets: tuple[Bucket, ...]  # in the order in which they are sent
    statistics_bytes: int  # of batch norm, averaged after the update, when nothing hides it

    @property
    def num_bytes(self) -> int:
        return sum(bucket.num_bytes for bucket in self.buckets)


@dataclass(frozen=True)
class GradientAllReduce:
    """What one update of a network exchanges in a step."""

    network: NetworkGradients
    window: float  # share of the step's computing in which its backward runs


@dataclass(frozen=True)
class StepWork:
    """One step of a phase."""

    macs: float  # of one image, forwards and backwards
    all_reduces: tuple[GradientAllReduce, ...]

    @property
    def num_bytes(self) -> int:
        return sum(all_reduce.network.num_bytes for all_reduce in self.all_reduces)


def work_of_phases(config: Config) -> dict[Phase, StepWork]:
    """As `pipeline.step.training_step` computes them, without micro-batches."""
    completion, discriminator = _networks(config, bucket_limits(config.parallel.bucket_cap_mb))
    c, d = completion.macs, discriminator.macs
    first = 3 * c
    # The completion network forward; the discriminators forward and backward, real and fake.
    second = c + 6 * d
    # Besides both: the discriminators once more, forward and back to their input.
    third = 3 * c + 8 * d
    return {
        Phase.COMPLETION: StepWork(first, (GradientAllReduce(completion, 2 * c / first),)),
        Phase.DISCRIMINATOR: StepWork(second, (GradientAllReduce(discriminator, 4 * d / second),)),
        Phase.JOINT: StepWork(
            third,
            (
                GradientAllReduce(discriminator, 4 * d / third),
                GradientAllReduce(completion, 2 * c / third),
            ),
        ),
    }


def bucket_limits(bucket_cap_mb: int) -> tuple[int, int]:
    """Bytes of the first bucket that is filled, and of the others."""
    if bucket_cap_mb == BUCKET_CAP_MB:
        return FIRST_BUCKET_BYTES, BUCKET_CAP_MB << 20
    limit = bucket_cap_mb << 20 if bucket_cap_mb else sys.maxsize
    return limit, limit


def _networks(config: Config, limits: tuple[int, int]) -> tuple[NetworkGradients, NetworkGradients]:
    size, patch = config.crop_size, config.discriminator.local_size
    with torch.device("meta"):
        completion, discriminator = build_completion(config), build_discriminator(config)
        images = torch.empty(2, 3, size, size)  # two: batch norm refuses one value a channel
        return (
            network_gradients(completion, (images, torch.empty(2, 1, size, size)), limits),
            network_gradients(discriminator, (images, torch.empty(2, 3, patch, patch)), limits),
        )


def network_gradients(
    network: nn.Module, inputs: Sequence[Tensor], limits: tuple[int, int]
) -> NetworkGradients:
    macs = Counter[str]()
    for layer in layer_counts(network, *((1, *one.shape[1:]) for one in inputs)):
        macs[f"{layer.name}.weight"] += layer.forward_flops // 2
    parameters = [name for name, one in network.named_parameters() if one.requires_grad]
    total = macs.total()
    sizes = [network.get_parameter(name).numel() * _ELEMENT_BYTES for name in parameters]
    buckets = []
    for members in bucket_members(sizes, limits):
        done = sum(macs[name] for name in parameters[members[0] :])
        num_bytes = sum(sizes[index] for index in members)
        buckets.append(Bucket(num_bytes, done / total if total else 1.0))
    statistics = sum(one.numel() * _ELEMENT_BYTES for one in running_statistics(network))
    return NetworkGradients(total, tuple(buckets), statistics)


def bucket_members(sizes: Sequence[int], limits: tuple[int, int]) -> list[list[int]]:
    """Parameters, by number, of each bucket, in the order in which the reducer sends them.

    It fills buckets from the first parameter on, each to its limit, and sends them from the last
    one on, as a backward makes the gradients.
    """
    buckets: list[list[int]] = []
    current: list[int] = []
    for index, _ in enumerate(sizes):
        current.append(index)
        limit = limits[1] if buckets else limits[0]
        if sum(sizes[member] for member in current) >= limit:
            buckets.append(current)
            current = []
    if current:
        buckets.append(current)
    return buckets[::-1]
