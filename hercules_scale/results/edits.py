"""Titles and notes that people give to clusters, kept beside the output and never in it.

Each cluster that was edited has one small file under ``edits/``, written whole, so that two people
at once do not undo each other's work on different clusters.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

import pyarrow as pa

from hercules_scale.errors import InputError
from hercules_scale.storage.json_records import fingerprint, timestamp, to_json
from hercules_scale.storage.store import Store

FOLDER = "edits"
FILE = re.compile(rf"{FOLDER}/([1-9][0-9]{{0,3}})-([0-9]{{1,9}})\.json")
TITLE_CHARACTERS, NOTE_CHARACTERS = 200, 10_000
PERSON = "person"
"""``summary_source`` of a cluster that somebody has named."""

ClusterKey = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """A person's edit of one cluster.

    Attributes:
        title: Title in place of the output's; null where that stays.
        note: Beside it.
        edited_at: When, in UTC.
    """

    title: str | None
    note: str | None
    edited_at: str

    @property
    def revision(self) -> str:
        """Key that distinguishes it from any other edit of the cluster."""
        return fingerprint(asdict(self))


Edits = dict[ClusterKey, Edit]


def read_edits(store: Store) -> Edits:
    """Return edits of an output, by level and id of the cluster.

    Raises:
        InputError: A file is no edit.
    """
    edits = {}
    for name in store.list_files(FOLDER):
        if match := FILE.fullmatch(name):
            edits[int(match[1]), int(match[2])] = _read(store, name)
    return edits


def read_edit(store: Store, key: ClusterKey) -> Edit | None:
    """Return the edit of one cluster.

    Raises:
        InputError: Its file is no edit.
    """
    name = _file(key)
    return _read(store, name) if store.exists(name) else None


def write_edit(store: Store, key: ClusterKey, title: str | None, note: str | None) -> Edit:
    """Replace what is said of one cluster; blank words stand for none.

    Raises:
        InputError: The title or note is too long.
    """
    limits = {"title": (title, TITLE_CHARACTERS), "note": (note, NOTE_CHARACTERS)}
    for name, (words, most) in limits.items():
        if words is not None and len(words) > most:
            raise InputError(f"{name} must have at most {most:,} characters, got {len(words):,}")
    edit = Edit((title or "").strip() or None, (note or "").strip() or None, timestamp())
    store.write_bytes(_file(key), to_json(asdict(edit)))
    return edit


def with_edits(clusters: pa.Table, edits: Edits) -> pa.Table:
    """Return the table ``clusters`` with the titles that people gave, and their notes in
    ``note``."""
    keys = list(zip(clusters["level"].to_pylist(), clusters["cluster_id"].to_pylist(), strict=True))
    found = [edits.get(key) for key in keys]
    notes = [None if edit is None else edit.note for edit in found]
    named = [edit is not None and edit.title is not None for edit in found]
    if any(named):
        changes = {
            "title": [None if edit is None else edit.title for edit in found],
            "summary_status": ["ok"] * len(found),
            "summary_error": [None] * len(found),
            "summary_source": [PERSON] * len(found),
            # They were of the title that the person replaced.
            "summary_score": [None] * len(found),
            "groundedness": [None] * len(found),
        }
        for name, values in changes.items():
            place = clusters.schema.get_field_index(name)
            if place >= 0:
                new = pa.array(values, clusters.schema.field(name).type)
                column = pa.compute.if_else(pa.array(named), new, clusters[name])
                clusters = clusters.set_column(place, name, column)
    return clusters.append_column("note", pa.array(notes, pa.string()))


def _file(key: ClusterKey) -> str:
    return f"{FOLDER}/{key[0]}-{key[1]}.json"


def _read(store: Store, name: str) -> Edit:
    try:
        values = json.loads(store.read_bytes(name))
        edit = Edit(**{key: values[key] for key in ("title", "note", "edited_at")})
        assert all(value is None or isinstance(value, str) for value in asdict(edit).values())
    except (ValueError, KeyError, TypeError, AssertionError):
        raise InputError(
            f"{store.uri}/{name}: must be JSON with title, note and edited_at, texts or null; fix "
            "or delete it"
        ) from None
    return edit
