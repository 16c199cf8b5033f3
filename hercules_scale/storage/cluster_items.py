"""Items in the order of the tree, so that the items of any cluster lie side by side.

Clusters follow one another as in the tree, and the items of a finest cluster are sorted by distance
from its centroid. So the items of a cluster at any level are consecutive rows. Their place follows
from the sizes of the clusters alone, and a page of them is read from one row group. Each item is
stored with its vector, one byte per number, so that a search for the nearest items can read only
the vectors of near clusters.

The table is made in two steps: parts of consecutive shards are sorted, then ranges of clusters are
merged from the sorted parts. Memory holds one part, or one row group of every part.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hercules_scale.storage import layout, schemas
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import (
    FileRecord,
    column_numbers,
    column_vectors,
    read_schema,
    read_table,
    table_writer,
    vector_column,
    write_table,
)

TABLE = "cluster_items"
# Columns of the table ``items`` that are not the numbers of a numeric item.
NOT_NUMBERS = ("row", "item_id", "title", "description", "text", "image_uri", "thumbnail")
# Columns with the vector of each item.
CODES, SCALES = "embedding_int8", "embedding_scale"
# Rows of a part or range, without thumbnails and with thumbnails of some kilobytes each. Vectors of
# more than PART_DIMENSION numbers make parts smaller.
PART_ROWS, IMAGE_PART_ROWS, PART_DIMENSION = 524_288, 65_536, 512
GROUP_ROWS, IMAGE_GROUP_ROWS = 4_096, 256
DESCRIPTION_CHARACTERS = 300


@dataclass(frozen=True)
class TreeOrder:
    """Order of the finest clusters in the tree.

    Attributes:
        leaves: Ids of the finest clusters in this order, shape (k_1,).
        starts: Place of each finest cluster's first item, and the number of all items, shape
            (k_1 + 1,).
        spans: For each level, finest first: begin and end of the items of each cluster, shape
            (k, 2).
    """

    leaves: NDArray[np.int64]
    starts: NDArray[np.int64]
    spans: list[NDArray[np.int64]]

    @classmethod
    def of(cls, clusters: pa.Table) -> TreeOrder:
        """Return the order of the table ``clusters``, or of its first columns."""
        names = ["level", "cluster_id", "parent_cluster_id", "n_items"]
        table = clusters.select(names).sort_by(
            [("level", "ascending"), ("cluster_id", "ascending")]
        )
        levels = table["level"].to_numpy()
        parents = pc.fill_null(table["parent_cluster_id"], 0).to_numpy().astype(np.int64)
        sizes = table["n_items"].to_numpy().astype(np.int64)
        of_level = [levels == level for level in range(1, int(levels.max()) + 1)]
        ancestors = [np.arange(int(of_level[0].sum()))]
        for members in of_level[:-1]:
            ancestors.append(parents[members][ancestors[-1]])
        leaves = np.lexsort(ancestors)
        starts = np.concatenate([[0], np.cumsum(sizes[of_level[0]][leaves])])
        spans = []
        for members, above in zip(of_level, ancestors, strict=True):
            span = np.zeros((int(members.sum()), 2), np.int64)
            own = above[leaves]
            first = np.flatnonzero(np.diff(own, prepend=-1))
            last = np.append(first[1:], len(own))
            span[own[first], 0], span[own[first], 1] = starts[first], starts[last]
            spans.append(span)
        return cls(leaves, starts, spans)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Place of each finest cluster in the order, by id."""
        ranks = np.empty(len(self.leaves), np.int64)
        ranks[self.leaves] = np.arange(len(self.leaves))
        return ranks

    def ranges(self, rows: int) -> NDArray[np.int64]:
        """Return where in the order ranges of about ``rows`` items begin, and its end."""
        which = self.starts[:-1] // rows
        first = np.flatnonzero(np.diff(which, prepend=-1))
        return np.append(first, len(self.leaves))


@dataclass(frozen=True)
class Source:
    """Source of the table: files of a run, and their division into parts and ranges.

    Attributes:
        store: Output of the run.
        shards: Files of ``memberships``, ``items``, ``reductions`` and ``embeddings``, shard by
            shard; an empty list for a missing table.
        rows: Rows of each shard.
        order: Order of the clusters.
        target: Folder of parts and ranges.
    """

    store: Store
    shards: dict[str, list[str]]
    rows: list[int]
    order: TreeOrder
    target: Store

    @classmethod
    def of(
        cls, store: Store, tables: dict[str, list[FileRecord]], order: TreeOrder, target: Store
    ) -> Source:
        """Return the source for the published or committed files of a run."""
        shards = {
            name: [file.path for file in tables.get(name, [])]
            for name in ("memberships", "items", "reductions", "embeddings")
        }
        return cls(store, shards, [file.rows for file in tables["memberships"]], order, target)

    @property
    def of_images(self) -> bool:
        """Whether items have thumbnails."""
        items = self.shards["items"]
        return bool(items) and "thumbnail" in read_schema(self.store, items[0]).names

    @cached_property
    def dimension(self) -> int:
        """Dimension of vectors; 0 if there are none."""
        files = self.shards["embeddings"]
        if not files:
            return 0
        return int(read_schema(self.store, files[0]).field("embedding").type.list_size)

    @property
    def part_rows(self) -> int:
        """Approximate number of rows in a part or range."""
        if self.of_images:
            return IMAGE_PART_ROWS
        return max(PART_ROWS * PART_DIMENSION // max(self.dimension, PART_DIMENSION), 1)

    def parts(self) -> list[range]:
        """Return the consecutive shards of each part."""
        wanted = self.part_rows
        size = max(wanted // max(max(self.rows, default=1), 1), 1)
        return [
            range(start, min(start + size, len(self.rows)))
            for start in range(0, len(self.rows), size)
        ]

    def ranges(self) -> NDArray[np.int64]:
        """See ``TreeOrder.ranges``."""
        return self.order.ranges(self.part_rows)

    @property
    def group_rows(self) -> int:
        """Number of rows in a row group."""
        return IMAGE_GROUP_ROWS if self.of_images else GROUP_ROWS


def write_part(source: Source, part: int) -> tuple[FileRecord, list[int]]:
    """Sort one part.

    Returns:
        The file of the part; the first row of each range in it, and its number of rows.
    """
    table = pa.concat_tables([_shard(source, shard) for shard in source.parts()[part]])
    ranks, distances, rows = _keys(table, source.order.ranks)
    table = table.take(np.lexsort((rows, distances, ranks)))
    cuts = np.searchsorted(np.sort(ranks), source.ranges()).tolist()
    file = write_table(
        source.target, layout.work_part(TABLE, part), table, group_rows=source.group_rows
    )
    return file, cuts


def write_range(source: Source, number: int, cuts: list[list[int]]) -> FileRecord:
    """Merge one range of clusters from the sorted parts.

    Args:
        source: Source of the table.
        number: Number of the range.
        cuts: Results of ``write_part`` for every part.
    """
    runs = [
        _run(source, layout.work_part(TABLE, part), own[number], own[number + 1])
        for part, own in enumerate(cuts)
        if own[number] < own[number + 1]
    ]
    schema = read_schema(source.target, layout.work_part(TABLE, 0))
    path = layout.part(TABLE, number)
    with table_writer(source.target, path, schema, source.group_rows) as writer:
        waiting: list[pa.Table] = []
        for piece in _merged(runs, source.order.ranks):
            waiting.append(piece)
            n_waiting = sum(table.num_rows for table in waiting)
            if whole := n_waiting // source.group_rows * source.group_rows:
                table = pa.concat_tables(waiting)
                writer.write(table.slice(0, whole))
                waiting = [table.slice(whole)]
        if waiting:
            writer.write(pa.concat_tables(waiting))
        return writer.finish()


def to_bytes(vectors: NDArray[np.float32]) -> tuple[pa.Array, pa.Array]:
    """Return vectors of shape (n, d) as d signed bytes each, and the scale of each vector."""
    scales = np.abs(vectors).max(axis=1, initial=0) / 127
    steps = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    codes = np.rint(vectors * steps[:, None]).astype(np.int8)
    width = pa.binary(vectors.shape[1])
    data = pa.py_buffer(codes)
    return pa.FixedSizeBinaryArray.from_buffers(width, len(codes), [None, data]), pa.array(scales)


def from_bytes(table: pa.Table) -> NDArray[np.float32]:
    """Return the vectors of rows of ``cluster_items``, shape (n, d).

    Errors are at most 1/254 of a vector's largest number.
    """
    column = table[CODES].combine_chunks()
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.int8)
    start = column.offset * width
    codes = data[start : start + len(column) * width].reshape(len(column), width)
    return np.asarray(codes * table[SCALES].to_numpy()[:, None], np.float32)


def _shard(source: Source, shard: int) -> pa.Table:
    """Return the items of one shard with the columns of the table."""
    store, files = source.store, source.shards
    table = read_table(store, files["memberships"][shard])
    n_levels = len(source.order.spans)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    numbers, modality = [], "text"
    if files["items"]:
        names = read_schema(store, files["items"][shard]).names
        numbers = [name for name in names if name not in NOT_NUMBERS]
        modality = "image" if "thumbnail" in names else "text"
        wanted = [name for name in ("description", "image_uri", "thumbnail") if name in names]
        items = read_table(store, files["items"][shard], [*wanted, *numbers])
        for name in wanted:
            columns[name] = items[name]
        columns["description"] = pc.utf8_slice_codeunits(
            columns["description"], 0, DESCRIPTION_CHARACTERS
        )
        if numbers:
            columns["numbers"] = vector_column(column_numbers(items, numbers))
    else:
        columns["description"] = pa.nulls(table.num_rows, pa.string())
    n_components = 0
    if files["reductions"]:
        places = read_table(store, files["reductions"][shard])
        for name in places.column_names:
            if name not in columns:
                columns[name] = places[name]
                n_components += 1
    if files["embeddings"]:
        vectors = read_table(store, files["embeddings"][shard], ["embedding"])["embedding"]
        columns[CODES], columns[SCALES] = to_bytes(column_vectors(vectors))
    schema = schemas.cluster_items(n_levels, n_components, len(numbers), modality, source.dimension)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _keys(table: pa.Table, ranks: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Return keys that order rows: place of the cluster, distance to its centroid, row."""
    distances = pc.fill_null(table["distance_1"], np.float32(np.inf)).to_numpy()
    return ranks[table["level_1"].to_numpy()], distances, table["row"].to_numpy()


def _run(source: Source, path: str, start: int, stop: int) -> Iterator[pa.Table]:
    """Yield the rows of a sorted part, a row group at a time."""
    with source.target.arrow.open_input_file(source.target.path(path)) as stream:
        file = pq.ParquetFile(stream)
        size = source.group_rows
        for group in range(start // size, -(-stop // size)):
            table = file.read_row_group(group)
            first = group * size
            begin, end = max(start - first, 0), min(stop - first, size)
            yield table.slice(begin, end - begin)


def _merged(runs: list[Iterator[pa.Table]], ranks: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield the rows of sorted runs in their common order."""
    heads = {number: table for number, run in enumerate(runs) if (table := next(run, None))}
    keys = {number: _keys(table, ranks) for number, table in heads.items()}

    def key(number: int, place: int) -> tuple[Any, ...]:
        return tuple(each[place] for each in keys[number])

    while heads:
        # All rows up to the earliest end among the tables at hand have been read.
        bound = min(key(number, -1) for number in heads)
        taken = []
        for number, table in list(heads.items()):
            n_taken = bisect.bisect_right(
                range(table.num_rows), bound, key=functools.partial(key, number)
            )
            taken.append(table.slice(0, n_taken))
            rest = table.slice(n_taken) if n_taken < table.num_rows else next(runs[number], None)
            if rest is None:
                del heads[number], keys[number]
            else:
                heads[number] = rest
                keys[number] = _keys(rest, ranks)
        found = pa.concat_tables(taken)
        order = np.lexsort(_keys(found, ranks)[::-1])
        yield found.take(order)
