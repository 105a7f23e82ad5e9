"""Count, on the device, the updates skipped because a loss or a gradient was not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.step.training_step import StepMetrics

_SUFFIX = "_skipped"  # of the metric, after the network's name


class SkippedUpdates:
    """Counts of one run since its start, by network. All ranks hold the same."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._streaks: dict[str, Tensor] = {}  # skipped one after another, up to the last step
        self._longest_streaks: dict[str, Tensor] = {}

    def add(self, metrics: StepMetrics) -> None:
        """Count after a step, without waiting for the device."""
        for name, skipped in metrics.items():
            if not name.endswith(_SUFFIX):
                continue
            network = name.removesuffix(_SUFFIX)
            zero = torch.zeros_like(skipped)
            streak = (self._streaks.get(network, zero) + 1) * skipped
            self._streaks[network] = streak
            self._totals[network] = self._totals.get(network, zero) + skipped
            self._longest_streaks[network] = torch.maximum(
                self._longest_streaks.get(network, zero), streak
            )

    def totals(self) -> dict[str, int]:
        """Return the count by network. Waits for the device."""
        return _read(self._totals)

    def longest_streaks(self) -> dict[str, int]:
        """Return, by network, the most updates skipped in a row. Waits for the device."""
        return _read(self._longest_streaks)


def _read(counts: dict[str, Tensor]) -> dict[str, int]:
    if not counts:
        return {}
    values = torch.stack(list(counts.values())).tolist()
    return {network: int(value) for network, value in zip(counts, values, strict=True)}
