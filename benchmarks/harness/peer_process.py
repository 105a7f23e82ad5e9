"""Call into a process that another environment's interpreter runs; see `answering`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

_ROOT = Path(__file__).parents[2]  # of the repository: what the process imports from
_ANSWER_SECONDS = 600.0  # at most; a peer that hangs ends the run
_END_SECONDS = 5.0


class PeerError(RuntimeError):
    """The error of a peer's process, or that it ended."""


@dataclass(frozen=True)
class PeerCall:
    """A measurement by a peer: `function` is "module:name", its arguments are JSON's types."""

    interpreter: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


class PeerProcess:
    """A context; a process group of its own, so that the workers of a peer end with it."""

    def __init__(self, interpreter: str, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._scratch = tempfile.TemporaryDirectory(
            prefix="glcic-benchmark-", ignore_cleanup_errors=True
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [interpreter, "-m", "benchmarks.peers.server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=_ROOT,
                env=_environment(Path(self._scratch.name)),
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            self._scratch.cleanup()
            raise PeerError(f"{interpreter} cannot be run ({error.strerror})") from error

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._kill()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()
        self._scratch.cleanup()

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        question = json.dumps({"function": function, "arguments": dict(arguments)})
        limit = Timer(self._answer_seconds, self._kill)
        limit.start()
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            limit.cancel()
        if not line:
            raise PeerError(f"{function}: the process ended ({self._last_words()})")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{function}: {answer['error']}")
        return answer["value"]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_END_SECONDS)

    def _last_words(self) -> str:
        self._kill()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"


def _environment(scratch: Path) -> dict[str, str]:
    return os.environ | {
        "TMPDIR": str(scratch),
        # Of LitData, which empties these folders; by default they lie under the temporary folder.
        "DATA_OPTIMIZER_CACHE_FOLDER": str(scratch / "litdata-cache"),
        "DATA_OPTIMIZER_DATA_CACHE_FOLDER": str(scratch / "litdata-data"),
        "OMP_NUM_THREADS": "1",  # a candidate has the threads that it is said to have
        "PYTHONPATH": str(_ROOT),  # for the workers of a peer
    }
