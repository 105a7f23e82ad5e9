"""The engines a run may train with, and what each refuses, before torch is imported."""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Mapping

from pipeline.config.schema import Config

PACKAGES = {"accelerate": "accelerate", "deepspeed": "deepspeed"}  # engine -> package and extra

_STAGES = (0, 1, 2)  # of ZeRO: in these every rank has all parameters


def engine_errors(config: Config) -> list[str]:
    """Return what an engine cannot do as the default one does it: one sentence per error."""
    parallel, errors = config.parallel, []
    if parallel.zero_stage not in _STAGES:
        reason = "use one of 0, 1, 2"
        if parallel.zero_stage == 3:
            reason = (
                "it divides the parameters themselves, which the frozen forward, the running "
                "average and the evaluation read whole; use 0, 1 or 2"
            )
        errors.append(f"parallel.zero_stage is {parallel.zero_stage}: {reason}")
    if parallel.engine != "deepspeed":
        for name, value in (
            ("zero_stage", parallel.zero_stage),
            ("deepspeed_config", parallel.deepspeed_config),
        ):
            if value:
                errors.append(
                    f"parallel.{name} is {value!r}: it belongs to parallel.engine deepspeed, but "
                    f"that is {parallel.engine}"
                )
    if parallel.engine != "ddp" and config.train.cuda_graphs:
        errors.append(
            "train.cuda_graphs is True: only parallel.engine ddp records its steps, and that is "
            f"{parallel.engine}"
        )
    if parallel.engine == "deepspeed":
        errors += _deepspeed_errors(config)
    return errors


def _deepspeed_errors(config: Config) -> list[str]:
    errors = []
    if config.train.precision == "fp16":
        errors.append(
            "train.precision is 'fp16': parallel.engine deepspeed would keep a loss scale for each "
            "network and move it by rules of its own, so updates would be left out at other steps "
            "than under ddp; use bf16 or fp32, or another engine"
        )
    for name, refused, reason in (
        (
            "parallel.compress_gradients",
            config.parallel.compress_gradients,
            "parallel.engine deepspeed sums gradients in buckets of its own, in float32",
        ),
        (
            "parallel.bucket_cap_mb",
            config.parallel.bucket_cap_mb != type(config.parallel).bucket_cap_mb,
            "parallel.engine deepspeed has buckets of its own, whose size is reduce_bucket_size in "
            "its configuration",
        ),
        (
            "train.compile",
            config.train.compile,
            "parallel.engine deepspeed wraps the networks in calls of its own, and compiled ones "
            "have not been compared with plain ones there",
        ),
    ):
        if refused:
            value = operator.attrgetter(name)(config)
            errors.append(f"{name} is {value}: {reason}; leave it out or use another engine")
    return errors


def require_package(engine: str) -> None:
    """Raises RuntimeError with the command that installs what the engine needs."""
    package = PACKAGES.get(engine)
    if package is not None and importlib.util.find_spec(package) is None:
        raise RuntimeError(
            f"parallel.engine is {engine}, but the package {package} is not installed: "
            f"pip install -e '.[{package}]', or use --parallel.engine ddp"
        )


def launcher_errors(config: Config, environment: Mapping[str, str]) -> list[str]:
    """Return where `accelerate launch` is set differently from the configuration."""

    def setting(name: str) -> str:
        return environment.get(f"ACCELERATE_{name}", "").lower()

    errors = []
    precision = config.train.precision
    asked = setting("MIXED_PRECISION")
    if asked not in ("", "no", precision):
        errors.append(
            f"accelerate launch is set to mixed_precision {asked}, but train.precision is "
            f"{precision}; set mixed_precision: 'no' in its configuration, train.precision decides"
        )
    if setting("DYNAMO_BACKEND") not in ("", "no"):
        errors.append(
            f"accelerate launch is set to dynamo_backend {setting('DYNAMO_BACKEND')}, which is "
            "not passed on; remove dynamo_config from its configuration"
        )
    if setting("GRADIENT_ACCUMULATION_STEPS") not in ("", "1"):
        errors.append(
            "accelerate launch is set to gradient_accumulation_steps "
            f"{setting('GRADIENT_ACCUMULATION_STEPS')}; use --train.micro_batch_size instead"
        )
    for name, kind, remedy in _OTHER_PARALLELISM:
        if setting(name) == "true":
            errors.append(
                f"accelerate launch is set to distributed_type {kind}; set MULTI_GPU in its "
                f"configuration{remedy}"
            )
    return errors


_OTHER_PARALLELISM = (
    ("USE_DEEPSPEED", "DEEPSPEED", " and use --parallel.engine deepspeed"),
    ("USE_FSDP", "FSDP", ", which divides nothing that is large here"),
    ("USE_MEGATRON_LM", "MEGATRON_LM", ""),
    ("USE_PARALLELISM_CONFIG", "with a parallelism_config", " and take parallelism_config out"),
)
