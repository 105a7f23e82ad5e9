"""Make docs/reference/configuration.md from the dataclasses of the configuration.

A row is a field: its name, its type, its default, and the comment beside it or above it.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from typing import Any

from docs_site.markdown import code, docstring, prose, table
from pipeline.config.schema import Config

_HEAD = """\
# Configuration reference

Made by `python -m docs_site` from `pipeline/config/schema.py`.
[Configuration and presets](../configuration.md) says how to set a field, and which ones people
change.

A field of the section `loss` is `--loss.alpha VALUE` on the command line, and
`loss: {alpha: VALUE}` in a preset. A preset may leave out any field. The default counts then.
"""
_WIDTH = 120


def configuration_page() -> str:
    """Return the page: a section for each section of the configuration, in the code's order."""
    parts = [_HEAD, "## The run", "", *_field_table(Config, Config()), ""]
    for name, value in _sections(Config()):
        parts += [f"## `{name}`", "", *_section(type(value), value), ""]
    for name, kind in _elements(Config):
        parts += [f"## Elements of `{name}`", "", *_section(kind), ""]
    return "\n".join(parts)


def field_comments(section: type) -> dict[str, str]:
    """Return the comment of each field that has one.

    The comment lines right above a field come first, then the one that ends its line. Raises
    OSError where the source of the class cannot be read.
    """
    source = textwrap.dedent(inspect.getsource(section))
    names = {field.name for field in dataclasses.fields(section)}
    comments: dict[str, str] = {}
    above: list[str] = []
    field = ""  # of the line that is being read
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and not field and token.string in names:
            if token.start[1] == 4:  # a field begins where the body of the class does
                field = token.string
        elif token.type == tokenize.COMMENT:
            text = token.string.removeprefix("#").strip()
            if token.line.lstrip().startswith("#"):
                above.append(text)
            elif field:
                comments[field] = " ".join([*above, text])
        elif token.type == tokenize.NEWLINE:
            if field and above:
                comments.setdefault(field, " ".join(above))
            field, above = "", []
    return comments


def _sections(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield prefix + field.name, value
            yield from _sections(value, f"{prefix}{field.name}.")


def _elements(section: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield the fields that hold several dataclasses, and the class of their elements."""
    for field, kind in _types(section):
        elements = [one for one in typing.get_args(kind) if dataclasses.is_dataclass(one)]
        if dataclasses.is_dataclass(kind):
            yield from _elements(typing.cast(type, kind), f"{prefix}{field.name}.")
        for element in elements:
            yield prefix + field.name, typing.cast(type, element)


def _types(section: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        yield field, hints[field.name]


def _section(kind: type, value: Any = None) -> list[str]:
    text = textwrap.wrap(prose(" ".join(docstring(kind).split())), _WIDTH)
    return [*text, *([""] if text else []), *_field_table(kind, value)]


def _field_table(section: type, values: Any) -> list[str]:
    """Return a table of the fields, with the values of `values`, or of the class if it is None."""
    comments = field_comments(section)
    rows = [
        (
            code(field.name),
            _type_name(kind),
            code(_preset_value(_default(field, values))),
            prose(comments.get(field.name, "")),
        )
        for field, kind in _types(section)
        if not dataclasses.is_dataclass(kind) or values is None  # else it has its own table
    ]
    return table(("field", "type", "default", "meaning"), rows)


def _type_name(kind: Any) -> str:
    """Return the type in words, a choice by its values."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(code(str(value)) for value in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        return f"list of {_type_name(element)}s"
    if len(typing.get_args(kind)) > 1:
        return " or ".join(_type_name(one) for one in typing.get_args(kind))
    if dataclasses.is_dataclass(kind):
        return "section"  # as in the table of the same class
    names = {bool: "true, false", int: "whole number", float: "number", str: "text"}
    return names[kind]


def _default(field: dataclasses.Field[Any], values: Any) -> Any:
    if values is not None:
        return getattr(values, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _preset_value(value: Any) -> str:
    """Return the value as a preset has it; nothing for a section and for a field without one."""
    if value is dataclasses.MISSING or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value) or '""'
