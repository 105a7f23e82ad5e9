"""The process of a peer: answers calls until its input ends, one line of JSON for each.

    PEERS/bin/python -m benchmarks.peers.server

A call is {"function": "module:name", "arguments": {...}}; its answer {"value": ...} or
{"error": "what happened"}. Whatever else is printed goes to the error stream.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def answer(line: str) -> dict[str, Any]:
    try:
        call = json.loads(line)
        module, _, name = call["function"].partition(":")
        return {"value": getattr(importlib.import_module(module), name)(**call["arguments"])}
    except Exception as error:  # of any library: the benchmark reports it and goes on without
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            print(json.dumps(answer(line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
