"""Defaults that a later version changed, for runs that were started before.

A run whose command names neither a field nor its value recorded the default of its day. The same
command must go on with that value: it is the run's, whatever a new run would get.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from pipeline.config.schema import Config

# Path of a field of the trajectory -> the default that it had. Whoever changes a default adds it
# here, with the last commit that had it; of a field that did not exist at all, the value that was
# in effect stands in `pipeline.config.run_identity.ADDED_FIELDS` as well.
CHANGED_DEFAULTS: dict[str, Any] = {
    # 8345c66: ADADELTA had the values of Adam.
    "completion_optimizer.learning_rate": 0.0004,
    "completion_optimizer.epsilon": 1e-8,
    "discriminator_optimizer.learning_rate": 0.0004,
    "discriminator_optimizer.epsilon": 1e-8,
    # 63e83a0: before the study of five seeds compared it with 1 and 4.
    "loss.known_weight": 0.3,
}


def with_recorded_defaults(config: Config, named: Collection[str]) -> tuple[Config, str]:
    """Return the configuration with what the run to be resumed recorded, and a line about it.

    That concerns fields which are not `named` by the preset or the command line, have another
    default today, and were recorded with the earlier one. The line is empty where there are none.
    Raises OSError where the storage of the checkpoints does not answer.
    """
    candidates = {
        path: before
        for path, before in CHANGED_DEFAULTS.items()
        if path not in named and _value(config, path) not in (None, before)
    }
    recorded = _read_recorded_config(config) if candidates and config.resume != "never" else None
    kept = {
        path: before
        for path, before in candidates.items()
        if recorded is not None and _value(recorded, path) == before
    }
    if not kept:
        return config, ""
    values = ", ".join(
        f"{path} {before!r} (now {_value(config, path)!r})" for path, before in kept.items()
    )
    for path, before in kept.items():
        section, name = path.split(".")
        changed = dataclasses.replace(getattr(config, section), **{name: before})
        config = dataclasses.replace(config, **{section: changed})
    return config, f"this run goes on with the defaults that it was started with: {values}"


def _value(config: Config, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(config, section), name, None)


def _read_recorded_config(config: Config) -> Config | None:
    """Return what the newest checkpoint was made with, of those that `config.resume` leads to.

    None where there is none that can be read: what is wrong with it is reported when it is resumed.
    """
    # Only then: torch, which they need, takes seconds to import.
    from pipeline.checkpoints.format import (
        STATE,
        committed_steps,
        read_commitment,
        read_file,
        step_name,
    )
    from pipeline.config.run_identity import recorded_config
    from shards.storage.files import join_url

    steps = committed_steps(config.checkpoint_url)
    urls = [join_url(config.checkpoint_url, step_name(step)) for step in reversed(steps)]
    if not urls and config.resume != "auto":
        urls = [config.resume]
    for url in urls:
        with suppress(ValueError, KeyError):
            facts = json.loads(read_file(url, STATE, read_commitment(url)))
            return recorded_config(facts["config"])
    return None
