"""Accept the former name of a command-line option, with a line that gives the present one."""

from __future__ import annotations

import argparse
import sys
from typing import Any


class _FormerName(argparse.Action):
    def __init__(self, *names: Any, present_name: str, **options: Any) -> None:
        super().__init__(*names, **options)
        self._present_name = present_name

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        print(
            f"{option_string} was renamed: write {self._present_name}", file=sys.stderr, flush=True
        )
        setattr(namespace, self.dest, True if self.nargs == 0 else values)


def add_former_name(
    parser: argparse.ArgumentParser, former_name: str, option: argparse.Action
) -> None:
    """Let `former_name` set `option` as well; --help does not list it."""
    parser.add_argument(
        former_name,
        action=_FormerName,
        present_name=option.option_strings[0],
        dest=option.dest,
        nargs=option.nargs,
        type=option.type or str,
        choices=option.choices,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
