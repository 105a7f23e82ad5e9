"""Networks by the name that the configuration gives them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pipeline.config.schema import CompletionConfig, Config
from pipeline.networks.base import CompletionBase
from pipeline.networks.dam import AttentionCompletionNetwork
from pipeline.networks.discriminator import ContextDiscriminator
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.unet import UNet

COMPLETION_NETWORKS: dict[str, Callable[[CompletionConfig], CompletionBase]] = {
    "glcic": CompletionNetwork,
    "dam": AttentionCompletionNetwork,
    "unet": UNet,
}


def build_completion(config: Config) -> CompletionBase:
    """On the CPU, with fresh weights. Raises ValueError for a kind that is not registered."""
    kind = config.completion.kind
    if kind not in COMPLETION_NETWORKS:
        known = ", ".join(sorted(COMPLETION_NETWORKS))
        raise ValueError(f"completion.kind is {kind!r}, which no network is; known: {known}")
    return COMPLETION_NETWORKS[kind](config.completion)


def build_discriminator(config: Config) -> nn.Module:
    """On the CPU, with fresh weights; its global branch takes the training crop."""
    return ContextDiscriminator(config.discriminator, config.crop_size)
