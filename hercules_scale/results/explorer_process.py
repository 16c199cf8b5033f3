"""An explorer of one run, in its own process."""

from __future__ import annotations

import atexit
import html
import json
import subprocess
import sys
from collections.abc import Sequence

from hercules_scale.errors import InputError
from hercules_scale.storage.scratch import ScratchFolder
from hercules_scale.storage.store import Store


class Exploration:
    """An explorer that runs in another process, and ends with this one.

    Attributes:
        address: URL for a browser.
    """

    def __init__(
        self,
        store: Store,
        port: int,
        scratch: ScratchFolder | None = None,
        models: Sequence[str] = (),
    ) -> None:
        # The reference keeps the temporary folder while the explorer shows it.
        self._scratch = scratch
        command = [
            sys.executable,
            "-m",
            "hercules_scale",
            "explore",
            store.uri,
            "--port",
            str(port),
        ]
        options = store.options.model_dump(exclude_defaults=True)
        command += [f"--set=storage.{key}={json.dumps(value)}" for key, value in options.items()]
        command += [f"--model={model}" for model in models]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        atexit.register(self.stop)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(self._process.communicate()[1].strip())
        self.address = line.split()[1]

    def stop(self) -> None:
        """Stop the explorer."""
        self._process.terminate()
        self._process.wait()
        atexit.unregister(self.stop)

    def __repr__(self) -> str:
        return f"explorer at {self.address}"

    def _repr_html_(self) -> str:
        return (
            f'<a href="{html.escape(self.address)}" target="_blank">{html.escape(repr(self))}</a>'
        )
