"""JSON records of a run, in one stable form, and checked when they are read.

A record may come from somebody else, so its content is untrusted data.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from hercules_scale.errors import InputError
from hercules_scale.storage.tables import FileRecord

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
# Form of the paths in a record, which may not lead out of the run's folders.
_PATH = re.compile(r"\w+(/\w[\w.-]*)+", re.ASCII)


def to_json(value: Any) -> bytes:
    """Return JSON in one stable form."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(to_json(value)).hexdigest()[:16]


def timestamp() -> str:
    """Return the present time in UTC, in the format of ``run.json``."""
    return time.strftime(TIME_FORMAT, time.gmtime())


def json_object(name: str, data: bytes) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Args:
        name: Full name of the file, for messages.
        data: Its content.

    Raises:
        InputError: The file holds something else.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(
            f"{name}: is not JSON ({reason}), so it is damaged or of another program; give the "
            "output of a run of hercules-scale"
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            f"{name}: must hold a JSON object, got {type(value).__name__}; give the output of a "
            "run of hercules-scale"
        )
    return value


def file_record(record: Any, folders: tuple[str, ...]) -> FileRecord:
    """Return the record of a file in one of some folders.

    Raises:
        ValueError: The file lies elsewhere.
        TypeError: The value is no such record.
    """
    file = FileRecord(**record)
    if not (_PATH.fullmatch(file.path) and file.path.partition("/")[0] in folders):
        raise ValueError(f"path {file.path[:200]!r} must be a file in {' or '.join(folders[:3])}")
    return file
