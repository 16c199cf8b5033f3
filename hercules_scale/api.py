"""A whole run from Python, as an estimator in the style of scikit-learn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from hercules_scale.config.file import parse_config
from hercules_scale.config.resources import StorageConfig
from hercules_scale.config.run import RunConfig
from hercules_scale.config.section import CALLABLE
from hercules_scale.errors import ConfigError, InputError
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.jobs.cluster import run
from hercules_scale.reading.in_memory_items import write_items
from hercules_scale.reading.python_inputs import n_columns, names_files, write_dataset
from hercules_scale.runtime.context import Functions, name_of
from hercules_scale.runtime.progress import Reporter
from hercules_scale.storage import layout
from hercules_scale.storage.scratch import ScratchFolder
from hercules_scale.storage.store import Store
from hercules_scale.storage.tables import read_table

# Label of an item that could not be used; scikit-learn has the same for noise.
REJECTED = -1


class Hercules(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Clusters items into a hierarchy, with a title and a description for every cluster.

    The parameters are keys of the configuration; sections may be given whole, as mappings.

    Args:
        levels: Clusters per level, finest first, strictly falling; or ``auto``.
        embedding: Model that embeds the items, or the section ``embedding``.
        summaries: Model that writes titles and descriptions, ``keyphrases`` for none, or the
            section ``summaries``.
        topic: Topic of interest for titles, the paper's topic seed.
        criterion: Criterion by which items are grouped and titled, instead of a topic.
        modality: text, image, numeric or embedding; by default detected.
        representation: ``direct`` clusters the items' own vectors, ``description`` the vectors of
            their snippets, captions or values in words, or of a model's descriptions where
            ``summaries`` has ``describe_items``.
        seed: Seed of every random choice.
        workers: Processes that embed and cluster; by default 2, and for stages without a model all
            CPUs.
        hierarchy: Other keys of the section ``hierarchy``.
        input: Other keys of the section ``input``, such as ``id_column`` or ``metadata``.
        reduction: The section ``reduction``.
        evaluation: The section ``evaluation``.
        privacy: The section ``privacy``.
        resources: Other keys of the section ``resources``.
        storage: The section ``storage``.
        verbose: Whether progress is shown.
        llm: Function or ``async def`` from a prompt to the answer's text, in place of the model of
            ``summaries``. It is called ``summaries.candidates`` times for each prompt (by default
            4), from up to ``summaries.requests_in_flight`` threads at once (by default 4); if it is
            not thread-safe, set the latter to 1. After an exception it is called again. Tokens are
            estimated.
        embed: Function from a list of at most 1,024 texts to an array of shape (n, d), in place of
            the model of ``embedding``. It embeds texts, descriptions and labels, so that they share
            one space; for images, numbers and vectors it embeds the labels only.

    Functions can replace models, as in pyhercules. They are called in this process, so only in
    local runs. A run identifies them by module and name: when it resumes, it does not notice a
    function that has changed under the same name.

    ``fit`` returns the hierarchy, not the estimator; the estimator has the attributes below. Items
    with NaN and other unusable items are allowed.

    Attributes:
        hierarchy_: The result of ``fit``.
        labels_: Finest cluster of each item in the order given, for files in the order of their
            rows, shape (n,); -1 for an item that could not be used.
        n_features_in_: Number of columns, if the items were an array or a table in memory.
        feature_names_in_: Names of the columns, if the items were a table in memory.
    """

    def __init__(
        self,
        levels: Sequence[int] | Literal["auto"] = (100, 20, 5),
        *,
        embedding: str | dict[str, Any] | None = None,
        summaries: str | dict[str, Any] | None = None,
        topic: str | None = None,
        criterion: str | None = None,
        modality: Literal["text", "image", "numeric", "embedding"] | None = None,
        representation: Literal["direct", "description"] = "direct",
        seed: int = 0,
        workers: int | None = None,
        hierarchy: dict[str, Any] | None = None,
        input: dict[str, Any] | None = None,  # noqa: A002 (the section's name)
        reduction: dict[str, Any] | None = None,
        evaluation: dict[str, Any] | None = None,
        privacy: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        storage: dict[str, Any] | None = None,
        verbose: bool = True,
        llm: Callable[[str], Any] | None = None,
        embed: Callable[[list[str]], Any] | None = None,
    ) -> None:
        self.levels = levels
        self.embedding = embedding
        self.summaries = summaries
        self.topic = topic
        self.criterion = criterion
        self.modality = modality
        self.representation = representation
        self.seed = seed
        self.workers = workers
        self.hierarchy = hierarchy
        self.input = input
        self.reduction = reduction
        self.evaluation = evaluation
        self.privacy = privacy
        self.resources = resources
        self.storage = storage
        self.verbose = verbose
        self.llm = llm
        self.embed = embed

    def fit(self, data: Any, y: Any = None, output: str | Path | None = None) -> Hierarchy:
        """Build the hierarchy of some items.

        Args:
            data: One or several paths or URIs of files; or items in memory: a list, tuple, Series,
                array or mapping by id of texts, images, numbers or vectors, a DataFrame, an Arrow
                table or a Ray Dataset.
            y: Ground truth of each item, for evaluation only; a DataFrame has several columns.
            output: Output folder, a path or URI; called again, ``fit`` resumes there. By default a
                temporary folder, which is deleted with the last copy of the result; a pickle of
                the result holds its files.

        Returns:
            The hierarchy, which is also kept as ``hierarchy_``.

        Raises:
            HerculesScaleError: The run failed; the subclass tells the kind of failure.
        """
        functions = Functions.of(self.llm, self.embed)
        scratch = ScratchFolder() if output is None else None
        place = str(output) if scratch is None else scratch.run
        try:
            section = self._input(data, y, place)
            console = None if self.verbose else Console(quiet=True)
            config = self._config(section, place)
            store = run(config, Reporter(console), functions)
            found = Hierarchy(store, functions, scratch, _models(config))
            labels = _labels(found, section, config.storage)
        except BaseException:
            if scratch is not None:
                # A traceback that is kept would keep the folder alive.
                scratch.remove()
            raise
        self.hierarchy_, self.labels_ = found, labels
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if n_columns(data) is not None:
            validate_data(self, data, skip_check_array=True)
        return found

    def fit_predict(self, data: Any, y: Any = None, **fit_params: Any) -> NDArray[np.int32]:
        """Build the hierarchy, and return the finest cluster of each item; see ``labels_``."""
        self.fit(data, y, **fit_params)
        return self.labels_

    def predict(self, data: Any) -> NDArray[np.int32]:
        """Return the finest cluster of new items, by ``Hierarchy.assign``.

        Args:
            data: Items in any form that ``fit`` takes, with the same columns.

        Returns:
            Labels like ``labels_``, shape (n,). An item of ``fit`` may get another label than in
            ``labels_``, where the tree keeps it in a cluster for the sake of other levels.

        Raises:
            NotFittedError: ``fit`` was not called before.
            HerculesScaleError: The items cannot be read, embedded or assigned.
        """
        check_is_fitted(self, "hierarchy_")
        self._check_columns(data)
        sections = [each for each in (self.summaries, self.embedding) if isinstance(each, dict)]
        named = [each["endpoint"] for each in sections if each.get("endpoint")]
        with tempfile.TemporaryDirectory(prefix="hercules_scale-") as scratch:
            output = f"{scratch}/run"
            self.hierarchy_.assign(
                data,
                output,
                redact=(self.privacy or {}).get("redact"),
                endpoint=named,
                verbose=self.verbose,
            )
            found = Hierarchy.open(output)
            return _labels(found, found.run["config"]["input"], StorageConfig())

    @property
    def cluster_centers_(self) -> NDArray[np.float32]:
        """Centroids of the finest clusters, shape (k, d), in the space that was clustered.

        In this space numbers are standardised, and with the metric cosine vectors have length 1.
        """
        check_is_fitted(self, "hierarchy_")
        return np.stack(self.hierarchy_.clusters(1)["centroid"].to_list())

    @property
    def inertia_(self) -> float:
        """Sum of the items' squared distances to their centroids in ``cluster_centers_``."""
        check_is_fitted(self, "hierarchy_")
        return float(self.hierarchy_.clusters(1)["inertia"].sum())

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.allow_nan = True
        return tags

    def _check_columns(self, data: Any) -> None:
        """Refuse arrays with another number of columns than in ``fit``."""
        n_known = getattr(self, "n_features_in_", None)
        if n_known is None or hasattr(data, "columns"):
            return
        n_given = n_columns(data)
        if n_given is None and isinstance(data, np.ndarray):
            raise InputError(
                f"X must have {n_known} columns as in fit, got an array of shape {data.shape}. "
                "Reshape your data: X.reshape(1, -1) is one item"
            )
        if n_given not in (None, n_known):
            raise InputError(
                f"X has {n_given} features, but {type(self).__name__} is expecting {n_known} "
                "features as input; give the columns that fit was given"
            )

    def _input(self, data: Any, y: Any, output: str) -> dict[str, Any]:
        """Return the section ``input`` for some data; data in memory are written to a file."""
        storage = self._config({"path": "-"}, output).storage
        section = dict(self.input or {})
        if self.modality is not None:
            section["modality"] = self.modality
        folder = f"{output.rstrip('/')}/{layout.INPUT}"
        if hasattr(data, "write_parquet") and hasattr(data, "iter_batches"):
            write_dataset(data, folder, storage)
            return section | {"path": folder}
        if names_files(data, self.modality):
            if y is not None:
                raise ConfigError(
                    "y must be given in input.label_columns where the items are files; name the "
                    "columns that hold it"
                )
            paths = [data] if isinstance(data, str | Path) else list(data)
            return section | {"path": [str(path) for path in paths]}
        path, found = write_items(data, folder, self.modality, y, storage)
        return {**found, **section, "path": path}

    def _config(self, section: dict[str, Any], output: str) -> RunConfig:
        levels = self.levels if isinstance(self.levels, str) else [int(k) for k in self.levels]
        topic = {} if self.topic is None else {"topic": self.topic}
        criterion = {} if self.criterion is None else {"criterion": self.criterion}
        workers = {} if self.workers is None else {"workers": self.workers}
        return parse_config(
            {
                "input": section,
                "embedding": self._embedding_section(),
                "hierarchy": {
                    "levels": levels,
                    "representation": self.representation,
                    "seed": self.seed,
                    **criterion,
                    **(self.hierarchy or {}),
                },
                "summaries": {**self._summaries_section(), **topic},
                "reduction": self.reduction or {},
                "evaluation": self.evaluation or {},
                "privacy": self.privacy or {},
                "resources": {**workers, **(self.resources or {})},
                "storage": self.storage or {},
                "output": {"path": output},
            }
        )

    def _summaries_section(self) -> dict[str, Any]:
        section = self.summaries or {}
        if isinstance(section, str):
            section = {"engine" if section == "keyphrases" else "model": section}
        if self.llm is None:
            return section
        for key in ("engine", "model", "endpoint"):
            if key in section:
                raise ConfigError(
                    f"llm is the function that writes titles, and summaries.{key} is "
                    f"{section[key]!r}; leave one of them out"
                )
        return {**section, "engine": CALLABLE, "model": name_of(self.llm)}

    def _embedding_section(self) -> dict[str, Any]:
        section = self.embedding or {}
        if isinstance(section, str):
            section = {"model": section}
        if self.embed is None:
            return section
        for key, value in section.items():
            # Images have their own model, which ``embed`` does not replace.
            if key == "text_model" or self.modality != "image":
                raise ConfigError(
                    f"embed is the function that embeds texts, and embedding.{key} is {value!r}; "
                    "leave one of them out (with modality='image' embedding.model embeds the "
                    "images, and embed the titles)"
                )
        return {**section, "text_model": f"{CALLABLE}:{name_of(self.embed)}"}


def _models(config: RunConfig) -> list[str]:
    """Return the models that a configuration names."""
    named = config.embedding.model, config.embedding.text_model, config.summaries.model
    return [name for name in named if name is not None]


def _labels(
    hierarchy: Hierarchy, section: dict[str, Any], storage: StorageConfig
) -> NDArray[np.int32]:
    """Return the finest cluster of each item in the order given, shape (n,)."""
    members = hierarchy.table("memberships", ["item_id", "level_1"])
    labels = members["level_1"].to_numpy(np.int32)
    rejected = hierarchy.table("rejected", ["item_id"])
    id_column = section.get("id_column")
    if id_column is None:
        # Ids are row numbers of the input, rejected rows included.
        found = np.full(len(labels) + len(rejected), REJECTED, np.int32)
        found[members["item_id"].to_numpy(np.int64)] = labels
        return found
    if rejected.empty or layout.INPUT not in str(section["path"]):
        return labels
    folder, _, name = section["path"].rpartition("/")
    given = read_table(Store(folder, storage), name, [id_column])[id_column].to_pylist()
    by_id = dict(zip(members["item_id"], labels.tolist(), strict=True))
    return np.array([by_id.get(str(each), REJECTED) for each in given], np.int32)
