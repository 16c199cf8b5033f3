"""Client of a Ray cluster's job API."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import hercules_scale
from hercules_scale.commands.job_spec import JobSpec
from hercules_scale.errors import ConfigError, HerculesScaleError, InputError
from hercules_scale.runtime.job_environment import (
    FILE_VARIABLE,
    VERSIONS_VARIABLE,
    take_environment,
    versions,
)
from hercules_scale.sanitize import printable

CONNECT_SECONDS = 10.0
POLL_SECONDS = 1.0
STOP_SECONDS = 60.0
# Ray prefers these variables to the address that it is given.
RAY_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job of a run on a cluster.

    Attributes:
        submission_id: Id of the job in Ray's job API and dashboard.
        status: Last known status.
        driver_exit_code: Exit code of the driver, once it has ended.
    """

    submission_id: str
    status: JobStatus
    driver_exit_code: int | None = None


class Cluster:
    """The jobs of a Ray cluster.

    Args:
        address: URL of its dashboard.

    Raises:
        ConfigError: The address is not the URL of a dashboard.
        InputError: The cluster cannot be reached, or refuses the token.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        _check_reachable(address)
        # Requests carry Ray's token if there is one, as requests of Ray's own commands do.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        # Ray's client logs every connection that is closed.
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)
        with self._explained(), _unset(RAY_ADDRESSES):
            self._client = JobSubmissionClient(address)

    def jobs_of(self, run_id: str) -> list[Job]:
        """Return the jobs of one run, oldest first."""
        with self._explained():
            found = self._client.list_jobs()
        numbered = [(_number(run_id, job.submission_id), job) for job in found]
        own = sorted((pair for pair in numbered if pair[0]), key=lambda pair: pair[0])
        return [_job(details) for _, details in own]

    def submit(self, submission_id: str, spec: JobSpec, folder: Path, variables: str) -> None:
        """Start a job with a local folder as its working directory.

        Args:
            submission_id: Id of the job.
            spec: Specification of the job.
            folder: Working directory.
            variables: Name of the file with the environment variables.
        """
        command = ["python", "-m", hercules_scale.__name__, *spec.arguments]
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
                metadata={"run": spec.output},
            )

    def follow(self, submission_id: str, say: Say) -> Job:
        """Show the log of a job, line by line, until it has ended."""
        said = 0
        while True:
            with self._explained():
                said = asyncio.run(self._tail(submission_id, said, say))
                job = _job(self._client.get_job_info(submission_id))
            if job.status.is_terminal():
                return job
            # The connection was closed before the job ended.
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
        """Show the lines after the first ``said`` ones; return the number of lines so far."""
        n_lines, rest = 0, ""
        try:
            async for text in self._client.tail_job_logs(submission_id):
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    n_lines += 1
                    if n_lines > said:
                        say(printable(line))
        except RuntimeError:
            # The connection was closed in the middle; ``follow`` opens another.
            return max(n_lines, said)
        if rest:
            say(printable(rest))
        return max(n_lines, said)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Replace errors of Ray's client by one-line errors with a remedy."""
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


def _check_reachable(address: str) -> None:
    """Check that something listens at an address; otherwise Ray's client would wait forever."""
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
    """Return the number, from 1, in the submission id of a run's job; 0 for a job of another
    run."""
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
