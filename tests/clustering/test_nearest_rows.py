import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hercules_scale.clustering.nearest_rows import nearest_rows

# Few clusters and few distances, so that there are many ties.
MEMBERS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=40)


def loop(members: list[tuple[int, int]], n_nearest: int) -> list[tuple[int, int, float]]:
    kept = []
    for cluster in sorted({label for label, _ in members}):
        of_cluster = sorted(
            (distance, row) for row, (label, distance) in enumerate(members) if label == cluster
        )
        kept += [(cluster, row, float(distance)) for distance, row in of_cluster[:n_nearest]]
    return kept


def arrays(members: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([label for label, _ in members], np.int32)
    return labels, np.array([distance for _, distance in members], np.float32)


@given(members=MEMBERS, n_nearest=st.integers(1, 6))
def test_the_nearest_rows_are_those_of_a_plain_loop(
    members: list[tuple[int, int]], n_nearest: int
) -> None:
    found = nearest_rows(*arrays(members), n_nearest)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == loop(members, n_nearest)


@given(members=MEMBERS, n_nearest=st.integers(1, 6), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_the_nearest_of_the_parts_nearest_are_those_of_the_whole(
    members: list[tuple[int, int]], n_nearest: int, cuts: list[int]
) -> None:
    labels, distances = arrays(members)
    rows = np.arange(len(members))
    parts = [
        nearest_rows(labels[part], distances[part], n_nearest, rows[part])
        for part in reversed(np.split(rows, sorted(min(cut, len(members)) for cut in cuts)))
    ]
    merged_labels, merged_rows, merged_distances = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    found = nearest_rows(merged_labels, merged_distances, n_nearest, merged_rows)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == loop(members, n_nearest)
