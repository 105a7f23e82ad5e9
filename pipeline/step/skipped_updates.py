"""Updates that were left out because a loss or a gradient was not finite, counted on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.step.training_step import Figures

_FIGURE = "_skipped"  # what Player.update_ calls it, after the network's name


class SkippedUpdates:
    """Counts of one run since its start, by network. All ranks hold the same."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}  # left out one after another, up to the last step
        self._longest_rows: dict[str, Tensor] = {}

    def add(self, figures: Figures) -> None:
        """After a step; touches the device without waiting for it."""
        for name, skipped in figures.items():
            if not name.endswith(_FIGURE):
                continue
            network = name.removesuffix(_FIGURE)
            zero = torch.zeros_like(skipped)
            row = (self._rows.get(network, zero) + 1) * skipped
            self._rows[network] = row
            self._totals[network] = self._totals.get(network, zero) + skipped
            self._longest_rows[network] = torch.maximum(self._longest_rows.get(network, zero), row)

    def totals(self) -> dict[str, int]:
        """By network. Waits for the device."""
        return _read(self._totals)

    def longest_rows(self) -> dict[str, int]:
        """By network, the most updates left out in a row. Waits for the device."""
        return _read(self._longest_rows)


def _read(counts: dict[str, Tensor]) -> dict[str, int]:
    if not counts:
        return {}
    values = torch.stack(list(counts.values())).tolist()
    return {network: int(value) for network, value in zip(counts, values, strict=True)}
