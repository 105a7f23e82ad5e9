"""The command line of every verb that takes a configuration: a preset and overrides of its fields.

`--config quickstart --train.batch-size 32` reads the preset that ships under that name (or a file),
then replaces single fields. A field is named by its path in the tree; `-` and `_` are the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.loading import config_mapping, parse_config
from pipeline.config.schema import Config
from pipeline.device.precision import with_precision

PRESETS = Path(__file__).parents[1] / "presets"
_TOP_LEVEL = {entry.name for entry in dataclasses.fields(Config) if entry.default is not
              dataclasses.MISSING}  # fmt: skip


def parse_with_config(
    parser: argparse.ArgumentParser, arguments: list[str], sections: tuple[str, ...] = ()
) -> tuple[argparse.Namespace, Config]:
    """Return the verb's own options, and the configuration.

    The options hold `named_fields` too: the paths that the preset or the command line sets.
    Raises ValueError with every error. Exits for --help and --print-config.

    `sections` are those that the verb reads: on its command line fields of others are refused,
    where they would do nothing. None named: all.
    """
    parser.allow_abbrev = False
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--config", metavar="PRESET", help="a YAML file, or the name of a preset that ships"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )
    parser.epilog = "fields of the configuration, each with its default:\n" + "\n".join(
        f"  --{path} {value!r}"
        for path, value in leaves(config_mapping(Config()))
        if _concerns(path, sections)
    )
    overrides, rest = _split_overrides(arguments)
    options = parser.parse_args(rest)
    mapping = _read_preset(options.config) if options.config else {}
    for path, value in overrides:
        if path.split(".")[0] in config_mapping(Config()) and not _concerns(path, sections):
            raise ValueError(f"--{path} changes nothing here; fields of: {', '.join(sections)}")
        _replace(mapping, path, _value(path, value))
    config = parse_config(mapping, sections)
    if not sections:  # those that only pack or index compute nothing
        config = with_precision(config)
    if options.print_config:
        print(yaml.safe_dump(config_mapping(config), sort_keys=False), end="")
        sys.exit(0)
    options.named_fields = frozenset(path for path, value in leaves(mapping) if value is not None)
    return options, config


def _concerns(path: str, sections: tuple[str, ...]) -> bool:
    return not sections or path.split(".")[0] in sections


def leaves(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a configuration's mapping by their paths, such as `loss.alpha`."""
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _split_overrides(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Fields of the configuration apart from what the verb's own parser is to read."""
    overrides, rest = [], []
    remaining = iter(arguments)
    for argument in remaining:
        name, has_value, value = argument.removeprefix("--").partition("=")
        path = name.replace("-", "_")
        if not argument.startswith("--") or ("." not in path and path not in _TOP_LEVEL):
            rest.append(argument)
            continue
        if not has_value:
            value = next(remaining, "--")
            if value.startswith("--"):
                raise ValueError(f"--{name} needs a value: --{name} VALUE")
        overrides.append((path, value))  # the configuration knows its type
    return overrides, rest


def _value(path: str, text: str) -> Any:
    """Lists and mappings are read as YAML; of anything else the configuration knows the type."""
    is_text = isinstance(dict(leaves(config_mapping(Config()))).get(path), str)
    if is_text or not text.startswith(("[", "{")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--{path} {text}: this is not YAML: {error}") from error


def _read_preset(name: str) -> dict[str, Any]:
    return read_yaml(name, PRESETS, f"--config {name}", "presets")


def read_yaml(name: str, shipped: Path, asked: str, kind: str) -> dict[str, Any]:
    """Return the mapping in a file, or in the one of that name in the folder `shipped`.

    Raises ValueError, in the words of what was `asked`, where there is none.
    """
    path = Path(name)
    if not path.is_file() and path.name == name:
        path = shipped / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in shipped.glob("*.yaml")))
        raise ValueError(f"{asked}: no such file; {kind} that ship: {known}")
    try:
        mapping = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(mapping, dict):
        raise ValueError(f"{path} holds no mapping of fields to values")
    return mapping


def _replace(mapping: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        inner = mapping[section] = mapping.get(section) or {}
        if not isinstance(inner, dict):
            raise ValueError(f"--{path}: {section} is a field of its own, not a section")
        mapping = inner
    mapping[name] = value
