"""Reader of the model JSON of the package pyhercules, as a stream and with checks.

Source: pyhercules 1.1.1, the format of ``Hercules.save_model``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hercules_scale.clustering.nearest_centroids import Float32
from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import InputError
from hercules_scale.results.export_file import split_file
from hercules_scale.results.json_stream import read_members
from hercules_scale.results.tree_json import to_json

MODALITIES = ("text", "image", "numeric")
MAX_LEVELS = 100
ITEM_COLUMNS = ("row", "item_id", "title", "description")


@dataclass(frozen=True)
class Node:
    """One cluster.

    Attributes:
        where: Place in the file, for messages.
        values: Members as in the file, without children and raw data.
        numbers: Numeric data of its items, shape (n, variables), if there is any.
    """

    where: str
    values: dict[str, Any]
    numbers: NDArray[np.float64] | None


@dataclass(frozen=True)
class Item:
    """One item that the tables can hold.

    Attributes:
        item_id: Id as text.
        title: Title, or else the id.
        description: Description, or else the title.
        raw: Text, place of an image, or list of numbers.
        leaf: Cluster at level 1, from 0.
        vector: Vector that was clustered, shape (d,); None if the model has no vectors.
        place: Place on the map, shape (components,); None if it is missing.
    """

    item_id: str
    title: str
    description: str
    raw: str | list[float]
    leaf: int
    vector: Float32 | None
    place: Float32 | None


@dataclass(frozen=True)
class Rejected:
    """One item that the tables cannot hold.

    Attributes:
        item_id: Id as text, if it has one.
        position: Place in the file's list ``clusters``, from 0.
        reason: Reason for the rejection.
    """

    item_id: str | None
    position: int
    reason: str


@dataclass
class Model:
    """A model without its items.

    Attributes:
        path: Path or URI of the file.
        storage: Access to its folder.
        facts: Members of the file other than ``clusters`` and ``prompt_log``.
        levels: Clusters by level, finest first, in the order of the file.
        dimension: Length of the items' vectors; 0 if they have none.
        components: Axes of the items' places on the map; 0 if they have none.
    """

    path: str
    storage: StorageConfig | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    levels: list[list[Node]] = field(default_factory=list)
    dimension: int = 0
    components: int = 0

    def section(self, name: str) -> dict[str, Any]:
        """Return a member of the facts that is an object; an empty one if it is not."""
        value = self.facts.get(name)
        return value if isinstance(value, dict) else {}

    @property
    def modality(self) -> str:
        """Modality of the items: text, image or numeric."""
        return str(self.section("state").get("input_data_type"))

    @property
    def variables(self) -> list[str]:
        """Names of the numeric columns; empty for other modalities."""
        names = self.section("state").get("variable_names")
        return names if self.modality == "numeric" and isinstance(names, list) else []

    def leaves(self) -> dict[int, int]:
        """Return the place at level 1 of each finest cluster, by its id in the model."""
        return {node.values["id"]: place for place, node in enumerate(self.levels[0])}


def read_model(path: str, storage: StorageConfig | None = None) -> Model:
    """Read a model without its items.

    Memory is that of the clusters and of the list of ids.

    Args:
        path: Path or URI of the JSON file, also compressed (``.gz``).
        storage: Access to its folder.

    Raises:
        InputError: The file is missing, malformed or not a model; the message names the place.
    """
    model = Model(path, storage)
    by_level: dict[int, list[Node]] = {}
    for key, value, position in _members(model):
        if key != "clusters":
            if key != "prompt_log":
                model.facts[key] = value
            continue
        where = f"{path}: clusters[{position}]"
        level = _whole(value, "level", where)
        _whole(value, "id", where)
        if level > 0:
            by_level.setdefault(level, []).append(_node(value, where))
        elif not model.dimension:
            model.dimension = len(_list(value.get("representation_vector")))
            model.components = len(_place(value))
    model.section("state").pop("_l0_original_ids_ordered", None)
    model.facts = json.loads(to_json(model.facts))
    if not _is_unicode(json.dumps(model.facts, ensure_ascii=False)):
        raise InputError(f"{path}: holds half a character (a lone surrogate); save the model again")
    if sorted(by_level) != list(range(1, len(by_level) + 1)) or not 0 < len(by_level) <= MAX_LEVELS:
        raise InputError(
            f"{path}: clusters must hold levels from 1 (to {MAX_LEVELS} at most) without a gap, "
            f"got {sorted(by_level)[:10] or 'none'}; save the model again after clustering"
        )
    model.levels = [by_level[level] for level in sorted(by_level)]
    _check(model)
    return model


def _members(model: Model) -> Iterator[tuple[str, Any, int]]:
    """Yield name and value of each member of the file, and for each cluster its place."""
    path = model.path
    store, name = split_file(path, model.storage)
    try:
        stream = store.arrow.open_input_stream(store.path(name), compression="detect")
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read ({reason}); give a model's JSON") from None
    with stream:
        position = 0
        for key, value in read_members(stream, path, "clusters"):
            yield key, value, position
            position += key == "clusters"


def _whole(value: Any, key: str, where: str) -> int:
    number = value.get(key) if isinstance(value, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**62:
        raise InputError(
            f"{where}: must be an object with a whole number from 0 for {key}, got "
            f"{repr(number if isinstance(value, dict) else value)[:80]}; save the model again"
        )
    return number


def _node(value: dict[str, Any], where: str) -> Node:
    for key in ("title", "description"):
        text = value.get(key)
        if text is not None and not (isinstance(text, str) and _is_unicode(text)):
            raise InputError(f"{where}: {key} must be text, got {repr(text)[:80]}; correct it")
    kept = {name: each for name, each in value.items() if name != "children_ids"}
    data = kept.pop("original_numeric_data", None)
    numbers = None if data is None else finite_numbers(data, 2, np.float64)
    return Node(where, kept, numbers)


def _check(model: Model) -> None:
    """Check the modality, the variables, and that every parent is one level up."""
    if model.modality not in MODALITIES:
        raise InputError(
            f"{model.path}: state.input_data_type must be text, image or numeric, got "
            f"{model.modality[:80]!r}; is it a model that pyhercules saved?"
        )
    names = model.variables
    if not all(isinstance(name, str) for name in names) or not (
        names or model.modality != "numeric"
    ):
        raise InputError(
            f"{model.path}: state.variable_names must name the numeric columns, got {names[:20]}; "
            "save the model again"
        )
    taken = set(ITEM_COLUMNS) & set(names)
    if taken or len(set(names)) < len(names):
        raise InputError(
            f"{model.path}: state.variable_names must each come once and be none of "
            f"{', '.join(ITEM_COLUMNS)}, got {names[:20]}; rename them"
        )
    for below, above in zip(model.levels, [*model.levels[1:], []], strict=True):
        known = {node.values["id"] for node in above}
        seen: set[int] = set()
        for node in below:
            number, parent = node.values["id"], node.values.get("parent_id")
            if number in seen:
                raise InputError(f"{node.where}: id {number} comes a second time in its level")
            seen.add(number)
            if above and (not isinstance(parent, int) or parent not in known):
                raise InputError(
                    f"{node.where}: parent_id must be a cluster of the level above "
                    f"({node.values['level'] + 1}), got {repr(parent)[:80]}; only trees with "
                    "all branches up to the top can be imported"
                )


def read_items(model: Model) -> Iterator[Item | Rejected]:
    """Read the items in the order of the file.

    Memory is that of the ids, some 100 bytes each, to find ids that occur twice.
    """
    leaves = model.leaves()
    seen: set[str] = set()
    for key, value, position in _members(model):
        if key != "clusters" or value["level"] > 0:
            continue
        original = value.get("original_id")
        item_id = str(original) if isinstance(original, (str, int, float)) else None
        if item_id is not None and not _is_unicode(item_id):
            item_id = None
        result = _item(model, value, item_id, leaves)
        if isinstance(result, str):
            yield Rejected(item_id, position, result)
        elif result.item_id in seen:
            yield Rejected(item_id, position, "the id comes a second time; the first is kept")
        else:
            seen.add(result.item_id)
            yield result


def _item(
    model: Model, value: dict[str, Any], item_id: str | None, leaves: dict[int, int]
) -> Item | str:
    """Return an item, or the reason why the tables cannot hold it."""
    if item_id is None:
        return f"original_id must be text or a number, got {repr(value.get('original_id'))[:80]}"
    parent = value.get("parent_id")
    leaf = leaves.get(parent) if isinstance(parent, int) else None
    if leaf is None:
        return f"parent_id must be a cluster of level 1, got {repr(parent)[:80]}"
    raw: Any = value.get("_raw_item_data")
    if model.modality == "numeric":
        numbers = finite_numbers(value.get("original_numeric_data"), 2, np.float64)
        if numbers is None or numbers.shape != (1, len(model.variables)):
            return f"original_numeric_data must be {len(model.variables)} finite numbers"
        raw = numbers[0].tolist()
    elif not isinstance(raw, str) or not raw or not _is_unicode(raw):
        return f"_raw_item_data must be text, got {repr(raw)[:80]}"
    vector = finite_numbers(value.get("representation_vector"), 1)
    if model.dimension and (vector is None or len(vector) != model.dimension):
        return f"representation_vector must be {model.dimension} finite numbers"
    place = finite_numbers(_place(value), 1)
    title = _text(value, "title", item_id)
    description = _text(value, "description", title)
    if place is not None and len(place) != model.components:
        place = None
    return Item(item_id, title, description, raw, leaf, vector if model.dimension else None, place)


def _text(value: dict[str, Any], key: str, default: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) and text and _is_unicode(text) else default


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _place(value: dict[str, Any]) -> list[Any]:
    reductions = value.get("representation_vector_reductions")
    return _list(reductions.get("pca")) if isinstance(reductions, dict) else []


def finite_numbers(value: Any, dimensions: int, dtype: type = np.float32) -> Any:
    """Return a value as an array of ``dimensions`` axes; None if it is not one of finite
    numbers."""
    if not isinstance(value, list):
        return None
    try:
        with np.errstate(over="ignore"):
            array: NDArray[Any] = np.array(value, np.float64).astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    return array if array.ndim == dimensions and np.isfinite(array).all() else None


def _is_unicode(text: str) -> bool:
    """Return whether text can be written as UTF-8; JSON may hold lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
