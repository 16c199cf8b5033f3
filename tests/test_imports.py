import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "hercules_scale"
ALLOWED = {
    "ray": {"stages", "serving", "pipeline", "api", "submit", "jobs", "job_environment"},
    "vllm": {"serving"},
    "faiss": {"clustering", "reduction"},
}
# Parts of the package from the bottom up; a part imports those below it alone.
LAYERS = [
    {"errors", "printable"},
    {"models", "trust"},
    {"config", "schemas", "moments", "progress"},
    {"resources", "job_environment"},
    {"storage"},
    {"reading", "embedding", "clustering", "reduction"},
    {"exchange"},
    # Labels are chosen by vectors, and measured by what chose them.
    {"summarization"},
    {"evaluation"},
    {"serving"},
    {"stages"},
    {"space"},
    {"checks"},
    {"pipeline"},
    {"measure", "assign"},
    {"hierarchy"},
    {"show", "plan", "demo", "api", "status", "serve"},
    {"submit"},
    {"explorer"},
    {"cli"},
    {"jobs", "__main__"},
]


def python_files() -> Iterator[tuple[str, Path]]:
    """Each file with the part of the project that it belongs to."""
    for folder in (PACKAGE, "jobs"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            inside = path.relative_to(REPOSITORY / folder).with_suffix("").parts
            yield folder if folder == "jobs" else inside[0], path


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
    code = "import sys, hercules_scale.cli; print(*{name.split('.')[0] for name in sys.modules})"
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
