"""What one Prometheus metric is, as data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Of every series. `host` is not called node, which scrape configurations like to use themselves.
COMMON_LABELS = ("run", "host")

_SECONDS = tuple(base * 10.0**power for power in range(-3, 2) for base in (1, 2, 5))


@dataclass(frozen=True)
class Metric:
    """`labels` maps a name to the values that are known in advance; none: they come with the run.

    A counter whose labels are all known begins at zero: of one that begins at one, Prometheus would
    not see the first increase.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by: Literal["rank 0", "node"] = "rank 0"  # who exports it
    buckets: tuple[float, ...] = _SECONDS  # of a histogram, upper bounds

    @property
    def label_sets(self) -> list[dict[str, str]]:
        """Those that are known; one without labels for a metric without."""
        values = itertools.product(*self.labels.values())
        return [dict(zip(self.labels, one, strict=True)) for one in values]
