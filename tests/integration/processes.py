"""A process that runs commands of ``hercules-scale`` in forks, which are killed at given points."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Commands come as lines of JSON. Each runs in a fork, because to import everything takes seconds,
# and in a session of its own. A point is where it is killed, or loses a worker or a node:
# ["advance", stage, n] when the driver hears of the n-th shard of a stage,
# ["write", name, n] in the place of the n-th small file with this in its name,
# ["assign", n] at the n-th assignment of the clustering,
# ["file", pattern, n] when n files are there.
# A node is lost of a cluster of a head without processors and of nodes of so many.
STARTS = 3
# What Ray says, and what a command says that has tried it again.
TOO_SLOW = ("The current node timed out during startup", "Ray did not start within 30 s")
FORKS = """
import glob, json, os, signal, sys, threading, time
import psutil, ray
from ray.cluster_utils import Cluster
import hercules_scale.jobs.assign, hercules_scale.jobs.cluster, hercules_scale.jobs.evaluate
from hercules_scale.commands.cli import main
from hercules_scale.runtime import progress
from hercules_scale.stages import ray_vectors, vectors
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from tests.worker_forks import forked_workers

def workers():
    for process in psutil.Process(server).children():
        try:
            yield process, " ".join(process.cmdline())
        except psutil.Error:
            pass

def node_of(tile):
    return ray.get_runtime_context().get_node_id()

def strike(what, at=None):
    if what == "driver":
        os.killpg(0, signal.SIGKILL)
    if what == "worker":
        idle, busy = [], []
        for each, title in workers():
            if title.startswith("ray::") and "Encoder" not in title:
                (idle if "IDLE" in title else busy).append(each)
        lost = (busy or idle)[0]
        lost.kill()
        print("killed", lost.pid, flush=True)
    if what == "node":
        lost = [node for node in nodes if at is None or node.node_id == at][0]
        nodes.remove(lost)
        cluster.remove_node(lost, allow_graceful=False)
        print("lost", lost.node_id, flush=True)

def look(what, pattern, n):
    while len(glob.glob(pattern)) < n:
        time.sleep(0.002)
    strike(what)

def watch(points):
    for what, kind, *key in points:
        if kind == "file":
            threading.Thread(target=look, args=(what, *key), daemon=True).start()
    left = [[what, kind, *key, n] for what, kind, *key, n in points]
    def seen(kind, name="", at=None):
        for point in left:
            if point[1] == kind and (kind == "assign" or point[2] in name):
                point[-1] -= 1
                if point[-1] == 0:
                    strike(point[0], at)
    advance = progress.StageProgress.advance
    def advanced(self, *values):
        advance(self, *values)
        seen("advance", self.report.name)
    progress.StageProgress.advance = advanced
    for method in ("write_bytes", "create"):
        def wrap(call):
            def written(self, name, data):
                seen("write", name)
                return call(self, name, data)
            return written
        setattr(Store, method, wrap(getattr(Store, method)))
    assign_all = ray_vectors.RayVectors.assign
    def assigned(self, *values):
        if any(point[1] == "assign" for point in left):
            seen("assign", at=self.map(node_of)[0] if cluster else None)
        return assign_all(self, *values)
    ray_vectors.RayVectors.assign = assigned

def run(command):
    global cluster, nodes
    os.setsid()
    log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["RAY_ADDRESS"] = ""
    ray_vectors.WAIT_SECONDS, ray_vectors.NODE_SECONDS = 0.5, 2.0
    # Of the rows that the driver would hold itself, and of GPUs.
    vectors.open_vectors.__wrapped__.__defaults__ = (0, 0)
    cluster, nodes = None, []
    if command["lasting"]:
        ray.init(address=lasting(), log_to_driver=False, logging_level="ERROR")
    if command["nodes"]:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        nodes = [cluster.add_node(num_cpus=n) for n in command["nodes"]]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    watch(command["points"])
    code = 0
    if command["program"]:
        exec(command["program"], {"arguments": command["arguments"]})
    else:
        code = main(command["arguments"])
    sys.stdout.flush()
    os._exit(code)

def start_lasting(answer):
    os.dup2(2, 1)
    os.setsid()
    for attempt in range(3):
        try:
            args = {"num_cpus": 2, "include_dashboard": False}
            os.write(answer, Cluster(initialize_head=True, head_node_args=args).address.encode())
            break
        except Exception as error:
            # Ray waits 30 s for a node.
            print(error, file=sys.stderr, flush=True)
    os.close(answer)
    signal.pause()

def lasting():
    if not held:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            start_lasting(writer)
        os.close(writer)
        with os.fdopen(reader) as stream:
            held.append(stream.read())
    return held[0]

def end(child, command):
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if command["lasting"]:
        return
    # None is left for the next command to find.
    for each, _ in workers():
        each.kill()

with forked_workers() as (program, server):
    sys.executable = program
    held = []
    for line in sys.stdin:
        command = json.loads(line)
        if command["lasting"]:
            lasting()
        child = os.fork()
        if child == 0:
            try:
                run(command)
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(99)
        status = os.waitpid(child, 0)[1]
        end(child, command)
        print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Forks:
    """Runs commands one after another.

    Args:
        process: It runs ``FORKS``.
        log: What the commands print.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self.log = process, log

    def run(self, *arguments: str, points: list[list[Any]] | None = None, **more: Any) -> int:
        """Run a command to its end or until it is killed.

        Args:
            arguments: Of the command line, or of the program.
            points: What is struck and where; ``[what, kind, ..., n]``.
            more: ``program``, Python that runs in place of the command line with ``arguments``;
                ``nodes``, processors of each node of a cluster; ``lasting``, whether the Ray is
                one that all such commands share and that outlives them, which saves its start.

        Returns:
            Its exit code, below zero after a signal.
        """
        command = {
            "arguments": arguments,
            "points": points or [],
            "program": "",
            "nodes": [],
            "lasting": False,
            **more,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for _ in range(STARTS):
            self.log.write_text("")
            self._process.stdin.write(json.dumps({**command, "log": str(self.log)}) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            # Ray waits for 30 s for a node of a test's cluster, and no setting changes that.
            said = self.log.read_text()
            if not any(slow in said for slow in TOO_SLOW):
                break
        return code


@contextmanager
def open_forks(log: Path) -> Iterator[Forks]:
    """Start the process, and end it with whatever it runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Forks(process, log)
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for session in map(int, children):
            # The server of workers is no session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
        # It ends what is left, and then itself.
        process.communicate()
