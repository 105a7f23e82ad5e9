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

The first author's released code has other blocks, `attention_form author`, one more of them, and
that at the output's own scale: there it follows row 16 and is joined with row 1, the encoder's only
output of full size. Row 17, which turns features to RGB, stays, where the code's last block gives
RGB itself: so the network differs from the others by its blocks alone, and `output` means the same.
Left out for the same reason is what surrounds the blocks in the code: residual blocks, upsampling
by repetition, halved channels, the coarse network. Such blocks cannot start as the identity: a
network trained without them does not go on where it was, but has them to learn.
"""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.networks.attention_blocks import AttentionBlock, AuthorAttentionBlock
from pipeline.networks.base import Completed
from pipeline.networks.glcic import CompletionNetwork

PREFIX = "attention."  # of the blocks' tensors: the others are those of the network without them
# row: (block that follows it, row of the encoder that this is joined with), from coarse to fine
_PLACES = {12: ("3", 6), 14: ("2", 3), 15: ("1", 1)}
_AUTHOR_PLACES = {**_PLACES, 16: ("0", 1)}
# The number is how many of the image's pixels are one of the map's, each way.
_MAP_NAMES = {"3": "map_4", "2": "map_2", "1": "map_1", "0": "map_output"}
_WIDER_CONTEXT_PX = 24  # that kernels of 3 see: 3 at each of three scales, 21 pixels in all
_AUTHOR_CONTEXT_PX = 32  # 4 at each of three scales, and 4 once more at the last


class AttentionCompletionNetwork(CompletionNetwork):
    """Its maps, where it has them, have a quarter, half and all of the image's sides; in the
    author's form there is one more of all of it.
    """

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__(config)
        is_authors = config.attention_form == "author"
        if is_authors:
            self.context_px += _AUTHOR_CONTEXT_PX
        elif config.attention_kernel == 3:
            self.context_px += _WIDER_CONTEXT_PX
        self._joins = config.attention_skip == "encoder"
        self._places = _AUTHOR_PLACES if is_authors else _PLACES
        self.has_maps = config.attention_maps == "learned"
        if self.has_maps:
            self.map_names = tuple(_MAP_NAMES[block] for block, _ in self._places.values())
        self.attention = nn.ModuleDict()
        for row, (block, partner) in self._places.items():
            channels, skip_channels = self._channels(row), self._channels(partner)
            self.attention[block] = _block(config, channels, skip_channels if self._joins else 0)

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
        if row not in self._places:
            return features
        block, partner = self._places[row]
        skip = skips[partner] if self._joins else None
        features, fakeness = self.attention[block](features, skip)
        if fakeness is not None:
            maps.append(fakeness)
        return features


def _block(config: CompletionConfig, channels: int, skip_channels: int) -> nn.Module:
    has_map = config.attention_maps == "learned"
    if config.attention_form == "author":
        return AuthorAttentionBlock(channels, skip_channels, has_map)
    return AttentionBlock(channels, skip_channels, config.attention_kernel, has_map)


def with_new_attention(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a network without blocks, and those of the blocks that `network` itself has."""
    own = {name: t for name, t in network.state_dict().items() if name.startswith(PREFIX)}
    return own | tensors
