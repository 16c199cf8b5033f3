"""The whole job from Python, as people who know scikit-learn expect it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.base import BaseEstimator, ClusterMixin

from hercules_scale.config import CALLABLE, RunConfig, parse_config
from hercules_scale.errors import ConfigError
from hercules_scale.hierarchy import Hierarchy
from hercules_scale.pipeline import run
from hercules_scale.progress import Reporter
from hercules_scale.reading.memory import IMAGE_ENDINGS, write_items
from hercules_scale.stages.context import Functions, name_of
from hercules_scale.storage import layout
from hercules_scale.storage.store import Store, use_options
from hercules_scale.storage.tables import read_table

WRITTEN = "input_written"
# Label of an item that could not be used, as scikit-learn has it for noise.
REJECTED = -1


class Hercules(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Clusters items into a hierarchy, with a title and a description of every cluster.

    The parameters are those of the configuration; sections may be given whole, as mappings.

    Args:
        levels: Clusters a level, finest first, strictly falling; or ``auto``.
        embedding: Model that embeds the items, or the section ``embedding``.
        summaries: Model that writes titles and descriptions, ``keyphrases`` for none, or the
            section ``summaries``.
        topic: What the titles should dwell on, the paper's topic seed.
        modality: What an item is: text, image, numeric or embedding; left out, it is detected.
        representation: ``direct`` clusters the items' own vectors, ``description`` those of
            descriptions that a model writes of each.
        seed: Seed of every random choice.
        workers: Processes that embed and cluster.
        hierarchy: Other keys of the section ``hierarchy``.
        input: Other keys of the section ``input``, such as ``id_column`` or ``metadata``.
        reduction: The section ``reduction``.
        evaluation: The section ``evaluation``.
        privacy: The section ``privacy``.
        resources: Other keys of the section ``resources``.
        storage: The section ``storage``.
        verbose: Whether progress is shown.
        llm: A function, or an ``async def``, from a prompt to the answer's text, in place of the
            model of ``summaries``. It is called ``summaries.candidates`` times for each prompt, so
            4 times unless that is given, and in threads: it must be safe to call from
            ``summaries.requests_in_flight`` (by default 4) of them at once, or set that to 1. An
            exception is an answer that did not come, and is tried again. Tokens are estimated.
        embed: A function from a list of at most 1,024 texts to an array of shape (n, d), in place
            of the model of ``embedding``. It embeds texts, descriptions and labels, so that they
            share one space; of images, numbers and vectors the labels alone.

    Functions may take the place of models, as pyhercules has them; they are called in this process,
    so only in local runs. The run is known by their modules and names: a function that is changed
    under the same name is not noticed when a run resumes.

    Attributes:
        hierarchy_: The result of ``fit``.
        labels_: Finest cluster of each item in the order given, shape (n,); -1 for one that could
            not be used. Of files, in the order of their rows.
    """

    def __init__(
        self,
        levels: list[int] | Literal["auto"] = [100, 20, 5],  # noqa: B006 (never changed)
        *,
        embedding: str | dict[str, Any] | None = None,
        summaries: str | dict[str, Any] | None = None,
        topic: str | None = None,
        modality: Literal["text", "image", "numeric", "embedding"] | None = None,
        representation: Literal["direct", "description"] = "direct",
        seed: int = 0,
        workers: int = 2,
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
            data: The path or URI of files, or of several; or items in memory: a list, tuple,
                Series, array or mapping by id of texts, images, numbers or vectors, a DataFrame,
                an Arrow table or a Ray Dataset.
            y: Ground truth of each item, for evaluation only; a DataFrame has several.
            output: Where the tables go, a path or URI; run again, it resumes. Left out, a
                temporary folder that goes with the result.

        Returns:
            The hierarchy, which is also kept as ``hierarchy_``.

        Raises:
            HerculesScaleError: Of the type that says what went wrong.
        """
        functions = Functions.of(self.llm, self.embed)
        scratch = None
        if output is None:
            scratch = tempfile.mkdtemp(prefix="hercules_scale-")
            output = f"{scratch}/run"
        try:
            section = self._input(data, y, str(output))
            console = None if self.verbose else Console(quiet=True)
            store = run(self._config(section, str(output)), Reporter(console), functions)
            found = Hierarchy(Store(store.uri), functions)
        except BaseException:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        if scratch is not None:
            # The files go when nobody can read them any more.
            weakref.finalize(found, shutil.rmtree, scratch, ignore_errors=True)
        self.hierarchy_ = found
        self.labels_ = _labels(found, section)
        return found

    def fit_predict(self, data: Any, y: Any = None, **fit_params: Any) -> NDArray[np.int32]:
        """Build the hierarchy, and give the finest cluster of each item; see ``labels_``."""
        self.fit(data, y, **fit_params)
        return self.labels_

    def _input(self, data: Any, y: Any, output: str) -> dict[str, Any]:
        """The section ``input`` for some data; what is in memory is written first."""
        use_options(self._config({"path": "-"}, output).storage)
        section = dict(self.input or {})
        if self.modality is not None:
            section["modality"] = self.modality
        folder = f"{output.rstrip('/')}/{layout.INPUT}"
        if hasattr(data, "write_parquet") and hasattr(data, "iter_batches"):
            _write_dataset(data, folder)
            return section | {"path": folder}
        if _names_files(data, self.modality):
            if y is not None:
                raise ConfigError(
                    "y must be given in input.label_columns where the items are files; name the "
                    "columns that hold it"
                )
            paths = [data] if isinstance(data, str | Path) else list(data)
            return section | {"path": [str(path) for path in paths]}
        path, found = write_items(data, folder, self.modality, y)
        return {**found, **section, "path": path}

    def _config(self, section: dict[str, Any], output: str) -> RunConfig:
        levels = self.levels if isinstance(self.levels, str) else [int(k) for k in self.levels]
        topic = {} if self.topic is None else {"topic": self.topic}
        return parse_config(
            {
                "input": section,
                "embedding": self._embedding_section(),
                "hierarchy": {
                    "levels": levels,
                    "representation": self.representation,
                    "seed": self.seed,
                    **(self.hierarchy or {}),
                },
                "summaries": {**self._summaries_section(), **topic},
                "reduction": self.reduction or {},
                "evaluation": self.evaluation or {},
                "privacy": self.privacy or {},
                "resources": {"workers": self.workers, **(self.resources or {})},
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
            # Images have a model of their own.
            if key == "text_model" or self.modality != "image":
                raise ConfigError(
                    f"embed is the function that embeds texts, and embedding.{key} is {value!r}; "
                    "leave one of them out (with modality='image' embedding.model embeds the "
                    "images, and embed the titles)"
                )
        return {**section, "text_model": f"{CALLABLE}:{name_of(self.embed)}"}


def _names_files(data: Any, modality: str | None) -> bool:
    """Whether data are the path, URI or paths of files; a list of strings is of texts."""
    if isinstance(data, str | Path):
        return True
    if not isinstance(data, list | tuple) or modality == "image" or not data:
        return False
    return all(isinstance(each, Path) for each in data) and not all(
        each.suffix.lower() in IMAGE_ENDINGS for each in data
    )


def _write_dataset(dataset: Any, folder: str) -> None:
    """A Ray Dataset as Parquet, once: a resumed run takes up what was written."""
    store, beside = Store(folder), Store(folder.rpartition("/")[0])
    if not beside.exists(WRITTEN):
        store.delete_files("")
        dataset.write_parquet(store.root, filesystem=store.arrow)
        beside.write_bytes(WRITTEN, b"")


def _labels(hierarchy: Hierarchy, section: dict[str, Any]) -> NDArray[np.int32]:
    """Finest cluster of each item in the order given."""
    members = hierarchy.table("memberships", ["item_id", "level_1"])
    labels = members["level_1"].to_numpy(np.int32)
    rejected = hierarchy.table("rejected", ["item_id"])
    id_column = section.get("id_column")
    if id_column is None:
        # Ids are the numbers of the rows, those of rejected ones too.
        found = np.full(len(labels) + len(rejected), REJECTED, np.int32)
        found[members["item_id"].to_numpy(np.int64)] = labels
        return found
    if rejected.empty or layout.INPUT not in str(section["path"]):
        return labels
    folder, _, name = section["path"].rpartition("/")
    given = read_table(Store(folder), name, [id_column])[id_column].to_pylist()
    by_id = dict(zip(members["item_id"], labels.tolist(), strict=True))
    return np.array([by_id.get(str(each), REJECTED) for each in given], np.int32)
