"""Retries of storage operations after transient errors, and messages about other errors."""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hercules_scale.errors import StorageError
from hercules_scale.sanitize import without_secrets

FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.25, 20.0
SAID_FROM_SECONDS = 2.0
# Exceptions of botocore, aiohttp, fsspec and Azure, by name: no library is imported to catch its
# errors.
TRANSIENT_NAMES = {
    "ConnectionError",
    "HTTPClientError",
    "IncompleteReadError",
    "ResponseParserError",
    "ClientConnectionError",
    "ClientPayloadError",
    "FSTimeoutError",
    "ServiceRequestError",
    "ServiceResponseError",
}
TRANSIENT_STATUS = {429, 500, 502, 503, 504}
TRANSIENT_CODES = {
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
# Messages of pyarrow for the AWS SDK's errors. With NO_SUCH_UPLOAD, the upload was completed by a
# call with a lost answer, or the server forgot it.
TRANSIENT_ARROW = re.compile(
    r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING"
    r"|REQUEST_TIMEOUT|NO_SUCH_UPLOAD)|curlCode: |HTTP status (429|50[0234])"
)
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}

T = TypeVar("T")

logger = logging.getLogger(__name__)


def is_transient(error: BaseException) -> bool:
    """Return whether an error is transient: an outage, a time-out or throttling."""
    for each in _causes(error):
        if isinstance(each, StorageError):
            # The storage was already waited for long enough.
            return False
        if isinstance(each, ConnectionError | TimeoutError):
            return True
        if TRANSIENT_NAMES & {cls.__name__ for cls in type(each).__mro__}:
            return True
        status, code = _response(each)
        if status in TRANSIENT_STATUS or code in TRANSIENT_CODES:
            return True
        if isinstance(each, OSError) and TRANSIENT_ARROW.search(str(each)):
            return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> tuple[int, str]:
    """Return the HTTP status and the error code of an object store's answer."""
    answer: Any = getattr(error, "response", None)
    if not isinstance(answer, dict):
        # Google's and Azure's errors have the status alone.
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        return (status, "") if isinstance(status, int) else (0, "")
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(answer.get("Error", {}).get("Code", ""))


def patiently(work: Callable[[], T], seconds: float, place: str) -> T:
    """Do some work, and repeat it after transient errors, with growing delays and jitter.

    Args:
        work: Function that may be called more than once.
        seconds: Time after the first failure in which the work is repeated.
        place: URI for the message of an error.

    Raises:
        StorageError: The work still fails after that time, or there is no space.
    """
    deadline, delay = None, FIRST_DELAY_SECONDS
    while True:
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                if problem := explain(error, place):
                    raise problem from error
                raise
            now = time.monotonic()
            deadline = deadline or now + seconds
            if now >= deadline:
                raise StorageError(
                    f"{place}: the storage has not answered for {seconds:,.0f} s "
                    f"({reason_of(error)}); run again once it does, it resumes, or give a higher "
                    "storage.retry_seconds"
                ) from error
            if delay >= SAID_FROM_SECONDS:
                logger.warning("%s: waiting for the storage (%s)", place, reason_of(error))
        # Jitter, so that workers that failed together do not come back together.
        time.sleep(random.uniform(delay / 2, delay))  # noqa: S311 (no secret)
        delay = min(2 * delay, LONGEST_DELAY_SECONDS)


def reason_of(error: BaseException) -> str:
    """Return the type and message of an error in one line."""
    text = without_secrets(" ".join(str(error).split()))[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def explain(error: BaseException, place: str) -> StorageError | None:
    """Return an error with the remedy for a known error of storage; None for other errors."""
    for each in _causes(error):
        if isinstance(each, StorageError):
            return each
        if isinstance(each, OSError) and each.errno in NO_SPACE:
            where = each.filename or place
            return StorageError(
                f"{where}: no space is left there ({reason_of(each)}); make space and run again, "
                "it resumes"
            )
        if type(each).__name__ == "NoCredentialsError":
            return StorageError(
                f"{place}: there are no credentials here ({reason_of(each)}); set them in the "
                "environment or give the machine a role; on a cluster every node needs its own, or "
                "let hercules-scale submit take yours along"
            )
    return None
