"""Roles of the columns of an input, and the modality that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from hercules_scale.config.reading import InputConfig, Modality
from hercules_scale.errors import SchemaError

# Names of columns that this package writes itself.
RESERVED_LABELS = ("position", "row")
RESERVED_NUMBERS = ("position", "row", "item_id", "title", "description")


@dataclass(frozen=True)
class Columns:
    """Columns of the input by role.

    Attributes:
        modality: Modality of the items.
        item_id: Column of the ids; None if ids are row numbers.
        labels: Columns of ground truth.
        text: Column of the texts; beside vectors or images, of texts about them.
        image: Column of the images.
        embedding: Column of the vectors.
        numbers: Columns of the variables.
        owner: Column of the items' owners.
        image_sources: Places that cells of ``image`` may name besides the input's folder.
    """

    modality: Modality
    item_id: str | None = None
    labels: tuple[str, ...] = ()
    text: str | None = None
    image: str | None = None
    embedding: str | None = None
    numbers: tuple[str, ...] = ()
    owner: str | None = None
    image_sources: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of all columns that are read."""
        single = [self.text, self.image, self.embedding, self.item_id, self.owner]
        names = [*(name for name in single if name), *self.numbers, *self.labels]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Guess:
    """Findings from the values of columns, for roles that the configuration does not name.

    Attributes:
        kinds: Types by the values: numbers written as text are numbers.
        aside: Columns that are not part of an item, with the reason.
        wordy: Columns of texts with several words.
    """

    kinds: dict[str, pa.DataType]
    aside: dict[str, str]
    wordy: frozenset[str]


def choose_columns(
    config: InputConfig,
    available: dict[str, pa.DataType],
    where: str,
    typed: bool = True,
    guess: Guess | None = None,
) -> Columns:
    """Return columns by role, from the configuration or else from the columns that there are.

    Args:
        config: The input section.
        available: Columns of the input and their types.
        where: The file, for messages.
        typed: Whether the file has types; in a csv file every column holds text.
        guess: Findings from values; by default, the types alone count.

    Raises:
        SchemaError: A column is missing or of a wrong type, or the modality is not clear.
    """
    _check_names(config, available, where)
    guess = guess or Guess(available, {}, frozenset(available))
    free = _free(config, guess)
    modality = config.modality or _detect(config, free, guess)
    labels = tuple(config.label_columns)
    text, image, embedding = config.text_column, config.image_column, config.embedding_column
    if modality != "numeric" and text and typed and not is_text(available[text]):
        raise SchemaError(
            f"{where}: input.text_column {text!r} must hold text, got {available[text]}; "
            "name another column or convert it"
        )
    if modality == "text":
        _refuse_others(config, modality, ("image_column", "embedding_column", "columns"), where)
        text = text or _the_one(free, where, "text", guess.wordy)
    elif modality == "image":
        _refuse_others(config, modality, ("embedding_column", "columns"), where)
        image = image or _the_one(free, where, "image")
    elif modality == "embedding":
        _refuse_others(config, modality, ("image_column", "columns"), where)
        embedding = embedding or _the_one(free, where, "embedding")
        if typed and not (is_vector(available[embedding]) or is_text(available[embedding])):
            raise SchemaError(
                f"{where}: input.embedding_column {embedding!r} must hold lists of numbers, got "
                f"{available[embedding]}; name another column"
            )
    else:
        _refuse_others(config, modality, ("text_column", "image_column", "embedding_column"), where)
        numbers = tuple(config.columns) or _numbers(free)
        _check_numbers(config, numbers, available, where, typed, guess)
        return Columns(
            "numeric", config.id_column, labels, numbers=numbers, owner=config.owner_column
        )
    return Columns(
        modality,
        config.id_column,
        labels,
        text,
        image,
        embedding,
        owner=config.owner_column,
        image_sources=tuple(config.image_sources),
    )


def with_columns(config: InputConfig, columns: Columns) -> InputConfig:
    """Return the input section with the modality and the columns that were found."""
    return config.model_copy(
        update={
            "modality": columns.modality,
            "text_column": columns.text,
            "image_column": columns.image,
            "embedding_column": columns.embedding,
            "columns": list(columns.numbers),
        }
    )


def shown_name(name: str) -> str:
    """Return the name of a column for a list, in quotes if it begins or ends with spaces."""
    return name if name == name.strip() else repr(name)


def _check_names(config: InputConfig, available: dict[str, pa.DataType], where: str) -> None:
    named = [
        ("input.id_column", config.id_column),
        ("input.text_column", config.text_column),
        ("input.image_column", config.image_column),
        ("input.embedding_column", config.embedding_column),
        ("input.owner_column", config.owner_column),
        *(("input.columns", name) for name in config.columns),
        *(("input.label_columns", name) for name in config.label_columns),
    ]
    for key, name in named:
        if name is not None and name not in available:
            raise SchemaError(
                f"{where}: {key} names {name!r}, which is not there; "
                f"columns are {', '.join(map(shown_name, sorted(available)))}"
            )
    for label in config.label_columns:
        if label in RESERVED_LABELS:
            raise SchemaError(
                f"{where}: input.label_columns must not hold {label!r}, the name of a column of "
                "our own; rename it in the input"
            )


def _refuse_others(config: InputConfig, modality: str, keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if getattr(config, key):
            raise SchemaError(
                f"{where}: input.{key} has no meaning for input.modality {modality}; leave one out"
            )


def _detect(config: InputConfig, free: dict[str, pa.DataType], guess: Guess) -> Modality:
    """Return the modality of the items, from the named columns, or else from the types of the
    others."""
    if config.columns:
        return "numeric"
    if config.embedding_column:
        return "embedding"
    if config.image_column:
        return "image"
    if config.text_column or is_text(free.get("text", pa.bool_())):
        return "text"
    if any(is_vector(kind) for kind in free.values()):
        return "embedding"
    if any(is_image(name, kind) for name, kind in free.items()):
        return "image"
    texts = {name for name, kind in free.items() if is_text(kind) and not pa.types.is_null(kind)}
    has_numbers = any(is_number(kind) for kind in free.values())
    # Beside numbers, a column of single words is an id or a category.
    if texts and (texts & guess.wordy or not has_numbers):
        return "text"
    return "numeric" if has_numbers or guess.aside else "text"


def _free(config: InputConfig, guess: Guess) -> dict[str, pa.DataType]:
    taken = {config.id_column, config.owner_column, *config.label_columns, *guess.aside}
    return {name: kind for name, kind in guess.kinds.items() if name not in taken}


def _the_one(
    free: dict[str, pa.DataType], where: str, role: str, likely: frozenset[str] = frozenset()
) -> str:
    """Return the column with the name of a role, else the only column that fits it, else the only
    likely one."""
    fits = {"text": lambda _, kind: is_text(kind), "image": is_image}
    fit = fits.get(role, lambda _, kind: is_vector(kind))
    names = [name for name, kind in free.items() if fit(name, kind)]
    if role in names:
        return role
    # A column without values may hold anything.
    names = [name for name in names if not pa.types.is_null(free[name])]
    found = names if len(names) == 1 else [name for name in names if name in likely]
    if len(found) == 1:
        return found[0]
    holds = {"text": "text", "image": "images", "embedding": "lists of numbers"}[role]
    raise SchemaError(
        f"{where}: input.{role}_column must be given, since there is no column {role!r} and "
        f"{len(names)} others hold {holds} ({', '.join(sorted(names)) or 'none'})"
    )


def _numbers(free: dict[str, pa.DataType]) -> tuple[str, ...]:
    return tuple(name for name, kind in free.items() if is_number(kind))


def _check_numbers(
    config: InputConfig,
    numbers: tuple[str, ...],
    available: dict[str, pa.DataType],
    where: str,
    typed: bool,
    guess: Guess,
) -> None:
    if not numbers:
        aside = "".join(f"; {name!r} was left out ({why})" for name, why in guess.aside.items())
        raise SchemaError(
            f"{where}: input.columns must be given, since no column holds numbers{aside}; columns "
            f"are {', '.join(sorted(available))}"
        )
    for name in numbers:
        if name in RESERVED_NUMBERS:
            raise SchemaError(
                f"{where}: input.columns must not hold {name!r}, the name of a column of our own; "
                "rename it in the input"
            )
        if typed and not (is_number(available[name]) or is_text(available[name])):
            raise SchemaError(
                f"{where}: input.columns {name!r} must hold numbers, got {available[name]}; leave "
                "it out or convert it"
            )
    for name in config.metadata:
        if name not in numbers:
            raise SchemaError(
                f"{where}: input.metadata names {name!r}, which is not among the numeric columns "
                f"{', '.join(numbers)}; fix the name"
            )


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column may hold texts; a column without values may."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or is_bytes(kind)
        or pa.types.is_null(kind)
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a column holds bytes, which may be a text or an image."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_whole(kind: pa.DataType) -> bool:
    """Return whether a column holds whole numbers."""
    return bool(pa.types.is_integer(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column holds single numbers."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def is_vector(kind: pa.DataType) -> bool:
    """Return whether a column holds lists of numbers."""
    lists = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in lists) and is_number(kind.value_type)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that an extension, such as a tensor, is stored as."""
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    # Arrays of several shapes, as Ray stores them.
    if pa.types.is_struct(kind) and {each.name for each in kind} == {"data", "shape"}:
        return kind.field("data").type
    return kind


def is_image(name: str, kind: pa.DataType) -> bool:
    """Return whether a column holds images: records with bytes, or text or bytes named
    ``image``."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return name in ("image", "img") and is_text(kind)
