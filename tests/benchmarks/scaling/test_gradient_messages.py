from argparse import ArgumentParser

import pytest
import torch
import torch.distributed as dist
from torch import nn

from benchmarks.scaling.gradient_messages import (
    bucket_limits,
    bucket_members,
    network_gradients,
    work_of_phases,
)
from launch.support.arguments import parse_with_config
from pipeline.config.schedule import Phase
from pipeline.engines.ddp import reducer
from pipeline.networks.registry import build_completion, build_discriminator


def config_of(*arguments):
    return parse_with_config(ArgumentParser(), list(arguments))[1]


@pytest.mark.parametrize("bucket_cap_mb", [25, 40, 0])
@pytest.mark.parametrize("build", [build_completion, build_discriminator])
def test_buckets_are_those_that_torch_makes(build, bucket_cap_mb):
    with torch.device("meta"):
        parameters = list(build(config_of("--config=places2")).parameters())
    told = reducer(bucket_cap_mb).get("bucket_cap_mb")
    limits = [1 << 20, 25 << 20] if told is None else [told << 20]
    theirs, _ = dist._compute_bucket_assignment_by_size(
        parameters, limits, [False] * len(parameters)
    )
    ours = bucket_members(
        [parameter.numel() * 4 for parameter in parameters], bucket_limits(bucket_cap_mb)
    )
    assert ours == theirs[::-1]
    assert bucket_cap_mb or len(ours) == 1


def test_operations_are_counted_by_hand():
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 5, bias=False),
    ).to("meta")
    found = network_gradients(layers, [torch.empty(2, 3, 4, 4, device="meta")], bucket_limits(25))
    macs = [3 * 8 * 9 * 16, 8 * 4 * 4 * 16, 4 * 64 * 5]
    assert found.macs == sum(macs)
    assert found.num_bytes == 4 * (3 * 8 * 9 + 8 * 4 * 4 + 4 * 64 * 5)
    assert found.buckets[-1].ready == 1


def test_the_last_layers_are_sent_first_and_before_the_backward_has_come_far():
    work = work_of_phases(config_of("--config=places2"))
    (all_reduce,) = work[Phase.DISCRIMINATOR].all_reduces
    ready = [bucket.ready for bucket in all_reduce.network.buckets]
    assert ready == sorted(ready)
    assert ready[0] < 0.01  # full connections: many bytes, few operations
    assert ready[-1] == 1


def test_both_networks_exchange_in_the_joint_phase_the_discriminators_first():
    work = work_of_phases(config_of("--config=places2"))
    discriminator, completion = work[Phase.JOINT].all_reduces
    assert discriminator.network == work[Phase.DISCRIMINATOR].all_reduces[0].network
    assert completion.network == work[Phase.COMPLETION].all_reduces[0].network
    assert discriminator.window + completion.window < 1
