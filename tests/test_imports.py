import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "hercules_scale"
MODULE_LINES = 350
ALLOWED = {
    "ray": {"runtime", "stages", "serving", "jobs", "commands"},
    "vllm": {"serving"},
    "faiss": {"clustering", "reduction"},
}
# Rooms of the package from the bottom up; a room imports only rooms before it in this list.
LAYERS = [
    {"errors", "sanitize"},
    {"models", "endpoint"},
    {"config"},
    {"storage"},
    {"reading", "embedding", "clustering"},
    {"reduction"},
    # Labels are chosen by vectors, and measured by what chose them.
    {"summarization"},
    {"evaluation"},
    {"runtime"},
    {"serving", "results"},
    {"pyhercules"},
    {"stages"},
    {"jobs"},
    {"hierarchy"},
    {"api"},
    {"explorer"},
    {"commands"},
    {"__main__", "entry points"},
]


def python_files() -> Iterator[tuple[str, Path]]:
    """Each file with the room of the package that it belongs to."""
    for path in sorted((REPOSITORY / PACKAGE).rglob("*.py")):
        yield path.relative_to(REPOSITORY / PACKAGE).with_suffix("").parts[0], path
    for path in sorted((REPOSITORY / "jobs").rglob("*.py")):
        yield "entry points", path


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("library", sorted(ALLOWED))
def test_a_heavy_library_is_imported_only_where_it_belongs(library: str) -> None:
    importers = {
        part
        for part, path in python_files()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    # vLLM is started by Ray Serve, by name.
    assert importers or library == "vllm"
    assert importers <= ALLOWED[library]


def test_imports_point_down() -> None:
    rank = {part: height for height, parts in enumerate(LAYERS) for part in parts}
    assert {part for part, _ in python_files()} - {"__init__"} <= rank.keys(), "extend LAYERS"
    upward = [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for part, path in python_files()
        if part != "__init__"
        for name in imports(path)
        if name.startswith(f"{PACKAGE}.") and name.split(".")[1] in rank
        if name.split(".")[1] != part and rank[name.split(".")[1]] >= rank[part]
    ]
    assert upward == []


def test_the_command_line_loads_no_heavy_library() -> None:
    names = "{name.split('.')[0] for name in sys.modules}"
    code = f"import sys, hercules_scale.commands.cli; print(*{names})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert PACKAGE in loaded
    heavy = {"ray", "torch", "pyarrow", "pandas", "pydantic", "numpy", "yaml"}
    assert heavy.isdisjoint(loaded)


def test_how_threads_of_faiss_wait_is_nobody_elses_business() -> None:
    code = "import os; from hercules_scale.clustering import tiles; print(sorted(os.environ))"
    # Tests set it for themselves.
    environment = {name: each for name, each in os.environ.items() if name != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "OMP_WAIT_POLICY" not in found.stdout
    assert "PATH" in found.stdout


def test_no_module_is_long() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for _, path in python_files()
    }
    assert {name: n for name, n in lengths.items() if n > MODULE_LINES} == {}
