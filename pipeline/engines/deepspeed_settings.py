"""DeepSpeed's own configuration: what a JSON file may set, and what the run's configuration does.

A file may tune what the result does not depend on. All else is decided by the run's configuration,
so that a run is the same whichever engine trains it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config

SHIPPED = Path(__file__).with_name("zero_stages")
_FORMER_FOLDER = Path("launch", "deepspeed")  # named by the configurations of earlier versions

_TUNABLE = {"zero_optimization", "steps_per_print", "dump_state", "comms_logger"}
_TUNABLE_OF_ZERO = {
    "stage", "reduce_bucket_size", "allgather_bucket_size", "overlap_comm", "contiguous_gradients",
    "reduce_scatter", "allgather_partitions", "use_multi_rank_bucket_allreduce",
}  # fmt: skip
_DECIDED_BY = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.micro_batch_size",
    "optimizer": "completion_optimizer and discriminator_optimizer",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
    "zero_optimization.stage": "parallel.zero_stage",
}
_REASONS = {
    "bf16": "it makes the parameters bfloat16 while batch norm's buffers stay float32, which fails",
    "communication_data_type": "gradients travel in float32, as under ddp",
    "gradient_clipping": "no other engine clips",
    "scheduler": "learning rates do not move",
    "zero_optimization.offload_optimizer": "its steps are those of another Adam",
    "zero_optimization.round_robin_gradients": "it lays the optimizer's state out in another order",
}


def deepspeed_file(config: Config) -> Path:
    """Return the JSON file that a run starts from.

    Takes the path that a file of ours had in earlier versions for the file itself.
    """
    parallel = config.parallel
    path = Path(parallel.deepspeed_config or SHIPPED / f"zero-{parallel.zero_stage}.json")
    moved = SHIPPED / path.name
    former = path.parts[-3:-1] == _FORMER_FOLDER.parts and not path.exists() and moved.exists()
    return moved if former else path


def deepspeed_file_errors(config: Config) -> list[str]:
    """Return one sentence for each entry of the file that would change what a run computes."""
    if config.parallel.engine != "deepspeed":
        return []
    path = deepspeed_file(config)
    try:
        content = _read(path)
    except ValueError as error:
        return [f"parallel.deepspeed_config: {error}"]
    zero = content.get("zero_optimization", {})
    if not isinstance(zero, dict):
        return [f"parallel.deepspeed_config: zero_optimization in {path} is no object"]
    entries = [name for name in content if name not in _TUNABLE]
    entries += [f"zero_optimization.{name}" for name in zero if name not in _TUNABLE_OF_ZERO]
    if zero.get("stage", config.parallel.zero_stage) != config.parallel.zero_stage:
        entries.append("zero_optimization.stage")
    return [f"parallel.deepspeed_config: {path} sets {_refusal(name)}" for name in entries]


def _refusal(entry: str) -> str:
    if reason := _REASONS.get(entry):
        decided = f"; {_DECIDED_BY[entry]} decides" if entry in _DECIDED_BY else ""
        return f"{entry}: {reason}{decided}. Take it out"
    if decided := _DECIDED_BY.get(entry, ""):
        return f"{entry}, which {decided} decides. Take it out"
    return f"{entry}, which is not known to leave the result alone. Take it out"


def deepspeed_settings(config: Config, samples_per_worker: int) -> dict[str, Any]:
    """Return what `deepspeed.initialize` is given. Raises ValueError where the file
    cannot be read.
    """
    content = _read(deepspeed_file(config))
    settings = {
        **content,
        # The size is for DeepSpeed's own records; the training step divides the batch itself.
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size or samples_per_worker,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,  # those of torch.optim
        "communication_data_type": "fp32",
        "gradient_clipping": 0.0,  # it clips to a norm of 1 by default
        "zero_optimization": {
            **content.get("zero_optimization", {}),
            "stage": config.parallel.zero_stage,
        },
    }
    if config.train.precision == "bf16":
        # Of no module are gradients sent in bfloat16: the sums of ranks are those of ddp.
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content
