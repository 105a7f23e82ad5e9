"""Make docs/reference/commands.md from the parsers of the `glcic` verbs."""

from __future__ import annotations

import argparse
import importlib
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from docs_site.markdown import code, prose, table
from launch.command import (
    EXIT_DATA,
    EXIT_IO,
    EXIT_NO_INPUT,
    EXIT_SOFTWARE,
    EXIT_TRY_AGAIN,
    EXIT_USAGE,
    VERBS,
)

_HEAD = """\
# Command reference

Made by `python -m docs_site` from the parsers of `launch/`. `glcic VERB --help` prints the same.

Every verb is also a script, `python launch/VERB.py`, which needs no installation.
A verb that takes fields of the configuration also takes `--config PRESET` and `--print-config`.
[The configuration reference](configuration.md) lists the fields.
"""
_EXIT_STATUSES = (
    ("0", "done"),
    ("2", "the command line has an unknown option, or lacks one"),
    (str(EXIT_USAGE), "there is no such verb"),
    (str(EXIT_DATA), "a value or a file is not what it must be"),
    (str(EXIT_NO_INPUT), "a file or a folder is missing"),
    (str(EXIT_SOFTWARE), "something failed while the verb ran"),
    (str(EXIT_IO), "the disk or the store failed"),
    (str(EXIT_TRY_AGAIN), "stopped by a signal after a save; the same command continues"),
    ("130", "ended by Ctrl-C"),
)
_WIDTH = 120


class _Caught(Exception):
    """Carry a parser out of the verb that has built it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def commands_page() -> str:
    """Return the page: a section for each verb, in the order of `launch.command.VERBS`."""
    parts = [_HEAD]
    for verb, purpose in VERBS.items():
        parts += [f"## `glcic {verb}`", "", *_section(verb, purpose), ""]
    parts += ["## Exit statuses", "", *table(("status", "meaning"), _EXIT_STATUSES)]
    return "\n".join(parts) + "\n"


def parser_of(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, as it is when the verb reads its command line.

    Raises RuntimeError for a verb that returns without having read it.
    """
    entry = importlib.import_module(f"launch.{verb}").main
    with _parsing_raises():
        try:
            entry([])
        except _Caught as caught:
            return caught.parser
    raise RuntimeError(f"glcic {verb} reads its command line by other means than argparse")


@contextmanager
def _parsing_raises() -> Iterator[None]:
    """Let every parser raise `_Caught` instead of parsing."""

    def parse_args(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _Caught(self)

    original = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]


def _section(verb: str, purpose: str) -> list[str]:
    parser = parser_of(verb)
    text = " ".join((parser.description or purpose).split())
    lines = [*textwrap.wrap(prose(text), _WIDTH), "", "```sh", _usage(parser), "```"]
    rows = [(_name(action), prose(_meaning(action, parser))) for action in _listed_actions(parser)]
    if rows:
        lines += ["", *table(("argument", "meaning"), rows)]
    fields = _sections_of_configuration(parser)
    if fields:
        lines += ["", *textwrap.wrap(f"Fields of the configuration: {fields}.", _WIDTH)]
    return lines


def _listed_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = ("help", "config", "print_config")
    return [
        action
        for action in parser._actions
        if action.dest not in hidden and action.help != argparse.SUPPRESS
    ]


def _usage(parser: argparse.ArgumentParser) -> str:
    if parser.usage:
        return parser.usage
    positionals = [_values(one) for one in _listed_actions(parser) if not one.option_strings]
    required = [
        f"{one.option_strings[0]} {_values(one)}".strip()
        for one in _listed_actions(parser)
        if one.option_strings and one.required
    ]
    return " ".join([parser.prog, *positionals, *required, "[OPTIONS]"])


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return code(_placeholder(action))
    return code(f"{', '.join(action.option_strings)} {_values(action)}".strip())


def _placeholder(action: argparse.Action) -> str:
    if action.metavar is not None:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper()


def _values(action: argparse.Action) -> str:
    """Return what follows the option: `N`, `[N ...]`, or nothing for a switch."""
    placeholder = _placeholder(action)
    if action.nargs is None:
        return placeholder
    if action.nargs == 0:
        return ""
    forms = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} [{0} ...]"}
    return forms.get(str(action.nargs), "{0}").format(placeholder)


def _meaning(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Return the help with its default filled in, as argparse prints it."""
    values = {**vars(action), "prog": parser.prog}
    return " ".join((action.help or "").split()) % values


def _sections_of_configuration(parser: argparse.ArgumentParser) -> str:
    """Return the sections whose fields the verb takes, from the list at the end of its help."""
    lines = [line.strip() for line in (parser.epilog or "").splitlines()]
    paths = [line.removeprefix("--").split()[0] for line in lines if line.startswith("--")]
    sections = dict.fromkeys(path.split(".")[0] for path in paths)
    return ", ".join(code(name) for name in sections)
