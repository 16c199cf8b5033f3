"""Variables that come with a submitted run.

They come in a file of the job's working directory, because Ray writes those of a runtime
environment into its logs, and they may be secrets.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE_VARIABLE = "HERCULES_SCALE_ENVIRONMENT"
"""Names the file, in processes of a submitted run."""


def take_environment() -> None:
    """Set the variables that came with the job, if this process is of one."""
    file = os.environ.get(FILE_VARIABLE)
    if file:
        os.environ.update(json.loads(Path(file).read_text(encoding="utf-8")))
