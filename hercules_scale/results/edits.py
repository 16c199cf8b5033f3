"""Titles and notes that people give to clusters, kept beside the tables.

Each edited cluster has one small file under ``edits/``, which is written whole. So two people can
edit different clusters at once without undoing each other's work.
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
"""``summary_source`` of a cluster with a title by a person."""

ClusterKey = tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """A person's edit of one cluster.

    Attributes:
        title: New title; None keeps that of the output.
        note: Note; None for no note.
        edited_at: Time of the edit in UTC.
    """

    title: str | None
    note: str | None
    edited_at: str

    @property
    def revision(self) -> str:
        """Hash that distinguishes the edit from other edits of the cluster."""
        return fingerprint(asdict(self))


Edits = dict[ClusterKey, Edit]


def read_edits(store: Store) -> Edits:
    """Return the edits of an output, by level and id of the cluster.

    Raises:
        InputError: A file does not hold an edit.
    """
    edits = {}
    for name in store.list_files(FOLDER):
        if match := FILE.fullmatch(name):
            edits[int(match[1]), int(match[2])] = _read(store, name)
    return edits


def read_edit(store: Store, key: ClusterKey) -> Edit | None:
    """Return the edit of one cluster; None if there is none.

    Raises:
        InputError: Its file does not hold an edit.
    """
    name = _file(key)
    return _read(store, name) if store.exists(name) else None


def write_edit(store: Store, key: ClusterKey, title: str | None, note: str | None) -> Edit:
    """Replace the edit of one cluster; a blank title or note means none.

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
    """Return the table ``clusters`` with the edited titles, and with notes in the column
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
            # These figures were about the title that was replaced.
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
