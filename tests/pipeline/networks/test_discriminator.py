import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.schema import Config, DiscriminatorConfig
from pipeline.networks.discriminator import ContextDiscriminator
from pipeline.networks.registry import build_discriminator
from shards.format.recipe import PackRecipe

NARROW = DiscriminatorConfig(width=4, local_size=32, num_features=6)


@pytest.mark.parametrize(
    ("image_size", "local_size", "parameters", "giga_macs"),
    [(256, 128, 45_063_681, 3.89), (160, 96, 39_557_121, 1.62)],
)
def test_the_discriminators_have_the_size_of_the_paper(
    image_size: int, local_size: int, parameters: int, giga_macs: float
) -> None:
    config = Config(
        pack=PackRecipe(crop_size=image_size),
        discriminator=DiscriminatorConfig(local_size=local_size),
    )
    with torch.device("meta"):
        network = build_discriminator(config).eval()
        image = torch.zeros(1, 3, image_size, image_size)
        patch = torch.zeros(1, 3, local_size, local_size)
        with FlopCounterMode(display=False) as counter:
            network(image, patch)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_macs, abs=0.005)


@pytest.mark.parametrize(("size", "convolutions"), [(256, 6), (160, 5), (128, 5), (96, 5), (64, 4)])
def test_a_branch_halves_until_the_side_is_at_most_5(size: int, convolutions: int) -> None:
    branch = ContextDiscriminator(NARROW, size).global_branch
    found = [layer for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
    assert len(found) == convolutions
    assert [layer.out_channels for layer in found][:4] == [4, 8, 16, 32]


@pytest.mark.parametrize("size", [48, 100])
def test_any_size_goes_through(size: int) -> None:
    network = ContextDiscriminator(NARROW, size)
    logits = network(torch.rand(3, 3, size, size), torch.rand(3, 3, 32, 32))
    assert logits.shape == (3,)


def test_both_branches_reach_the_logit_global_first() -> None:
    torch.manual_seed(0)
    network = ContextDiscriminator(NARROW, 64).eval()
    image, patch = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)
    first = network(image, patch)
    assert not torch.equal(first, network(image, patch.flip(0)))
    with torch.no_grad():
        network.fusion.weight[:, 6:] = 0
    assert torch.equal(network(image, patch), network(image, patch.flip(0)))


def test_logits_are_unbounded_and_float32_under_autocast() -> None:
    network = ContextDiscriminator(NARROW, 64)
    nn.init.constant_(network.fusion.bias, -30.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32))
    assert logits.dtype == torch.float32
    assert (logits < -10).all()
