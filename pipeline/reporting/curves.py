"""The loss curves of a run as one picture."""

from __future__ import annotations

import io
from typing import Any

_PANELS = {
    "Reconstruction loss": ("reconstruction",),
    "Adversarial losses": ("adversarial", "discriminator"),
    "Discriminator accuracy": ("accuracy_real", "accuracy_fake"),
    "Validation: PSNR in the hole, dB": ("evaluation_hole_psnr_db",),
}
_PHASE_COLORS = {"completion": "#e8f1fa", "discriminator": "#fdf0e1", "joint": "#eaf6ea"}


def draw_curves(records: list[dict[str, Any]]) -> bytes:
    """A PNG of the records of `metrics.jsonl`; the phases are shaded behind the curves."""
    from matplotlib.figure import Figure  # half a second to import: only when a picture is drawn

    panels = {
        title: names
        for title, names in _PANELS.items()
        if any(name in record for record in records for name in names)
    }
    figure = Figure(figsize=(9, 2.4 * max(1, len(panels))), layout="constrained")
    axes = figure.subplots(max(1, len(panels)), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        _shade_phases(axis, records)
        for name in names:
            points = [(r["step"], r[name]) for r in records if name in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1.4)
        if "loss" in title and all(r[n] > 0 for r in records for n in names if n in r):
            axis.set_yscale("log")
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="best")
    _name_phases(axes[0], records)
    axes[-1].set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _shade_phases(axis: Any, records: list[dict[str, Any]]) -> None:
    for phase, start, end in _phases(records):
        axis.axvspan(start, end, color=_PHASE_COLORS[phase], zorder=0)


def _name_phases(axis: Any, records: list[dict[str, Any]]) -> None:
    """Above the first panel, on the right of its title."""
    names = "  |  ".join(f"{phase} to {end}" for phase, _, end in _phases(records))
    axis.set_title(names, fontsize=9, loc="right", color="#555555")


def _phases(records: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    """(phase, first step, last step) of those that the records show."""
    phases, start = [], 0
    for phase in _PHASE_COLORS:
        steps = [record["step"] for record in records if record.get("phase") == phase]
        if steps:
            phases.append((phase, start, max(steps)))
            start = max(steps)
    return phases
