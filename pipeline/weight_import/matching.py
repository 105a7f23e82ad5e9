"""Named tensors of another project, checked one by one against the paper's network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pipeline.config.schema import CompletionConfig
from pipeline.networks.glcic import CompletionNetwork

ROWS = range(1, 18)  # of the paper's table
LAST_ROW = 17  # it has no batch norm
DECONVOLUTIONS = (13, 15)
_CONVOLUTION = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_MAX_WIDTH = 1024
_MAX_LISTED = 12  # errors in one message


def layer_name(row: int) -> str:
    """Of our network."""
    stage = "encoder" if row <= 6 else "middle" if row <= 12 else "decoder"
    return f"{stage}.{row}"


def table_of_names(conv: Callable[[int], str], norm: Callable[[int], str]) -> dict[str, str]:
    """Our name of each tensor to theirs, from their names of a row's two layers."""
    table: dict[str, str] = {}
    for row in ROWS:
        ours = layer_name(row)
        table |= {f"{ours}.conv.{name}": f"{conv(row)}.{name}" for name in _CONVOLUTION}
        if row != LAST_ROW:
            table |= {f"{ours}.norm.{name}": f"{norm(row)}.{name}" for name in _NORM}
    return table


def network_on_meta(config: CompletionConfig) -> nn.Module:
    """Shapes and layers without memory for them."""
    with torch.device("meta"):
        return CompletionNetwork(config)


def matched_tensors(
    given: Mapping[str, Tensor],
    table: Mapping[str, str],
    config: CompletionConfig,
    source: str,
    *,
    absent: Iterable[str] = (),
) -> tuple[CompletionConfig, dict[str, Tensor]]:
    """`config` at the width that the tensors have, and the state dict but for the fill colour.

    Ours that are named in `absent` may be missing and are then zero, as batch norm's counters may.
    Raises ValueError with all tensors that are missing, unexpected or of another shape, and with
    those that hold no finite numbers.
    """
    config = replace(config, width=_width(given, table["encoder.1.conv.weight"], source))
    expected = network_on_meta(config).state_dict()
    optional = {*absent, *(name for name in table if name.endswith("num_batches_tracked"))}
    errors = [f"{name} is not part of it" for name in given.keys() - set(table.values())]
    tensors = {}
    for ours, theirs in table.items():
        shape = expected[ours].shape
        if theirs not in given:
            if ours not in optional:
                errors.append(f"{theirs} {list(shape)} is missing")
            tensors[ours] = torch.zeros(shape, dtype=expected[ours].dtype)
        elif given[theirs].shape != shape:
            errors.append(f"{theirs} is {list(given[theirs].shape)}, expected {list(shape)}")
        elif given[theirs].is_floating_point() != expected[ours].is_floating_point():
            errors.append(f"{theirs} is of type {given[theirs].dtype}")
        elif not bool(given[theirs].isfinite().all()):
            errors.append(f"{theirs} holds numbers that are not finite")
        else:
            tensors[ours] = given[theirs].to(expected[ours].dtype).contiguous()
    for ours in tensors.keys() & {name for name in table if name.endswith("running_var")}:
        if bool((tensors[ours] < 0).any()):
            errors.append(f"{table[ours]} holds negative variances")
    _raise_if_any(errors, config, source)
    return config, tensors


def _width(given: Mapping[str, Tensor], first: str, source: str) -> int:
    """Output channels of the first layer."""
    shape = list(given[first].shape) if first in given else None
    if shape is None or len(shape) != 4 or shape[1:] != [4, 5, 5]:
        was = "is missing" if shape is None else f"is {shape}"
        raise ValueError(
            f"{source} holds no completion network of GLCIC: {first}, expected [width, 4, 5, 5], "
            f"{was}"
        )
    if shape[0] % 2 or not 8 <= shape[0] <= _MAX_WIDTH:
        raise ValueError(
            f"{source}: {first} has {shape[0]} output channels; an even width of 8 to {_MAX_WIDTH} "
            "is supported"
        )
    return int(shape[0])


def _raise_if_any(errors: list[str], config: CompletionConfig, source: str) -> None:
    if not errors:
        return
    listed = sorted(errors)[:_MAX_LISTED]
    if len(errors) > _MAX_LISTED:
        listed.append(f"and {len(errors) - _MAX_LISTED} more")
    raise ValueError(
        f"{source} does not fit GLCIC's completion network of width {config.width}:\n  "
        + "\n  ".join(listed)
    )
