"""Our clustering beside pyhercules 1.1.1: the same vectors, levels and seeds.

    python benchmarks/peer.py --data ../shared/data [--parts quality speed] [--json OUT]

Quality: of each set and level, the squared L2 distance of items to their own clusters' means, ARI
and NMI; medians and ranges over seeds. ``like for like`` is without smoothing, ``defaults`` with
``smoothing: auto``, ``paper`` without smoothing and without tree refinement. Ours are made by the
functions that the stage ``cluster`` calls, in this process; distances are of the vectors as given.

Speed: rows of four text sets to [100, 20, 5] (``--speed-levels``), each side in own processes,
in turn. Ours is ``hercules-scale run``: its stages but summarising, those but reading the input too
(which pyhercules is given in memory), and the whole; pyhercules's clustering with reduction and
saving, without prompts. Memory is the largest sum over a side's processes, pages
that they share counted once (PSS). On a machine with other work set OMP_NUM_THREADS, which both
obey: threads that wait for one another cost more than they bring.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from hierarchy import nested, prepared, score
from labelled import LEVELS, Labelled, load_labelled

PEER = "pyhercules==1.1.1"
SETS = ["pendigits", "anuran_calls", "dbpedia", "20newsgroups"]
TEXTS = ["20newsgroups", "banking77", "dbpedia", "stackoverflow"]
# What pyhercules does too; the first reads and checks the input, which it does not.
COUNTED = ("scan", "number", "embed", "smooth", "cluster")
# More often, the looking itself would take a share of a small machine.
SAMPLE_SECONDS = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder of the labelled sets")
    parser.add_argument("--cache", default="/tmp/hercules_scale_vectors", help="where vectors go")
    parser.add_argument(
        "--environment",
        default=Path("~/.cache/hercules_scale/pyhercules").expanduser(),
        help="virtual environment of pyhercules, made where there is none",
    )
    parser.add_argument("--parts", nargs="*", default=["quality", "speed"])
    parser.add_argument("--sets", nargs="*", default=SETS, choices=list(LEVELS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=40_000, help="rows of the speed part")
    parser.add_argument("--speed-levels", type=int, nargs="+", default=[100, 20, 5])
    parser.add_argument("--rounds", type=int, default=3, help="times that speed is measured")
    parser.add_argument("--json", help="where to write the figures")
    options = parser.parse_args()
    python = peer_python(Path(options.environment))
    figures: dict[str, Any] = {"options": {key: str(value) for key, value in vars(options).items()}}

    def keep() -> None:
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1))

    if "quality" in options.parts:
        for name in options.sets:
            found = load_labelled(name, options.data, options.cache)
            given = Path(options.cache) / f"{name}.npy"
            figures[name] = measure_quality(found, given, options.seeds, python)
            show_quality(found, figures[name])
            keep()
    if "speed" in options.parts:
        parts = []
        for name in TEXTS:
            load_labelled(name, options.data, options.cache)
            parts.append(np.load(Path(options.cache) / f"{name}.npy"))
        vectors = np.concatenate(parts)
        if options.rows > len(vectors):
            sys.exit(f"--rows must be at most {len(vectors):,}, the rows of {', '.join(TEXTS)}")
        drawn = np.random.default_rng(0).choice(len(vectors), options.rows, replace=False)
        figures["speed"] = []
        for _ in range(options.rounds):
            chosen = vectors[np.sort(drawn)]
            figures["speed"].append(measure_speed(chosen, options.speed_levels, python))
            keep()
        show_speed(options.rows, options.speed_levels, figures["speed"])


def peer_python(environment: Path) -> str:
    """Return the interpreter of an environment that holds pyhercules; made at the first call."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    version = "import importlib.metadata as m; print('pyhercules==' + m.version('pyhercules'))"
    found = subprocess.run([python, "-c", version], capture_output=True, text=True)
    if found.stdout.strip() != PEER:
        made = subprocess.run([python, "-m", "pip", "install", "-q", PEER])
        if made.returncode:
            sys.exit(f"{environment}: {PEER} cannot be installed; give another --environment")
    return str(python)


def run_peer(python: str, vectors: Path, levels: list[int], seeds: list[int], *more: str) -> Any:
    """Return what ``peer_pyhercules.py`` found, and the largest memory on the way."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        script = Path(__file__).with_name("peer_pyhercules.py")
        command = [python, str(script), str(vectors), str(out), "--levels", *map(str, levels)]
        peak = run_measured([*command, "--seeds", *map(str, seeds), *more])
        return json.loads(out.read_text()), peak


def run_measured(command: list[str]) -> int:
    """Run a command; the largest memory of its processes together, in bytes."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{log.read().decode()[-2000:]}")
    return peak


def resident_bytes(pid: int) -> int:
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for each in family:
        try:
            total += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def measure_quality(found: Labelled, given: Path, n_seeds: int, python: str) -> dict[str, Any]:
    """Every score of every way, a value a seed."""
    seeds = list(range(n_seeds))
    theirs, _ = run_peer(python, given, found.levels, seeds)
    labels = {"pyhercules": [[np.asarray(each) for each in run["labels"]] for run in theirs]}
    by_kind = {kind: (vectors, note) for kind, vectors, note in prepared(found, ["raw", "auto"])}
    ways = {
        "like for like": ("raw", "tree"), "defaults": ("auto", "tree"), "paper": ("raw", "none")
    }  # fmt: skip
    for way, (kind, refinement) in ways.items():
        vectors = by_kind[kind][0]
        labels[way] = [nested(vectors, found.levels, seed, refinement) for seed in seeds]
    results: dict[str, Any] = {"smoothing": by_kind["auto"][1]}
    for way, runs in labels.items():
        scores = [score(found, found.vectors, run) for run in runs]
        results[way] = {key: [each[key] for each in scores] for key in scores[0]}
    return results


def show_quality(found: Labelled, results: dict[str, Any]) -> None:
    ways = [way for way in results if way != "smoothing"]
    shape = f"{found.vectors.shape[0]:,} x {found.vectors.shape[1]}"
    print(f"\n{found.name}, {shape}, levels {found.levels}, smoothing {results['smoothing']}\n")
    print("| | " + " | ".join(ways) + " |\n" + "|---" * (len(ways) + 1) + "|")
    for key, theirs in results["pyhercules"].items():
        # Distances at upper levels go to means of other items, so only the finest are compared.
        if key.startswith("mean") or (key.startswith("inertia") and key != "inertia 1"):
            continue
        cells = [spread(results[way][key], ".4g" if key == "inertia 1" else ".3f") for way in ways]
        print(f"| {key} | " + " | ".join(cells) + " |")
        for way in ways[1:]:
            loss = statistics.median(theirs) - statistics.median(results[way][key])
            loss = -loss / statistics.median(theirs) if key == "inertia 1" else loss
            if loss > 0:
                unit = "of it" if key == "inertia 1" else ""
                print(
                    f"  worse than pyhercules: {way}, {key}, by {loss:.4f} {unit}", file=sys.stderr
                )


def spread(values: list[float], form: str) -> str:
    """Median, least and largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def measure_speed(vectors: Any, levels: list[int], python: str) -> dict[str, dict[str, float]]:
    """Seconds and memory of one run of each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = folder / "vectors.npy"
        np.save(given, vectors)
        config = {
            "input": {"path": str(given), "modality": "embedding"},
            "hierarchy": {"levels": levels, "smoothing": {"neighbours": 0}},
            "summaries": {"engine": "keyphrases"},
            "evaluation": {"metrics": "none"},
            "resources": {"workers": max(os.cpu_count() or 1, 1)},
            "output": {"path": str(folder / "run")},
        }
        # JSON is YAML too.
        (folder / "config.yaml").write_text(json.dumps(config))
        started = time.perf_counter()
        command = [sys.executable, "-m", "hercules_scale", "run", str(folder / "config.yaml")]
        our_peak = run_measured(command)
        wall = time.perf_counter() - started
        stages = {
            stage["name"]: stage
            for stage in json.loads((folder / "run" / "run.json").read_text())["stages"]
        }
        started = time.perf_counter()
        model = folder / "model.json"
        found, their_peak = run_peer(python, given, levels, [0], "--save", str(model))
        their_wall = time.perf_counter() - started
        ours = {f"stage {name}": stage["seconds"] for name, stage in stages.items()}
        return {
            "ours": {
                "seconds": sum(ours.get(f"stage {name}", 0.0) for name in COUNTED),
                "but reading": sum(ours.get(f"stage {name}", 0.0) for name in COUNTED[1:]),
                "whole run": wall,
                "memory": our_peak,
                "driver": max(stage["driver_peak_bytes"] for stage in stages.values()),
                "worker": max(stage["worker_peak_bytes"] for stage in stages.values()),
                "saved bytes": sum(
                    path.stat().st_size for path in (folder / "run").rglob("*.parquet")
                ),
                **ours,
            },
            "pyhercules": {
                "seconds": found[0]["cluster_seconds"] + found[0]["save_seconds"],
                "whole run": their_wall,
                "memory": their_peak,
                "saved bytes": model.stat().st_size,
                "cluster": found[0]["cluster_seconds"],
                "save": found[0]["save_seconds"],
            },
        }


def show_speed(rows: int, levels: list[int], rounds: list[dict[str, dict[str, float]]]) -> None:
    medians = {
        side: {key: statistics.median(each[side][key] for each in rounds) for key in values}
        for side, values in rounds[0].items()
    }
    print(f"\n{rows:,} rows, levels {levels}, medians of {len(rounds)}\n")
    print("| | seconds | whole run s | memory GiB | saved GiB |\n|---|---|---|---|---|")
    for side, values in medians.items():
        sizes = f"{values['memory'] / 2**30:.2f} | {values['saved bytes'] / 2**30:.2f}"
        print(f"| {side} | {values['seconds']:.1f} | {values['whole run']:.1f} | {sizes} |")
    for side, values in medians.items():
        known = ("seconds", "but reading", "whole run", "memory", "saved bytes", "driver", "worker")
        parts = [f"{key} {value:.1f} s" for key, value in values.items() if key not in known]
        print(f"{side}: {', '.join(parts)}")
    for key in ("seconds", "but reading", "whole run"):
        theirs = key if key == "whole run" else "seconds"
        ratios = [each["pyhercules"][theirs] / each["ours"][key] for each in rounds]
        print(f"{key}: pyhercules takes {spread(ratios, '.2f')} times as long; asked: 10")


if __name__ == "__main__":
    main()
