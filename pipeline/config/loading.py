"""Turn mappings (a YAML preset, command-line overrides) into a validated `Config` and back."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args, get_type_hints

import pydantic

from pipeline.config.schema import Config
from pipeline.config.validation import config_errors


def parse_config(mapping: Mapping[str, Any], sections: tuple[str, ...] = ()) -> Config:
    """Raises ValueError with one line per error: unknown keys, wrong types, values out of range.

    Values out of range are looked for in `sections` only, if any are named: packing does not ask
    whether a discriminator would fit.
    """
    errors = _unknown_keys(mapping, Config, "")
    config, type_errors = _typed(mapping)
    errors += type_errors
    errors += [
        error for error in config_errors(config) if not sections or error.split(".")[0] in sections
    ]
    if errors:
        raise ValueError("the configuration cannot be used:\n  " + "\n  ".join(errors))
    return config


def _typed(mapping: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """Return the tree, defaults standing in for values of a wrong type, and an error for each of
    these.
    """
    adapter = pydantic.TypeAdapter(Config)
    values = _plain(mapping)
    try:
        return adapter.validate_python(values), []
    except pydantic.ValidationError as error:
        details = error.errors()
    messages: dict[str, list[str]] = {}  # a field that may be of several types has one for each
    for detail in details:
        place = ".".join(map(str, _place(values, detail["loc"])))
        messages.setdefault(f"{place} is {detail['input']!r}", []).append(detail["msg"])
    for path in [_place(values, detail["loc"]) for detail in details]:
        _remove(values, path)
    lines = [f"{place}: {'; or: '.join(found)}" for place, found in messages.items()]
    return adapter.validate_python(values), lines


def _place(values: Any, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """As far as it leads through the values; what follows names one of a field's types."""
    place: list[int | str] = []
    for key in location:
        if not isinstance(values, (dict, list, tuple)):
            break
        place.append(key)
        values = values.get(key) if isinstance(values, dict) else values[int(key)]
    return tuple(place)


def _remove(values: dict[str, Any], path: tuple[int | str, ...]) -> None:
    """Take out the field that a path leads to; of a list, all of it."""
    *sections, name = itertools.takewhile(lambda key: isinstance(key, str), path)
    for key in sections:
        values = values[str(key)]
    values.pop(str(name), None)


def _plain(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a copy with words for keys and without empty sections, which YAML reads as null."""
    return {
        str(key): _plain(value) if isinstance(value, Mapping) else value
        for key, value in mapping.items()
        if value is not None
    }


def _unknown_keys(mapping: Mapping[str, Any], kind: type, prefix: str) -> list[str]:
    """Return an error for each key, at any depth, that the dataclass `kind` has no field for."""
    known = get_type_hints(kind)
    errors = []
    for key, value in mapping.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            remedy = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
            errors.append(f"{prefix}{key} is not a field; {remedy}")
            continue
        for place, inner, inner_kind in _inner_mappings(value, known[key]):
            errors += _unknown_keys(inner, inner_kind, f"{prefix}{key}.{place}")
    return errors


def _inner_mappings(value: Any, kind: Any) -> Iterator[tuple[str, Mapping[str, Any], type]]:
    """(place, mapping, dataclass) of a section, or of each element of a list of sections."""
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
        yield "", value, cast(type, kind)
    elif isinstance(value, (list, tuple)):
        (element, *_) = get_args(kind) or (None,)
        for number, one in enumerate(value):
            if isinstance(one, Mapping) and dataclasses.is_dataclass(element):
                yield f"{number}.", one, cast(type, element)


def config_mapping(config: Config) -> dict[str, Any]:
    """Return the resolved configuration as plain values; `parse_config` gives the same
    tree back.
    """
    return dataclasses.asdict(config)
