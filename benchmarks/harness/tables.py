"""Results as tables: on a terminal and in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from benchmarks.harness.result import Measurement, Result
from shards.storage.files import write_bytes

_COLUMNS = ("", "unit", "median", "lowest", "highest", "rounds")


_TITLE = (
    "# Results\n\n"
    "Written by `python -m benchmarks.report` from `results/*.json`; do not edit. Compare figures\n"
    "within one run only, by the ratios, which are of one round each: [README.md](README.md).\n"
)


def print_result(result: Result, console: Console | None = None) -> None:
    console = console or Console()
    for group, figures in _by_group(result):
        table = Table(*_COLUMNS, title=f"{result.name}: {group}")
        for figure in figures:
            table.add_row(*_row(figure))
        console.print(table)
    for own in result.tables:
        table = Table(*own.columns, title=f"{result.name}: {own.title}")
        for row in own.rows:
            table.add_row(*row)
        console.print(table)


def publish(result: Result, url: str) -> None:
    """One line of JSON on standard output, tables on standard error; the JSON to `url`, if any."""
    content = asdict(result)
    print_result(result, Console(stderr=True))
    print(json.dumps(content), flush=True)
    if url:
        write_bytes(url, (json.dumps(content, indent=1) + "\n").encode())


def render_markdown(results: list[Result]) -> str:
    return "\n".join([_TITLE, *(_section(result) for result in results)])


def _section(result: Result) -> str:
    hardware = result.hardware
    gigabytes = hardware.memory_bytes / 1e9
    device = hardware.accelerator or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    lines = [
        f"## {result.name}: {result.parameters.get('source', 'no input')}",
        "",
        f"`{result.command}`",
        "",
        f"- {result.date}, {device}, {hardware.cpu}, {hardware.cores} cores, {gigabytes:.0f} GB",
        f"- {versions}",
        *(f"- {name}: {value}" for name, value in result.parameters.items()),
        "",
    ]
    for group, figures in _by_group(result):
        rows = [_row(figure) for figure in figures]
        lines += [f"### {group}", "", *_markdown(_COLUMNS, rows), ""]
    for table in result.tables:
        lines += [f"### {table.title}", "", *_markdown(table.columns, table.rows), ""]
    for picture in result.pictures:
        lines += [f"![{result.name}](results/{picture})", ""]
    return "\n".join(lines)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: the first two columns are words, the others numbers."""
    yield markdown_line(columns)
    yield "|---|---|" + "---:|" * (len(columns) - 2)
    yield from map(markdown_line, rows)


def markdown_line(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row(figure: Measurement) -> tuple[str, ...]:
    values = [_number(value) for value in (figure.median, figure.minimum, figure.maximum)]
    return (figure.name, figure.unit, *values, str(len(figure.runs)))


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _by_group(result: Result) -> Iterator[tuple[str, list[Measurement]]]:
    for group in dict.fromkeys(figure.group for figure in result.figures):
        yield group, [figure for figure in result.figures if figure.group == group]
