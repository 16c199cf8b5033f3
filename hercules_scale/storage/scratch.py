"""Temporary folder for a run without an output, deleted with the last reference to it."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from hercules_scale.errors import InputError
from hercules_scale.storage import layout

# A pickle is held in memory whole, twice while it is written.
PICKLED_BYTES = 1 << 30


class ScratchFolder:
    """A temporary folder of one run, deleted with the last reference to it.

    A copy refers to the same folder, and a pickle holds the run's files.
    """

    def __init__(self) -> None:
        self._path = tempfile.mkdtemp(prefix="hercules_scale-")
        self.remove = weakref.finalize(self, _remove, self._path, os.getpid())

    @property
    def run(self) -> str:
        """Output of the run."""
        return f"{self._path}/run"

    def __deepcopy__(self, memo: dict[int, Any]) -> ScratchFolder:
        return self

    def __reduce__(self) -> tuple[Any, tuple[dict[str, bytes]]]:
        return _unpacked, (self._files(),)

    def _files(self) -> dict[str, bytes]:
        """Return the files that a finished run is read from, by name.

        Raises:
            InputError: The files are too large for a pickle.
        """
        root = Path(self.run)
        names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        names = [name for name in names if name.parts[0] != layout.WORK]
        size = sum((root / name).stat().st_size for name in names)
        if size > PICKLED_BYTES:
            raise InputError(
                f"{self.run}: a pickle would hold the {size:,} bytes of this temporary run, and at "
                f"most {PICKLED_BYTES:,} are allowed; give fit an output, then a pickle holds its "
                "path alone"
            )
        return {str(name): (root / name).read_bytes() for name in names}


def _unpacked(files: dict[str, bytes]) -> ScratchFolder:
    scratch = ScratchFolder()
    for name, content in files.items():
        path = Path(scratch.run, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return scratch


def _remove(path: str, owner: int) -> None:
    # A forked process also has a reference to the folder, and ends before the owner.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
