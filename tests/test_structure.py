"""Which package may use which, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICKLED_FILES_OF_OTHERS = ROOT / "pipeline" / "foreign" / "pickled.py"
ALLOWED = {
    "shards": {"shards"},
    "pipeline": {"pipeline", "shards"},
    "launch": {"launch", "pipeline", "shards"},
    # Entry points too: one that trains takes a preset and overrides as `glcic train` does.
    "benchmarks": {"benchmarks", "launch", "pipeline", "shards"},
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_from_launch_to_pipeline_to_shards_and_never_back(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported_modules(path)} & ALLOWED.keys()
        assert ours <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {ours}"


@pytest.mark.parametrize("package", ALLOWED)
def test_nothing_here_reads_a_pickle(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not {"pickle", "dill", "joblib"} & set(imported_modules(path)), path
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {ast.unparse(call.func) for call in calls if not is_safe_load(path, call)}
        assert not {"torch.load", "torch.save", "yaml.load"} & names, path


def is_safe_load(path: Path, call: ast.Call) -> bool:
    """Files of other projects are pickles: one module reads them, by the reader that runs none."""
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return path == PICKLED_FILES_OF_OTHERS and keywords.get("weights_only") == "True"


def test_shards_is_used_without_torch() -> None:
    modules = [f"shards.{path.stem}" for path in (ROOT / "shards").glob("*.py")]
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0


def test_process_group_calls_are_made_by_the_workers_alone() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        if "workers" not in path.parts:
            assert not any(m.startswith("torch.distributed") for m in imported_modules(path)), path
