"""The result of an evaluation: means by method and by group of samples, as JSON and as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table

from pipeline.metrics import FIGURES

NETWORK = "glcic"  # the network's name among the methods

Figures = dict[str, float]
# of groups in tables; the JSON has them all
_OF_GROUPS = ("hole_l1_percent", "psnr_db", "ssim", "lpips", "fid", "u_ids_percent")
_Rows = Iterator[tuple[str, list[str]]]


@dataclass(frozen=True)
class Evaluation:
    """Means over the samples: `methods` maps a method to its figures, see `pipeline.metrics`.

    A figure that a method has for none of the samples is left out; one that is not defined for some
    of them is the mean over the others. `by_set` and `by_hole_area` map the name of a group to its
    `num_samples` and `methods`.
    """

    methods: dict[str, Figures]
    num_samples: int
    evaluated: dict[str, Any] = field(default_factory=dict)
    by_set: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_hole_area: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def to_table(self, beside: Mapping[str, Figures] | None = None) -> Group:
        """`beside`: columns that were measured elsewhere."""
        parts = [_table(f"{self.num_samples} validation samples", *self._of_methods(beside or {}))]
        if self._groups():
            parts.append(_table(f"{NETWORK} by the samples' masks", *self._of_groups()))
        return Group(*parts)

    def to_markdown(self, beside: Mapping[str, Figures] | None = None) -> str:
        heads, rows = self._of_methods(beside or {})
        text = _markdown([f"{self.num_samples} samples", *heads], rows)
        if self._groups():
            heads, rows = self._of_groups()
            text += "\n" + _markdown([f"{NETWORK}, by mask", *heads], rows)
        return text

    def _of_methods(self, beside: Mapping[str, Figures]) -> tuple[list[str], _Rows]:
        columns = {**self.methods, **beside}
        present = set().union(*columns.values())
        rows = (
            (heading, [_shown(figures, name) for figures in columns.values()])
            for name, (heading, _) in FIGURES.items()
            if name in present
        )
        return list(columns), rows

    def _groups(self) -> dict[str, dict[str, Any]]:
        areas = {f"hole {name}": one for name, one in self.by_hole_area.items()}
        return {**self.by_set, **areas}

    def _of_groups(self) -> tuple[list[str], _Rows]:
        groups = self._groups()
        present = set().union(*(group["methods"][NETWORK] for group in groups.values()))
        figures = {name: FIGURES[name][0] for name in _OF_GROUPS if name in present}
        rows = (
            (
                label,
                [
                    str(group["num_samples"]),
                    *(_shown(group["methods"][NETWORK], name) for name in figures),
                ],
            )
            for label, group in groups.items()
        )
        return ["samples", *figures.values()], rows


def _shown(figures: Figures, name: str) -> str:
    return f"{figures[name]:.{FIGURES[name][1]}f}" if name in figures else "-"


def _table(title: str, heads: Sequence[str], rows: _Rows) -> Table:
    table = Table("", title=title)
    for head in heads:
        table.add_column(head, justify="right")
    for heading, values in rows:
        table.add_row(heading, *values)
    return table


def _markdown(heads: Sequence[str], rows: _Rows) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += [f"| {' | '.join([heading, *values])} |" for heading, values in rows]
    return "\n".join(lines) + "\n"
