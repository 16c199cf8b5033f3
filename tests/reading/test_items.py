import gzip
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import InputError, SchemaError
from hercules_scale.reading import csv_files, file_rows, input_pieces
from hercules_scale.reading import lines as lines_of
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine, read_piece
from hercules_scale.reading.listing import list_sources
from hercules_scale.storage import schemas

Item = tuple[int, str | None, str]
FORMATS = ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"]


@dataclass
class Found:
    """What came out of an input."""

    items: list[Item] = field(default_factory=list)
    labels: list[dict[str, object]] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    rejected_ids: list[str | None] = field(default_factory=list)
    n_rows: int = 0

    @property
    def texts(self) -> list[str]:
        return [text for _, _, text in self.items]

    @property
    def ids(self) -> list[str | None]:
        return [item_id for _, item_id, _ in self.items]


def read(
    path: Path,
    *,
    id_column: str | None = None,
    text_column: str | None = None,
    label_columns: tuple[str, ...] = (),
    modality: Literal["text"] | None = None,
) -> Found:
    config = InputConfig(
        modality=modality,
        path=str(path),
        id_column=id_column,
        text_column=text_column,
        label_columns=list(label_columns),
    )
    found = Found()
    named = list_sources(config.paths)
    of_items = Layout.of(examine(config, named))
    for piece in split_into_pieces(named):
        for batch in read_piece(config, of_items, piece):
            assert batch.items.schema == of_items.schema
            assert batch.labels.schema == schemas.scanned_labels(config.label_columns)
            assert batch.rejected.schema == schemas.SCANNED_REJECTED
            assert batch.items.num_rows + batch.rejected.num_rows == batch.n_rows
            assert batch.labels["position"].equals(batch.items["position"])
            found.n_rows += batch.n_rows
            found.labels += batch.labels.drop_columns(["position"]).to_pylist()
            found.items += [tuple(row.values()) for row in batch.items.to_pylist()]
            for row in batch.rejected.to_pylist():
                assert row["source_file"] == piece.source.uri
                found.rejected[row["source_row"]] = row["reason"]
                found.rejected_ids.append(row["item_id"])
    return found


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def write_rows(folder: Path, form: str, rows: list[dict[str, str | None]]) -> Path:
    """The same rows in any format; None is an empty field in CSV and text is quoted there."""
    names, quote = list(rows[0]), '"'
    if form == "parquet":
        kind = pa.schema([(name, pa.string()) for name in names])
        pq.write_table(pa.Table.from_pylist(rows, kind), folder / "t.parquet")
        return folder / "t.parquet"
    if form.startswith("jsonl"):
        data = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        data = "".join(
            ",".join(
                "" if cell is None else f'"{cell.replace(quote, 2 * quote)}"' for cell in cells
            )
            + "\n"
            for cells in (names, *(row.values() for row in rows))
        )
    return write(folder, f"t.{form}", data.encode())


@pytest.mark.parametrize("form", FORMATS)
def test_ids_texts_and_labels_are_read_in_order(tmp_path: Path, form: str) -> None:
    path = write_rows(
        tmp_path,
        form,
        [
            {"code": "007", "body": "one, two", "kind": "x"},
            {"code": "b", "body": 'drei\n"vier" ', "kind": None},
            {"code": "ç", "body": "日本語 🙂", "kind": "y"},
        ],
    )
    found = read(path, id_column="code", text_column="body", label_columns=("kind",))
    assert found.items == [(0, "007", "one, two"), (1, "b", 'drei\n"vier" '), (2, "ç", "日本語 🙂")]
    assert found.labels == [{"kind": "x"}, {"kind": None}, {"kind": "y"}]
    assert found.rejected == {}


@pytest.mark.parametrize("form", FORMATS)
def test_rows_without_text_or_id_are_set_aside_with_a_reason(tmp_path: Path, form: str) -> None:
    rows: list[dict[str, str | None]] = [
        {"id": "0", "text": "good", "kind": "k"},
        {"id": "1", "text": ""},
        {"id": "2", "text": " \t\u00a0\u3000 "},
        {"id": "3", "text": None},
        {"id": None, "text": "no id"},
        {"id": "5", "text": "also good", "kind": "m"},
    ]
    path = write_rows(tmp_path, form, [{"kind": None, **row} for row in rows])
    found = read(path, id_column="id", label_columns=("kind",))
    assert found.items == [(0, "0", "good"), (5, "5", "also good")]
    assert found.labels == [{"kind": "k"}, {"kind": "m"}]
    assert found.rejected == {
        1: "the text is empty",
        2: "the text is empty",
        3: "the text is missing",
        4: "the id is missing",
    }
    assert found.rejected_ids == ["1", "2", "3", None]


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz"])
def test_a_line_of_text_is_an_item(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path, name, b"one\r\n\n  \ntwo\xff\nlast without end"))
    assert found.items == [(0, None, "one"), (4, None, "last without end")]
    assert found.rejected == {
        1: "the text is empty",
        2: "the text is empty",
        3: "the text is not valid UTF-8",
    }


def test_invalid_utf_8_rejects_its_csv_row_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", b"id,text,kind\n1,a\xff,x\n\xfe,b,x\n3,c,\xff\n4,d,y\n")
    found = read(path, id_column="id", text_column="text", label_columns=("kind",))
    assert found.items == [(2, "3", "c"), (3, "4", "d")]
    assert found.labels == [{"kind": "\ufffd"}, {"kind": "y"}]
    assert found.rejected == {0: "the text is not valid UTF-8", 1: "the id is not valid UTF-8"}


def test_invalid_utf_8_rejects_its_json_line_alone(tmp_path: Path) -> None:
    found = read(write(tmp_path, "t.jsonl", b'{"text": "\xff"}\n{"text": "ok"}\n'))
    assert found.texts == ["ok"]
    assert found.rejected == {0: "not valid JSON"}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_invalid_utf_8_rejects_its_parquet_row_alone(tmp_path: Path, kind: pa.DataType) -> None:
    binary = pa.large_binary() if kind == pa.large_string() else pa.binary()
    raw = pa.array([b"ok", b"\xff", None, b"fine"], binary)
    column = pa.Array.from_buffers(kind, 4, raw.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    found = read(tmp_path / "t.parquet")
    assert found.texts == ["ok", "fine"]
    assert found.rejected == {1: "the text is not valid UTF-8", 2: "the text is missing"}


def test_a_lone_surrogate_in_json_is_no_valid_text(tmp_path: Path) -> None:
    lines = b'{"id": 1, "text": "\\ud800"}\n{"id": "\\udfff", "text": "a"}\n{"id": 3, "text": "b"}'
    found = read(write(tmp_path, "t.jsonl", lines), id_column="id")
    assert found.items == [(2, "3", "b")]
    assert found.rejected == {0: "the text is not valid UTF-8", 1: "the id is not valid UTF-8"}


def test_a_pair_of_surrogates_in_json_is_one_character(tmp_path: Path) -> None:
    assert read(write(tmp_path, "t.jsonl", b'{"text": "\\ud83d\\ude42"}')).texts == ["🙂"]


def test_malformed_json_lines_are_rejected(tmp_path: Path) -> None:
    lines = [b'{"text": "ok"}', b"{", b"", b"[1]", b'"x"', b'{"text": 7}', b"[" * 9999, b'{"a": 1}']
    found = read(write(tmp_path, "t.jsonl", b"\n".join(lines)))
    assert found.texts == ["ok"]
    assert found.rejected == {
        1: "not valid JSON",
        2: "not valid JSON",
        3: "the line holds list, not a JSON object",
        4: "the line holds str, not a JSON object",
        5: "column 'text' holds int, not text",
        6: "not valid JSON",
        7: "the text is missing",
    }


@pytest.mark.parametrize("first", [b'{"text": null}', b'{"text": 7}', b"{"])
def test_a_bad_first_json_line_does_not_hide_the_text_column(tmp_path: Path, first: bytes) -> None:
    found = read(write(tmp_path, "t.jsonl", first + b'\n{"text": "ok"}\n'))
    assert found.texts == ["ok"]
    assert list(found.rejected) == [0]


def test_a_jsonl_file_without_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.jsonl: the first 1,000 lines hold no JSON object"):
        read(write(tmp_path, "t.jsonl", b"a\nb\n"))


def test_malformed_csv_rows_are_rejected_with_their_lines(tmp_path: Path) -> None:
    found = read(write(tmp_path, "t.csv", b"id,text\n1,a\n2,b,c\n3\n4,d\n"), id_column="id")
    assert sorted(found.ids, key=str) == ["1", "4"]
    assert list(found.rejected.values()) == [
        "line 3 has 3 columns, not 2: 2,b,c",
        "line 4 has 1 columns, not 2: 3",
    ]
    assert found.n_rows == 4


def test_a_csv_file_of_very_many_columns_is_refused(tmp_path: Path) -> None:
    header = b"text" + b"," * csv_files.MOST_COLUMNS + b"\n"
    with pytest.raises(
        InputError, match=r"t\.csv\.gz: must have at most 65,536 columns, got 65,537"
    ):
        read(write(tmp_path, "t.csv.gz", header + b"a\n"))


def test_reasons_of_malformed_csv_rows_do_not_gather(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "BATCH_ROWS", 10)
    monkeypatch.setattr(csv_files, "CSV_BLOCK_BYTES", 2**8)
    path = write(tmp_path, "t.csv.gz", b"id,text\n" + (b"1,a\n" * 9 + b"2\n") * 1_000)
    found = read(path, text_column="text")
    assert found.texts == ["a"] * 9_000
    assert len(found.rejected) == 1_000
    # They are set aside all along, not when the file has ended.
    assert min(found.rejected) < 200
    monkeypatch.setattr(csv_files, "MOST_MALFORMED", 3)
    with pytest.raises(InputError, match=r"t\.csv\.gz: .*Expected 2 columns, got 1: 2\); fix"):
        read(path, text_column="text")


def test_a_malformed_csv_row_of_invalid_utf_8_is_named_without_a_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "t.csv", b"id,text\n1,a\n2,b\xff,c\n3,d\n")
    with pytest.raises(InputError, match=r"t\.csv: .*Row #3: Expected 2 columns, got 3.*; fix"):
        read(path)
    assert capfd.readouterr().err == ""


def test_whole_number_ids_become_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [7, None, -1], "text": ["a", "b", "c"]}), tmp_path / "t.parquet")
    found = read(tmp_path / "t.parquet", id_column="id")
    assert found.items == [(0, "7", "a"), (2, "-1", "c")]
    assert found.rejected == {1: "the id is missing"}
    lines = b'{"id": 7, "text": "a"}\n{"id": 12345678901234567890, "text": "b"}'
    assert read(write(tmp_path, "u.jsonl", lines), id_column="id").ids == [
        "7",
        "12345678901234567890",
    ]


def test_ids_that_are_no_names_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [0.5], "text": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=r"id_column 'id' must hold text or whole numbers, got d"):
        read(tmp_path / "t.parquet", id_column="id")


def test_labels_of_any_plain_type_become_text(tmp_path: Path) -> None:
    table = pa.table(
        {"text": ["a"], "n": [3], "b": [True], "c": pa.array(["x"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = read(tmp_path / "t.parquet", text_column="text", label_columns=("n", "b", "c"))
    assert found.labels == [{"n": "3", "b": "true", "c": "x"}]


def test_labels_that_are_structures_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "l": [{"x": 1}]}), tmp_path / "t.parquet")
    with pytest.raises(
        SchemaError, match="label_columns 'l' must hold text or numbers, got struct"
    ):
        read(tmp_path / "t.parquet", label_columns=("l",))


@pytest.mark.parametrize("form", FORMATS)
def test_the_id_may_be_a_label_too(tmp_path: Path, form: str) -> None:
    path = write_rows(tmp_path, form, [{"id": "1", "text": "a"}])
    found = read(path, id_column="id", label_columns=("id",))
    assert (found.ids, found.labels) == (["1"], [{"id": "1"}])


@pytest.mark.parametrize("name", ["row", "position"])
def test_labels_may_not_take_the_names_of_our_columns(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path, "csv", [{"text": "a", name: "b"}])
    with pytest.raises(SchemaError, match=f"label_columns must not hold '{name}'.*rename it"):
        read(path, label_columns=(name,))


@pytest.mark.parametrize("form", FORMATS)
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, form: str) -> None:
    path = write_rows(tmp_path, form, [{"id": "1", "text": "a"}])
    with pytest.raises(SchemaError, match=r"input\.id_column names 'no', which.*are id, text"):
        read(path, id_column="no")
    with pytest.raises(SchemaError, match=r"input\.text_column names 'no', which.*are id, text"):
        read(path, text_column="no")
    with pytest.raises(SchemaError, match=r"input\.label_columns names 'no', which.*are id, text"):
        read(path, label_columns=("no",))


@pytest.mark.parametrize("form", FORMATS)
def test_the_text_column_is_called_text_or_is_the_only_one(tmp_path: Path, form: str) -> None:
    assert read(write_rows(tmp_path, form, [{"a": "x", "text": "y"}])).texts == ["y"]
    path = write_rows(tmp_path, form, [{"a": "x", "b": "y", "c": "z"}])
    assert read(path, id_column="a", label_columns=("b",)).texts == ["z"]
    with pytest.raises(SchemaError, match=r"text_column must be given.* 2 others hold text \(a, c"):
        read(path, label_columns=("b",))


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_column_without_values_is_not_taken_for_the_text(tmp_path: Path, form: str) -> None:
    path = write_rows(tmp_path, form, [{"a": None, "b": "x"}])
    if form == "parquet":
        pq.write_table(pa.table({"a": pa.nulls(1), "b": ["x"]}), path)
    assert read(path).texts == ["x"]
    assert read(path, text_column="a").rejected == {0: "the text is missing"}


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [True]}), tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=r"0 others hold text \(none\)"):
        read(tmp_path / "t.parquet", modality="text")
    with pytest.raises(SchemaError, match=r"text_column 'a' must hold text, got int64; name anot"):
        read(tmp_path / "t.parquet", text_column="a")


@pytest.mark.parametrize("form", FORMATS)
def test_several_files_are_read_one_after_the_other(tmp_path: Path, form: str) -> None:
    for name, text in (("b", "second"), ("a", "first")):
        write_rows(tmp_path, form, [{"text": text}]).rename(tmp_path / f"{name}.{form}")
    assert read(tmp_path).texts == ["first", "second"]


def test_source_rows_count_on_over_pieces_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_pieces, "PIECE_ROWS", 6)
    monkeypatch.setattr(file_rows, "BATCH_ROWS", 2)
    bad = {0, 5, 6, 11, 19}
    texts = [None if row in bad else str(row) for row in range(20)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet", row_group_size=3)
    found = read(tmp_path / "t.parquet")
    assert found.rejected.keys() == bad
    assert found.texts == [text for text in texts if text]
    # Positions begin anew in each piece of six rows.
    assert [position for position, _, _ in found.items] == [
        row % 6 for row in range(20) if row not in bad
    ]


@pytest.mark.parametrize("form", ["csv", "jsonl.gz"])
def test_source_rows_count_on_over_batches_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(csv_files, "BATCH_ROWS", 3)
    monkeypatch.setattr(lines_of, "BATCH_ROWS", 3)
    path = write_rows(tmp_path, form, [{"text": "" if row % 4 == 0 else "a"} for row in range(10)])
    found = read(path)
    assert found.rejected.keys() == {0, 4, 8}
    assert found.n_rows == 10


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_text_of_three_megabytes_is_read(tmp_path: Path, form: str) -> None:
    text = "".join(random.Random(0).choices("abc \n", k=3 * 2**20)) + "."
    assert read(write_rows(tmp_path, form, [{"text": text}, {"text": "b"}])).texts == [text, "b"]


@pytest.mark.parametrize("form", ["txt", "txt.gz", "jsonl.gz"])
def test_a_line_without_end_is_set_aside_and_not_held(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_of, "LONGEST_LINE_BYTES", 40)
    texts = ["first", "long " * 1000, "x" * (40 - 12 * ("json" in form)), "", "last"]
    lines = [json.dumps({"text": text}) if "json" in form else text for text in texts]
    for end in ("", "\n"):
        found = read(write(tmp_path, f"t.{form}", ("\n".join(lines) + end).encode()))
        assert found.texts == [texts[0], texts[2], texts[4]]
        assert found.rejected == {1: "the line is longer than 16 MiB", 3: "the text is empty"}


def test_a_csv_row_longer_than_a_block_is_refused(tmp_path: Path) -> None:
    for before in (b"", (b"y" * 10**6 + b"\n") * 20):
        path = write(tmp_path, "t.csv.gz", b"text\n" + before + b"x" * (40 * 2**20) + b"\n")
        with pytest.raises(InputError, match=r"csv.* \(a row is longer than 16 MiB\); fix the fi"):
            read(path)


def test_a_parquet_file_without_rows_has_no_items(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").n_rows == 0


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    found = read(write(tmp_path, "t.csv", b"\xef\xbb\xbfid,text\n1,a\n"), id_column="id")
    assert found.items == [(0, "1", "a")]


def test_a_csv_file_without_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t\.csv: the file is empty"):
        read(write(tmp_path, "t.csv", b""))


@pytest.mark.parametrize("form", ["csv.gz", "jsonl.gz", "txt.gz"])
@pytest.mark.parametrize("damage", ["no gzip", "cut off", "flipped"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, form: str, damage: str) -> None:
    lines = b"text\n" if form == "csv.gz" else b""
    lines += b"".join(b'{"text": "line %d"}\n' % row for row in range(3000))
    data = bytearray(gzip.compress(lines))
    if damage == "no gzip":
        data = bytearray(b"plain")
    elif damage == "cut off":
        del data[len(data) // 2 :]
    else:
        data[20:24] = b"\xff\x00\xff\x00"
    path = tmp_path / f"t.{form}"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"t\.{form}: cannot be read as .*fix the file"):
        read(path)


def test_a_parquet_file_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": [str(row) for row in range(1000)]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:10] + b"\xff" * 50 + data[60:])
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as parquet .* fix the file"):
        read(path)


CELL = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6))
def test_every_format_gives_the_same_items(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, str | None]]
) -> None:
    table: list[dict[str, str | None]] = [{"id": key, "text": text} for key, text in rows]
    by_format = [
        read(
            write_rows(tmp_path_factory.mktemp("same"), form, table),
            id_column="id",
            text_column="text",
        )
        for form in ("parquet", "csv", "jsonl")
    ]
    expected = [
        (row, key, text)
        for row, (key, text) in enumerate(rows)
        if key and text is not None and text.strip()
    ]
    for found in by_format:
        assert found.n_rows == len(rows)
        assert found.rejected == by_format[0].rejected
        assert found.items == by_format[0].items
    assert [item for item in by_format[0].items if item[2].strip()] == expected
