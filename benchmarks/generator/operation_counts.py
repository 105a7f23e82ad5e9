"""What the networks have to compute, from their shapes alone: operations, elements, bytes.

One multiplication and the addition after it are two operations. Convolutions and full connections
are counted, whole kernels at the border too; batch norm, activations and losses are not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config.schedule import Phase
from pipeline.config.schema import Config
from pipeline.networks.registry import build_completion, build_discriminator

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class LayerCount:
    """Of one image, forward."""

    name: str
    forward_flops: int
    input_shape: tuple[int, ...]  # without the batch
    output_shape: tuple[int, ...]
    weight_elements: int
    sees_input: bool  # of the network: nothing needs the gradient of what goes in

    def backward_flops(self, weights: bool = True, inputs: bool = True) -> int:
        """The gradients of the weights, and of the input where there is something to teach."""
        return self.forward_flops * (int(weights) + int(inputs))

    def bytes_moved(self, batch_size: int, element_bytes: int) -> int:
        """Forward, if each operand is read or written once: less is not possible."""
        elements = batch_size * (prod(self.input_shape) + prod(self.output_shape))
        return element_bytes * (elements + self.weight_elements)


def layer_counts(network: nn.Module, *inputs: tuple[int, ...]) -> list[LayerCount]:
    """In the order in which they run; `inputs` are the shapes for one image, with a batch of 1."""
    network = copy.deepcopy(network).to("meta").eval()
    names = {module: name for name, module in network.named_modules()}
    counts: list[LayerCount] = []

    def note(module: nn.Module, given: Sequence[Any], output: Tensor) -> None:
        counts.append(_count(names[module], module, given[0], output))

    for module in network.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(*(torch.zeros(shape, device="meta") for shape in inputs))
    return counts


def _count(name: str, module: nn.Module, given: Tensor, output: Tensor) -> LayerCount:
    weight = module.weight
    assert isinstance(weight, Tensor)
    # Every element of a transposed convolution's input meets the whole kernel, of other layers'
    # output.
    positions = given if isinstance(module, nn.ConvTranspose2d) else output
    channels = positions.shape[1]
    macs = positions.numel() * weight.numel() // channels
    return LayerCount(
        name, 2 * macs, tuple(given.shape[1:]), tuple(output.shape[1:]), weight.numel(), False
    )


def completion_counts(config: Config, network: nn.Module | None = None) -> list[LayerCount]:
    side = config.crop_size
    network = network or build_completion(config)
    counts = layer_counts(network, (1, 3, side, side), (1, 1, side, side))
    return [replace(counts[0], sees_input=True), *counts[1:]]


def discriminator_counts(config: Config) -> list[LayerCount]:
    """Of both branches and their fusion, for one image, real or completed."""
    shapes = [(1, 3, side, side) for side in (config.crop_size, config.discriminator.local_size)]
    counts = layer_counts(build_discriminator(config), *shapes)
    return [replace(count, sees_input=count.input_shape[0] == 3) for count in counts]


def phase_flops(config: Config) -> dict[Phase, int]:
    """Operations of a training step for one image in each phase, as `pipeline.step.training_step`
    computes them.

    Raises ValueError for R1, whose second derivatives are not counted.
    """
    if config.loss.r1_weight:
        raise ValueError("loss.r1_weight: the operations of R1 are not counted; set it to 0")
    completion, discriminator = completion_counts(config), discriminator_counts(config)
    complete = _sum(completion, lambda layer: layer.forward_flops)
    teach_completion = _sum(completion, _own_gradients)
    judge = _sum(discriminator, lambda layer: layer.forward_flops)
    teach_discriminator = 2 * (judge + _sum(discriminator, _own_gradients))  # real and completed
    through = judge + _sum(discriminator, lambda layer: layer.backward_flops(weights=False))
    # In micro-batches the completion network computes its output once for each half of the step.
    outputs = 2 if config.train.micro_batch_size else 1
    return {
        Phase.COMPLETION: complete + teach_completion,
        Phase.DISCRIMINATOR: complete + teach_discriminator,
        Phase.JOINT: outputs * complete + teach_completion + teach_discriminator + through,
    }


def _own_gradients(layer: LayerCount) -> int:
    return layer.backward_flops(inputs=not layer.sees_input)


def _sum(counts: Sequence[LayerCount], of: Callable[[LayerCount], int]) -> int:
    return sum(of(count) for count in counts)
