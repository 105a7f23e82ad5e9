from __future__ import annotations

import pytest
import torch

from pipeline.config.loading import parse_config
from pipeline.config.schema import Config, OptimizerConfig
from pipeline.engines.ddp import Worker
from pipeline.failures.out_of_memory import is_out_of_memory, out_of_memory
from pipeline.networks.registry import build_completion


def config(**train: object) -> Config:
    return parse_config({"train": {"batch_size": 12, **train}, "completion": {"width": 8}})


def message(config: Config, worker: Worker, error: BaseException) -> str:
    trainable = worker.trainable("completion", build_completion(config), OptimizerConfig())
    return str(out_of_memory(error, "step 3 (joint)", config, worker, [trainable]))


def test_what_the_allocators_say_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("not enough memory"))


@pytest.mark.parametrize(("micro_batch_size", "smaller"), [(0, 6), (6, 3), (4, 2), (3, 1)])
def test_the_next_smaller_micro_batch_divides_the_share(
    micro_batch_size: int, smaller: int
) -> None:
    told = message(config(micro_batch_size=micro_batch_size), Worker(), MemoryError())
    assert f"--train.micro-batch-size {smaller}:" in told
    assert f"{micro_batch_size or 12} at a time" in told


def test_with_one_sample_at_a_time_what_is_computed_must_shrink() -> None:
    told = message(config(micro_batch_size=1, precision="bf16"), Worker(), MemoryError())
    assert "--train.micro-batch-size" not in told
    assert "--train.precision" not in told
    assert "a smaller pack.crop_size or completion.width" in told


def test_the_account_names_what_takes_memory() -> None:
    told = message(config(precision="fp32"), Worker(), MemoryError("of the host"))
    assert told.startswith("rank 0 ran out of memory in step 3 (joint): of the host\n")
    for part in ("device: cpu", "12 samples for each of 1 workers", "million parameters",
                 "resident memory of this process", "2 workers or more", "bf16"):  # fmt: skip
        assert part in told


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_account_holds_its_memory() -> None:
    device = torch.device("cuda", 0)
    worker = Worker(device=device)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    network = build_completion(config()).to(device)
    trainable = worker.trainable("completion", network, OptimizerConfig())
    told = str(out_of_memory(caught.value, "step 3 (joint)", config(), worker, [trainable]))
    for part in ("GPU memory:", "allocated", "reserved", torch.cuda.get_device_name(device)):
        assert part in told
