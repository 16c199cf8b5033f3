"""Connection to Ray: to the cluster that this process belongs to, or to a new local one."""

from __future__ import annotations

import logging
import math
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any

import joblib
import ray

from hercules_scale.config.resolved import ResolvedConfig
from hercules_scale.errors import ConfigError, HerculesScaleError
from hercules_scale.runtime.job_environment import kept_environment
from hercules_scale.runtime.progress import Reporter
from hercules_scale.runtime.resources import pools_of
from hercules_scale.runtime.waiting import await_address

RAY_STARTS = 3
LOG_LEVEL_LINE = b": Set ray log level from environment variable"
# Path of a socket in Ray's folder, and the longest path of that folder: Linux allows 107 bytes for
# the path of a socket.
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store"
RAY_FOLDER_BYTES = 107 - len(RAY_SOCKET)
SHORT_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
# Held while a run of this process uses a Ray that it started or joined itself.
_turn = threading.Lock()
_has_turn: ContextVar[bool] = ContextVar("has_turn", default=False)


@contextmanager
def local_or_cluster_ray(
    config: ResolvedConfig, say: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Connect to the Ray cluster this process belongs to, or start a local one and stop it.

    A cluster is joined where RAY_ADDRESS is set, as it is in a submitted job.

    Args:
        config: The run.
        say: Called with messages about waits; by default it prints on the terminal.

    Raises:
        HerculesScaleError: Ray failed in a way that no stage can handle.
    """
    say = say or Reporter().say
    with _turn_at_ray(say) as mine, _connected(config, mine, say):
        yield


@contextmanager
def _turn_at_ray(say: Callable[[str], object]) -> Iterator[bool]:
    """Wait until no other run of this process uses its own Ray.

    A process has at most one Ray. Runs share a Ray that the caller started. Runs that start Ray
    themselves take turns, since each starts it in the size that it needs and stops it at the end.

    Yields:
        Whether this run must start Ray, and stop it in the end.
    """
    if _has_turn.get():
        # This run was started by a user's function within another run.
        yield False
        return
    if not _turn.acquire(blocking=False):
        say("waits for another run of this process to end; to have both at once, ray.init() first")
        _turn.acquire()
    if ray.is_initialized():
        _turn.release()
        yield False
        return
    token = _has_turn.set(True)
    try:
        yield True
    finally:
        _has_turn.reset(token)
        _turn.release()


@contextmanager
def _connected(config: ResolvedConfig, mine: bool, say: Callable[[str], object]) -> Iterator[None]:
    # Logs of Ray and of the models' libraries would drown the progress; they stay in Ray's logs.
    quiet = {
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if config.privacy.local_only:
        quiet |= {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
    for name, value in {**quiet, "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    if mine:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address := os.environ.get("RAY_ADDRESS"):
            await_address(address, config.resources.wait_seconds, say)
            options["runtime_env"] = {"env_vars": quiet}
        else:
            # Embedding and the LLM run in turn, so the larger of the two is enough. Workers that
            # Ray starts in advance have this process's variables; with other variables they would
            # be restarted.
            asked = max(pool.least * pool.cpus for pool in pools_of(config, 0))
            n_cpus = max(joblib.cpu_count(), math.ceil(asked), 2)
            # The address is explicit, because Ray would else join any cluster on this machine.
            options |= {"address": "local", "num_cpus": n_cpus, "include_dashboard": False}
            options |= _ray_folder()
            _give_ray_a_token()
        _start_ray(options)
    for name in ("ray.serve", "ray.llm", "vllm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with kept_environment() if mine else nullcontext():
            yield
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise HerculesScaleError(f"Ray failed: {reason}; run again, it resumes") from error
    finally:
        if mine:
            ray.shutdown()


def _give_ray_a_token() -> None:
    """Give Ray a token of this process, if the user has none.

    Ray itself would save one in the home directory, which in containers is often missing or
    read-only.
    """
    saved = os.path.exists(os.path.expanduser("~/.ray/auth_token"))
    if not saved and not any(name in os.environ for name in TOKEN_VARIABLES):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _ray_folder() -> dict[str, str]:
    """Return the option that names Ray's folder, if the temporary folder's path is too long.

    Raises:
        ConfigError: No shorter folder is writable, or the path in RAY_TMPDIR is too long.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(variable, "/tmp")  # noqa: S108
    if len(os.fsencode(folder)) <= RAY_FOLDER_BYTES:
        return {}
    if variable == "TMPDIR":
        for short in SHORT_FOLDERS:
            if os.access(short, os.W_OK | os.X_OK):
                return {"_temp_dir": f"{short}/ray"}
    raise ConfigError(
        f"{variable} must be a path of at most {RAY_FOLDER_BYTES} bytes, since Ray's sockets are "
        f"below it and a socket's path has 107 at most, got {len(os.fsencode(folder))}: {folder}; "
        "set RAY_TMPDIR to a short one, such as /tmp"
    )


def _start_ray(options: dict[str, Any]) -> None:
    """Start or join Ray; try again if a busy machine takes longer than Ray's limit of 30 s.

    Raises:
        HerculesScaleError: Ray was too slow three times.
    """
    for _ in range(RAY_STARTS):
        try:
            with _quiet_stderr():
                ray.init(**options)
            return
        except Exception as error:
            # Ray has no type of exception for this.
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise HerculesScaleError(
        f"Ray did not start within 30 s, {RAY_STARTS} times in a row: the machine is too busy; end "
        "other work on it and run again"
    )


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep the line about the log level, which Ray's C++ code prints, off the terminal."""
    try:
        stderr = os.dup(2)
    except OSError:
        # The stream is closed, as in a daemon.
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            lines = b"".join(line for line in kept if LOG_LEVEL_LINE not in line)
            with suppress(OSError):
                os.write(2, lines)


def check_one_machine() -> None:
    """Refuse functions of this process on a Ray cluster of several machines."""
    if ray.is_initialized() and not _turn.locked():
        hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        where = f"Ray runs on {len(hosts)} machines" if len(hosts) > 1 else ""
    else:
        address = os.environ.get("RAY_ADDRESS", "")
        where = "RAY_ADDRESS names a cluster" if address not in ("", "local") else ""
    if where:
        raise ConfigError(
            f"llm and embed are functions of this process: they work in local runs alone, and "
            f"{where}; on a cluster take summaries.engine openai or vllm, and embedding.model"
        )
