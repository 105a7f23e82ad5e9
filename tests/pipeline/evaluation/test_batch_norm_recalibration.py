import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.evaluation.batch_norm_recalibration import recalibrated
from pipeline.networks.glcic import CompletionNetwork

Batches = list[tuple[Tensor, Tensor]]


def network_and_batches(count: int = 5) -> tuple[CompletionNetwork, Batches]:
    torch.manual_seed(0)
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    batches = [(torch.rand(2, 3, 16, 16) * (i + 1) / count, mask) for i in range(count)]
    return CompletionNetwork(CompletionConfig(width=8)), batches


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, msg=name)


def test_statistics_become_the_cumulative_averages_that_torch_itself_computes() -> None:
    network, batches = network_and_batches()
    expected = copy.deepcopy(network)
    for module in expected.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for image, mask in batches:
            expected(image, mask)
    assert_same_state(expected, recalibrated(network, batches))


def test_the_original_is_untouched_and_the_copy_is_in_eval_mode() -> None:
    network, batches = network_and_batches()
    before = copy.deepcopy(network.state_dict())
    result = recalibrated(network, batches)
    assert network.training
    assert not any(module.training for module in result.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert result.encoder["1"].norm.momentum == network.encoder["1"].norm.momentum


def in_ranks(network: nn.Module, batches: Batches, world_size: int) -> list[nn.Module]:
    """As `world_size` ranks would do it, with a thread for each."""
    barrier = threading.Barrier(world_size)
    vectors: dict[int, Tensor] = {}
    results: dict[int, nn.Module] = {}

    def rank_main(rank: int) -> None:
        def all_reduce_sum(vector: Tensor) -> Tensor:
            vectors[rank] = vector
            barrier.wait()
            return sum(vectors[other] for other in range(world_size))

        results[rank] = recalibrated(network, batches[rank::world_size], all_reduce_sum)

    threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[rank] for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_the_number_of_ranks_does_not_change_the_result(world_size: int) -> None:
    network, batches = network_and_batches(5)  # of 7 ranks, two have no batch
    alone = recalibrated(network, batches)
    for result in in_ranks(network, batches, world_size):
        assert_same_state(alone, result)


def test_no_batch_anywhere_is_refused() -> None:
    network, _ = network_and_batches()
    with pytest.raises(ValueError, match="no batch"):
        recalibrated(network, [])


def test_without_batches_the_statistics_stay() -> None:
    network, _ = network_and_batches()
    assert_same_state(network, recalibrated(network, None))


def test_a_network_without_batch_norm_passes_through() -> None:
    network = nn.Conv2d(3, 3, 1)
    result = recalibrated(network, iter([]))
    assert result is not network
    assert_same_state(network, result)


def test_synchronised_batch_norm_is_recalibrated_by_each_rank_alone() -> None:
    network, batches = network_and_batches()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    result = recalibrated(synchronised, batches)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in result.modules())
    assert isinstance(synchronised.encoder["1"].norm, nn.SyncBatchNorm)
    expected = recalibrated(network, batches).state_dict()
    statistics = [name for name in expected if "running" in name]
    for name in statistics:
        torch.testing.assert_close(result.state_dict()[name], expected[name])
