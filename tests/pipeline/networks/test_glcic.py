import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.schema import CompletionConfig, Config
from pipeline.networks import registry
from pipeline.networks.glcic import CompletionNetwork

NARROW = CompletionConfig(width=8)


def random_sample(size: int = 32, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, size, size, generator=generator)
    mask = torch.zeros(count, 1, size, size)
    mask[:, :, 8:20, 12:24] = 1
    return image, mask


def test_the_network_has_the_parameters_and_operations_of_the_papers_table() -> None:
    with torch.device("meta"):
        network = CompletionNetwork(CompletionConfig()).eval()
        image, mask = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 256, 256)
        with FlopCounterMode(display=False) as counter:
            output = network(image, mask)
    assert sum(parameter.numel() for parameter in network.parameters()) == 6_072_131
    assert counter.get_total_flops() / 2e9 == pytest.approx(32.55, abs=0.005)
    assert output.shape == (1, 3, 256, 256)


def test_all_channels_scale_with_the_width() -> None:
    network = CompletionNetwork(NARROW)
    channels = [
        layer.conv.out_channels
        for stage in (network.encoder, network.middle, network.decoder)
        for layer in stage.values()
    ]
    assert channels == [8, 16, 16, 32, 32, 32, *[32] * 6, 16, 16, 8, 4, 3]


def test_layers_are_named_by_the_row_of_the_papers_table() -> None:
    names = {name.rsplit(".", 2)[0] for name, _ in CompletionNetwork(NARROW).named_parameters()}
    stages = {"encoder": range(1, 7), "middle": range(7, 13), "decoder": range(13, 18)}
    assert names == {f"{stage}.{row}" for stage, rows in stages.items() for row in rows}


@pytest.mark.parametrize("order", ["conv_bn_act", "conv_act_bn"])
def test_the_block_order_decides_whether_features_can_be_negative(order: str) -> None:
    torch.manual_seed(0)
    network = CompletionNetwork(dataclasses.replace(NARROW, block_order=order))
    features = network.encoder["1"](torch.randn(2, 4, 16, 16))
    assert bool((features < 0).any()) == (order == "conv_act_bn")


@pytest.mark.parametrize("subtract", [True, False])
def test_what_lies_in_the_hole_does_not_change_the_output(subtract: bool) -> None:
    torch.manual_seed(0)
    network = CompletionNetwork(dataclasses.replace(NARROW, subtract_fill=subtract)).eval()
    image, mask = random_sample()
    other = torch.where(mask > 0, torch.full_like(image, float("nan")), image)
    assert torch.equal(network(image, mask), network(other, mask))


def test_the_hole_is_filled_with_the_fill_color_and_the_input_centred_on_it() -> None:
    network = CompletionNetwork(NARROW)
    network.set_fill_color((0.2, 0.4, 0.6))
    image, mask = random_sample()
    fed = network.network_input(image, mask)
    assert (fed[:, :3, 10, 15] == 0).all()
    assert (fed[:, 3] == mask[:, 0]).all()
    torch.testing.assert_close(fed[:, 2, 0, 0], image[:, 2, 0, 0] - 0.6)
    network.subtract_fill = False
    torch.testing.assert_close(
        network.network_input(image, mask)[0, :3, 10, 15], torch.tensor([0.2, 0.4, 0.6])
    )


def test_the_fill_color_is_saved_with_the_weights() -> None:
    network, other = CompletionNetwork(NARROW), CompletionNetwork(NARROW)
    network.set_fill_color((0.1, 0.2, 0.3))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.fill_color, torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("size", [(32, 30), (33, 32)])
def test_a_side_that_is_no_multiple_of_4_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[1]}x{size[0]} pixels.*multiples of 4"):
        CompletionNetwork(NARROW)(torch.zeros(1, 3, *size), torch.zeros(1, 1, *size))


def test_the_output_is_float32_under_bfloat16_autocast() -> None:
    image, mask = random_sample()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = CompletionNetwork(NARROW)(image, mask)
    assert output.dtype == torch.float32
    assert 0 <= float(output.detach().min()) <= float(output.detach().max()) <= 1


def averaging_network() -> CompletionNetwork:
    """Without batch norm, every weight positive and equal: gradients show connections alone."""
    network = CompletionNetwork(NARROW).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            nn.init.zeros_(module.bias)
        if hasattr(module, "norm"):
            module.norm = nn.Identity()
    return network


@pytest.mark.parametrize(("column", "support"), [(160, 299), (161, 303), (162, 303), (163, 299)])
def test_one_output_pixel_sees_299_or_303_pixels(column: int, support: int) -> None:
    image = torch.ones(1, 3, 8, 320, dtype=torch.float64, requires_grad=True)
    network = averaging_network()
    network.subtract_fill = False
    network(image, torch.zeros(1, 1, 8, 320, dtype=torch.float64))[0, 0, 4, column].backward()
    seen = image.grad[0, 0].abs().amax(dim=0).nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 == support
    assert len(seen) == support


def test_a_kind_that_is_not_registered_is_refused_with_the_known_ones() -> None:
    config = Config(completion=dataclasses.replace(NARROW, kind="pconv"))
    with pytest.raises(ValueError, match=r"'pconv'.*known: .*glcic"):
        registry.build_completion(config)
