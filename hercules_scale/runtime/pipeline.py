"""Runs the stages of a job in the order of a list, and checks that order.

A stage is a function. The types of its parameters are the products that it reads, and the type that
it returns is the product that it writes; no other stage writes that type. Products name files, so a
stage may read a product by its files alone. Work within a stage that is done once, or shard by
shard, and is not done again after an interruption, is in ``shards``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from hercules_scale.storage.tables import FileRecord

# Files of each table, and members of ``run.json``.
Results = tuple[dict[str, list[FileRecord]], dict[str, Any]]


class Product:
    """Result of a stage; by default it holds nothing that is published."""

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the tables that the stage publishes."""
        return {}

    @property
    def record(self) -> dict[str, Any]:
        """Members that the stage adds to ``run.json``."""
        return {}


@dataclass(frozen=True)
class OneTable(Product):
    """Result of a stage that publishes one table and nothing else.

    Attributes:
        files: Files of the table.
    """

    table: ClassVar[str]
    files: list[FileRecord]

    @property
    def tables(self) -> dict[str, list[FileRecord]]:
        """Files of the table."""
        return {self.table: self.files}


Pipeline = tuple[Callable[..., Product], ...]


def types_read(stage: Callable[..., Product]) -> list[type]:
    """Return the types of a stage's parameters, in their order."""
    types = get_type_hints(stage)
    return [types[name] for name in types if name != "return"]


def type_written(stage: Callable[..., Product]) -> type:
    """Return the type of a stage's product."""
    written: type = get_type_hints(stage)["return"]
    return written


def check_order(stages: Pipeline, given: Iterable[type]) -> None:
    """Refuse a list of stages that cannot run in this order.

    Args:
        stages: The stages.
        given: Types of the values that exist before the first stage.

    Raises:
        TypeError: A stage reads a type that no stage before it writes, or writes a type that
            exists already.
    """
    known = set(given)
    for stage in stages:
        name, written = stage.__name__, type_written(stage)
        for read in types_read(stage):
            if read not in known:
                raise TypeError(
                    f"the stage {name} reads {read.__name__}, which no stage before it writes; "
                    "put it behind the stage that does"
                )
        if written in known:
            raise TypeError(
                f"the stage {name} writes {written.__name__}, which exists before it; give it a "
                "product of its own"
            )
        known.add(written)


def run_pipeline(stages: Pipeline, given: Iterable[object]) -> Results:
    """Run stages in order, each with the products that its parameters name.

    Args:
        stages: The stages.
        given: Values that exist before the first stage, one of each type.

    Returns:
        The files of each table, in the order of their names, and members of ``run.json``.

    Raises:
        TypeError: The stages cannot run in this order.
    """
    products: dict[type, Any] = {type(value): value for value in given}
    check_order(stages, products)
    tables: dict[str, list[FileRecord]] = {}
    record: dict[str, Any] = {}
    for stage in stages:
        product = stage(*(products[read] for read in types_read(stage)))
        products[type_written(stage)] = product
        for table, files in product.tables.items():
            tables[table] = sorted([*tables.get(table, []), *files], key=lambda file: file.path)
        record |= product.record
    rows = {table: sum(file.rows for file in files) for table, files in tables.items()}
    return tables, record | {"rows": rows}
