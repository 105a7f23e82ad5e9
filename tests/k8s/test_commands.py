"""What the containers run, run here: their --help, and the parsers on their real arguments."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from tests.k8s.manifests import BENCHMARKS, OVERLAYS, command, config_map, overlay, works
from tests.torchrun import ROOT


def programs():
    """The words of every container's command, up to its options, without their launcher."""
    found = set()
    for name in OVERLAYS:
        for work in works(overlay(name)):
            for container in work.containers:
                words = command(work, container)
                module = words[0] == "torchrun"
                found.add(("-m", words[words.index("--module") + 1]) if module else
                          tuple(words[:2]))  # fmt: skip
    return sorted(found)


@pytest.mark.parametrize("words", programs(), ids="-".join)
def test_a_containers_program_runs(words):
    name, argument = words
    start = [sys.executable, "-m", argument] if name == "-m" else [
        sys.executable, "-m", "launch.command", argument
    ]  # fmt: skip
    result = subprocess.run([*start, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: ")


def containers():
    for name in OVERLAYS:
        for work in works(overlay(name)):
            for container in work.containers:
                yield pytest.param(work, container, id=f"{name}-{work.role}-{container['name']}")


def with_presets(work, words, folder: Path):
    """The words, with the ConfigMap's files where the volume would have them."""
    for volume in work.pod["volumes"]:
        if "configMap" in volume:
            for name, text in config_map(work.documents, volume["configMap"]["name"]).items():
                (folder / name).write_text(text)
    return [word.replace("/etc/glcic/", f"{folder}/") for word in words]


def own_arguments(words):
    return words[words.index("--module") + 2 :] if words[0] == "torchrun" else words[2:]


@pytest.mark.parametrize(("work", "container"), list(containers()))
def test_a_containers_arguments_are_understood(work, container, tmp_path, monkeypatch, capsys):
    words = with_presets(work, command(work, container, POD_IP="10.0.0.1"), tmp_path)
    arguments = own_arguments(words)
    if words[0] == "torchrun":
        module = words[words.index("--module") + 1]
        options = get_args_parser().parse_args(words[1 : len(words) - len(arguments)])
        assert options.training_script == module
        assert not options.training_script_args
    else:
        module = f"launch.{words[1]}"
    if module.startswith("benchmarks."):
        module = f"{module}.__main__"
    if module == "launch.samples":
        return  # it takes a folder, and no configuration
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*arguments, "--print-config"])
    assert ended.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    for argument in arguments:
        path, _, value = argument.removeprefix("--").partition("=")
        if "." in path:
            section, field = path.replace("-", "_").split(".")
            assert str(resolved[section][field]) in (value, f"{value}.0")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_job_runs_every_benchmark_with_the_same_arguments(name, tmp_path, capsys):
    (bench,) = [one for one in works(overlay("multi-node")) if one.role == "bench"]
    (container,) = bench.pod["containers"]
    (variable,) = [one for one in container["env"] if one["name"] == "BENCHMARK"]
    assert variable["value"] in BENCHMARKS
    words = command(bench, container, POD_IP="10.0.0.1", BENCHMARK=name)
    words = with_presets(bench, words, tmp_path)
    module = f"{words[words.index('--module') + 1]}.__main__"
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*own_arguments(words), "--print-config"])
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["folder"] in words[-1]
    assert words[-1].endswith(f"/benchmarks/{name}-4.json")


def test_a_preset_with_a_mistake_ends_the_check_with_an_exit_code_of_the_policy(tmp_path):
    (work,) = [one for one in works(overlay("multi-node")) if one.role == "train"]
    (check,) = work.pod["initContainers"]
    words = with_presets(work, command(work, check), tmp_path)
    preset = tmp_path / "preset.yaml"
    preset.write_text(preset.read_text() + "tarin: {}\n")
    start = [sys.executable, "-m", "launch.command", *words[1:]]
    result = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    (rule,) = [r for r in work.job["podFailurePolicy"]["rules"] if r["action"] == "FailJob"]
    assert result.returncode in rule["onExitCodes"]["values"]
    assert "tarin is not a field" in result.stderr
