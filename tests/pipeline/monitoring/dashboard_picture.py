"""The panels of the dashboard, drawn by matplotlib from the answers of a Prometheus server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from tests.pipeline.monitoring.manifests import dashboard, panel_query
from tests.pipeline.monitoring.prometheus_server import PrometheusServer

_RATE_INTERVAL = "10s"
_UNITS = {"percentunit": "share", "s": "s", "dB": "dB", "bytes": "bytes", "Bps": "bytes/s"}
_STYLES = ("-", "--", ":", "-.")


def draw_dashboard(server: PrometheusServer, start: float, stop: float, path: Path) -> None:
    """Rows whose panels all are empty, for want of what they show, are left out."""
    rows = [(title, drawn) for title, drawn in _rows(server, start, stop) if any(
        series for _, series in drawn)]  # fmt: skip
    columns = 3
    heights = [-(-len(drawn) // columns) for _, drawn in rows]
    figure = plt.figure(figsize=(20, 3 * sum(heights)), layout="constrained")
    grid = figure.add_gridspec(sum(heights), columns)
    colors = _colors([series for _, drawn in rows for _, series in drawn])
    line = 0
    for (title, drawn), height in zip(rows, heights, strict=True):
        for number, (panel, series) in enumerate(drawn):
            axes = figure.add_subplot(grid[line + number // columns, number % columns])
            axes.set_title(f"{title}: {panel['title']}", fontsize=11, loc="left")
            _draw(axes, panel, series, colors, (stop - start) / 60)
        line += height
    handles = [plt.Line2D([], [], color=color, lw=4, label=run) for run, color in colors.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(colors), fontsize=13)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


Series = tuple[str, str, np.ndarray, np.ndarray]  # run, what it is besides, minutes, values


def _rows(
    server: PrometheusServer, start: float, stop: float
) -> list[tuple[str, list[tuple[dict[str, Any], list[Series]]]]]:
    rows: list[tuple[str, list[tuple[dict[str, Any], list[Series]]]]] = []
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            rows.append((panel["title"], []))
            continue
        series = []
        for target in panel["targets"]:
            query = panel_query(target["expr"], _RATE_INTERVAL)
            for one in server.query_range(query, start, stop, 1):
                series.append(_series(one, target["legendFormat"], start, stop))
        rows[-1][1].append((panel, series))
    return rows


def _series(answer: dict[str, Any], legend: str, start: float, stop: float) -> Series:
    """On a grid of seconds, NaN where there is no value."""
    values = np.full(int(stop - start) + 1, np.nan)
    for moment, value in answer["values"]:
        values[min(round(moment - start), len(values) - 1)] = float(value)
    labels = answer["metric"]
    text = re.sub(r"\{\{(\w+)\}\}", lambda m: "" if m[1] == "run" else labels.get(m[1], ""), legend)
    return labels.get("run", ""), text.strip(), np.arange(len(values)) / 60, values


def _colors(all_series: list[list[Series]]) -> dict[str, Any]:
    runs = dict.fromkeys(run for series in all_series for run, *_ in series if run)
    return {run: plt.get_cmap("tab10")(number) for number, run in enumerate(runs)}


def _draw(
    axes: Axes, panel: dict[str, Any], series: list[Series], colors: dict[str, Any], minutes: float
) -> None:
    kinds = list(dict.fromkeys(kind for _, kind, *_ in series))
    if panel["type"] == "stat":
        axes.axis("off")
        for number, (run, _, _, values) in enumerate(series):
            known = values[~np.isnan(values)]
            axes.text(0.02, 0.85 - 0.17 * number, f"{run}: {_told(known[-1], panel)}",
                      color=colors.get(run, "black"), fontsize=13)  # fmt: skip
        return
    axes.set_xlim(0, minutes)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if panel["type"] == "state-timeline" or panel["title"] == "Alerts":
        _draw_bars(axes, series, colors)
        return
    for run, kind, time, values in series:
        style = _STYLES[kinds.index(kind) % len(_STYLES)]
        axes.plot(time, values, style, color=colors.get(run, "gray"), lw=1.4)
    for number, kind in enumerate(kinds if len(kinds) > 1 else []):
        axes.plot([], [], _STYLES[number % len(_STYLES)], color="black", label=kind)
    if len(kinds) > 1:
        axes.legend(fontsize=7, loc="upper left")
    axes.set_ylabel(_UNITS.get(panel["fieldConfig"]["defaults"]["unit"], ""), fontsize=8)
    if not series:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes, color="gray")


def _draw_bars(axes: Axes, series: list[Series], colors: dict[str, Any]) -> None:
    """One line for each state or alert, where it holds."""
    kinds = sorted({kind for _, kind, *_ in series if kind})
    for run, kind, time, values in series:
        if kind:
            height = np.where(values > 0, kinds.index(kind), np.nan)
            axes.plot(time, height, color=colors.get(run, "gray"), lw=9, solid_capstyle="butt")
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes.set_ylim(-0.6, max(len(kinds), 1) - 0.4)


def _told(value: float, panel: dict[str, Any]) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value / 3600:.3g} h"
    return f"{value:g}"
