from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.networks.folding import folded
from pipeline.networks.registry import build_completion
from tests.small_run import small_config


def trained_network(tmp_path: Path, **completion: object) -> nn.Module:
    """As if trained: every number of batch norm differs from its first value."""
    torch.manual_seed(0)
    config = small_config("unread", tmp_path, completion={"width": 8, **completion})
    network = build_completion(config).eval()
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias, module.running_mean):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
    return network


def completed(network: nn.Module, precision: str = "fp32") -> Tensor:
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(2, 1, 48, 64)
    mask[:, :, 8:24, 20:44] = 1
    with torch.inference_mode(), torch.autocast("cpu", enabled=precision == "bf16"):
        return network(image, mask)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "glcic"},
        {"kind": "dam"},
        {"kind": "dam", "attention_maps": "zero"},
        {"kind": "dam", "attention_form": "author"},
        {"kind": "unet"},
    ],
    ids=str,
)
def test_it_computes_the_same_without_batch_norm(fields: dict[str, Any], tmp_path: Path) -> None:
    network = trained_network(tmp_path, **fields)
    fast = folded(network)
    assert not any(parametrize.is_parametrized(module) for module in fast.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(completed(fast), completed(network), rtol=0, atol=1e-5)


def test_a_block_that_activates_before_batch_norm_keeps_it(tmp_path: Path) -> None:
    network = trained_network(tmp_path, block_order="conv_act_bn")
    fast = folded(network)
    assert any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(completed(fast), completed(network), rtol=0, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"kind": "dam", "attention_form": "author"}], ids=str)
def test_in_bf16_it_is_as_near_as_autocast_is(fields: dict[str, Any], tmp_path: Path) -> None:
    network = trained_network(tmp_path, **fields)
    exact = completed(network)
    error = (completed(folded(network, "bf16"), "bf16") - exact).abs().mean()
    autocast_error = (completed(network, "bf16") - exact).abs().mean()
    assert 0 < error < 2 * autocast_error


def test_the_network_it_was_made_of_stays_as_it_is(tmp_path: Path) -> None:
    network = trained_network(tmp_path)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded(network, "bf16")
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'fp8'; known: fp32, bf16"):
        folded(trained_network(tmp_path), "fp8")
