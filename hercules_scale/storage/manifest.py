"""Commit records of shards, and the manifest that readers follow.

A shard's data is written first and its record after it, so a record means that the data is
whole. A record carries the fingerprint of the configuration and input that made it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hercules_scale.config.file import parse_config
from hercules_scale.config.run import RunConfig
from hercules_scale.errors import ConfigError, InputError, StorageError
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import FileRecord

# Raised when a stage leaves other files, records or counts than before for a later one to read.
FORMAT = 4
# Members of ``run.json`` that the record of progress has in its place.
PROGRESS_KEYS = ("alarms", "stages", "seen_at")
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

READ_THREADS = 16
# Paths that a run of somebody else may name: none outside its own folders.
_PATH = re.compile(r"\w+(/\w[\w.-]*)+", re.ASCII)
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_PART = re.compile(r"\w+/part-(\d{6,})(-\d{6,})?\.parquet", re.ASCII)
_STAGE = re.compile(r"\w[\w .-]*(/\w[\w .-]*)*", re.ASCII)
# Members of ``run.json`` that are read by name, those first that every run has.
_NEEDED = {"config": dict, "status": str, "started_at": str, "versions": dict, "inputs": list}
_MEMBERS: dict[str, type] = _NEEDED | {
    "seen_at": str,
    "ended_at": str,
    "error": str,
    "attempts": int,
    "alarms": list,
    "rows": dict,
    "tokens": dict,
    "variables": dict,
}
_FIGURES = ("done", "total", "seconds", "driver_peak_bytes", "worker_peak_bytes")
_KINDS = {dict: "an object", str: "text", list: "a list", int: "a whole number"}


@dataclass(frozen=True)
class Commit:
    """One shard of one stage, done.

    Attributes:
        shard: Number of the shard.
        fingerprint: Fingerprint of the run that made it.
        files: Files that it wrote.
        info: Small counts that later stages and the report need.
        kept: Files that it wrote for later stages alone.
        owner: Number of the lock that it was written under.
    """

    shard: int
    fingerprint: str
    files: list[FileRecord] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    kept: list[FileRecord] = field(default_factory=list)
    owner: int = 0

    @property
    def all_files(self) -> list[FileRecord]:
        """Whatever must be there for the commit to hold."""
        return [*self.files, *self.kept]


def to_json(value: Any) -> bytes:
    """Return JSON in one stable form."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(to_json(value)).hexdigest()[:16]


def write_commit(store: Store, stage: str, commit: Commit) -> None:
    """Say that a shard is done; its files are already whole.

    The name has the owner of the output in it, so that no record of one who has lost the output
    takes the place of another's.
    """
    commit = replace(commit, owner=store.owner)
    store.write_bytes(layout.commit(stage, commit.shard, commit.owner), to_json(asdict(commit)))


def read_commits(store: Store, stage: str, run_fingerprint: str) -> dict[int, Commit]:
    """Return records of one stage by shard; records of another configuration are left out.

    Of several of one shard the last owner's counts.
    """
    listed = store.list_files(f"{layout.WORK}/commits/{stage}")
    names = [name for name in listed if name.endswith(".json")]
    # A large run has thousands, and each request to an object store takes tens of milliseconds.
    with ThreadPoolExecutor(min(len(names), READ_THREADS) or 1) as threads:
        found = [_parse(data) for data in threads.map(store.read_bytes, names)]
    own = [each for each in found if each and each.fingerprint == run_fingerprint]
    return {each.shard: each for each in sorted(own, key=lambda each: (each.shard, each.owner))}


def read_commit(store: Store, stage: str, shard: int, run_fingerprint: str) -> Commit | None:
    """Return the record of one shard by the present owner; none of another configuration."""
    try:
        commit = _parse(store.read_bytes(layout.commit(stage, shard, store.owner)))
    except FileNotFoundError:
        return None
    return commit if commit and commit.fingerprint == run_fingerprint else None


def _parse(data: bytes) -> Commit | None:
    """Return a commit; none where it cannot be read, as of a machine that lost power while it
    wrote."""
    try:
        values = json.loads(data)
        for key in ("files", "kept"):
            values[key] = [_file(record, (*layout.TABLES, layout.WORK)) for record in values[key]]
        commit = Commit(**values)
        return commit if isinstance(commit.shard, int) and isinstance(commit.owner, int) else None
    except (ValueError, TypeError, KeyError):
        return None


def _file(record: Any, folders: tuple[str, ...]) -> FileRecord:
    """Return the record of a file, which lies in one of some folders.

    Raises:
        ValueError: It lies elsewhere.
        TypeError: It is no such record.
    """
    file = FileRecord(**record)
    if not (_PATH.fullmatch(file.path) and file.path.partition("/")[0] in folders):
        raise ValueError(f"path {file.path[:200]!r} must be a file in {' or '.join(folders[:3])}")
    return file


def whole_commits(
    store: Store, commits: dict[int, Commit], rewritten: dict[int, Commit] | None = None
) -> tuple[dict[int, Commit], list[str]]:
    """Leave out commits with files that are gone or have another length than was recorded.

    Args:
        store: Output of the run.
        commits: Commits of one stage.
        rewritten: Commits of a later stage that writes some of the files anew.

    Returns:
        The commits with all their files, and the names of files that are gone.
    """
    known = {
        (file.path, file.size_bytes)
        for commit in (rewritten or {}).values()
        for file in commit.all_files
    }
    folders = {
        file.path.rpartition("/")[0] for commit in commits.values() for file in commit.all_files
    }
    sizes: dict[str, int] = {}
    for folder in sorted(folders):
        sizes |= store.list_sizes(folder)
    lost: dict[int, list[str]] = {}
    for shard, commit in commits.items():
        for file in commit.all_files:
            size = sizes.get(file.path)
            if size != file.size_bytes and (file.path, size) not in known:
                lost.setdefault(shard, []).append(file.path)
    whole = {shard: commit for shard, commit in commits.items() if shard not in lost}
    return whole, [path for paths in lost.values() for path in paths]


def check_free(store: Store, key: str) -> None:
    """Refuse a folder that holds something else than a run, or what is left of its beginning.

    Args:
        store: The folder.
        key: The user's name for it.

    Raises:
        InputError: It holds something else; the message names it.
    """
    names = store.list_folder("")
    if layout.RUN in names:
        return
    others = [name for name in names if name != layout.WORK]
    if layout.WORK in names:
        begun = store.list_folder(layout.WORK)
        others += [f"{layout.WORK}/{name}" for name in begun if name not in layout.BEGUN]
    if others:
        more = f" and {len(others) - 1:,} more" * (len(others) > 1)
        raise InputError(
            f"{key} {store.uri}: must be a new or empty folder, or hold this run, but it holds "
            f"{others[0]!r}{more}; give another folder"
        )


def publish(store: Store, tables: dict[str, list[FileRecord]], run_fingerprint: str) -> None:
    """Write the manifest, then the mark of success, each unless it is there.

    Files that an owner before wrote and did not commit go first, since people read a table as all
    files of its folder.

    Raises:
        StorageError: Another run published here meanwhile.
    """
    for name, files in tables.items():
        if any(_has_owner(file.path) for file in files):
            _delete_others(store, name, files)
    manifest = to_json(
        {
            "fingerprint": run_fingerprint,
            "tables": {name: [asdict(file) for file in files] for name, files in tables.items()},
        }
    )
    if not store.create(layout.MANIFEST, manifest):
        if store.exists(layout.SUCCESS) and store.read_bytes(layout.MANIFEST) != manifest:
            raise StorageError(
                f"{store.uri}: another run has published here meanwhile, and what it published "
                "stays; give another output.path"
            )
        # Of an attempt that was stopped before the mark.
        store.write_bytes(layout.MANIFEST, manifest)
    store.create(layout.SUCCESS, b"")


def read_run(store: Store) -> dict[str, Any]:
    """Return the content of ``run.json``, once it is known to be safe to act on.

    A run may be somebody else's, so that what it names is data: no path of it leads out of its
    folder, and what reaches out or executes comes from the caller.

    Raises:
        FileNotFoundError: There is no run.
        InputError: The file is of something else, or damaged.
    """
    name, data = f"{store.uri}/{layout.RUN}", store.read_bytes(layout.RUN)
    record = _json_object(name, data)
    for key in ("fingerprint", "assigned_to"):
        value = record.get(key)
        if not (isinstance(value, str) and _FINGERPRINT.fullmatch(value)) and (
            value is not None or key == "fingerprint"
        ):
            raise InputError(
                f"{name}: {key} must be 16 hexadecimal digits, got {str(value)[:60]!r}; "
                "give the output of a run of hercules-scale"
            )
    if not isinstance(record.get("config"), dict):
        raise InputError(
            f"{name}: holds no configuration; give the output of a run of hercules-scale"
        )
    _check_stages(name, record)
    _check_members(name, record)
    return record


def run_config(store: Store, record: dict[str, Any]) -> RunConfig:
    """Return the configuration of a run, at the place where it lies now.

    Args:
        store: Output of the run.
        record: Result of ``read_run``.

    Raises:
        InputError: It is none of this version.
    """
    try:
        return parse_config(record["config"] | {"output": {"path": store.uri}})
    except ConfigError as error:
        raise InputError(
            f"{store.uri}/{layout.RUN}: {error}; give the output of a run of this version"
        ) from None


def read_record(store: Store) -> dict[str, Any]:
    """Return the content of ``run.json``, and how far the run has come since.

    Raises:
        FileNotFoundError: There is no run.
        InputError: The files are of something else, or damaged.
    """
    record = read_run(store)
    with suppress(FileNotFoundError):
        name = f"{store.uri}/{layout.PROGRESS}"
        since = _json_object(name, store.read_bytes(layout.PROGRESS))
        _check_stages(name, since)
        if not isinstance(since.get("alarms", []), list):
            raise InputError(f"{name}: alarms must be a list; give the output of a run")
        record |= {key: since[key] for key in PROGRESS_KEYS if key in since}
    return record


def _json_object(name: str, data: bytes) -> dict[str, Any]:
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


def _check_members(name: str, record: dict[str, Any]) -> None:
    """Refuse a record without what every run has, or with members of other types."""
    sections = {f"config.{key}": value for key, value in record["config"].items()}
    needed = {**_NEEDED, "config.input": dict}
    for key, kind in {**_MEMBERS, **dict.fromkeys(sections, dict), "config.input": dict}.items():
        value = (sections if key.startswith("config.") else record).get(key)
        if not isinstance(value, kind) and (value is not None or key in needed):
            raise InputError(
                f"{name}: {key[:60]} must be {_KINDS[kind]}, got {str(value)[:60]!r}; give the "
                "output of a run of hercules-scale"
            )
    for file in record["inputs"]:
        if not (isinstance(file, dict) and isinstance(file.get("name"), str)):
            raise InputError(
                f"{name}: inputs must be files with a name, got {str(file)[:60]!r}; give the "
                "output of a run of hercules-scale"
            )


def _check_stages(name: str, record: dict[str, Any]) -> None:
    """Refuse stages with names that lead out of the folder, or without their numbers."""
    stages = record.get("stages") or []
    for stage in stages if isinstance(stages, list) else [stages]:
        known = isinstance(stage, dict) and isinstance(stage.get("name"), str)
        numbers = (
            known
            and all(isinstance(stage.get(key), int) for key in ("done", "total"))
            and all(isinstance(stage.get(key, 0), int | float) for key in _FIGURES)
            and isinstance(stage.get("unit", ""), str)
            and stage.keys() <= {"name", "unit", *_FIGURES}
        )
        if not (numbers and _STAGE.fullmatch(stage["name"])):
            raise InputError(
                f"{name}: stages must have a name and how far each is, got {str(stage)[:80]!r}; "
                "give the output of a run of hercules-scale"
            )


def timestamp() -> str:
    """Return this moment in UTC, as ``run.json`` has it."""
    return time.strftime(TIME_FORMAT, time.gmtime())


def _how_far(record: dict[str, Any]) -> str:
    stages = record.get("stages") or [{"name": "none", "done": 0, "total": 0, "unit": "items"}]
    last = next((each for each in stages if each["done"] < each["total"]), stages[-1])
    return f"stage {last['name']}, {last['done']:,} of {last['total']:,} {last['unit']}"


def number_of(path: str) -> int:
    """Return the number of a file of a table; -1 where its name is none of ours."""
    found = _PART.fullmatch(path)
    return -1 if found is None else int(found[1])


def next_part(store: Store, table: str, least: int = 0) -> int:
    """Return the number of a new file of a table: above all that are there, and at least a given
    one."""
    return max([least - 1, *map(number_of, store.list_files(table))]) + 1


def replace_table(store: Store, table: str, files: list[FileRecord]) -> None:
    """Have the manifest of a finished run list other files of a table, then delete the old ones.

    They go at once, since people read a table as all files of its folder; who has opened the run
    reads the manifest anew (``read_files``). The caller holds the lock of the output.

    Args:
        store: Output of the run.
        table: Name of the table.
        files: Its files from now on; new ones have names by ``next_part``.
    """
    manifest = json.loads(store.read_bytes(layout.MANIFEST))
    manifest["tables"][table] = [asdict(file) for file in files]
    store.write_bytes(layout.MANIFEST, to_json(manifest))
    _delete_others(store, table, files)


def _has_owner(path: str) -> bool:
    """Return whether the name of a file has the number of a lock in it."""
    found = _PART.fullmatch(path)
    return found is not None and found[2] is not None


def _delete_others(store: Store, table: str, files: list[FileRecord]) -> None:
    """Delete the files of a table, by their names, but for some."""
    kept = {file.path for file in files}
    for name in store.list_files(table):
        if name not in kept and number_of(name) >= 0:
            store.delete_files(name)


def published_files(store: Store) -> dict[str, list[FileRecord]]:
    """Return the files of each table of a finished run.

    Raises:
        InputError: There is no run at this place, or it is not finished.
    """
    if not store.exists(layout.SUCCESS):
        if store.exists(layout.RUN):
            raise InputError(
                f"{store.uri}: the run is not finished; run it again, it resumes "
                f"({_how_far(read_record(store))}; more by hercules-scale status)"
            )
        raise InputError(f"{store.uri}: holds no run; give the output path of a finished run")
    name = f"{store.uri}/{layout.MANIFEST}"
    manifest = _json_object(name, store.read_bytes(layout.MANIFEST))
    try:
        return {
            _known_table(table): [_file(record, (table,)) for record in records]
            for table, records in manifest["tables"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{name}: {type(error).__name__}: {error}; the manifest is damaged or was changed, "
            "give the output of a run of hercules-scale"
        ) from None


def _known_table(name: str) -> str:
    if name not in layout.TABLES:
        raise ValueError(f"{name[:60]!r} is no table")
    return name
