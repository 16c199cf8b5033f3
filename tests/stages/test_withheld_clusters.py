from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hercules_scale.stages.withheld_clusters import least_owners


@pytest.mark.parametrize("enough", [1, 3, 40])
def test_owners_of_clusters_are_counted_exactly_part_by_part(enough: int) -> None:
    rng = np.random.default_rng(0)
    clusters = rng.choice(12, 3_000, p=np.arange(1, 13) / 78).astype(np.int32)
    owners = rng.zipf(1.5, 3_000).astype(np.uint64) % 500
    kept = np.zeros(0, np.int32), np.zeros(0, np.uint64)
    for part in np.array_split(np.arange(3_000), 7):
        here = least_owners(clusters[part], owners[part], enough)
        kept = least_owners(
            np.concatenate([kept[0], here[0]]), np.concatenate([kept[1], here[1]]), enough
        )
        assert len(kept[0]) <= 12 * enough
    counted = np.bincount(kept[0], minlength=12)
    distinct = pd.DataFrame({"cluster": clusters, "owner": owners}).groupby("cluster")["owner"]
    assert counted.tolist() == distinct.nunique().clip(upper=enough).tolist()
