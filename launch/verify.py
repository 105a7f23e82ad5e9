"""`glcic verify SET`: find every problem of a packed set, to the last byte."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from launch.command import EXIT_DATA
from launch.support.progress import PlainProgress
from shards.format.finding import Finding
from shards.inspection.shard_check import ShardResult
from shards.inspection.verify import verify_set


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="glcic verify",
        description="Check a packed set: hashes, archives, images, descriptions, masks and keys. "
        f"Prints every problem; the exit status is 0 where there is none, else {EXIT_DATA}.",
    )
    parser.add_argument("shards", metavar="SET", help="folder or URL of the packed set")
    parser.add_argument("--split", default="", help="only this one (all of them)")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores (%(default)s)")
    options = parser.parse_args(arguments)
    if options.threads < 0:
        raise ValueError(f"--threads is {options.threads}: at least 0")
    console = Console()
    begin = time.perf_counter()
    summary = _verify(console, options)
    summary.print(console, options.shards, time.perf_counter() - begin)
    return EXIT_DATA if summary.kinds else 0


def _verify(console: Console, options: argparse.Namespace) -> _Summary:
    columns = (
        TextColumn("verifying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards"),
        TimeRemainingColumn(),
    )
    summary = _Summary()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("verifying", total=None)
        line = PlainProgress("verified", "shards")

        def progress(result: ShardResult, done: int, total: int) -> None:
            summary.count_shard(result)
            bar.update(task, completed=done, total=total)
            if not console.is_terminal:
                line(done, total)

        for finding in verify_set(options.shards, options.split, options.threads, progress):
            summary.count_finding(finding)
            # A finding may quote bytes that are no text.
            text = str(finding).encode(errors="replace").decode()
            console.print(escape(text), highlight=False, soft_wrap=True)
    return summary


class _Summary:
    """Counts of what was checked and found, by split."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self._shards: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._findings: Counter[str] = Counter()

    def count_shard(self, result: ShardResult) -> None:
        self._shards[result.split] += 1
        self._images[result.split] += result.num_images
        self._bytes[result.split] += result.num_bytes
        self._findings[result.split] += len(result.findings)

    def count_finding(self, finding: Finding) -> None:
        self.kinds[finding.what] += 1

    def print(self, console: Console, url: str, seconds: float) -> None:
        title = f"{escape(url)}: verified in {seconds:.1f} s"
        table = Table(title=title, title_justify="left")
        for heading in ("split", "shards", "images", "MB", "problems"):
            table.add_column(heading, justify="left" if heading == "split" else "right")
        for split, shards in self._shards.items():
            table.add_row(
                escape(split),
                f"{shards:,}",
                f"{self._images[split]:,}",
                f"{self._bytes[split] / 1e6:.1f}",
                f"{self._findings[split]:,}",
            )
        elsewhere = self.kinds.total() - self._findings.total()
        if elsewhere:
            table.add_row("whole set", "", "", "", f"{elsewhere:,}")
        console.print(table)
        for kind, count in self.kinds.most_common():
            console.print(escape(f"{count:,} × {kind}"), highlight=False, soft_wrap=True)
        verdict = f"{self.kinds.total():,} problems" if self.kinds else "no problem was found"
        console.print(f"[bold]{verdict}[/bold]", highlight=False)


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("verify", main))
