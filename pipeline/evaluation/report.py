"""The result of an evaluation: means by method and by group of samples, as JSON and as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from pipeline.evaluation.metrics import METRICS

NETWORK = "glcic"  # the network's name among the methods
BLENDED = "glcic blended"  # its completions after the paper's post-processing

Metrics = dict[str, float]
# of groups in tables; the JSON has them all
_OF_GROUPS = ("hole_l1_percent", "psnr_db", "ssim", "lpips", "fid", "u_ids_percent")
# of the tables of intervals, where there is room for few; the JSON has them all
_WITH_INTERVALS = ("hole_psnr_db", "hole_mse", "ssim", "lpips")

_HYPHEN = re.compile(r"(?<=[a-z])-(?=[A-Z])")  # where a long name may be broken


class _Table(NamedTuple):
    title: str
    heads: list[str]  # of the columns after the first
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Evaluation:
    """Means over the samples: `methods` maps a method to its figures, see
    `pipeline.evaluation.metrics`.

    A figure that a method has for none of the samples is left out; one that is not defined for some
    of them is the mean over the others. `by_set` and `by_hole_area` map the name of a group to its
    `num_samples` and `methods`. `intervals` is what `pipeline.evaluation.bootstrap_intervals`
    returns; results written by earlier versions have none.
    """

    methods: dict[str, Metrics]
    num_samples: int
    evaluated: dict[str, Any] = field(default_factory=dict)
    by_set: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_hole_area: dict[str, dict[str, Any]] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def to_table(self, beside: Mapping[str, Metrics] | None = None) -> Group:
        """`beside`: columns that were measured elsewhere."""
        return Group(*map(_for_the_console, self._tables(beside or {})), *self.notes())

    def to_markdown(self, beside: Mapping[str, Metrics] | None = None) -> str:
        parts = [*map(_markdown, self._tables(beside or {})), *(f"{n}\n" for n in self.notes())]
        return "\n".join(parts)

    def notes(self) -> list[str]:
        """Sentences that belong below the tables."""
        missing = self.evaluated.get("baselines_left_out", {})
        return [f"{method} is left out: {reason}" for method, reason in missing.items()]

    def _tables(self, beside: Mapping[str, Metrics]) -> list[_Table]:
        tables = [self._of_methods(beside)]
        if self.intervals:
            tables += [
                self._of_intervals(),
                self._of_differences(NETWORK, self.intervals["differences"]),
            ]
            for method, differences in self.intervals.get("differences_of", {}).items():
                tables.append(self._of_differences(method, differences))
        if self._groups():
            tables.append(self._of_groups())
        return [table for table in tables if table.rows]

    def _of_methods(self, beside: Mapping[str, Metrics]) -> _Table:
        columns = {**self.methods, **beside}
        present = set().union(*columns.values())
        rows = [
            (heading, [_format_value(metrics, name) for metrics in columns.values()])
            for name, (heading, _) in METRICS.items()
            if name in present
        ]
        return _Table(f"{self.num_samples} samples", list(columns), rows)

    def _of_intervals(self) -> _Table:
        found = self.intervals["methods"]
        names = _present(_WITH_INTERVALS, found.values())

        def cell(method: str, name: str) -> str:
            if name not in found[method]:
                return "-"
            low, high = (_round(value, name) for value in found[method][name])
            return f"{_format_value(self.methods[method], name)} ({low} to {high})"

        rows = [(method, [cell(method, name) for name in names]) for method in found]
        percent = f"{100 * self.intervals['confidence']:.0f} % intervals"
        return _Table(
            f"{percent} over {self.intervals['num_images']} images", _headings(names), rows
        )

    def _of_differences(self, minuend: str, found: Mapping[str, Any]) -> _Table:
        names = _present(_WITH_INTERVALS, found.values())

        def cell(method: str, name: str) -> str:
            if name not in found[method]:
                return "-"
            mean, low, high = (
                f"{found[method][name][key]:+.{METRICS[name][1]}f}"
                for key in ("mean", "low", "high")
            )
            return f"{mean} ({low} to {high})"

        rows = [(method, [cell(method, name) for name in names]) for method in found]
        return _Table(f"{minuend} minus the method, image by image", _headings(names), rows)

    def _groups(self) -> dict[str, dict[str, Any]]:
        areas = {f"hole {name}": one for name, one in self.by_hole_area.items()}
        return {**self.by_set, **areas}

    def _of_groups(self) -> _Table:
        groups = self._groups()
        names = _present(_OF_GROUPS, (group["methods"][NETWORK] for group in groups.values()))
        rows = [
            (
                label,
                [
                    str(group["num_samples"]),
                    *(_format_value(group["methods"][NETWORK], name) for name in names),
                ],
            )
            for label, group in groups.items()
        ]
        return _Table(f"{NETWORK}, by mask", ["samples", *_headings(names)], rows)


def _present(names: Sequence[str], of_methods: Iterable[Mapping[str, Any]]) -> list[str]:
    present = set().union(*of_methods)
    return [name for name in names if name in present]


def _headings(names: Sequence[str]) -> list[str]:
    return [METRICS[name][0] for name in names]


def _round(value: float, name: str) -> str:
    return f"{value:.{METRICS[name][1]}f}"


def _format_value(metrics: Metrics, name: str) -> str:
    return _round(metrics[name], name) if name in metrics else "-"


def _for_the_console(table: _Table) -> Table:
    # Without lines between columns: seven methods fit into 80 characters, and no digit is cut off.
    shown = Table(title=table.title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    shown.add_column("", min_width=10)
    for head in table.heads:
        shown.add_column(_HYPHEN.sub("-\n", head), justify="right", no_wrap=" " not in head)
    for heading, values in table.rows:
        shown.add_row(heading, *(value.replace(" (", "\n(") for value in values))
    return shown


def _markdown(table: _Table) -> str:
    heads = [table.title, *table.heads]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(table.heads)]
    lines += [f"| {' | '.join([heading, *values])} |" for heading, values in table.rows]
    return "\n".join(lines) + "\n"
