"""Runs that are started from the page: files that were sent, the process, its log, its end.

Everything lies in one folder that whoever started the explorer named; browsers know uploads and
runs by numbers that are given here.
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
from hercules_scale.errors import HerculesScaleError, InputError
from hercules_scale.explorer.forms import configuration
from hercules_scale.reading.csv_files import csv_rows
from hercules_scale.reading.files import raw_batches, read_file_head
from hercules_scale.reading.heads import LONGEST_LINE_BYTES
from hercules_scale.reading.lines import json_batches
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.parquet import parquet_batches
from hercules_scale.reading.pieces import split_into_pieces
from hercules_scale.reading.streams import dialect_of
from hercules_scale.reading.survey import survey

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
        name: Its name there, for people alone.
        path: Path on this machine.
    """

    name: str
    path: Path


@dataclass
class Job:
    """A run that was started here.

    Attributes:
        name: Name for people.
        output: Folder of its tables.
        process: Process that runs it.
        run: Its number among the runs that are shown.
        cancelled: Whether somebody stopped it.
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
        """Have it stop as by Ctrl+C, and after a while for certain."""
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
        inputs: Paths and URIs that runs may be of besides uploads.
    """

    folder: Path
    inputs: list[str] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new_upload(self, name: str) -> tuple[int, BinaryIO]:
        """Return the number of a file to be sent, and a stream to write it to.

        Raises:
            InputError: It is of no kind that a run reads.
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
        """Return a file that was sent.

        Raises:
            InputError: There is none of this number.
        """
        if not 0 <= number < len(self.uploads) or not self.uploads[number].path.exists():
            raise InputError(f"there is no upload {number}")
        return self.uploads[number]

    def input(self, number: int) -> str:
        """Return a place that whoever started the explorer named.

        Raises:
            InputError: There is none of this number.
        """
        if not 0 <= number < len(self.inputs):
            raise InputError(f"there is no input {number}")
        return self.inputs[number]

    def preview(self, number: int, is_input: bool = False) -> dict[str, Any]:
        """Return the first rows of a file as a run reads them, and what it takes them for.

        Args:
            number: Number of an upload.
            is_input: Whether it is that of an input.

        Raises:
            InputError: It cannot be read.
        """
        upload = None if is_input else self.upload(number)
        path = self.input(number) if upload is None else str(upload.path)
        name = path if upload is None else upload.name
        config = InputConfig(path=path)
        sources = list_sources(config.paths)
        found: dict[str, Any] = {
            "name": name,
            "size_bytes": sum(each.size_bytes for each in sources),
        }
        try:
            columns = survey(config, sources).columns
        except HerculesScaleError as error:
            # The user may have to name its columns; its rows help with that.
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
            values: ``uploads``, their numbers, or ``input``, that of an input; ``name``;
                ``config``, what was filled in by key.
            run: Number that it will be shown under.

        Raises:
            ConfigError: The configuration is wrong.
            InputError: There is no such upload, or too much is running.
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
        sources = list_sources(paths, documents=config.input.documents)
        # Cells of a table may name any file.
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
                # So that Ctrl+C of the explorer does not reach it twice.
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
        """Return a run that was started here.

        Raises:
            InputError: There is none of this number.
        """
        if not 0 <= number < len(self.jobs):
            raise InputError(f"there is no job {number}")
        return self.jobs[number]

    def stop(self) -> None:
        """Cancel what is running, and wait for its end."""
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
        # Texts are read as bytes, as which they come from files.
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"{len(value):,} bytes"
    return text if len(text) <= CELL_CHARACTERS else f"{text[:CELL_CHARACTERS]}…"


def _plain_preview(path: Path) -> dict[str, Any]:
    """Return columns and first rows of a table of whatever columns; none of what is no table.

    Memory: that of a run's reader, some 16 MiB of the file decoded, however large it is.
    """
    try:
        (source,) = list_sources([str(path)])
        # Refuses what is too wide before it is read.
        head = read_file_head(InputConfig(path=str(path)), source)
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
