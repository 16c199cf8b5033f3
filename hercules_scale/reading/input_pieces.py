"""Pieces in which an input is read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hercules_scale.reading.sources import SourceFile, npy_header, parquet_file

PIECE_ROWS = 65_536
PIECE_IMAGES = 1_024
PIECE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Piece:
    """A part of the input that one task reads.

    Attributes:
        sources: One file, or several images or documents, each with one item.
        row_groups: Row groups of a Parquet file.
        first_row: First row of the piece in its file.
        n_rows: Number of rows if the file gives it, else 0.
    """

    sources: tuple[SourceFile, ...]
    row_groups: tuple[int, ...] | None = None
    first_row: int = 0
    n_rows: int = 0

    @property
    def source(self) -> SourceFile:
        """The file, or the first of them."""
        return self.sources[0]

    @property
    def described(self) -> str:
        """The file and the part of it that is read, for messages."""
        if len(self.sources) > 1:
            return f"{self.source.uri} and {len(self.sources) - 1:,} more files"
        rows = f", rows {self.first_row:,} to {self.first_row + self.n_rows - 1:,}"
        return f"{self.source.uri}{rows if self.n_rows else ''}"

    def place(self, position: int) -> tuple[str, int]:
        """Return the file and row of an item by its position in the piece."""
        if len(self.sources) > 1:
            return self.sources[position].uri, 0
        return self.source.uri, self.first_row + position


def split_into_pieces(sources: list[SourceFile]) -> list[Piece]:
    """Return pieces of the input, in the order of its rows.

    Raises:
        InputError: A Parquet or npy file cannot be read.
    """
    if sources[0].format == "image":
        starts = range(0, len(sources), PIECE_IMAGES)
        return [Piece(tuple(sources[start : start + PIECE_IMAGES])) for start in starts]
    if sources[0].format == "document":
        return _pieces_of_documents(sources)
    return [piece for source in sources for piece in _split(source)]


def count_rows(pieces: Sequence[Piece]) -> int | None:
    """Return the number of rows of the input; None if files would have to be read for it."""
    form = pieces[0].source.format
    if form in ("parquet", "npy"):
        return sum(piece.n_rows for piece in pieces)
    return sum(len(piece.sources) for piece in pieces) if form in ("image", "document") else None


def _pieces_of_documents(sources: list[SourceFile]) -> list[Piece]:
    """Return pieces of about a thousand files each, from folders with the same partition values."""
    pieces: list[Piece] = []
    for _, own in itertools.groupby(sources, key=lambda source: source.partitions):
        some: list[SourceFile] = []
        size = 0
        for source in own:
            some.append(source)
            size += source.size_bytes
            if len(some) == PIECE_IMAGES or size > PIECE_BYTES:
                pieces.append(Piece(tuple(some)))
                some, size = [], 0
        pieces += [Piece(tuple(some))] if some else []
    return pieces


def _split(source: SourceFile) -> list[Piece]:
    if source.format == "npy":
        n_rows = npy_header(source).n_rows
        starts = range(0, max(n_rows, 1), PIECE_ROWS)
        return [Piece((source,), None, start, min(PIECE_ROWS, n_rows - start)) for start in starts]
    if source.format != "parquet":
        return [Piece((source,))]
    metadata = parquet_file(source).metadata
    pieces: list[Piece] = []
    groups: list[int] = []
    rows = size = first_row = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if groups and (rows + group.num_rows > PIECE_ROWS or size > PIECE_BYTES):
            pieces.append(Piece((source,), tuple(groups), first_row, rows))
            first_row, groups, rows, size = first_row + rows, [], 0, 0
        groups.append(index)
        rows += group.num_rows
        size += group.total_byte_size
    return [*pieces, Piece((source,), tuple(groups), first_row, rows)]
