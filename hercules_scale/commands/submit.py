"""The command ``submit``: a run or another command as a job on a Ray cluster.

The submission id of a run is a hash of its configuration and output, so that it cannot run twice at
a time; that of another command is a hash of its arguments. The job gets the configuration, the
local files and modules that it names, this package (so that the version that checked the
configuration also runs it), and the variables for storage, endpoint and model hub.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ray.job_submission import JobStatus

from hercules_scale.commands.job_files import pack
from hercules_scale.commands.job_spec import JobSpec
from hercules_scale.commands.ray_jobs import Cluster, Say
from hercules_scale.endpoint import is_loopback
from hercules_scale.errors import ConfigError, HerculesScaleError, InputError

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
"""Variables that go with a job if they are set. Variables that name local files are left out."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""Variables that go with a job if they are set and do not name this machine."""

KEPT = "which whoever uses the cluster can read until some ten minutes after its end"


def submit(
    spec: JobSpec,
    address: str,
    say: Say,
    *,
    wait: bool = True,
    variables: Sequence[str] | None = (),
    again: bool = False,
) -> None:
    """Submit a job to a cluster; follow the job if it was submitted before.

    Args:
        spec: Specification of the job.
        address: URL of the cluster's dashboard.
        say: Called with each line of the log.
        wait: Whether to follow the job to its end.
        variables: Names of variables to send besides ``PASSED_ON`` and ``PROXIES``; None to send
            no variables at all.
        again: Whether to submit the job again after it succeeded.

    Raises:
        ConfigError: The address is not a URL, or a variable is not set.
        InputError: The cluster cannot be reached, or the job ended with exit code 2.
        HerculesScaleError: The job failed or was stopped.
    """
    environment = _environment(variables)
    cluster, run_id = Cluster(address), spec.run_id
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
            file = pack(Path(folder), spec, environment)
            cluster.submit(name, spec, Path(folder), file)
        passed = f", with {', '.join(environment)}, {KEPT}" if environment else ""
        before = "" if last is None else f"; {last.submission_id} {last.status.value.lower()}"
        say(f"job {name}: submitted{passed}{before}")
    else:
        name = last.submission_id
        say(f"job {name}: the run was submitted before and is {last.status.value.lower()}")
    if wait:
        _follow(cluster, name, say)


def stop(spec: JobSpec, address: str, say: Say) -> None:
    """Stop a job, if it runs; a later job resumes it."""
    cluster, run_id = Cluster(address), spec.run_id
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
        ConfigError: A named variable is not set.
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
