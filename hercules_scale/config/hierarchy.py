"""Sections about the clustering."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from hercules_scale.config.section import Section, key

Linkage = Literal["ward", "average", "complete", "single"]
# Largest number of points that are agglomerated; their distances in float64 take 200 MB.
MAX_AGGLOMERATED = 5_000


class ResamplingConfig(Section):
    """Resampling of clusters at each level.

    Source: HERCULES, section 3.3 and Algorithm 3, lines 14-24.
    """

    rounds: int = key(
        browser=True,
        default=0,
        ge=0,
        le=1000,
        description="number of rounds, the paper's m; 0 is off, the only choice where refinement "
        "is tree and there are several levels",
    )
    points_per_cluster: int = key(
        browser=True,
        default=10,
        ge=1,
        le=100_000,
        description="number of items nearest to each centroid that a round clusters again, the "
        "paper's r",
    )


class SmoothingConfig(Section):
    """Neighbourhood smoothing of the vectors before they are clustered."""

    neighbours: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = key(
        browser=True,
        default="auto",
        description="number of neighbours that each vector is averaged with; 0 is off; auto "
        "decides on a sample",
    )
    rounds: int = key(
        browser=True,
        default=3,
        ge=1,
        le=100,
        description="number of times that vectors are averaged",
    )


def levels_tag(value: object) -> str:
    """Return the tag of the branch of the union ``levels`` that a value belongs to."""
    return "levels chosen" if value == "auto" else "levels listed"


# With tags, an error message names the rules of one branch, not of every branch of the union.
_Levels = Annotated[
    Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), Tag(levels_tag(None))]
    | Annotated[Literal["auto"], Tag(levels_tag("auto"))],
    Discriminator(levels_tag),
]


class HierarchyConfig(Section):
    """Clustering of the vectors, level on level."""

    levels: _Levels = key(
        browser=True,
        default=[100, 20, 5],
        description="numbers of clusters per level, finest first, strictly falling, such as "
        "[100, 20, 5]; or auto, which chooses them from the data",
    )
    criterion: str | None = key(
        browser=True,
        default=None,
        min_length=1,
        max_length=200,
        description="criterion by which items are grouped and titled, such as which "
        "customer-service intent the message expresses",
    )
    criterion_words: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = key(
        browser=True,
        default=None,
        min_length=3,
        max_length=1_000,
        description="list of words that answer the criterion, such as lung, skin and eye; items "
        "are clustered by what distinguishes these alone",
    )
    k_score: Literal[
        "simplified_silhouette", "silhouette", "davies_bouldin", "calinski_harabasz"
    ] = key(
        browser=True,
        default="simplified_silhouette",
        description="score by which levels: auto chooses; silhouette is the paper's, for at most "
        "20,000 items",
    )
    max_k: int = key(
        browser=True,
        default=1000,
        ge=2,
        le=3125,
        description="maximum number of clusters that levels: auto may choose for a level",
    )
    representation: Literal["direct", "description"] = key(
        browser=True,
        default="direct",
        description="vectors to cluster: direct takes the items' own, description the vectors of "
        "their snippets, captions or values in words, or of a model's descriptions where "
        "summaries.describe_items asks for them",
    )
    refinement: Literal["tree", "none"] = key(
        browser=True,
        default="tree",
        description="refinement of the levels: tree refines all of them together; none leaves "
        "the paper's recursive k-means",
    )
    resampling: ResamplingConfig = ResamplingConfig()
    smoothing: SmoothingConfig = SmoothingConfig()
    metric: Literal["squared_l2", "cosine"] = key(
        browser=True,
        default="squared_l2",
        description="distance between vectors: squared_l2, or cosine (spherical k-means)",
    )
    method: Literal["kmeans", "agglomerative"] = key(
        browser=True,
        default="kmeans",
        description="clustering method: kmeans builds level on level; agglomerative cuts one "
        "dendrogram at every level, of all items up to 5,000, else of micro-clusters "
        "by k-means, without refinement",
    )
    linkage: Linkage = key(
        browser=True,
        default="ward",
        description="linkage of method agglomerative, which merges the two clusters with the "
        "least rise of squared distances to means (ward), or with the least average, "
        "largest (complete) or smallest (single) L2 distance",
    )
    init: Literal["auto", "sample", "kmeans++", "kmeans||"] = key(
        browser=True,
        default="auto",
        description="method for initial centroids; auto is kmeans++ below 1,000 clusters, else "
        "sample",
    )
    n_init: int = key(
        browser=True,
        default=1,
        ge=1,
        le=100,
        description="number of starts at the finest level, of which the best is kept; upper "
        "levels have at least 10",
    )
    max_iterations: int = key(
        browser=True, default=100, ge=1, description="maximum number of k-means iterations"
    )
    tolerance: float = key(
        browser=True,
        default=1e-5,
        ge=0,
        lt=1,
        description="relative fall of the objective, at or below which iterations stop",
    )
    changed_tolerance: float = key(
        browser=True,
        default=0.0,
        ge=0,
        lt=1,
        description="share of labels that change, at or below which iterations stop",
    )
    empty_clusters: Literal["split", "farthest", "drop"] = key(
        browser=True,
        default="split",
        description="handling of an empty cluster: it gets half of the largest (split) or the "
        "farthest item (farthest), or is left out (drop)",
    )
    seed: int = key(
        browser=True, default=0, ge=0, lt=2**63, description="seed of every random choice"
    )

    @field_validator("smoothing", mode="before")
    @classmethod
    def _smoothing_has_a_short_form(cls, value: object) -> object:
        return {"neighbours": "auto"} if value == "auto" else value

    @field_validator("levels")
    @classmethod
    def _levels_fall(cls, value: list[int] | Literal["auto"]) -> list[int] | Literal["auto"]:
        if value == "auto":
            return value
        if any(upper >= lower for lower, upper in itertools.pairwise(value)):
            raise ValueError("must fall strictly, finest level first")
        return value

    @field_validator("criterion_words")
    @classmethod
    def _words_answer_a_criterion(
        cls, value: list[str] | None, others: ValidationInfo
    ) -> list[str] | None:
        if value is not None and others.data.get("criterion") is None:
            raise ValueError("must have hierarchy.criterion beside it, which the words answer")
        if value is not None and len(set(value)) < len(value):
            twice = next(word for word in value if value.count(word) > 1)
            raise ValueError(f"must hold each word once, and holds {twice!r} again; remove it")
        return value

    @field_validator("method")
    @classmethod
    def _method_fits(cls, value: str, others: ValidationInfo) -> str:
        if value == "kmeans":
            return value
        resampling, levels = others.data.get("resampling"), others.data.get("levels", [1])
        if resampling is not None and resampling.rounds > 0:
            raise ValueError(
                f"must be kmeans where resampling.rounds is above 0 ({resampling.rounds} here), "
                "since only k-means resamples"
            )
        if levels == "auto":
            raise ValueError("must be kmeans where levels are auto; list the counts")
        if levels[0] > MAX_AGGLOMERATED:
            raise ValueError(
                f"must be kmeans where levels ask for more than {MAX_AGGLOMERATED:,} clusters "
                f"({levels[0]:,} here), the most that agglomerative takes"
            )
        return value

    @model_validator(mode="after")
    def _resampling_is_not_undone(self) -> HierarchyConfig:
        # Tree refinement needs two levels or more.
        nests = self.levels == "auto" or len(self.levels) > 1
        if nests and self.refinement == "tree" and self.resampling.rounds > 0:
            raise ValueError(
                f"resampling.rounds must be 0 where refinement is tree ({self.resampling.rounds} "
                "here), since tree refinement replaces the centroids that resampling finds by "
                "means of all items; leave resampling out, or give refinement: none, the paper's "
                "way"
            )
        return self

    @property
    def listed_levels(self) -> list[int]:
        """The list of ``levels``, which must not be ``auto``."""
        assert self.levels != "auto"
        return self.levels
