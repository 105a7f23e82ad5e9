"""Finds measured figures that someone has typed into a page, where a rendered block should be.

Every number outside code and rendered blocks counts as measured unless it is a setting or a name.
"""

from __future__ import annotations

import re

from benchmarks.documented_figures import without_blocks

_COUNTED = (
    "(?:px|pixels|GPUs?|cores?|CPU cores?|workers?|nodes?|machines?|epochs?|steps?|masks?|arms?)"
)
SETTINGS = (
    r"\bPython 3\.\d\d\b",
    r"\bApache License 2\.0\b",
    r"\bCC BY 2\.0\b",
    r"\b(?:19|20)\d\d\b(?!\.\d)(?! \w+/s)",  # a year, of a publication
    r"\b\d+(?:,\d{3})*(?: to \d+)? " + _COUNTED + r"\b",
    r"\b0\.0004\b",  # alpha, and Adam's learning rate
    r"\b8 bits\b",
    r"\bfp(?:16|32)\b|\bbf16\b|\bfloat32\b|\bSHA-256\b|\bS3\b|\bCRC-32\b",
    r"\b30 seconds\b",  # that torchrun gives its workers to end
)

_CODE_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# A command or a name. Code that begins with a digit is a number in disguise.
_CODE = re.compile(r"`[^`\d][^`]*`")
_LINK_TARGET = re.compile(r"\]\([^)]*\)")
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d.,]*(?:e[+-]?\d+)?\s?(?:[%×x]|[a-zA-Zµ]+(?:/s)?)?")
_NUMBER_WORD = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|"
    "fifty|sixty|hundred|thousand"
)
_MEASURED_UNIT = (
    "%|per ?cent|times|seconds?|minutes?|hours?|days?|weeks?|months?|images/s|decibels?"
)
_IN_WORDS = re.compile(
    rf"\b(?:{_NUMBER_WORD})(?: and a half)? (?:{_MEASURED_UNIT})"
    r"|\b(?:twice|thrice|half) (?:as|the)\b",
    re.IGNORECASE,
)


def handwritten_figures(page: str) -> list[str]:
    """Return the measured figures among what people have written, in their order."""
    text = without_code_blocks(without_blocks(page))
    text = _LINK_TARGET.sub("]", _CODE.sub(" ", text))
    for setting in SETTINGS:
        text = re.sub(setting, "", text)
    found = [*_NUMBER.finditer(text), *_IN_WORDS.finditer(text)]
    return [match.group().strip() for match in sorted(found, key=lambda match: match.start())]


def without_code_blocks(page: str) -> str:
    return _CODE_BLOCK.sub(" ", page)
