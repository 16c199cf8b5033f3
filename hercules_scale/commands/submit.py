"""Submits a run or another command to a Ray cluster by its job API, follows it and stops it.

A run has one submission id, made of its configuration and its output, so that it is not run twice
at a time; another command has one of its arguments. What is sent is the configuration with the
files and modules of this machine that it names, this package (so that what checked the
configuration is what runs) and the variables that storage, endpoint and model hub need.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import socket
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import hercules_scale
from hercules_scale.config.run import RunConfig
from hercules_scale.endpoint import is_loopback
from hercules_scale.errors import ConfigError, HerculesScaleError, InputError
from hercules_scale.jobs.run_record import fingerprinted
from hercules_scale.runtime.job_environment import (
    FILE_VARIABLE,
    VERSIONS_VARIABLE,
    take_environment,
    versions,
)
from hercules_scale.sanitize import printable
from hercules_scale.storage.manifest import fingerprint
from hercules_scale.storage.store import split_uri

PASSED_ON = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "HF_TOKEN",
)
"""Variables that go with a job where they are set. Those that name files of this machine do not."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""The same, unless they name this machine."""

CONFIG_FILE, VOCABULARY_FILE = "run.yaml", "vocabulary.txt"
KEPT = "which whoever uses the cluster can read until some ten minutes after its end"
CONNECT_SECONDS = 10.0
POLL_SECONDS = 1.0
STOP_SECONDS = 60.0
# Ray takes these over the address that it is given.
RAY_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job of a run on a cluster.

    Attributes:
        submission_id: Id of the job in Ray's job API and dashboard.
        status: Last known status.
        driver_exit_code: Driver exit code of the run, once it has ended.
    """

    submission_id: str
    status: JobStatus
    driver_exit_code: int | None = None


@dataclass(frozen=True)
class Work:
    """Work that a job does.

    Attributes:
        arguments: Arguments of ``hercules-scale``.
        run_id: Name of its first job.
        output: Output of the run, for people who read the dashboard.
        config: Configuration of the run, which goes along as ``CONFIG_FILE``.
        redact: ``privacy.redact``, of which the module goes along.
    """

    arguments: tuple[str, ...]
    run_id: str
    output: str
    config: RunConfig | None = None
    redact: str | None = None


def work_of_run(config: RunConfig, command: tuple[str, ...] = ("run",)) -> Work:
    """Return a run, or another command with its configuration.

    Its id is the same for the same configuration and output.
    """
    name, *more = command
    arguments = (name, CONFIG_FILE, *more)
    values: dict[str, Any] = {
        "config": fingerprinted(config),
        "output": config.output.path.rstrip("/"),
    }
    if command != ("run",):
        values["command"] = list(command)
    run_id = f"hercules-{fingerprint(values)}"
    return Work(arguments, run_id, config.output.path, config, config.privacy.redact)


def work_of_command(arguments: list[str], output: str, redact: str | None) -> Work:
    """Return a command on a finished run; its id is the same for the same arguments."""
    run_id = f"hercules-{fingerprint({'arguments': arguments})}"
    return Work(tuple(arguments), run_id, output, None, redact)


class Cluster:
    """The jobs of a Ray cluster.

    Args:
        address: URL of its dashboard.

    Raises:
        InputError: It cannot be reached, or refuses the token.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        _check_reachable(address)
        # If a token is found, the cluster is asked with it, as Ray's own commands do.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        # It says when a connection is closed.
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        with self._explained(), _unset(RAY_ADDRESSES):
            self._client = JobSubmissionClient(address)

    def jobs_of(self, run_id: str) -> list[Job]:
        """Return jobs of one run, oldest first."""
        with self._explained():
            found = self._client.list_jobs()
        numbered = [(_number(run_id, job.submission_id), job) for job in found]
        own = sorted((pair for pair in numbered if pair[0]), key=lambda pair: pair[0])
        return [_job(details) for _, details in own]

    def submit(self, submission_id: str, work: Work, folder: Path, variables: str) -> None:
        """Start a job with a folder of this machine as its working directory.

        Args:
            submission_id: Name of the job.
            work: Work that it does.
            folder: Its working directory.
            variables: Name of the file with its variables.
        """
        command = ["python", "-m", hercules_scale.__name__, *work.arguments]
        with self._explained():
            self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=submission_id,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {
                        FILE_VARIABLE: variables,
                        VERSIONS_VARIABLE: json.dumps(versions()),
                    },
                    "worker_process_setup_hook": (
                        f"{take_environment.__module__}.{take_environment.__name__}"
                    ),
                },
                metadata={"run": work.output},
            )

    def follow(self, submission_id: str, say: Say) -> Job:
        """Say what a job prints, line by line, until it has ended."""
        said = 0
        while True:
            with self._explained():
                said = asyncio.run(self._tail(submission_id, said, say))
                job = _job(self._client.get_job_info(submission_id))
            if job.status.is_terminal():
                return job
            # The connection was closed before the end.
            time.sleep(POLL_SECONDS)

    def stop(self, submission_id: str) -> Job:
        """Stop a job and wait for its end."""
        with self._explained():
            self._client.stop_job(submission_id)
            deadline = time.monotonic() + STOP_SECONDS
            while True:
                job = _job(self._client.get_job_info(submission_id))
                if job.status.is_terminal() or time.monotonic() > deadline:
                    return job
                time.sleep(POLL_SECONDS)

    async def _tail(self, submission_id: str, said: int, say: Say) -> int:
        """Say the lines that follow those said before; how many there are by now."""
        n_lines, rest = 0, ""
        try:
            async for text in self._client.tail_job_logs(submission_id):
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    n_lines += 1
                    if n_lines > said:
                        say(printable(line))
        except RuntimeError:
            # Closed in the middle; whoever follows asks again.
            return max(n_lines, said)
        if rest:
            say(printable(rest))
        return max(n_lines, said)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Provide the errors of Ray's client, as one line that says what to do."""
        where = f"--address {self._address}"
        try:
            yield
        except AuthenticationError as error:
            refused = str(error).startswith("Authentication failed")
            raise InputError(
                f"{where}: the cluster {'refused the token' if refused else 'wants a token'}; give "
                f"{'its own' if refused else 'it'} in RAY_AUTH_TOKEN, in a file that "
                "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
            ) from None
        except ConnectionError:
            raise _unreachable(self._address, "no Ray dashboard answers") from None
        except OSError as error:
            raise _unreachable(self._address, type(error).__name__) from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise HerculesScaleError(f"{where}: {printable(reason)}; see Ray's logs") from None


def submit(
    work: Work,
    address: str,
    say: Say,
    *,
    wait: bool = True,
    variables: Sequence[str] | None = (),
    again: bool = False,
) -> None:
    """Have a cluster do some work, unless it does so already.

    Args:
        work: The work.
        address: URL of the cluster's dashboard.
        say: Called with each line of the log.
        wait: Whether to follow the job to its end.
        variables: Names of variables that go with it besides ``PASSED_ON`` and ``PROXIES``; None
            for no variable at all.
        again: Whether to submit a run again after its job succeeded.

    Raises:
        InputError: The cluster cannot be reached, or the job ended with 2.
        HerculesScaleError: The job failed or was stopped.
    """
    environment = _environment(variables)
    cluster, run_id = Cluster(address), work.run_id
    jobs = cluster.jobs_of(run_id)
    last = jobs[-1] if jobs else None
    if last is not None and last.status == JobStatus.SUCCEEDED and not again:
        say(
            f"job {last.submission_id}: finished before, nothing to do; where its output is gone, "
            "submit with --again"
        )
        return
    if last is None or last.status.is_terminal():
        name = run_id if last is None else f"{run_id}-{len(jobs) + 1}"
        with tempfile.TemporaryDirectory(prefix="hercules_scale_") as folder:
            file = _pack(Path(folder), work, environment)
            cluster.submit(name, work, Path(folder), file)
        passed = f", with {', '.join(environment)}, {KEPT}" if environment else ""
        before = "" if last is None else f"; {last.submission_id} {last.status.value.lower()}"
        say(f"job {name}: submitted{passed}{before}")
    else:
        name = last.submission_id
        say(f"job {name}: the run was submitted before and is {last.status.value.lower()}")
    if wait:
        _follow(cluster, name, say)


def stop(work: Work, address: str, say: Say) -> None:
    """Stop the job of some work, if there is one; submitted again, it resumes."""
    cluster, run_id = Cluster(address), work.run_id
    going = [job for job in cluster.jobs_of(run_id) if not job.status.is_terminal()]
    if not going:
        say(f"job {run_id}: not running, nothing to stop")
    for job in going:
        ended = cluster.stop(job.submission_id)
        say(f"job {job.submission_id}: {ended.status.value.lower()}; submit again, it resumes")


def _follow(cluster: Cluster, name: str, say: Say) -> None:
    try:
        job = cluster.follow(name, say)
    except KeyboardInterrupt:
        say(f"job {name}: goes on; submit again to follow it, with --stop to stop it")
        return
    if job.status == JobStatus.SUCCEEDED:
        say(f"job {name}: done")
    elif job.status == JobStatus.STOPPED:
        raise HerculesScaleError(f"job {name}: was stopped; submit again, it resumes")
    elif job.driver_exit_code == InputError.exit_code:
        raise InputError(f"job {name}: the configuration or the input is wrong, see its log above")
    else:
        raise HerculesScaleError(f"job {name}: failed, see its log above; submit again, it resumes")


def _environment(names: Sequence[str] | None) -> dict[str, str]:
    """Return the variables of this process that go with a job.

    Raises:
        ConfigError: One that is asked for is not set.
    """
    if names is None:
        return {}
    for name in names:
        if name not in os.environ:
            raise ConfigError(f"--env {name}: is not set here; set it, or leave --env out")
    found = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    for name in PROXIES:
        url = os.environ.get(name)
        if url and not is_loopback(url if "://" in url else f"//{url}"):
            found[name] = url
    return found | {name: os.environ[name] for name in names}


def _pack(folder: Path, work: Work, environment: dict[str, str]) -> str:
    """Make the working directory of a job.

    Returns:
        Name of the file with its variables.
    """
    own = Path(hercules_scale.__file__).parent
    shutil.copytree(own, folder / own.name, ignore=shutil.ignore_patterns("__pycache__"))
    if work.redact is not None:
        _pack_module(folder, work.redact.partition(":")[0].partition(".")[0])
    if work.config is not None:
        values = work.config.model_dump(exclude_unset=True)
        words = work.config.summaries.vocabulary
        if words is not None and split_uri(words)[0] == "file":
            shutil.copy(split_uri(words)[1], folder / VOCABULARY_FILE)
            values["summaries"]["vocabulary"] = VOCABULARY_FILE
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(values), encoding="utf-8")
    # Of this job alone: Ray takes equal directories for one, of which another job deleted the file.
    secrets = folder / f"environment-{uuid.uuid4().hex}.json"
    secrets.touch(mode=0o600)
    secrets.write_text(json.dumps(environment), encoding="utf-8")
    return secrets.name


def _pack_module(folder: Path, name: str) -> None:
    """Copy a module of the user's; installed ones are on the nodes, or said to be missing there."""
    spec = importlib.util.find_spec(name) if name else None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    installed = {sysconfig.get_path(place) for place in ("stdlib", "platlib", "purelib")}
    if origin is None or not origin.exists() or installed & set(map(str, origin.parents)):
        return
    if origin.name == "__init__.py":
        shutil.copytree(origin.parent, folder / name, dirs_exist_ok=True)
    else:
        shutil.copy(origin, folder / origin.name)


def _check_reachable(address: str) -> None:
    """Refuse an address that nothing listens at; Ray's client would wait without end."""
    url = urlsplit(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        port = 0
    if url.scheme not in ("http", "https") or not url.hostname or not port:
        raise ConfigError(
            f"--address must be the URL of a Ray dashboard such as http://HEAD:8265, got {address}"
        )
    try:
        socket.create_connection((url.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from None


def _unreachable(address: str, reason: str) -> InputError:
    return InputError(
        f"--address {address}: cannot be reached ({reason}); check that the cluster is up and "
        "the port of its dashboard forwarded"
    )


def _number(run_id: str, name: str | None) -> int:
    """Return the number of a run's job by its submission id, from 1; 0 for another run's."""
    found = re.fullmatch(rf"{run_id}(?:-(\d+))?", name or "")
    return int(found[1] or 1) if found else 0


def _job(details: JobDetails) -> Job:
    return Job(str(details.submission_id), details.status, details.driver_exit_code)


@contextmanager
def _unset(names: tuple[str, ...]) -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)
