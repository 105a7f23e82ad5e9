"""The image, as far as a machine without a container engine can try it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch.command import VERBS
from tests.k8s.manifests import BENCHMARKS, KUBERNETES
from tests.torchrun import ROOT

DOCKERFILE = KUBERNETES / "Dockerfile"


def instructions():
    """(instruction, its words as one line), in order."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages():
    found = []
    for name, words in instructions():
        if name == "FROM":
            found.append([])
        elif found:
            found[-1].append((name, words))
    return found


def copied():
    """Folder of the repository -> where the image has it, of the last stage."""
    pairs = [words.split() for name, words in stages()[-1] if name == "COPY"]
    return {words[0]: words[1] for words in pairs if not words[0].startswith("--")}


def test_the_linter_has_nothing_to_say():
    linter = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_base_is_pinned_and_the_user_is_not_root():
    (base,) = [words for name, words in instructions() if name == "ARG" and "BASE=" in words]
    assert re.fullmatch(r"BASE=\S+:\d+\.\d+\.\d+-\S+", base)
    (user,) = [words for name, words in stages()[-1] if name == "USER"]
    assert user == "1000:1000"
    entry = [name for name, _ in stages()[-1]]
    assert entry.index("USER") < entry.index("ENTRYPOINT")


def test_dependencies_are_installed_before_any_code_is_copied():
    dependencies, last = stages()
    assert [words for name, words in dependencies if name == "COPY"] == ["pyproject.toml ./"]
    assert not any("pip install" in words for _, words in last)


def test_the_first_step_finds_the_torch_that_the_project_asks_for(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (script,) = re.findall(r"\$\((sed .*? pyproject\.toml)\)", DOCKERFILE.read_text())
    found = subprocess.run(shlex.split(script), cwd=tmp_path, capture_output=True, text=True)
    assert re.fullmatch(r"torch>=[\d.]+,<[\d.]+\n", found.stdout)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_torch_for_another_device_ends_the_build(device):
    import torch

    (script,) = re.findall(r'-c "(import sys, torch.*?)" "\$\{DEVICE\}"', DOCKERFILE.read_text(),
                           re.DOTALL)  # fmt: skip
    code = script.replace("\\\n", "")  # as the builder joins lines
    built_for = "cuda" if torch.version.cuda else "cpu"
    result = subprocess.run([sys.executable, "-c", code, device], capture_output=True, text=True)
    assert (result.returncode == 0) == (device == built_for)
    assert ("see TORCH_INDEX" in result.stderr) == (device != built_for)


def test_what_is_copied_is_all_that_the_commands_need(tmp_path):
    """The last stage's code, alone, compiled as there and read-only."""
    for source, destination in copied().items():
        target = tmp_path / destination
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (compiling,) = [words for name, words in stages()[-1] if "compileall" in words]
    arguments = compiling.split("&&")[0].split()[1:]
    arguments = [word.replace("/app", str(tmp_path)) for word in arguments]
    assert subprocess.run([sys.executable, *arguments]).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    code = (
        "import importlib, launch.command as c, launch.support.arguments as a\n"
        f"assert c.__file__.startswith({str(tmp_path)!r}), c.__file__\n"
        "[importlib.import_module(f'launch.{verb}') for verb in c.VERBS]\n"
        f"[importlib.import_module(f'benchmarks.{{name}}.__main__') for name in {BENCHMARKS}]\n"
        "print(len(list(a.PRESETS.glob('*.yaml'))))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(list((ROOT / "launch" / "presets").glob("*.yaml")))


def test_nothing_that_is_copied_is_kept_out_of_the_build(tmp_path):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert kept == {*copied(), "pyproject.toml"}


def test_the_entry_and_the_health_check_are_our_command():
    (entry,) = [words for name, words in stages()[-1] if name == "ENTRYPOINT"]
    assert yaml.safe_load(entry) == ["glcic"]
    (health,) = [words for name, words in stages()[-1] if name == "HEALTHCHECK"]
    command = yaml.safe_load(health.partition("CMD ")[2])
    assert command[0] == "glcic"
    assert command[1] in {"--help", *VERBS}
