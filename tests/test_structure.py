"""Which package, and inside each package which folder, may use which: read from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICKLED_FILES_OF_OTHERS = ROOT / "pipeline" / "weight_import" / "pickled.py"
ALLOWED = {
    "shards": {"shards"},
    "pipeline": {"pipeline", "shards"},
    "launch": {"launch", "pipeline", "shards"},
    # Entry points too: one that trains takes a preset and overrides as `glcic train` does.
    "benchmarks": {"benchmarks", "launch", "pipeline", "shards"},
    "docs_site": {"docs_site", "launch", "pipeline"},
}
# From the ground floor up. A folder may import those of lower floors alone, so there is no circle.
# A file that lies in the package's own folder stands here by its name.
FLOORS: dict[str, list[set[str]]] = {
    "shards": [
        {"child_process", "cores", "keyed_random", "storage"},
        {"format"},
        {"cache", "images", "masks"},
        {"indexing", "sampling", "sources"},
        {"reading"},
        {"evaluation_sets", "inspection"},
        {"packing"},
    ],
    "pipeline": [
        {"checkpoints", "errors", "networks/kernels"},
        {"config"},
        {"networks"},
        {"device", "exports/tracing", "inference", "weight_import"},
        {"demo", "distributed"},
        {"engines"},
        {"failures", "step"},
        {"evaluation"},
        {"exports/onnx", "reporting"},
        {"exports", "monitoring"},
        {"study", "training"},
    ],
    "benchmarks": [
        {"harness", "perceptual_networks"},
        {"documented_tables", "generator", "peers/adapters", "report"},
        {"documented_figures", "keep_evaluation", "peers", "training"},
        {"checkpoint", "loader", "packing", "scaling"},
        {"cluster", "limited_link"},
    ],
    "docs_site": [
        {"api_pages", "markdown", "repository_pages"},
        {"commands_page", "configuration_page", "folder_tables", "mkdocs_hooks"},
        {"__main__"},
    ],
}
MODULES_MAX = 12  # of a folder, without launch/, which has a file for each command


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def imported_files(path: Path) -> set[Path]:
    """Return the files of this repository that `path` imports, also inside of functions."""
    files = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if file_of(name) else node.module for name in submodules]
        files |= {file for name in names if (file := file_of(name))}
    return files


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.exists()), None)


def room_of(path: Path, package: str) -> str:
    """Return the folder inside the package, or the file's name for one without a folder."""
    *folders, _ = path.relative_to(ROOT / package).parts
    return "/".join(folders) or path.stem


@pytest.mark.parametrize("package", FLOORS)
def test_imports_inside_a_package_run_down(package: str) -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS[package]) for room in rooms}
    floors["__init__"] = -1
    for path in (ROOT / package).rglob("*.py"):
        room = room_of(path, package)
        assert room in floors, f"{path.relative_to(ROOT)}: give {room} a floor in FLOORS"
        for imported in imported_files(path):
            if imported.is_relative_to(ROOT / package):
                lower = room_of(imported, package)
                runs_down = lower == room or floors[lower] < floors[room]
                assert runs_down, f"{path.relative_to(ROOT)} imports {imported.relative_to(ROOT)}"


@pytest.mark.parametrize("package", ALLOWED)
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    paths = set((ROOT / package).rglob("*.py"))
    try:
        TopologicalSorter({path: imported_files(path) & paths for path in paths}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


@pytest.mark.parametrize("package", FLOORS)
def test_no_folder_holds_more_modules_than_one_can_take_in(package: str) -> None:
    for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MODULES_MAX, folder


@pytest.mark.parametrize("package", ALLOWED)
def test_every_folder_of_modules_is_a_package_that_says_what_it_is(package: str) -> None:
    for folder in {path.parent for path in (ROOT / package).rglob("*.py")}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


@pytest.mark.parametrize("package", FLOORS)
def test_tests_mirror_the_folders(package: str) -> None:
    """A folder of tests has the name of the folder that it tests."""
    for folder in {path.parent for path in (ROOT / "tests" / package).rglob("test_*.py")}:
        assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), folder


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
    paths = [path.relative_to(ROOT) for path in (ROOT / "shards").rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    assert "shards.reading.reader" in modules
    program = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0


def test_process_groups_are_called_by_three_folders_alone() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        if not {"distributed", "engines", "failures"} & set(path.parts):
            assert not any(m.startswith("torch.distributed") for m in imported_modules(path)), path
