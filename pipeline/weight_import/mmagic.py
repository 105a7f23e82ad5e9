"""A GLInpaintor checkpoint of mmagic (formerly mmediting): channels BGR, range [-1, 1], grey holes.

`generator.encoder.enc1` to `enc6`, `generator.dilation_neck.dilation_convs.0` to `.3` and
`generator.decoder.dec1` to `dec7`, each with `conv` and, but for the last, `bn`; only the last
convolution has a bias. Its image loader gives BGR by default and its configurations keep that order
up to the network, so the first and the last layer are turned around to take and give RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipeline.config.schema import CompletionConfig
from pipeline.weight_import.imported import Imported
from pipeline.weight_import.matching import (
    LAST_ROW,
    ROWS,
    layer_name,
    matched_tensors,
    table_of_names,
)

MMAGIC = "mmagic"
_CONFIG = CompletionConfig(hole_fill="gray", input_scale=2.0, output="clamp")
_NETWORK = "generator."
_LEFT_OUT = ("disc.", "loss_", "data_preprocessor.")
_BGR = [2, 1, 0]


def _block(row: int) -> str:
    if row <= 6:
        return f"{_NETWORK}encoder.enc{row}"
    if row <= 10:
        return f"{_NETWORK}dilation_neck.dilation_convs.{row - 7}"
    return f"{_NETWORK}decoder.dec{row - 10}"


TABLE = table_of_names(lambda row: f"{_block(row)}.conv", lambda row: f"{_block(row)}.bn")
_WITHOUT_BIAS = [f"{layer_name(row)}.conv.bias" for row in ROWS if row != LAST_ROW]


def is_mmagic(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_NETWORK) for name in tensors)


def import_mmagic(path: Path, tensors: Mapping[str, Tensor], channel_order: str) -> Imported:
    """`channel_order` "bgr" or "rgb": of the images that it was trained on. Raises ValueError where
    the tensors do not fit.
    """
    ours_alone = {name: t for name, t in tensors.items() if not name.startswith(_LEFT_OUT)}
    config, ours = matched_tensors(ours_alone, TABLE, _CONFIG, str(path), absent=_WITHOUT_BIAS)
    if channel_order == "bgr":
        _swap_red_and_blue_(ours)
    notes = [f"it was trained on {channel_order.upper()} images, and takes and gives RGB here"]
    if len(ours_alone) < len(tensors):
        notes.append(
            f"{len(tensors) - len(ours_alone)} tensors of its discriminators and losses were left "
            "out"
        )
    return Imported(MMAGIC, config, ours, (0.5, 0.5, 0.5), notes=tuple(notes))


def _swap_red_and_blue_(tensors: dict[str, Tensor]) -> None:
    """At the input, whose fourth channel is the mask, and at the output."""
    first, last = f"{layer_name(1)}.conv.weight", f"{layer_name(LAST_ROW)}.conv"
    tensors[first] = tensors[first][:, [*_BGR, 3]].contiguous()
    for name in (f"{last}.weight", f"{last}.bias"):
        tensors[name] = tensors[name][_BGR].contiguous()
