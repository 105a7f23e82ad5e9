import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import CompletionConfig
from pipeline.networks.completion import CompletionNetwork
from pipeline.networks.dam import AttentionCompletionNetwork, with_fresh_attention

NARROW = CompletionConfig(kind="dam", width=8)


def sample(size: int = 64, count: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, size, size, generator=generator)
    mask = torch.zeros(count, 1, size, size)
    mask[:, :, 8:32, 16:40] = 1
    return image, mask


@pytest.mark.parametrize(
    ("kernel", "skip", "parameters", "gmac"),
    [
        (1, "encoder", 6_288_070, 34.57),
        (1, "none", 6_202_054, 33.77),
        (3, "encoder", 8_010_182, 50.71),
    ],
)
def test_the_blocks_have_their_parameters_and_operations(
    kernel: int, skip: str, parameters: int, gmac: float
) -> None:
    config = CompletionConfig(kind="dam", attention_kernel=kernel, attention_skip=skip)
    with torch.device("meta"):
        network = AttentionCompletionNetwork(config).eval()
        image, mask = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)
        with FlopCounterMode(display=False) as counter:
            network(image, mask)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.005)
    if (kernel, skip) == (1, "encoder"):
        blocks = [sum(p.numel() for p in b.parameters()) for b in network.attention.values()]
        assert blocks == [164_353, 41_217, 10_369]


def pair(width: int = 64) -> tuple[CompletionNetwork, AttentionCompletionNetwork]:
    """A network, and one with blocks that has taken over its weights."""
    torch.manual_seed(0)
    config = CompletionConfig(width=width)
    plain = CompletionNetwork(config)
    attentive = AttentionCompletionNetwork(dataclasses.replace(config, kind="dam"))
    attentive.load_state_dict(with_fresh_attention(attentive, plain.state_dict()))
    return plain, attentive


@pytest.mark.parametrize(("training", "tolerance"), [(False, 5e-5), (True, 2e-6)])
def test_a_network_that_gets_fresh_blocks_goes_on_where_it_was(
    training: bool, tolerance: float
) -> None:
    plain, attentive = (network.train(training) for network in pair())
    with torch.no_grad():
        difference = plain(*sample()) - attentive(*sample())
    assert difference.abs().max() < tolerance


def test_with_maps_of_zero_the_network_is_the_one_without_blocks_to_the_bit() -> None:
    plain, attentive = (network.eval() for network in pair(width=8))
    for block in attentive.attention.values():
        nn.init.constant_(block.head[2].bias, -1e4)
    with torch.no_grad():
        assert torch.equal(plain(*sample()), attentive(*sample()))


def test_the_maps_come_at_a_quarter_half_and_all_of_the_images_size() -> None:
    raw, maps = AttentionCompletionNetwork(NARROW)(*sample(64), True)
    assert raw.shape == (2, 3, 64, 64)
    assert [tuple(one.shape) for one in maps] == [(2, 1, side, side) for side in (16, 32, 64)]
    assert all(((one > 0) & (one < 1)).all() for one in maps)


def test_asked_for_its_output_alone_it_gives_what_other_networks_give() -> None:
    network = AttentionCompletionNetwork(NARROW).eval()
    with torch.no_grad():
        assert torch.equal(network(*sample()), network(*sample(), True)[0])


def test_maps_stay_float32_in_half_precision() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        raw, maps = AttentionCompletionNetwork(NARROW)(*sample(), True)
    assert {raw.dtype, *(one.dtype for one in maps)} == {torch.float32}


@pytest.mark.parametrize("skip", ["encoder", "none"])
def test_a_block_raises_the_features_where_its_map_is_high(skip: str) -> None:
    network = AttentionCompletionNetwork(dataclasses.replace(NARROW, attention_skip=skip))
    block = network.attention["1"]
    features = torch.rand(1, 8, 4, 4)
    partner = torch.rand(1, 8, 4, 4) if skip == "encoder" else None
    nn.init.constant_(block.head[2].bias, 1e4)  # its map is 1 everywhere
    raised, fakeness = block(features, partner)
    assert (fakeness == 1).all()
    torch.testing.assert_close(raised, 2 * features)
