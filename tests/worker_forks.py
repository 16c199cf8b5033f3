"""Ray's workers as forks of a process that has imported what they need, which takes each seconds.

Ray starts its processes by ``sys.executable``. A small program in its place asks a server for a
fork that has the program's arguments, environment, folder and output, and runs what the program was
to run. Neither the autoscaler nor the reader of logs, of which tests need nothing, is started.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PYTHON = sys.executable
NICENESS = 15
# It waits for the end of the worker, as who started it does. Agents of a node are no workers, and
# workers with an environment of their own are set up before.
PROGRAM = """#!{python} -IS
import json, os, socket, sys, time
if any(each.endswith(("/_private/log_monitor.py", "/_private/monitor.py")) for each in sys.argv):
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)
    sys.exit()
if not sys.argv[1].endswith("/default_worker.py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
asked = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [1, 2])
    server.sendall(asked)
    server.recv(1)
"""


# Variable of the program's path.
VARIABLE = "HERCULES_TEST_WORKERS"
# Python imports it at its start. A process that starts Ray takes the program for its interpreter.
CUSTOMIZE = """
import os, sys
program = os.environ.get("{variable}", "")
# Hosts with temporary files of their own do not have it.
if os.path.exists(program) and any(
    each == "hercules_scale" or each.endswith(("/ray", "/hercules-scale")) for each in sys.orig_argv
):
    sys.executable = program
"""


def serve(listener: socket.socket) -> None:
    """Fork a worker for each connection, for ever; the fork returns when the worker has ended."""
    # The end of a fork is not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _work(connection)
            return
        connection.close()


def _work(connection: socket.socket) -> None:
    """Be the worker that a connection asks for, which stays open until it ends."""
    head, outputs, *_ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb") as stream:
        sys.argv, environment, folder = json.loads(stream.read(int.from_bytes(head, "big")))
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    # As Ray's own workers: what starts a Ray beside these has no more than 30 s for it.
    os.nice(NICENESS)
    # Ray ends the group of a worker with it.
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    runpy.run_path(sys.argv[0], run_name="__main__")


def load() -> None:
    """Import what workers need but Ray, which keeps the environment that it is imported in."""
    import faiss
    import sentence_transformers
    import torch
    import transformers.models.bert.modeling_bert

    import hercules_scale.clustering.kmeans
    import hercules_scale.embedding.image
    import hercules_scale.embedding.packed_linear
    import hercules_scale.embedding.sentence_transformer
    import hercules_scale.hierarchy

    assert all((faiss, hercules_scale, sentence_transformers, torch, transformers))
    assert "ray" not in sys.modules


def write_program(folder: Path) -> tuple[socket.socket, str]:
    """Socket of a server, and the path of the program that asks it for workers."""
    listener = socket.socket(socket.AF_UNIX)
    address = str(folder / "socket")
    listener.bind(address)
    listener.listen(64)
    program = folder / "python"
    program.write_text(PROGRAM.format(python=PYTHON, address=address))
    program.chmod(0o700)
    (folder / "sitecustomize.py").write_text(CUSTOMIZE.format(variable=VARIABLE))
    return listener, str(program)


@contextmanager
def forked_workers() -> Iterator[tuple[str, int]]:
    """The path of the program, and a server that runs as long as the context is open."""
    with tempfile.TemporaryDirectory(prefix="hs") as folder:
        listener, program = write_program(Path(folder))
        server = subprocess.Popen(
            # The folder of this file holds modules with common names.
            [PYTHON, "-P", __file__, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            # As in a worker with one processor. One thread has nothing that a fork would lose.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        listener.close()
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"loaded\n"
            yield program, server.pid
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    load()
    print("loaded", flush=True)
    serve(socket.socket(fileno=int(sys.argv[1])))
