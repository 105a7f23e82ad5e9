from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.loading import parse_config
from pipeline.config.run_identity import config_digest
from pipeline.config.schema import Config
from pipeline.device import compilation
from pipeline.device.compilation import require_compiler
from pipeline.device.options import apply_options, require_usable, set_float32_precision
from pipeline.engines.ddp import Worker
from pipeline.engines.start import start_worker
from pipeline.evaluation.batch_norm_recalibration import recalibrated
from pipeline.exports.network_folder import load_completion_network, save_completion_network
from pipeline.networks.glcic import CompletionNetwork
from pipeline.networks.registry import build_completion, build_discriminator
from pipeline.networks.unwrapped_copy import unwrapped_copy
from pipeline.training.averaged_weights import AveragedNetwork
from pipeline.training.dilation_choice import choose_dilation_
from pipeline.training.resume import resume_
from pipeline.training.run_state import RunState
from shards.sampling.mixture import Mixture, WeightedSet
from tests.pipeline.step.test_training_step import small_config as config_without_data
from tests.pipeline.training.test_run_state import save
from tests.shards.pictures import pack_small_set
from tests.small_run import small_config
from tests.torchrun import run, torchrun_command

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config_with(section: str, **values: object) -> Config:
    return parse_config({section: values})


# What is refused, and where


@pytest.mark.parametrize(
    ("config", "device", "world_size", "reason"),
    [
        (config_with("parallel", sync_batch_norm=True), CPU, 2, r"sync_batch_norm .*runs on CUDA"),
        (config_with("train", cuda_graphs=True), CPU, 1, "CUDA graphs need a GPU"),
        (config_with("train", cuda_graphs=True), CUDA, 2, "with 2 workers the reducer decides"),
    ],
)
def test_what_the_machine_cannot_do_is_refused_by_name(
    config: Config, device: torch.device, world_size: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        require_usable(config, device, world_size)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are CUDA graphs here")
def test_it_is_refused_before_a_process_group_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # nobody else would come to the rendezvous
    with pytest.raises(ValueError, match=r"train\.cuda_graphs is True"):
        start_worker(config_with("train", cuda_graphs=True, threads=torch.get_num_threads()))
    assert not torch.distributed.is_initialized()


def test_what_does_not_go_together_is_refused_with_the_reasons_all_at_once() -> None:
    with pytest.raises(ValueError, match="cannot be used") as error:
        parse_config(
            {
                "train": {"cuda_graphs": True, "compile": True, "precision": "fp16",
                          "micro_batch_size": 4},
                "parallel": {"sync_batch_norm": True},
            }
        )  # fmt: skip
    for part in ("train.micro_batch_size 0, since", "train.precision fp32 or bf16, since",
                 "parallel.sync_batch_norm false, since", "train.compile is True: set it to false",
                 ):  # fmt: skip
        assert part in str(error.value)


def test_a_missing_compiler_is_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    without = torch._inductor.config.patch({"cpp.cxx": (None, "a-compiler-that-is-not-here")})
    with (
        without,
        pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler .*set --train\.compile false"),
    ):
        require_compiler(CPU, "train.compile", "false")


def test_triton_without_a_c_compiler_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(RuntimeError, match=r"needs a C compiler .*set --train\.compile false"):
        require_compiler(torch.device("cuda"), "train.compile", "false")
    monkeypatch.setenv("CC", "/opt/compiler")
    require_compiler(torch.device("cuda"), "train.compile", "false")


# TF32


@pytest.fixture
def float32_precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("float32_precision")
@pytest.mark.parametrize("tf32", [True, False])
def test_fp32_means_fp32_for_products_and_convolutions_unless_tf32_is_asked_for(
    tf32: bool,
) -> None:
    set_float32_precision(not tf32)
    start_worker(config_with("train", tf32=tf32, threads=torch.get_num_threads()))
    assert torch.backends.cuda.matmul.allow_tf32 == tf32
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_switches_that_change_the_roundings_make_another_run() -> None:
    digest = config_digest(Config())
    for switch in ("tf32", "compile", "cuda_graphs"):
        assert config_digest(config_with("train", **{switch: True})) != digest, switch
    for switch in ("sync_batch_norm", "compress_gradients"):
        assert config_digest(config_with("parallel", **{switch: True})) != digest, switch
    assert config_digest(config_with("parallel", bucket_cap_mb=0)) == digest


# Synchronised batch norm and compiled networks beside plain ones


def synchronised(config: Config) -> Config:
    """Past the refusals, which are tested above."""
    parallel = dataclasses.replace(config.parallel, sync_batch_norm=True)
    return dataclasses.replace(config, parallel=parallel)


def num_of(kind: type[nn.Module], network: nn.Module) -> int:
    return sum(type(module) is kind for module in network.modules())


def test_synchronised_batch_norm_replaces_every_other_and_keeps_the_names() -> None:
    config = config_without_data()
    for network in (build_completion(config), build_discriminator(config)):
        names, count = list(network.state_dict()), num_of(nn.BatchNorm2d, network)
        changed = apply_options(network, synchronised(config))
        assert changed is network
        assert num_of(nn.SyncBatchNorm, network) == count > 0
        assert num_of(nn.BatchNorm2d, network) == 0
        assert list(network.state_dict()) == names


def test_averages_recalibrated_networks_and_exports_are_plain_and_equal(tmp_path: Path) -> None:
    config = config_without_data()
    network = build_completion(config)
    plain = copy.deepcopy(network)
    apply_options(network, synchronised(config))
    network.dilation = "space_to_batch"
    average = AveragedNetwork(network, decay=0.5)
    average.update_(network, num_updates=3)
    image, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    recalibrated_one = recalibrated(network, [(image, mask)])
    save_completion_network(str(tmp_path), network, config.completion, 1, {})
    exported = load_completion_network(str(tmp_path), "raw", CPU)
    for one in (average.network, recalibrated_one, exported):
        assert num_of(nn.SyncBatchNorm, one) == 0
        assert one.dilation == "native"
        assert list(one.state_dict()) == list(network.state_dict())
    for one in (average.network, exported):
        assert all(torch.equal(t, one.state_dict()[n]) for n, t in plain.state_dict().items())
    expected = recalibrated(plain, [(image, mask)])(image, mask)
    torch.testing.assert_close(recalibrated_one(image, mask), expected)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_copy_of_a_compiled_network_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(compilation, "BACKEND", lambda graph, inputs: calls.append(1) or graph)
    config = config_without_data()
    compiling = dataclasses.replace(config.train, compile=True)
    network = build_discriminator(config)
    names = list(network.state_dict())
    apply_options(network, dataclasses.replace(config, train=compiling))
    assert list(network.state_dict()) == names
    inputs = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16)
    unwrapped_copy(network)(*inputs)
    assert not calls
    network(*inputs)
    assert calls


@pytest.mark.gpu
@pytest.mark.dist
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_workers_with_synchronised_batch_norm_train_as_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = str(Path(__file__).parent / "sync_batch_norm_job.py")
    assert run(torchrun_command(2, script), log) == 0, log.read_text()
    assert log.read_text().count(": checked") == 2


# Dilated layers: what has been chosen stays


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack_small_set(tmp_path_factory.mktemp("set"))


def with_dilation(config: Config, dilation: str) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, dilation=dilation))


def test_a_run_goes_on_with_the_dilation_it_began_with_or_not_at_all(
    shards: str, tmp_path: Path
) -> None:
    data = Mixture([WeightedSet(shards)], batch_size=12)
    config = with_dilation(small_config(shards, tmp_path / "run"), "space_to_batch")
    said: list[str] = []

    def resumed(run: Config) -> RunState:
        state = RunState(run, Worker(), data)
        resume_(state, run, data, Worker(), said.append)
        return state

    state = resumed(config)
    assert state.dilation == "space_to_batch"
    save(state, config, data, step=3)
    assert not said
    auto = resumed(with_dilation(config, "auto"))
    assert auto.dilation == "space_to_batch"
    assert said == ["dilated layers: space_to_batch, as this run began"]
    with pytest.raises(ValueError, match=r"by space_to_batch, but train\.dilation is 'native'"):
        resumed(with_dilation(config, "native"))


@pytest.mark.parametrize("faster", ["native", "space_to_batch"])
def test_auto_takes_what_was_faster_and_says_both_times(
    faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(way: object, *_: object) -> float:
        return 0.002 if way.__name__ == faster else 0.003

    monkeypatch.setattr("pipeline.training.dilation_choice._seconds", seconds)
    config = with_dilation(config_without_data(), "auto")
    network, said = build_completion(config), []
    choose_dilation_(network, config, Worker(), None, said.append)
    assert network.dilation == faster
    assert f"dilated layers: {faster}, the faster" in said[0]
    assert f"{faster} 2 ms" in said[0]
    assert " 3 ms" in said[0]


def test_timing_leaves_the_network_and_the_random_numbers_as_they_are() -> None:
    config = with_dilation(config_without_data(), "auto")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=2))
    network = build_completion(config)
    assert isinstance(network, CompletionNetwork)
    before, numbers = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    choose_dilation_(network, config, Worker(), None, lambda line: None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.dist
@pytest.mark.slow
def test_two_workers_train_alike_compiled_or_compressed_and_resume_to_the_bit(
    shards: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = str(Path(__file__).parent / "switches_job.py")
    assert run(torchrun_command(2, script, shards, str(tmp_path)), log) == 0, log.read_text()
    assert log.read_text().count(": checked") == 2
