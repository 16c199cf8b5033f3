"""Runs that are started from the page: uploads, processes, logs and their ends.

Everything lies in one folder, which the person who started the explorer chose. Browsers know
uploads and runs by number only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import yaml

from hercules_scale.config.reading import CsvConfig, InputConfig
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.explorer.forms import configuration
from hercules_scale.reading.csv_files import csv_rows
from hercules_scale.reading.file_rows import raw_batches, read_first_rows
from hercules_scale.reading.first_rows import LONGEST_LINE_BYTES
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.lines import json_batches
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.parquet import parquet_batches
from hercules_scale.reading.survey import survey
from hercules_scale.reading.text_streams import dialect_of

ENDINGS = ("parquet", "csv", "jsonl", "txt", "npy", "png", "jpg", "jpeg")
MAX_UPLOAD_BYTES = 8 << 30
PREVIEW_ROWS, PREVIEW_COLUMNS, CELL_CHARACTERS = 20, 1_000, 200
LOG_BYTES = 32_768
RUNNING_AT_ONCE = 2
STOP_SECONDS = 30


@dataclass(frozen=True)
class Upload:
    """A file that a browser sent.

    Attributes:
        name: Original name, for people only.
        path: Path on this machine.
    """

    name: str
    path: Path


@dataclass
class Job:
    """A run that was started from the page.

    Attributes:
        name: Name for people.
        output: Output folder.
        process: Process of the run.
        run: Number among the runs that are shown.
        cancelled: Whether a person stopped it.
    """

    name: str
    output: Path
    process: subprocess.Popen[bytes]
    run: int
    cancelled: bool = False

    def state(self) -> dict[str, Any]:
        """Return the state of the job, with the end of its log."""
        code = self.process.poll()
        state = "running" if code is None else "finished" if code == 0 else "failed"
        log = self.output.with_suffix(".log")
        with log.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - LOG_BYTES, 0))
            text = stream.read().decode("utf-8", "replace")
        return {
            "name": self.name,
            "run": self.run,
            "state": "cancelled" if self.cancelled and state == "failed" else state,
            "code": code,
            "log": text,
        }

    def cancel(self) -> None:
        """Stop the process as Ctrl+C does; kill it if it is alive after ``STOP_SECONDS``."""
        if self.process.poll() is not None:
            return
        self.cancelled = True
        self.process.send_signal(signal.SIGINT)

        def end() -> None:
            until = time.monotonic() + STOP_SECONDS
            while self.process.poll() is None and time.monotonic() < until:
                time.sleep(0.2)
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)

        threading.Thread(target=end).start()


@dataclass
class Jobs:
    """Uploads and runs of one explorer.

    Attributes:
        folder: Folder of all files.
        inputs: Paths and URIs that runs may read besides uploads.
        storage: Access to the inputs.
        uploads: Files that browsers sent.
        jobs: Runs that were started.
        lock: Lock of the lists of uploads and jobs.
    """

    folder: Path
    inputs: list[str] = field(default_factory=list)
    storage: StorageConfig | None = None
    uploads: list[Upload] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new_upload(self, name: str) -> tuple[int, BinaryIO]:
        """Return the number of a new upload, and a stream to write it to.

        Raises:
            InputError: A run cannot read files of this type.
        """
        ending = name.rpartition(".")[2].lower()
        if ending not in ENDINGS:
            raise InputError(f"{name[:80]!r} must be a file of {', '.join(ENDINGS)}")
        with self.lock:
            number = len(self.uploads)
            path = self.folder / "uploads" / f"{_stamp()}-{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.uploads.append(Upload(name[:200], path))
        return number, path.open("xb")

    def upload(self, number: int) -> Upload:
        """Return an upload.

        Raises:
            InputError: There is no upload of this number.
        """
        if not 0 <= number < len(self.uploads) or not self.uploads[number].path.exists():
            raise InputError(f"there is no upload {number}")
        return self.uploads[number]

    def input(self, number: int) -> str:
        """Return an allowed input.

        Raises:
            InputError: There is no input of this number.
        """
        if not 0 <= number < len(self.inputs):
            raise InputError(f"there is no input {number}")
        return self.inputs[number]

    def preview(self, number: int, is_input: bool = False) -> dict[str, Any]:
        """Return the first rows of a file as a run reads them, and the modality it detects.

        Args:
            number: Number of an upload or of an allowed input.
            is_input: Whether it is the number of an allowed input.

        Raises:
            InputError: The file cannot be read.
        """
        upload = None if is_input else self.upload(number)
        path = self.input(number) if upload is None else str(upload.path)
        name = path if upload is None else upload.name
        config = InputConfig(path=path)
        sources = list_sources(config.paths, storage=self.storage)
        found: dict[str, Any] = {
            "name": name,
            "size_bytes": sum(each.size_bytes for each in sources),
        }
        try:
            columns = survey(config, sources).columns
        except HerculesScaleError as error:
            # The user may have to name columns; the rows help with that.
            found["problem"] = str(error).replace(path, name)
            return found | ({} if upload is None else _plain_preview(upload.path))
        found["modality"] = columns.modality
        if upload is not None and (whole := _plain_preview(upload.path))["columns"]:
            return found | whole
        table, _ = next(raw_batches(split_into_pieces(sources)[0], columns), (pa.table({}), {}))
        return found | _shown(table)

    def start(self, values: dict[str, Any], run: int) -> Job:
        """Start a run.

        Args:
            values: ``uploads``, a list of their numbers, or ``input``, the number of an allowed
                input; ``name``; ``config``, values of the form by key.
            run: Number of the run among those that are shown.

        Raises:
            ConfigError: The configuration is wrong.
            InputError: There is no such upload or input, or too many runs are going on.
        """
        given, name = values.get("config"), values.get("name")
        if not isinstance(given, dict):
            raise InputError("a run needs a configuration")
        if type(values.get("input")) is int:
            paths = [self.input(values["input"])]
            name = name or paths[0].rstrip("/").rpartition("/")[2]
        else:
            uploads = self._uploads(values.get("uploads"))
            paths = [str(upload.path) for upload in uploads]
            name = name or uploads[0].name
        if sum(job.process.poll() is None for job in self.jobs) >= RUNNING_AT_ONCE:
            raise InputError(f"{RUNNING_AT_ONCE} runs are going on; wait for one or cancel it")
        output = self.folder / "runs" / f"{_stamp()}-{len(self.jobs)}"
        config = configuration(given, paths, str(output))
        if self.storage is not None:
            config = config.model_copy(update={"storage": self.storage})
        sources = list_sources(paths, documents=config.input.documents, storage=config.storage)
        # Cells of an image column could name any file.
        is_table = sources[0].format != "image"
        if is_table and survey(config.input, sources).columns.image is not None:
            raise InputError("images are sent as files here, not as columns of a table")
        output.parent.mkdir(parents=True, exist_ok=True)
        file = output.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), encoding="utf-8")
        with output.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hercules_scale", "run", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # In its own session the run does not get the explorer's Ctrl+C a second time.
                start_new_session=True,
            )
        job = Job(str(name)[:200], output, process, run)
        self.jobs.append(job)
        return job

    def _uploads(self, numbers: Any) -> list[Upload]:
        if not isinstance(numbers, list) or not numbers:
            raise InputError("a run needs files: send some first")
        if any(type(number) is not int for number in numbers):
            raise InputError("uploads must be numbers")
        return [self.upload(number) for number in numbers]

    def job(self, number: int) -> Job:
        """Return a run that was started from the page.

        Raises:
            InputError: There is no job of this number.
        """
        if not 0 <= number < len(self.jobs):
            raise InputError(f"there is no job {number}")
        return self.jobs[number]

    def stop(self) -> None:
        """Cancel all running jobs, and wait for their end."""
        for job in self.jobs:
            job.cancel()
        for job in self.jobs:
            job.process.wait(STOP_SECONDS + 10)


def _stamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime())


def _shown(table: pa.Table) -> dict[str, Any]:
    rows = [
        [_cell(value) for value in row.values()] for row in table.slice(0, PREVIEW_ROWS).to_pylist()
    ]
    return {"columns": table.column_names, "rows": rows}


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    if isinstance(value, bytes):
        # Texts of files are read as bytes.
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"{len(value):,} bytes"
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"


def _plain_preview(path: Path) -> dict[str, Any]:
    """Return columns and first rows of a table, whatever its columns; empty lists for other files.

    Memory: some 16 MiB of the decoded file, whatever its size.
    """
    try:
        (source,) = list_sources([str(path)])
        # This refuses tables that are too wide before rows are read.
        head = read_first_rows(InputConfig(path=str(path)), source)
        names = list(head.kinds)[:PREVIEW_COLUMNS]
        if source.format == "parquet":
            groups = list(split_into_pieces([source])[0].row_groups or ())
            longest = dict.fromkeys(names, LONGEST_LINE_BYTES)
            return _shown(next(parquet_batches(source, groups, names, PREVIEW_ROWS, longest))[0])
        if source.format == "csv":
            return _shown(csv_rows(source).select(names))
        if source.format == "jsonl":
            dialect = dialect_of(source, CsvConfig())
            return _shown(next(json_batches(source, dialect, names, None))[0])
    except (pa.ArrowException, StopIteration, OSError, HerculesScaleError):
        pass
    return {"columns": [], "rows": []}
