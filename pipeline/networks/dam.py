"""The completion network of GLCIC with dynamic attention map (DAM) blocks in its decoder.

DAM-GAN (Cha and Kim, ICASSP 2022, arXiv 2204.09442) lets each scale of a decoder predict where its
output looks fake, and raises the features there:

    F = fuse([features, skip])    M = sigmoid(head(F))    T = F + M * F

The paper leaves open where the blocks stand in GLCIC and what they are joined with. Here one stands
at the end of each scale, before the layer that leaves it: after rows 12, 14 and 15 of the table.
Its partner is the encoder's last output of that scale: of rows 6, 3 and 1. A fresh block passes the
features on but for a factor of 1.018, so a network trained without them goes on where it was.

The joins are skip connections, which GLCIC does not have, and may help without any map. So there
are networks to compare with: `attention_maps zero` keeps the joins alone (T = F), `attention_skip
none` the maps alone, and both together one more convolution at each scale.
"""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.config import CompletionConfig
from pipeline.networks.attention_blocks import AttentionBlock
from pipeline.networks.completion import CompletionNetwork
from pipeline.networks.erasing import Completed

PREFIX = "attention."  # of the blocks' tensors: the others are those of the network without them
# row: (block that follows it, row of the encoder that this is joined with), from coarse to fine
_PLACES = {12: ("3", 6), 14: ("2", 3), 15: ("1", 1)}
_WIDER_CONTEXT_PX = 24  # that kernels of 3 see: 3 at each of three scales, 21 pixels in all


class AttentionCompletionNetwork(CompletionNetwork):
    """Its maps, where it has them, have a quarter, half and all of the image's sides."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__(config)
        if config.attention_kernel == 3:
            self.context_px += _WIDER_CONTEXT_PX
        self.has_maps = config.attention_maps == "learned"
        self._joins = config.attention_skip == "encoder"
        self.attention = nn.ModuleDict()
        for row, (block, partner) in _PLACES.items():
            skip_channels = self._channels(partner) if self._joins else 0
            self.attention[block] = AttentionBlock(
                self._channels(row), skip_channels, config.attention_kernel, self.has_maps
            )

    def _channels(self, row: int) -> int:
        stage = self.encoder if row <= 6 else self.middle if row <= 12 else self.decoder
        channels: int = stage[str(row)].norm.num_features  # type: ignore[union-attr, assignment]
        return channels

    def completed(self, features: Tensor, mask: Tensor) -> Completed:
        skips = {}
        for row, layer in self.encoder.items():
            features = skips[int(row)] = layer(features)
        maps: list[Tensor] = []
        features = self._attend(12, self.middle_features(features), skips, maps)
        for row, layer in self.decoder.items():
            features = self._attend(int(row), layer(features), skips, maps)
        return features, tuple(maps)

    def _attend(
        self, row: int, features: Tensor, skips: dict[int, Tensor], maps: list[Tensor]
    ) -> Tensor:
        if row not in _PLACES:
            return features
        block, partner = _PLACES[row]
        skip = skips[partner] if self._joins else None
        features, fakeness = self.attention[block](features, skip)
        if fakeness is not None:
            maps.append(fakeness)
        return features


def with_fresh_attention(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network without blocks, and those of the blocks that `network` itself has."""
    own = {name: t for name, t in network.state_dict().items() if name.startswith(PREFIX)}
    return own | tensors
