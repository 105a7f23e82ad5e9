"""Checkpoints on any fsspec URL: a folder a step, complete only once `COMMITTED` lies in it.

    step-000012000/
        completion.safetensors       parameters and buffers of the completion network
        discriminator.safetensors
        ema.safetensors              running average of the completion network, if there is one
        optimizers.safetensors       `completion.<parameter>.<state>`, `discriminator.<...>`
        state.json                   step, configuration and its digest, data fingerprint, versions
        COMMITTED                    written last: size and SHA-256 of every file above, and its own

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from shards.storage.files import exists, join_url, list_names, read_bytes, remove_tree, write_bytes

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
    """Return a file of the checkpoint at `url`. Raises ValueError if it is not what was
    committed.
    """
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
        data = read_bytes(join_url(url, COMMITTED))
        commitment = json.loads(data)
        for name, entry in commitment["files"].items():
            if "/" in name or int(entry["size_bytes"]) < 0 or not isinstance(entry["sha256"], str):
                raise ValueError(f"its entry {name} makes no sense")
        if data != _commitment_bytes(commitment["step"], commitment["files"]):
            raise ValueError("it is not as it was written")
    except FileNotFoundError as error:
        raise ValueError(f"{url} is not a finished checkpoint: it has no {COMMITTED}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{url}: {COMMITTED} cannot be read ({error})") from error
    return commitment


def read_checkpoint(url: str) -> Checkpoint:
    """Return the checkpoint at `url`, every byte checked. Raises ValueError saying what
    is wrong.
    """
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
    if facts.get("step") != commitment["step"]:
        raise ValueError(f"{url}: {STATE} and {COMMITTED} name different steps")
    return Checkpoint(step=facts["step"], tensors=tensors, facts=facts)


def is_intact(url: str) -> bool:
    """Return whether a checkpoint is committed at `url` and every byte is what was committed."""
    try:
        commitment = read_commitment(url)
        for name in commitment["files"]:
            read_file(url, name, commitment)
    except ValueError:
        return False
    return True


def read_newest(url: str, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest intact checkpoint under `url`, or None where none was ever committed.

    One that fails its hashes is skipped with a warning for the one before. Raises ValueError when
    checkpoints exist but none is intact: starting again would throw the run away.
    """
    steps = committed_steps(url)
    errors = []
    for step in reversed(steps):
        try:
            return read_checkpoint(join_url(url, step_name(step)))
        except ValueError as error:
            errors.append(str(error))
            warn(f"skipping a damaged checkpoint: {error}")
    if errors:
        raise ValueError(
            f"no checkpoint under {url} is intact; the newest: {errors[0]}. Restore one, or start "
            "again under another --name"
        )
    return None


def commit(url: str, step: int, files: Mapping[str, bytes | memoryview]) -> bool:
    """Write the checkpoint of a step; False where an intact one is there already, which another
    generation of the same job has made of the same state.
    """
    prefix = join_url(url, step_name(step))
    if exists(join_url(prefix, COMMITTED)):
        if is_intact(prefix):
            return False
        remove_tree(join_url(prefix, COMMITTED))
    remove_tree(prefix)  # what a killed, failed or damaged write of the same step left
    write_committed(prefix, files, step)
    return True


def write_committed(url: str, files: Mapping[str, bytes | memoryview], step: int) -> None:
    """Write the files, and the mark that makes them a whole after all of them."""
    entries = {}
    for name, data in files.items():
        write_bytes(join_url(url, name), data)
        entries[name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_bytes(join_url(url, COMMITTED), _commitment_bytes(step, entries))


def _commitment_bytes(step: int, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """To the byte: no other text says the same, so that a reader sees every damage."""
    content = {"step": step, "files": files}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1) + "\n").encode()


def retire(url: str, newest: int, keep: int) -> None:
    """Remove what is older than the newest `keep`, and what older writes left unfinished.

    Raises OSError, and removes nothing, if the newest is not intact: another generation of the job
    may have written into it.
    """
    if not is_intact(join_url(url, step_name(newest))):
        raise OSError(
            f"checkpoint {step_name(newest)} was altered while it was written, by another process "
            "or the store"
        )
    committed = [step for step in committed_steps(url) if step <= newest]
    kept = set(committed[-keep:])
    for name in list_names(url):
        match = _STEP_NAME.fullmatch(name)
        if match is None or int(match[1]) in kept or int(match[1]) > newest:
            continue
        # The mark goes first: a removal cut short must not look like a checkpoint.
        remove_tree(join_url(url, name, COMMITTED))
        remove_tree(join_url(url, name))
