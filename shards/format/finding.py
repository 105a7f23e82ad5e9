"""One finding of a packed set."""

from __future__ import annotations

from dataclasses import dataclass

_SHOWN = 200  # characters of a value: what lies in a damaged set may be of any length


@dataclass(frozen=True)
class Finding:
    place: str  # file in the set's folder, and the member or sample in it
    what: str  # the same words for the same kind of finding
    expected: str = ""  # empty where no value is in question
    found: str = ""

    def __str__(self) -> str:
        if not self.expected and not self.found:
            return f"{self.place}: {self.what}"
        if not self.expected:
            return f"{self.place}: {self.what}: {self.found}"
        return f"{self.place}: {self.what}: expected {self.expected}, found {self.found}"


def shown(value: object) -> str:
    """Return a value of the set in printable characters: it may hold control codes of a
    terminal.
    """
    if isinstance(value, str) and value.isascii() and value.isprintable() and value:
        text = value
    else:
        text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
