"""Checkpoints on any fsspec URL: a folder a step, complete only once `COMMITTED` lies in it.

    step-000012000/
        completion.safetensors       parameters and buffers of the completion network
        discriminator.safetensors
        ema.safetensors              running average of the completion network, if there is one
        optimizers.safetensors       `completion.<parameter>.<state>`, `discriminator.<...>`
        state.json                   step, configuration and its digest, data fingerprint, versions
        COMMITTED                    written last: size and SHA-256 of every file above

A step that is committed and intact is never written again, and nothing older is removed before what
was written has been read back: a lost generation of a job that wakes up and writes the same step,
on a machine that was cut off or halted, can cost the newest checkpoint, never the one before.

That is the whole state of a run: the phase, the samples, the masks and every random number follow
from the configuration and the step. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from shards.storage import exists, join_url, list_names, read_bytes, remove_tree, write_bytes

COMMITTED = "COMMITTED"
STATE = "state.json"
_STEP_NAME = re.compile(r"step-(\d{9,})")


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` maps a file's stem ("completion", "optimizers", ...) to its named tensors."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


def step_name(step: int) -> str:
    return f"step-{step:09d}"


def committed_steps(url: str) -> list[int]:
    """Steps under `url` whose checkpoint was written to its end, ascending."""
    steps = []
    for name in list_names(url):
        match = _STEP_NAME.fullmatch(name)
        if match and exists(join_url(url, name, COMMITTED)):
            steps.append(int(match[1]))
    return sorted(steps)


def read_file(url: str, name: str, commitment: Mapping[str, Any]) -> bytes:
    """A file of the checkpoint at `url`. Raises ValueError if it is not what was committed."""
    expected = commitment["files"].get(name)
    if expected is None:
        raise ValueError(f"{url} has no {name}")
    try:
        data = read_bytes(join_url(url, name))
    except FileNotFoundError as error:
        raise ValueError(f"{url}: {name} is missing") from error
    if len(data) != expected["size_bytes"]:
        raise ValueError(
            f"{url}: {name} has {len(data)} bytes, {expected['size_bytes']} were committed"
        )
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise ValueError(f"{url}: {name} was altered after it was committed (SHA-256 differs)")
    return data


def read_commitment(url: str) -> dict[str, Any]:
    """Raises ValueError if there is none or it cannot be read."""
    try:
        commitment = json.loads(read_bytes(join_url(url, COMMITTED)))
        for name, entry in commitment["files"].items():
            if "/" in name or int(entry["size_bytes"]) < 0 or not isinstance(entry["sha256"], str):
                raise ValueError(f"its entry {name} makes no sense")
    except FileNotFoundError as error:
        raise ValueError(f"{url} is not a finished checkpoint: it has no {COMMITTED}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{url}: {COMMITTED} cannot be read ({error})") from error
    return commitment


def read_checkpoint(url: str) -> Checkpoint:
    """The checkpoint at `url`, every byte checked. Raises ValueError saying what is wrong."""
    commitment = read_commitment(url)
    tensors = {}
    for name in commitment["files"]:
        if name.endswith(".safetensors"):
            data = read_file(url, name, commitment)
            try:
                tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
            except safetensors.SafetensorError as error:
                raise ValueError(f"{url}: {name} is no safetensors file ({error})") from error
    facts = json.loads(read_file(url, STATE, commitment))
    return Checkpoint(step=facts["step"], tensors=tensors, facts=facts)


def is_intact(url: str) -> bool:
    """Whether a checkpoint is committed at `url` and every byte is what was committed."""
    try:
        commitment = read_commitment(url)
        for name in commitment["files"]:
            read_file(url, name, commitment)
    except ValueError:
        return False
    return True


def read_newest(url: str, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint under `url`, or None where none was ever committed.

    One that fails its hashes is skipped with a warning for the one before. Raises ValueError when
    checkpoints exist but none is intact: starting anew would throw the run away.
    """
    steps = committed_steps(url)
    faults = []
    for step in reversed(steps):
        try:
            return read_checkpoint(join_url(url, step_name(step)))
        except ValueError as error:
            faults.append(str(error))
            warn(f"skipping a damaged checkpoint: {error}")
    if faults:
        raise ValueError(
            f"no checkpoint under {url} is intact; the newest: {faults[0]}. Restore one, or start "
            "anew under another --name"
        )
    return None


class CheckpointWriter:
    """Writes checkpoints in a background thread, one at a time. For rank 0 alone.

    Training waits only when the previous checkpoint is still being written. A failed write is
    raised, as OSError, by the next `save` or by `close`.
    """

    def __init__(self, url: str, keep: int, announce: Callable[[str], None]) -> None:
        self.url = url
        self._keep = keep
        self._announce = announce
        self._host = _HostCopies()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def probe(self) -> None:
        """Raises OSError now, rather than hours later, if nothing can be written to the URL."""
        probe_url = join_url(self.url, ".writable")
        try:
            write_bytes(probe_url, b"probe\n")
            remove_tree(probe_url)
        except Exception as error:
            raise OSError(f"checkpoints cannot be written to {self.url}: {error}") from error

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> None:
        """Takes a copy of everything and returns; the tensors may change right after."""
        self.wait()
        copies, event = self._host.copy(tensors)
        self._thread = threading.Thread(
            target=self._write, args=(step, copies, event, {"step": step, **facts}), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Returns when the last checkpoint is committed; raises OSError if it could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise OSError(f"a checkpoint could not be written to {self.url}: {error}") from error

    close = wait

    def _write(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        event: torch.cuda.Event | None,
        facts: dict[str, Any],
    ) -> None:
        try:
            if event is not None:
                event.synchronize()
            files = {
                f"{stem}.safetensors": safetensors.torch.save(t) for stem, t in tensors.items()
            }
            files[STATE] = (json.dumps(facts, indent=1) + "\n").encode()
            self._commit(step, files)
            del files  # as large as the networks, and not needed while it is read back
            try:
                self._retire(step)
            except OSError as error:  # no reason to end a run; the next checkpoint tries again
                self._announce(f"older checkpoints could not be removed: {error}")
        except BaseException as error:  # handed to the training thread, which raises it
            self._error = error

    def _commit(self, step: int, files: Mapping[str, bytes]) -> None:
        prefix = join_url(self.url, step_name(step))
        if exists(join_url(prefix, COMMITTED)):
            if is_intact(prefix):  # of another generation of this job: the same state as this one
                self._announce(f"checkpoint {step_name(step)} is there already")
                return
            remove_tree(join_url(prefix, COMMITTED))
        remove_tree(prefix)  # what a killed or damaged write of the same step left
        write_committed(prefix, files, step)
        self._announce(f"checkpoint {step_name(step)} committed")

    def _retire(self, newest: int) -> None:
        """Removes what is older than the newest `keep`, and what older writes left unfinished.

        Nothing if the newest is not intact: another generation of the job may have written into it.
        """
        if not is_intact(join_url(self.url, step_name(newest))):
            self._announce(
                f"checkpoint {step_name(newest)} was altered while it was written, by another "
                "process or the store; the older ones stay"
            )
            return
        committed = [step for step in committed_steps(self.url) if step <= newest]
        kept = set(committed[-self._keep :])
        for name in list_names(self.url):
            match = _STEP_NAME.fullmatch(name)
            if match is None or int(match[1]) in kept or int(match[1]) > newest:
                continue
            # The mark goes first: a removal cut short must not look like a checkpoint.
            remove_tree(join_url(self.url, name, COMMITTED))
            remove_tree(join_url(self.url, name))


def write_committed(url: str, files: Mapping[str, bytes], step: int) -> None:
    """Writes the files, and the mark that makes them a whole after all of them."""
    for name, data in files.items():
        write_bytes(join_url(url, name), data)
    commitment = {
        "step": step,
        "files": {
            name: {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        },
    }
    write_bytes(join_url(url, COMMITTED), (json.dumps(commitment, indent=1) + "\n").encode())


class _HostCopies:
    """Copies of device tensors in host memory that is pinned once and used again."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(
        self, tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> tuple[dict[str, dict[str, Tensor]], torch.cuda.Event | None]:
        """The copies, and the event after which they are complete (None: they are)."""
        on_device = False
        copies: dict[str, dict[str, Tensor]] = {}
        for stem, group in tensors.items():
            copies[stem] = {}
            for name, tensor in group.items():
                on_device |= tensor.is_cuda
                copies[stem][name] = self._buffer(stem, name, tensor).copy_(
                    tensor.detach(), non_blocking=True
                )
        if not on_device:
            return copies, None
        event = torch.cuda.Event()
        event.record()
        return copies, event

    def _buffer(self, stem: str, name: str, tensor: Tensor) -> Tensor:
        key = (stem, name)
        if key not in self._buffers:
            # Contiguous whatever the memory format: a file holds plain row-major tensors.
            self._buffers[key] = torch.empty(
                tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda
            )
        return self._buffers[key]
