"""Arrow schemas of the tables, each once."""

from __future__ import annotations

import pyarrow as pa

REJECTED = pa.schema(
    [
        ("item_id", pa.string()),
        ("source_file", pa.string()),
        # Rows of a table from 0; lines of a text or JSON Lines file from 0.
        ("source_row", pa.int64()),
        ("reason", pa.string()),
    ]
)

EVALUATIONS = pa.schema(
    [
        ("level", pa.int16()),
        ("metric", pa.string()),
        ("basis", pa.string()),
        ("value", pa.float64()),
        # Number of items, clusters or labelled items that the figure describes.
        ("n", pa.int64()),
        # Ends of the figure's 95% confidence interval; null if it is exact.
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)

K_SELECTION = pa.schema(
    [
        ("level", pa.int16()),
        ("k", pa.int64()),
        ("simplified_silhouette", pa.float64()),
        ("standard_error", pa.float64()),
        ("silhouette", pa.float64()),
        ("davies_bouldin", pa.float64()),
        ("calinski_harabasz", pa.float64()),
        ("inertia", pa.float64()),
        ("chosen", pa.bool_()),
    ]
)

LLM_CALLS = pa.schema(
    [
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        ("attempt", pa.int32()),
        ("prompt_hash", pa.string()),
        ("model", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("seconds", pa.float64()),
        ("outcome", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
    ]
)

ITEM_KEYS = pa.schema([("key", pa.binary(16))])

# Distances are squared L2 to the own centroid; cluster_id is null for a level as a whole.
REFERENCE = pa.schema(
    [
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        ("n_items", pa.int64()),
        ("mean_distance", pa.float64()),
        ("p90_distance", pa.float64()),
        ("p99_distance", pa.float64()),
    ]
)

DRIFT = pa.schema(
    [
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        ("n_items", pa.int64()),
        ("share_new", pa.float64()),
        ("share_old", pa.float64()),
        ("mean_distance_new", pa.float64()),
        ("mean_distance_old", pa.float64()),
        ("distance_ratio", pa.float64()),
        ("p90_distance_new", pa.float64()),
        ("p90_distance_old", pa.float64()),
        # Share of the new items that lie farther out than 99% of the old items of the level.
        ("share_beyond_p99", pa.float64()),
        ("jensen_shannon", pa.float64()),
    ]
)

FLAGS = pa.schema(
    [
        ("row", pa.int64()),
        ("item_id", pa.string()),
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        # outlier, ambiguous or near_duplicate.
        ("kind", pa.string()),
        ("score", pa.float32()),
        # Row of the most similar item before a near-duplicate; null for other kinds.
        ("duplicate_of", pa.int64()),
    ]
)

CROSSWALK = pa.schema(
    [
        ("old_level", pa.int16()),
        ("old_id", pa.int32()),
        ("new_level", pa.int16()),
        ("new_id", pa.int32()),
        # Of the old cluster's items with a cluster in the new run, the share in this one, and of
        # the new cluster's items with a cluster in the old run.
        ("share_of_old", pa.float64()),
        ("share_of_new", pa.float64()),
        # items, of both runs; vectors, by which items of one run are assigned to the other; both.
        ("evidence", pa.string()),
    ]
)

TOPICS = pa.schema(
    [
        # old or new.
        ("run", pa.string()),
        ("level", pa.int16()),
        ("cluster_id", pa.int32()),
        # kept, grown, shrunk, split, merged, born or died.
        ("status", pa.string()),
        # The same for a topic in both runs, and in the runs before.
        ("topic_id", pa.string()),
        # Of a topic that is in both runs, the old title.
        ("title", pa.string()),
        ("n_items", pa.int64()),
        # Cluster of the other run that is the same topic.
        ("partner_id", pa.int32()),
        ("growth", pa.float64()),
    ]
)

NUMERIC_STATS = pa.list_(
    pa.struct(
        [
            ("variable", pa.string()),
            ("mean", pa.float64()),
            ("min", pa.float64()),
            ("max", pa.float64()),
            ("std", pa.float64()),
        ]
    )
)


# Rejected rows of a piece of the input; positions count all rows of the piece.
SCANNED_REJECTED = pa.schema([("position", pa.int64()), *REJECTED])

# Owners of a piece's items, as hashes; null for an item without an owner.
SCANNED_OWNERS = pa.schema([("position", pa.int64()), ("owner", pa.uint64())])

# Values of ``summary_source`` for a cluster that is too small to show its content, and for one with
# a title that lists its largest children.
WITHHELD, PARTS = "withheld", "parts"


def _of_items(
    modality: str, numbers: tuple[str, ...], dimension: int, with_text: bool
) -> list[tuple[str, pa.DataType]]:
    """Return the columns that hold the items of a modality."""
    found: list[tuple[str, pa.DataType]] = [(name, pa.float64()) for name in numbers]
    if modality == "embedding" and dimension:
        found.append(("embedding", pa.list_(pa.float32(), dimension)))
    if modality == "image":
        found += [("image_uri", pa.string()), ("thumbnail", pa.binary())]
    if with_text:
        found.append(("text", pa.large_string()))
    return found


def scanned(modality: str, numbers: tuple[str, ...], dimension: int, with_text: bool) -> pa.Schema:
    """Return the schema of the usable items of one piece of the input.

    Args:
        modality: Modality of the items.
        numbers: Numeric columns.
        dimension: Dimension of the vectors that the user brings; else 0.
        with_text: Whether there are texts.
    """
    own = _of_items(modality, numbers, dimension, with_text)
    return pa.schema([("position", pa.int64()), ("item_id", pa.string()), *own])


def items(modality: str, numbers: tuple[str, ...], with_text: bool) -> pa.Schema:
    """Return the schema of the items; vectors that the user brought are in ``embeddings``."""
    names = ("item_id", "title", "description")
    own = _of_items(modality, numbers, 0, with_text)
    return pa.schema([("row", pa.int64()), *((name, pa.string()) for name in names), *own])


def scanned_labels(label_columns: list[str]) -> pa.Schema:
    """Return the schema of ground truth beside one piece of the scanned input."""
    return pa.schema([("position", pa.int64()), *((name, pa.string()) for name in label_columns)])


def labels(label_columns: list[str]) -> pa.Schema:
    """Return the schema of ground truth, kept apart from everything that makes clusters."""
    return pa.schema([("row", pa.int64()), *((name, pa.string()) for name in label_columns)])


def embeddings(dimension: int) -> pa.Schema:
    """Return the schema of the vectors of the items."""
    return pa.schema(
        [
            ("row", pa.int64()),
            ("item_id", pa.string()),
            ("embedding", pa.list_(pa.float32(), dimension)),
        ]
    )


def assigner(dimension: int) -> pa.Schema:
    """Return the schema of an assigner of embeddings to clusters."""
    return pa.schema(
        [
            # mean: vector that is subtracted from an embedding, with the length that longer
            # differences are shortened to; cell: centroid that they are assigned to, with its
            # cluster of level 1; cluster: centroid minus the mean.
            ("role", pa.string()),
            ("level", pa.int16()),
            ("cluster_id", pa.int32()),
            ("parent_cluster_id", pa.int32()),
            # For a cell, term that is added to its squared L2 distance; for the mean, the length.
            ("offset", pa.float32()),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )


# Columns of ``clusters`` about the labels.
LABEL = pa.schema(
    [
        ("title", pa.string()),
        ("description", pa.string()),
        ("summary_status", pa.string()),
        ("summary_error", pa.string()),
        # model; keyphrases, if they fit the cluster better or the model failed; or withheld.
        ("summary_source", pa.string()),
        # Share of items, none of them in a prompt, that are nearer to this label than to siblings'.
        ("summary_score", pa.float32()),
        ("groundedness", pa.float32()),
        ("keyphrases", pa.list_(pa.string())),
    ]
)


def clusters(dimension: int, description_dimension: int, components: int) -> pa.Schema:
    """Return the schema of the clusters of every level."""
    return pa.schema(
        [
            ("level", pa.int16()),
            ("cluster_id", pa.int32()),
            ("parent_cluster_id", pa.int32()),
            ("n_items", pa.int64()),
            ("n_children", pa.int32()),
            *LABEL,
            ("exemplar_item_ids", pa.list_(pa.string())),
            ("exemplar_rows", pa.list_(pa.int64())),
            ("inertia", pa.float64()),
            ("centroid", pa.list_(pa.float32(), dimension)),
            ("description_embedding", pa.list_(pa.float32(), description_dimension)),
            ("reduction", pa.list_(pa.float32(), components)),
            ("numeric_stats", NUMERIC_STATS),
        ]
    )


def memberships(n_levels: int) -> pa.Schema:
    """Return the schema of the cluster of every item at every level."""
    levels = range(1, n_levels + 1)
    return pa.schema(
        [
            ("row", pa.int64()),
            ("item_id", pa.string()),
            *((f"level_{level}", pa.int32()) for level in levels),
            *((f"distance_{level}", pa.float32()) for level in levels),
            *((f"margin_{level}", pa.float32()) for level in levels),
        ]
    )


def reductions(components: int) -> pa.Schema:
    """Return the schema of the principal components of the items' vectors."""
    return pa.schema(
        [
            ("row", pa.int64()),
            ("item_id", pa.string()),
            *((f"pca_{index}", pa.float32()) for index in range(1, components + 1)),
        ]
    )


def cluster_items(
    n_levels: int, components: int, n_numbers: int, modality: str, dimension: int
) -> pa.Schema:
    """Return the schema of items for the explorer, with the items of a cluster side by side.

    Args:
        n_levels: Number of levels of clusters.
        components: Number of principal components; 0 if there is no map.
        n_numbers: Number of numeric columns of the table ``items``.
        modality: Modality of the items.
        dimension: Dimension of vectors, which take a byte per number; 0 if there are none.
    """
    own: list[tuple[str, pa.DataType]] = [("description", pa.string())]
    if n_numbers:
        own.append(("numbers", pa.list_(pa.float64(), n_numbers)))
    if modality == "image":
        own += [("image_uri", pa.string()), ("thumbnail", pa.binary())]
    places = [field for field in reductions(components) if field.name.startswith("pca_")]
    vectors = [("embedding_scale", pa.float32()), ("embedding_int8", pa.binary(dimension))]
    return pa.schema([*memberships(n_levels), *own, *places, *(vectors if dimension else [])])
