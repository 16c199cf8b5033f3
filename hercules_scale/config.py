"""The configuration of a run: one section a stage, each field with its default and bounds.

Source: the YAML of the README's "Configuration".
"""

from __future__ import annotations

import difflib
import itertools
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hercules_scale.errors import ConfigError
from hercules_scale.models import DEFAULT_CHAT_MODEL, n_parameters
from hercules_scale.printable import holds_secret, printable, without_secrets

Linkage = Literal["ward", "average", "complete", "single"]
# Their distances, in float64, take 200 MB.
MAX_AGGLOMERATED = 5_000
# The engine of the user's own functions, and the beginning of their names as models.
CALLABLE = "callable"


def names_function(model: str | None) -> bool:
    """Whether a model is a function of Python, as ``Hercules(embed=...)`` takes it."""
    return model is not None and model.partition(":")[0] == CALLABLE


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _without_secret(url: str | None, remedy: str) -> str | None:
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        if "@" in url.split("/")[2] or holds_secret(url):
            raise ValueError(f"must hold no password or key; {remedy}")
    return url


class VariableConfig(_Section):
    """Description of a numeric column, for statistics and prompts."""

    name: str | None = Field(default=None, description="what people call it")
    unit: str | None = Field(default=None, description="such as cm")
    description: str | None = Field(default=None, description="such as length of a petal")


def _without_password(paths: str | list[str]) -> str | list[str]:
    """Paths, none of which brings the key to itself, since they are written to the output."""
    if any(holds_secret(path) for path in ([paths] if isinstance(paths, str) else paths)):
        raise ValueError(
            "must hold no password, key or signature; give those in the environment, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return paths


class CsvConfig(_Section):
    """Dialect of csv files; what is left out is detected, in each file by itself."""

    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="what separates fields, such as ;"
    )
    quote: str | None = Field(
        default=None, max_length=1, description='what encloses fields; left out: ", empty: nothing'
    )
    escape: str | None = Field(
        default=None,
        max_length=1,
        description="what stands before a quote within quotes; left out: a quote, or \\ where the "
        "file has it so; empty: a quote",
    )
    encoding: str | None = Field(
        default=None, description="of csv, jsonl, json and txt files, such as utf-8 or cp1252"
    )
    decimal: Literal[".", ","] | None = Field(
        default=None, description="what begins the decimals of a number"
    )

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _is_plain(cls, value: str | None) -> str | None:
        if value and (not value.isascii() or value in "\r\n\0"):
            raise ValueError("must be one character of ASCII, and no end of a line")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        try:
            # Python's codecs that make no text of bytes, such as base64, have no such name.
            if value is not None:
                "a".encode(value)
        except (LookupError, ValueError):
            raise ValueError(f"{value!r} is no encoding of text; give such as utf-8") from None
        return value

    @model_validator(mode="after")
    def _characters_differ(self) -> CsvConfig:
        given = [each for each in (self.delimiter, self.quote, self.escape) if each]
        if len(set(given)) < len(given):
            raise ValueError(
                "delimiter, quote and escape must differ; an escape left empty is the quote itself"
            )
        return self


class InputConfig(_Section):
    """The input of a run."""

    path: str | list[str] = Field(
        description="a file, folder, glob or list of them (parquet, csv, jsonl, txt, npy, or "
        "images)"
    )
    csv: CsvConfig = CsvConfig()
    modality: Literal["text", "image", "numeric", "embedding"] | None = Field(
        default=None, description="what an item is; left out: detected"
    )
    id_column: str | None = Field(
        default=None, description="column that names each item; left out: the row number"
    )
    text_column: str | None = Field(
        default=None, description="column that holds the text; left out: detected"
    )
    image_column: str | None = Field(
        default=None, description="column that holds images: their bytes, paths or URIs"
    )
    image_sources: list[str] = Field(
        default=[],
        description="where cells of image_column may lie besides the input's folder and object "
        "stores: folders, and beginnings of URLs such as https://images.example.com/; https:// "
        "alone is every public host",
    )
    embedding_column: str | None = Field(
        default=None, description="column that holds vectors of numbers, all of one length"
    )
    columns: list[str] = Field(
        default=[], description="numeric columns; left out: all that hold numbers"
    )
    metadata: dict[str, VariableConfig] = Field(
        default={}, description="names, units and descriptions of numeric columns"
    )
    label_columns: list[str] = Field(
        default=[], description="ground truth, for evaluation only; a list of column names"
    )
    owner_column: str | None = Field(
        default=None,
        description="column that says whose an item is, for privacy.min_owners; its values are "
        "counted, and neither shown nor kept",
    )

    @field_validator("path")
    @classmethod
    def _path_is_not_empty(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("must name at least one file, folder or glob")
        return _without_password(value)

    @field_validator("image_sources")
    @classmethod
    def _image_sources_are_places(cls, value: list[str]) -> list[str]:
        for place in value:
            scheme, separator, _ = place.partition("://")
            if separator and scheme not in ("http", "https", "file"):
                raise ValueError(
                    f"{place!r} must be a folder, or the beginning of a URL with http:// or "
                    "https://; object stores are read without being named"
                )
            if not (separator or place.startswith(("/", "~", "."))):
                raise ValueError(
                    f"{place!r} must begin with http://, https://, / or ./, so that no host is "
                    "taken for a folder"
                )
            try:
                _ = urlsplit(place).port
            except ValueError as error:
                raise ValueError(f"{place!r} is no beginning of a URL ({error})") from None
        _without_password(value)
        return value

    @property
    def words_column(self) -> str:
        """Column of the table ``items`` that says in words what an item is."""
        told = self.text_column is not None or self.modality in (None, "text")
        return "text" if told else "description"

    @property
    def paths(self) -> list[str]:
        """The path as a list."""
        return [self.path] if isinstance(self.path, str) else self.path


class EmbeddingConfig(_Section):
    """Embedding of the items."""

    model: str | None = Field(
        default=None,
        min_length=1,
        description="an alias, a local folder or a model-hub id; left out: minilm, or for images "
        "efficientnet-lite0",
    )
    text_model: str = Field(
        default="minilm",
        min_length=1,
        description="embeds titles and descriptions where the items are no texts",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto takes bfloat16 where the processor computes in it"
    )
    cache: str | None = Field(
        default=None,
        min_length=1,
        description="a folder, path or URI, that keeps vectors for other runs over the same items",
    )
    long_text: Literal["truncate", "window"] = Field(
        default="truncate",
        description="texts longer than the model reads are cut, or read in windows (64 at most) "
        "whose vectors are averaged",
    )


class ResamplingConfig(_Section):
    """Resampling of clusters at each level.

    Source: HERCULES, section 3.3 and Algorithm 3, lines 14-24.
    """

    rounds: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="rounds m, where refinement is none; 0 is off",
    )
    points_per_cluster: int = Field(
        default=10, ge=1, le=100_000, description="items r nearest to each centroid in a round"
    )


class SmoothingConfig(_Section):
    """Neighbourhood smoothing of the vectors before they are clustered."""

    neighbours: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = Field(
        default="auto",
        description="neighbours a vector is averaged with; 0 is off; auto tries it on a sample",
    )
    rounds: int = Field(default=3, ge=1, le=100, description="times that this is done")


def _levels_tag(value: object) -> str:
    return "levels chosen" if value == "auto" else "levels listed"


# A mistake is told by the rules of a list alone, not by those of each branch of the union.
_Levels = Annotated[
    Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1), Tag(_levels_tag(None))]
    | Annotated[Literal["auto"], Tag(_levels_tag("auto"))],
    Discriminator(_levels_tag),
]


class HierarchyConfig(_Section):
    """Clustering of the vectors, level on level."""

    levels: _Levels = Field(
        default=[100, 20, 5],
        description="clusters a level, finest first, strictly falling, such as [100, 20, 5]; or "
        "auto, which chooses them from the data",
    )
    k_score: Literal[
        "simplified_silhouette", "silhouette", "davies_bouldin", "calinski_harabasz"
    ] = Field(
        default="simplified_silhouette",
        description="what levels: auto chooses by; silhouette is the paper's, for at most 20,000 "
        "items",
    )
    max_k: int = Field(
        default=1000, ge=2, le=3125, description="clusters that levels: auto may choose, at most"
    )
    representation: Literal["direct", "description"] = Field(
        default="direct", description="cluster the items' own vectors, or their descriptions'"
    )
    refinement: Literal["tree", "none"] = Field(
        default="tree",
        description="tree refines all levels together; none is the paper's recursive k-means",
    )
    resampling: ResamplingConfig = ResamplingConfig()
    smoothing: SmoothingConfig = SmoothingConfig()
    metric: Literal["squared_l2", "cosine"] = Field(
        default="squared_l2",
        description="squared_l2 of the vectors less their mean, or cosine (spherical k-means)",
    )
    method: Literal["kmeans", "agglomerative"] = Field(
        default="kmeans",
        description="kmeans level on level, or agglomerative: one dendrogram cut at every level, "
        "of all items up to 5,000, else of micro-clusters by k-means; refinement is not run on it",
    )
    linkage: Linkage = Field(
        default="ward",
        description="what agglomerative merges: ward (the least rise of squared distances to "
        "means), or the least average, largest (complete) or smallest (single) L2 distance",
    )
    init: Literal["auto", "sample", "kmeans++", "kmeans||"] = Field(
        default="auto",
        description="where centroids start; auto is kmeans++ below 1,000 clusters, else sample",
    )
    n_init: int = Field(default=1, ge=1, le=100, description="starts a level; the best is kept")
    max_iterations: int = Field(default=100, ge=1, description="iterations a level, at most")
    tolerance: float = Field(
        default=1e-5,
        ge=0,
        lt=1,
        description="stop when the objective falls by no more than this share",
    )
    changed_tolerance: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="stop when no more than this share of labels changes",
    )
    empty_clusters: Literal["split", "farthest", "drop"] = Field(
        default="split",
        description="an empty cluster gets half of the largest (split), the farthest item "
        "(farthest), or is left out (drop)",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of every random choice")

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
                f"({levels[0]:,} here), which is as many points as are agglomerated"
            )
        return value

    @model_validator(mode="after")
    def _resampling_is_not_undone(self) -> HierarchyConfig:
        # One level has no tree.
        nests = self.levels == "auto" or len(self.levels) > 1
        if nests and self.refinement == "tree" and self.resampling.rounds > 0:
            raise ValueError(
                f"resampling.rounds must be 0 where refinement is tree ({self.resampling.rounds} "
                "here), since tree refinement puts means of all items in the place of the "
                "centroids that resampling finds; leave resampling out, or give refinement: none, "
                "the paper's way"
            )
        return self

    @property
    def listed_levels(self) -> list[int]:
        """Levels that are known not to be ``auto``."""
        assert self.levels != "auto"
        return self.levels


class PriceConfig(_Section):
    """Prices of the language model, for the plan."""

    prompt: float = Field(ge=0, description="price of a million prompt tokens")
    completion: float = Field(ge=0, description="price of a million generated tokens")

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of a number of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


# Items and tokens of prompts: small ones, and others.
SMALL_PROMPTS: dict[str, Any] = {
    "exemplars": 8,
    "exemplar_strategy": "mixed",
    "exemplar_tokens": 48,
    "max_prompt_tokens": 1536,
}
LARGE_PROMPTS: dict[str, Any] = {
    "exemplars": 16,
    "exemplar_strategy": "mixed",
    "exemplar_tokens": 96,
    "max_prompt_tokens": 4000,
}
# Parameters from which a model is shown more than items, and no worked examples.
MEDIUM_PARAMETERS, LARGE_PARAMETERS = 0.95e9, 4e9


def _prompt_size(engine: object, model: object) -> str:
    """The size of prompts that fits a model; endpoints and functions are taken for large."""
    if engine == "keyphrases":
        return "small"
    size = n_parameters(model) if engine == "vllm" and isinstance(model, str) else None
    if size is None or size >= LARGE_PARAMETERS:
        return "large"
    return "small" if size < MEDIUM_PARAMETERS else "medium"


class PromptExample(_Section):
    """A worked example of the user's own."""

    items: list[str] = Field(min_length=1, max_length=20, description="texts of a few items")
    title: str = Field(min_length=1, max_length=60, description="their title")
    description: str = Field(min_length=1, max_length=240, description="their description")


class SummariesConfig(_Section):
    """Titles and descriptions of the clusters."""

    engine: Literal["vllm", "openai", "keyphrases", "callable"] = Field(
        default="vllm",
        description="vllm (on Ray Serve), openai (any compatible endpoint) or keyphrases (no LLM)",
    )
    model: str = Field(
        default=DEFAULT_CHAT_MODEL,
        min_length=1,
        description="an alias, a local folder, a model-hub id, or the endpoint's model name",
    )
    endpoint: str | None = Field(
        default=None,
        description="base URL for engine openai; left out: OPENAI_BASE_URL. "
        "The key comes from OPENAI_API_KEY alone",
    )
    topic: str | None = Field(default=None, description="the paper's topic seed")
    instructions: str | None = Field(
        default=None,
        min_length=1,
        max_length=4_000,
        description="more that the model is asked to keep to, in every prompt",
    )
    language: str | None = Field(
        default=None,
        min_length=1,
        max_length=60,
        description="language of titles and descriptions, such as German; left out: that of the "
        "items",
    )
    examples: list[PromptExample] | None = Field(
        default=None,
        max_length=20,
        description="worked examples in the place of the built-in ones; [] for none",
    )
    prompt_size: Literal["small", "medium", "large"] = Field(
        default="large",
        description="small: worked examples and few items; medium: worked examples, many items and "
        "all that is known of a cluster; large: the same without examples. Left out: by the "
        "model, small below one billion parameters, medium below four",
    )
    exemplars: int = Field(
        default=LARGE_PROMPTS["exemplars"],
        ge=1,
        le=100,
        description="items shown in a prompt; left out: 16, or 8 of small prompts",
    )
    exemplar_strategy: Literal["nearest", "diverse", "random", "mixed"] = Field(
        default=LARGE_PROMPTS["exemplar_strategy"],
        description="the items nearest to the centroid, those of them that are not near one "
        "another, a random draw, or half nearest and half random; left out: mixed",
    )
    exemplar_tokens: int = Field(
        default=LARGE_PROMPTS["exemplar_tokens"],
        ge=8,
        le=4096,
        description="tokens of an item that a prompt shows; left out: 96, or 48 of small prompts",
    )
    max_prompt_tokens: int = Field(
        default=LARGE_PROMPTS["max_prompt_tokens"],
        ge=512,
        le=1_000_000,
        description="tokens of a prompt; left out: 4000, or 1536 of small prompts",
    )
    children: int = Field(
        default=12, ge=0, le=100, description="clusters below that a prompt shows; 0 for none"
    )
    children_strategy: Literal["largest", "nearest", "random"] = Field(
        default="largest",
        description="the largest children, those nearest to the centroid, or a random draw",
    )
    numeric_precision: int = Field(
        default=4, ge=1, le=17, description="digits of numbers that a prompt shows"
    )
    max_answer_tokens: int = Field(default=128, ge=32, le=4096, description="tokens of an answer")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is the likeliest answer")
    contrast: int = Field(
        default=2, ge=0, le=20, description="nearest clusters outside that a prompt sets it against"
    )
    candidates: int = Field(
        default=4,
        ge=1,
        le=32,
        description="answers to each question; the one that stands best for its own cluster "
        "against its siblings is taken",
    )
    clusters_per_request: int = Field(
        default=1,
        ge=1,
        le=100,
        description="clusters that share a request, at most; fewer after an answer that cannot "
        "be used",
    )
    vocabulary: str | None = Field(
        default=None,
        min_length=1,
        description="a text file of words, one a line, that clusters of images are named from, "
        "where embedding.model reads texts too",
    )
    show_images: bool = Field(
        default=False,
        description="show the images themselves to the model, which must be one that sees; with "
        "describe_items it captions every image",
    )
    describe_items: bool = Field(
        default=False,
        description="title and describe every item too; hierarchy.representation "
        "description does so by itself",
    )
    max_total_tokens: int | None = Field(
        default=None, ge=1, description="stop before more tokens than this; more resumes the run"
    )
    max_cost: float | None = Field(
        default=None, gt=0, description="the same for the cost, by summaries.price"
    )
    requests_in_flight: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="requests sent and not yet answered; left out: 32, or for each replica 64, "
        "on GPUs 256; of a function 4",
    )
    max_attempts: int = Field(default=4, ge=1, le=20, description="requests a cluster, at most")
    timeout_seconds: float = Field(default=300, gt=0, description="wait for one answer")
    record_prompts: bool = Field(
        default=False, description="keep prompts and responses in llm_calls"
    )
    price: PriceConfig | None = None

    @property
    def for_items(self) -> SummariesConfig:
        """The same for items: each has one answer, since there is nothing to choose it by."""
        return self.model_copy(update={"candidates": 1})

    @model_validator(mode="before")
    @classmethod
    def _prompts_fit_the_model(cls, values: Any) -> Any:
        """Give what is left out the values that fit the model's size."""
        if not isinstance(values, dict):
            return values
        left_out = (*LARGE_PROMPTS, "prompt_size")
        given = {
            key: value for key, value in values.items() if key not in left_out or value is not None
        }
        engine, model = (
            given.get(key, cls.model_fields[key].default) for key in ("engine", "model")
        )
        size = given.get("prompt_size") or _prompt_size(engine, model)
        budget = SMALL_PROMPTS if size == "small" else LARGE_PROMPTS
        return {**budget, **given, "prompt_size": size}

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> SummariesConfig:
        if self.show_images and self.clusters_per_request > 1:
            raise ValueError(
                f"show_images needs clusters_per_request 1, got {self.clusters_per_request}"
            )
        if self.show_images and self.engine == CALLABLE:
            raise ValueError(
                "show_images needs a model that sees, and a function (llm) is given text alone; "
                "leave one out"
            )
        if self.max_cost is not None and self.price is None:
            raise ValueError(
                f"max_cost {self.max_cost:g} needs summaries.price, such as "
                "{prompt: 0.1, completion: 0.4} for a million tokens"
            )
        return self

    @field_validator("endpoint")
    @classmethod
    def _endpoint_holds_no_secret(cls, value: str | None) -> str | None:
        return _without_secret(value, "give the key in OPENAI_API_KEY")


class ReductionConfig(_Section):
    """The principal components that maps are drawn with."""

    components: int = Field(default=2, ge=2, le=3, description="2 or 3")


class EvaluationConfig(_Section):
    """Measurements at the end of a run."""

    metrics: Literal["all", "none"] = Field(default="all", description="all or none")


class PrivacyConfig(_Section):
    """Which item text a run may expose."""

    min_items: int = Field(
        default=0,
        ge=0,
        le=1_000_000_000,
        description="a cluster of fewer items shows no text of them, neither to people nor to a "
        "model",
    )
    min_owners: int = Field(
        default=0,
        ge=0,
        le=1_000,
        description="the same for a cluster whose items are of fewer owners, by input.owner_column",
    )
    redact: str | None = Field(
        default=None,
        pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$",
        description="a function from text to text, as package.module:function, that every item's "
        "text goes through before anything is told of it",
    )
    local_only: bool = Field(
        default=False,
        description="refuse endpoints that are not on this machine and models of a hub",
    )

    @property
    def withholds(self) -> bool:
        """Whether small clusters keep their texts to themselves."""
        return self.min_items > 0 or self.min_owners > 0


class StageResources(_Section):
    """Actors of one stage, and what each may take."""

    workers: int | None = Field(
        default=None, ge=1, le=100_000, description="actors; left out: resources.workers"
    )
    cpus: float = Field(default=1.0, gt=0, le=1024, description="logical CPUs of an actor")
    gpus: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="GPUs of an actor, or a share such as 0.5; left out: 1 where the profile "
        "takes GPUs",
    )
    memory_gib: float | None = Field(
        default=None, gt=0, description="memory that its node sets aside for an actor"
    )


class EmbedResources(StageResources):
    """The same for embedding, whose actors may become more."""

    max_workers: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="actors where shards wait and nodes can be had; left out: workers",
    )


class ResourcesConfig(_Section):
    """Resources that a run may take on a machine or a cluster."""

    profile: Literal["auto", "cpu", "gpu", "gpus", "tensor_parallel"] = Field(
        default="auto",
        description="auto takes GPUs where the Ray cluster has them, cpu none; gpu needs one, "
        "gpus puts actors and vLLM replicas on all, tensor_parallel shares those of a node in one "
        "replica",
    )
    workers: int = Field(
        default=2, ge=1, le=100_000, description="actors that embed, of one CPU (or GPU) each"
    )
    embed: EmbedResources = EmbedResources()
    cluster: StageResources = StageResources()
    llm_replicas: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="vLLM replicas, at least; left out: 1, or with profile gpus as many as fit",
    )
    llm_max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="vLLM replicas where requests wait; left out: llm_replicas",
    )
    llm_tensor_parallel: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="GPUs that share one replica; left out: 1, or with profile tensor_parallel "
        "those of a node",
    )

    wait_seconds: float = Field(
        default=1800,
        gt=0,
        description="wait for room on a Ray cluster that others share; then the run ends, and "
        "resumes when it is run again",
    )

    @model_validator(mode="after")
    def _more_is_not_less(self) -> ResourcesConfig:
        pairs = (
            ("llm_max_replicas", self.llm_max_replicas, "llm_replicas", self.replicas),
            ("embed.max_workers", self.embed.max_workers, "embed.workers", self.embed_workers),
        )
        for name, most, other, least in pairs:
            if most is not None and most < least:
                raise ValueError(f"{name} must be at least {other} ({least}), got {most}")
        return self

    @property
    def embed_workers(self) -> int:
        """Actors that embed."""
        return self.embed.workers or self.workers

    @property
    def cluster_workers(self) -> int:
        """Actors that cluster."""
        return self.cluster.workers or self.workers

    @property
    def replicas(self) -> int:
        """VLLM replicas, at least."""
        return self.llm_replicas or 1

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share one replica."""
        return self.llm_tensor_parallel or 1


class OutputConfig(_Section):
    """Place of the tables."""

    path: Annotated[str, AfterValidator(_without_password)] = Field(
        min_length=1, description="a folder: a local path, s3://, gs:// or az://"
    )


class StorageConfig(_Section):
    """Access to object stores; credentials come from the environment alone."""

    endpoint: str | None = Field(
        default=None,
        description="base URL of an S3-compatible server (left out: AWS_ENDPOINT_URL) or of "
        "another host of Google's or Azure's storage",
    )
    region: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="of S3; left out: AWS_DEFAULT_REGION",
    )
    project: str | None = Field(
        default=None, min_length=1, max_length=100, description="of Google Cloud, for gs://"
    )
    account: str | None = Field(
        default=None, min_length=1, max_length=100, description="storage account, for az://"
    )
    anonymous: bool = Field(default=False, description="read public data without credentials")
    virtual_hosts: bool = Field(
        default=False,
        description="name the bucket in the host, where an S3-compatible server asks for it",
    )
    retry_seconds: float = Field(
        default=120,
        ge=0,
        le=3600,
        description="how long an outage, time-outs and throttling are waited out",
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint_holds_no_secret(cls, value: str | None) -> str | None:
        return _without_secret(value, "give credentials in the environment")


class RunConfig(_Section):
    """A whole run."""

    input: InputConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    hierarchy: HierarchyConfig = HierarchyConfig()
    summaries: SummariesConfig = SummariesConfig()
    reduction: ReductionConfig = ReductionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    output: OutputConfig

    @model_validator(mode="after")
    def _columns_have_one_role(self) -> RunConfig:
        labels, own = self.input.label_columns, self.input
        if len(set(labels)) < len(labels):
            raise ValueError("input.label_columns must name each column once")
        if len(set(own.columns)) < len(own.columns):
            raise ValueError("input.columns must name each column once")
        used = [own.text_column, own.image_column, own.embedding_column, *own.columns]
        for name in labels:
            if name in used:
                raise ValueError(
                    f"input.label_columns must not hold {name!r}, a column that is clustered: "
                    "ground truth is never seen by clustering"
                )
        kinds = {
            "columns": bool(own.columns),
            "embedding_column": own.embedding_column is not None,
            "image_column": own.image_column is not None,
        }
        named = [f"input.{name}" for name, given in kinds.items() if given]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} exclude one another: a run has one modality")
        return self

    @model_validator(mode="after")
    def _owners_are_counted_alone(self) -> RunConfig:
        owner, own = self.input.owner_column, self.input
        if (owner is None) != (self.privacy.min_owners == 0):
            raise ValueError(
                f"input.owner_column ({owner!r}) and privacy.min_owners "
                f"({self.privacy.min_owners}) go together; give both, such as user_id and 5, or "
                "neither"
            )
        shown = [own.id_column, own.text_column, own.image_column, own.embedding_column]
        if owner is not None and owner in [*shown, *own.columns, *own.label_columns]:
            raise ValueError(
                f"input.owner_column must not be {owner!r}, a column that is kept in tables: "
                "owners are counted alone; name another column"
            )
        if self.privacy.withholds and self.describes_items:
            raise ValueError(
                "privacy.min_items and privacy.min_owners keep texts of small clusters from "
                "models, but hierarchy.representation description and summaries.describe_items "
                "send every item's text before there are clusters; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> RunConfig:
        if self.describes_items and self.summaries.engine == "keyphrases":
            raise ValueError(
                "summaries.engine keyphrases describes no items, which "
                "hierarchy.representation description or summaries.describe_items asks for; take "
                "engine vllm or openai"
            )
        functions = self.summaries.engine == CALLABLE or self.embeds_by_function
        if functions and self.privacy.local_only:
            raise ValueError(
                "privacy.local_only cannot know where a function (llm, embed) sends texts; leave "
                "local_only out, or name models instead of functions"
            )
        return self

    @property
    def text_embedding(self) -> EmbeddingConfig:
        """Embedding of titles and descriptions: as the items' where they are texts."""
        if self.input.modality in (None, "text"):
            return self.embedding
        return self.embedding.model_copy(update={"model": self.embedding.text_model})

    @property
    def embeds_by_function(self) -> bool:
        """Whether a function of Python embeds texts: items, labels or both."""
        return any(map(names_function, (self.embedding.model, self.embedding.text_model)))

    @property
    def labels_share_space(self) -> bool:
        """Whether items and labels are embedded by one model, so that they can be compared."""
        of_text = self.input.modality in (None, "text")
        return of_text or self.hierarchy.representation == "description"

    @property
    def encodes_items(self) -> bool:
        """Whether a model embeds the items, or words about them."""
        return self.describes_items or self.input.modality in (None, "text", "image")

    @property
    def describes_items(self) -> bool:
        """Whether a language model titles and describes every item."""
        return self.summaries.describe_items or self.hierarchy.representation == "description"


def load_config(path: str, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply ``a.b=value`` overrides and validate.

    Raises:
        ConfigError: The file is missing or is no YAML mapping, or a key is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}; give a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration {path}: must be UTF-8 ({error}); save it so") from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"configuration {path}: must be YAML: {reason}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"configuration {path}: must be a mapping of sections such as input and output, "
            f"got {type(values).__name__}; see the README's example"
        )
    for override in overrides or []:
        _set(values, override)
    config = parse_config(values)
    check_functions(config)
    return config


def check_functions(config: RunConfig, llm: bool = False, embed: bool = False) -> None:
    """Refuse a configuration that asks for functions of Python that are not given.

    Args:
        config: The run.
        llm: Whether a function that answers prompts is given.
        embed: Whether a function that embeds texts is given.

    Raises:
        ConfigError: One is missing.
    """
    asked = (
        ("llm", llm, "summaries.engine", config.summaries.engine),
        ("embed", embed, "embedding.model", config.embedding.model),
        ("embed", embed, "embedding.text_model", config.embedding.text_model),
    )
    for name, given, key, value in asked:
        if names_function(value) and not given:
            raise ConfigError(
                f"{key} {printable(str(value))} is for Python, where the function is given: "
                f"Hercules({name}=...) for a run, and for new items of a finished one "
                f"Hierarchy.open(RUN).assign(items, {name}=...); elsewhere name a model"
            )


def storage_options(overrides: list[str]) -> StorageConfig:
    """Access to the output of a run, by overrides such as ``storage.endpoint=URL``.

    Raises:
        ConfigError: A key is wrong, or of another section.
    """
    values: dict[Any, Any] = {"input": {"path": "-"}, "output": {"path": "-"}}
    for override in overrides:
        if not override.startswith("storage."):
            raise ConfigError(
                f"--set {override}: must be of the section storage, such as "
                "storage.endpoint=http://minio:9000; the others are the run's own"
            )
        _set(values, override)
    return parse_config(values).storage


def _set(values: dict[Any, Any], override: str) -> None:
    """Apply one ``a.b=value``, the value read as YAML."""
    key, equals, text = override.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {override}: must be key=value, such as hierarchy.seed=1")
    section = values
    for name in names[:-1]:
        child = section.get(name)
        if child is None:
            child = section[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {name} holds {child!r}, not a section")
        section = child
    try:
        section[names[-1]] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"--set {override}: the value must be YAML: {reason}") from None


def parse_config(values: dict[Any, Any]) -> RunConfig:
    """Validate a mapping of sections.

    Raises:
        ConfigError: One line that names each wrong key, the rule, the value and the remedy.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = "; also ".join(_explain(dict(problem)) for problem in error.errors()[:3])
        raise ConfigError(f"configuration: {printable(problems)}") from None


_RULES = {
    "missing": "is required",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "model_type": "must be a section of keys",
}


# A value is shown in short however large it is: aliases of YAML make a large one of a few bytes.
SHOWN_CHARACTERS = 2_000
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 8, 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def _explain(problem: dict[str, Any]) -> str:
    unknown = problem["type"] == "extra_forbidden"
    # Pydantic names the branches of a union such as input.path, which holds no keys.
    branches = ("str", "list[str]", _levels_tag(None))
    location = [part for part in problem["loc"] if unknown or part not in branches]
    key = ".".join(str(part) for part in location)
    fields, field = _fields_at(location)
    if unknown:
        near = difflib.get_close_matches(str(location[-1])[:60], fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
        return f"{key} is not a known key; {hint}"
    rule = _RULES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    rule = rule[:1].lower() + rule[1:]
    value = "" if problem["type"] == "missing" or not key else f", got {_shown(problem['input'])}"
    remedy = f"; give {field}" if field else ""
    if problem["type"] in ("missing", "model_type") and not field:
        remedy = f"; its keys are {', '.join(fields)}"
    return f"{key} {rule}{value}{remedy}".strip()


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(without_secrets(value[:SHOWN_CHARACTERS]))[:200]
    try:
        return without_secrets(_SHORT.repr(value))[:200]
    except ValueError:
        # Python writes no number of more than some thousand digits.
        return "a number too long to show"


def _fields_at(location: list[str | int]) -> tuple[list[str], str | None]:
    """Known keys of the section that holds a location, and the description of its field."""
    section: type[BaseModel] = RunConfig
    field = None
    for part in location:
        info = section.model_fields.get(str(part))
        if info is None:
            break
        field = info.description
        kinds = [info.annotation, *getattr(info.annotation, "__args__", ())]
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not nested:
            break
        section = nested[0]
    return sorted(section.model_fields), field
