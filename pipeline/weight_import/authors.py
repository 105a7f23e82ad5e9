"""The Torch7 files that the authors of GLCIC have released: a table of `model` and `mean`.

Its layers have no names: the k-th convolution is row k of the paper's table, and the batch norm
behind it belongs to it. The image is centred on `mean`, the hole becomes 0, the mask is a fourth
channel. Batch norm's epsilon is Torch7's; another one is folded into the variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.weight_import.imported import Color, Imported, checked_color
from pipeline.weight_import.matching import (
    LAST_ROW,
    ROWS,
    layer_name,
    matched_tensors,
    network_on_meta,
    table_of_names,
)
from pipeline.weight_import.torch7 import Torch7Object, read_torch7
from pipeline.weight_import.torch7_layers import Layer, layers_of

AUTHORS = "authors"
LICENCE = (
    "The authors release their weights under CC BY-NC-SA 4.0: no commercial use, name the authors, "
    "and pass on what you make of them under the same licence."
)
TABLE = table_of_names(lambda row: f"convolution {row}", lambda row: f"batch norm {row}")
_EPSILON = 1e-5  # of our batch norm, and by default of Torch7's
_ORDERS: dict[tuple[str, ...], Literal["conv_bn_act", "conv_act_bn"]] = {
    ("norm", "relu"): "conv_bn_act",
    ("relu", "norm"): "conv_act_bn",
}
# attribute of ours: Torch7's two fields, vertical first
_GEOMETRY = {
    "kernel_size": ("kH", "kW"),
    "stride": ("dH", "dW"),
    "padding": ("padH", "padW"),
    "dilation": ("dilationH", "dilationW"),
    "output_padding": ("adjH", "adjW"),
}


def import_authors(path: Path, mean: Color | None) -> Imported:
    """`mean` replaces the file's. Raises ValueError for a file that is damaged or does not fit."""
    try:
        content = read_torch7(path.read_bytes())
        model, stored_mean = _model_and_mean(content)
        rows = _rows(layers_of(model))
        order = _block_order(rows)
    except ValueError as error:
        raise ValueError(f"{path} was not imported: {error}") from error
    config = CompletionConfig(block_order=order)
    given = {name: tensor for row in ROWS for name, tensor in _tensors(row, rows[row]).items()}
    config, ours = matched_tensors(given, TABLE, config, str(path))
    _require_geometry(rows, config, path)
    color = mean if mean is not None else checked_color(stored_mean, f"`mean` in {path}")
    return Imported(AUTHORS, config, ours, color, LICENCE, (LICENCE,))


def _model_and_mean(content: Any) -> tuple[Any, Sequence[float]]:
    """Read the mean, which is empty where the file has none."""
    if isinstance(content, Torch7Object):
        return content, ()  # a network saved by itself
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError("it is no table with a `model`")
    mean = content.get("mean", {})
    if isinstance(mean, np.ndarray):
        return content["model"], [float(value) for value in mean.reshape(-1)[:4]]
    if not isinstance(mean, dict):
        raise ValueError("its `mean` is neither a tensor nor a list")
    values = [mean[position] for position in sorted(key for key in mean if isinstance(key, int))]
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError("its `mean` holds something else than numbers")
    return content["model"], values


def _rows(layers: list[Layer]) -> dict[int, list[Layer]]:
    """Each convolution with what follows it, by its row of the paper's table."""
    rows: dict[int, list[Layer]] = {}
    for layer in layers:
        if layer.kind in ("convolution", "deconvolution"):
            rows[len(rows) + 1] = []
        elif not rows:
            raise ValueError(f"it begins with a {layer.kind} instead of a convolution")
        rows[len(rows)].append(layer)
    if len(rows) != LAST_ROW:
        raise ValueError(f"it has {len(rows)} convolutions, GLCIC's network {LAST_ROW}")
    return rows


def _block_order(rows: dict[int, list[Layer]]) -> Literal["conv_bn_act", "conv_act_bn"]:
    kinds = {row: tuple(layer.kind for layer in layers[1:]) for row, layers in rows.items()}
    order = _ORDERS.get(kinds[1])
    for row in ROWS:
        expected = ("sigmoid",) if row == LAST_ROW else kinds[1]
        if order is None or kinds[row] != expected:
            raise ValueError(
                f"what follows convolution {row} is {', '.join(kinds[row]) or 'nothing'}; expected "
                "are batch norm and ReLU in one order throughout, and a sigmoid at the end"
            )
    assert order is not None
    return order


def _tensors(row: int, layers: list[Layer]) -> dict[str, Tensor]:
    found = {f"convolution {row}.{name}": layers[0].tensor(name) for name in ("weight", "bias")}
    found[f"convolution {row}.weight"] = _four_dimensional(layers[0])
    for layer in layers[1:]:
        if layer.kind == "norm":
            names = ("weight", "bias", "running_mean")
            found |= {f"batch norm {row}.{name}": layer.tensor(name) for name in names}
            found[f"batch norm {row}.running_var"] = _variance(layer)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _four_dimensional(layer: Layer) -> Tensor | None:
    """Older files keep a convolution's weight as (out, in * kH * kW)."""
    weight = layer.tensor("weight")
    if weight is None or weight.ndim != 2 or layer.kind != "convolution":
        return weight
    height, width = (layer.number(name, 0) for name in _GEOMETRY["kernel_size"])
    area = height * width
    if not area >= 1 or weight.shape[1] % area:
        return weight
    return weight.view(weight.shape[0], -1, int(height), int(width))


def _variance(layer: Layer) -> Tensor | None:
    """Such that our epsilon beside it gives what the file's gives."""
    variance = layer.tensor("running_var")
    if variance is not None:
        return variance + (layer.number("eps", _EPSILON) - _EPSILON)
    deviation = layer.tensor("running_std")  # old files: 1 / sqrt(variance + epsilon)
    return None if deviation is None else (deviation.double() ** -2 - _EPSILON).float()


def _require_geometry(rows: dict[int, list[Layer]], config: CompletionConfig, path: Path) -> None:
    network = network_on_meta(config)
    errors = []
    for row in ROWS:
        layer, ours = rows[row][0], network.get_submodule(f"{layer_name(row)}.conv")
        is_deconvolution = isinstance(ours, nn.ConvTranspose2d)
        if (layer.kind == "deconvolution") != is_deconvolution:
            errors.append(f"convolution {row} is a {layer.kind}")
            continue
        for attribute, fields in _GEOMETRY.items():
            expected = getattr(ours, attribute)
            default = 0 if "padding" in attribute else 1
            found = tuple(layer.number(field, default) for field in fields)
            if found != expected:
                errors.append(f"convolution {row} has {attribute} {found}, expected {expected}")
    if errors:
        raise ValueError(f"{path} is another network than GLCIC's:\n  " + "\n  ".join(errors))
