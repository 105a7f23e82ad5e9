"""Which peers can be measured, by which interpreter, and why the others cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.peer_process import PeerCall, PeerError, PeerProcess

Progress = Callable[[str], None]

DISTRIBUTIONS = {  # modules of this package -> what their version is asked of
    "torch_dataloader": "torch",
    "mosaicml_streaming": "mosaicml-streaming",
    "litdata": "litdata",
    "ffcv": "ffcv",
    "dali": "nvidia-dali-cuda120",
}


@dataclass
class Peers:
    """Candidates by name, in the order in which they are listed."""

    calls: dict[str, PeerCall] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # by distribution
    not_measured: dict[str, str] = field(default_factory=dict)  # candidate -> reason
    levels: dict[str, float] = field(default_factory=dict)  # mean difference from simplejpeg's

    def parameters(self) -> dict[str, Any]:
        """For the result; none without peers."""
        named = {
            "peers": self.versions,
            "peers not measured": self.not_measured,
            "peers' pixels, levels from simplejpeg's on average where not 0": self.levels,
        }
        return {name: value for name, value in named.items() if value}

    def leave_out(self, candidate: str, error: PeerError) -> None:
        self.not_measured[candidate] = without_paths(str(error))

    def leave_out_what_is_lacking(self, everywhere: Sequence[Peers]) -> None:
        """On any worker: all of them measure the same."""
        for other in everywhere:
            self.not_measured = {**other.not_measured, **self.not_measured}
        for name in self.not_measured:
            self.calls.pop(name, None)


def without_paths(text: str) -> str:
    """One line, without the folders of this machine: results are published."""
    return re.sub(r"(?<!\w)/[^\s:'\",)]+", "PATH", text.strip().partition("\n")[0])


def first_interpreter_with(
    library: str, interpreters: Sequence[str], attempt: Callable[[PeerProcess], None]
) -> tuple[str, str]:
    """The interpreter, and the library's version there, for which `attempt` raises no PeerError.

    Raises PeerError with the reasons if there is none.
    """
    reasons = []
    distribution = DISTRIBUTIONS[library]
    for interpreter in interpreters:
        try:
            with PeerProcess(interpreter) as process:
                version = process.call(
                    "importlib.metadata:version", {"distribution_name": distribution}
                )
                attempt(process)
                return interpreter, version
        except PeerError as error:
            missing = "PackageNotFoundError" in str(error)
            reasons.append(f"{distribution} is not installed" if missing else str(error))
    raise PeerError("; ".join(dict.fromkeys(reasons)))
