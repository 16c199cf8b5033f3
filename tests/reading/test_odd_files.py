"""Files as people have them: dialects, encodings, types and columns that nobody meant as items."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hercules_scale.config.file import parse_config
from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import ConfigError, InputError, SchemaError
from hercules_scale.reading.encodings import detect_encoding
from hercules_scale.reading.images import thumbnail
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine, read_piece
from hercules_scale.reading.listing import list_sources
from hercules_scale.reading.survey import Survey, survey

TEXTS = ["the ferry, at last", 'he said "no"', "two\nlines", "C:\\new", "Größe €5", ""]


class Read:
    """What a run reads of an input."""

    def __init__(self, path: Path, **options: Any) -> None:
        config = InputConfig.model_validate({"path": str(path), **options})
        self.skipped: dict[str, str] = {}
        sources = list_sources(config.paths, self.skipped, config.documents)
        of_items = Layout.of(examine(config, sources))
        self.rows: list[dict[str, Any]] = []
        self.rejected: list[str] = []
        self.labels: list[dict[str, Any]] = []
        self.alarms: list[str] = []
        owners = []
        self.columns = of_items.columns
        for piece in split_into_pieces(sources):
            for batch in read_piece(config, of_items, piece, self.alarms):
                self.rows += batch.items.drop_columns(["position"]).to_pylist()
                self.labels += batch.labels.drop_columns(["position"]).to_pylist()
                self.rejected += batch.rejected["reason"].to_pylist()
                owners.append(batch.owners)
        self.owners = pa.concat_tables(owners)["owner"] if owners else pa.nulls(0, pa.uint64())

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.rows]


def surveyed(path: Path, **options: Any) -> Survey:
    config = InputConfig.model_validate({"path": str(path), **options})
    return survey(config, list_sources(config.paths, documents=config.documents))


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def table_of(rows: int) -> str:
    return "id,text\n" + "".join(f"{row},the ferry of {row}\n" for row in range(rows))


def test_a_quote_that_is_open_at_the_end_ends_the_run_with_its_line(tmp_path: Path) -> None:
    lines = table_of(600).splitlines()
    lines[201] = '200,"the ferry of 200'
    path = write(tmp_path, "t.csv", "\n".join(lines))
    for options in ({}, {"text_column": "text"}, {"text_column": "id", "modality": "text"}):
        with pytest.raises(InputError, match=r"t\.csv: the quote that opens in line 202 is not cl"):
            Read(path, **options)
    assert len(Read(path, csv={"quote": ""}).rows) == 600


def test_a_field_of_lines_that_look_like_rows_is_an_alarm(tmp_path: Path) -> None:
    lines = table_of(600).splitlines()
    lines[201] = '200,"the ferry of 200'
    lines[301] = '300,the ferry of 300"'
    read = Read(write(tmp_path, "t.csv", "\n".join(lines)), text_column="text")
    assert len(read.rows) == 500
    (alarm,) = read.alarms
    assert "the field that begins in line 202 holds 99 lines that look like rows" in alarm
    # Of one column every line looks like a row.
    lines = ["text", *(f"the ferry of {row}" for row in range(600))]
    lines[201], lines[301] = '"the ferry of 200', 'the ferry of 300"'
    (alarm,) = Read(write(tmp_path, "v.csv", "\n".join(lines))).alarms
    assert "the field that begins in line 202 holds 99 lines, and no other as many as 10" in alarm
    poem = '"' + "\n".join(f"verse {row}" for row in range(50)) + '"'
    assert Read(write(tmp_path, "u.csv", f"id,text\n1,{poem}\n")).alarms == []
    assert Read(write(tmp_path, "w.csv", f"text\n{poem}\n{poem}\n")).alarms == []
    # A few rows at a time, many times.
    lines = [f"{row}\tthe ferry of {row}" for row in range(150)]
    for row in range(0, 120, 6):
        lines[row], lines[row + 2] = f'{row}\t"the ferry of {row}', f'{row + 2}\tthe ferry"'
    data = "\n".join(["id\ttext", *lines])
    read = Read(write(tmp_path, "x.tsv", data), text_column="text")
    assert len(read.rows) == 110
    (alarm,) = read.alarms
    assert "20 lines within quoted fields look like rows, the first in the field that be" in alarm


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_are_followed_over_blocks_of_any_size(
    tmp_path: Path, quote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [text.replace(quote, quote * 2) for text in TEXTS[:5]]
    data = "text\r\n" + "".join(f"{quote}{cell}{quote}\r\n" for cell in cells)
    for size in (1, 2, 3, 7, 2**20):
        monkeypatch.setattr("hercules_scale.reading.csv_quotes.BLOCK_BYTES", size)
        read = Read(write(tmp_path, "t.csv", data), csv={"quote": quote, "delimiter": ","})
        assert read.texts == TEXTS[:5]


def test_escaped_quotes_of_spark_are_read(tmp_path: Path) -> None:
    # Within quotes Spark writes a backslash before quotes and backslashes, elsewhere it does not.
    text = (
        'id,text\n1,"he said \\"no\\", twice"\n2,C:\\new\n3,"a\\\\b, \\"c\\""\n4,"end\\\\"\n5,"x"\n'
    )
    read = Read(write(tmp_path, "t.csv", text), id_column="id", text_column="text")
    assert read.texts == ['he said "no", twice', "C:\\new", 'a\\b, "c"', "end\\", "x"]
    assert (read.rejected, read.alarms) == ([], [])
    # A backslash at the end of a field is none.
    plain = Read(
        write(tmp_path, "u.csv", 'id,text\n1,"C:\\"\n2,"say ""no"" now"\n'), id_column="id"
    )
    assert plain.texts == ["C:\\", 'say "no" now']


def test_a_file_that_escapes_quotes_after_its_beginning_is_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hercules_scale.reading.text_streams.HEAD_BYTES", 100)
    data = table_of(50) + '50,"he said \\"no\\" twice"\n'
    (alarm,) = Read(write(tmp_path, "t.csv", data), id_column="id").alarms
    assert "1 quoted fields go on after the quote that closes them, the first in line 52" in alarm


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_delimiter_is_detected_and_said(tmp_path: Path, delimiter: str) -> None:
    rows = [f"{row}{delimiter}the ferry, or {row}, of {row}" for row in range(60)]
    path = write(tmp_path, "t.csv", "\n".join([f"id{delimiter}text", *rows]))
    read = Read(path, id_column="id")
    assert read.texts[7] == "the ferry, or 7, of 7"
    assert read.rejected == []
    assert f"delimiter {delimiter!r}" in surveyed(path).lines[1]


def test_decimal_commas_are_detected_and_said(tmp_path: Path) -> None:
    rows = [f"{row};{row},5;{row % 7}" for row in range(120)]
    path = write(tmp_path, "t.csv", "\n".join(["a;b;c", *rows]))
    read = Read(path, columns=["a", "b"])
    assert [row["b"] for row in read.rows] == [row + 0.5 for row in range(120)]
    assert "decimal ','" in surveyed(path).lines[1]
    assert surveyed(path).columns.numbers == ("b", "c")
    # A point would set thousands apart, which is not guessed.
    path = write(tmp_path, "u.csv", "a;b\n1,5;2\n1.234;3\n")
    read = Read(path, columns=["a", "b"])
    assert read.rejected == ["column 'a' holds '1.234', not a number"]
    read = Read(path, columns=["a", "b"], csv={"decimal": ","})
    assert [row["a"] for row in read.rows] == [1.5, 1234]


def test_half_a_table_is_refused_with_how_it_was_read(tmp_path: Path) -> None:
    rows = [f"{row},the ferry{', again' * (row % 2)}" for row in range(120)]
    path = write(tmp_path, "t.csv", "\n".join(["id,text", *rows]))
    with pytest.raises(
        InputError, match=r"read as utf-8, delimiter ',', but 60 of 120 rows have a"
    ):
        Read(path)


@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.jsonl"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_encodings_are_detected(tmp_path: Path, name: str, encoding: str) -> None:
    texts = [f"Die Größe der Fähre {row} übertrifft – „sehr“ – alles" for row in range(20)]
    lines = [json.dumps({"text": each}, ensure_ascii=False) for each in texts]
    data = {"t.csv": ["text", *texts], "t.txt": texts, "t.jsonl": lines}[name]
    path = write(tmp_path, name, "\n".join(data).encode(encoding))
    read = Read(path)
    assert read.texts == texts
    assert read.rejected == []
    said = {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    assert f"written in {said}" in surveyed(path).lines[1]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Паром отправляется в гавань каждое утро, и люди ждут его на берегу. "),
        ("koi8-r", "Паром отправляется в гавань каждое утро, и люди ждут его на берегу. "),
        ("cp1250", "Žluťoučký kůň příšerně pěl ďábelské ódy, řekl přívozník večer. "),
        ("shift_jis", "渡し船は毎朝港へ向かい、人々は岸で待っています。"),
        ("gb18030", "渡轮每天早上开往港口，人们在岸边等待。"),
        ("euc-kr", "나룻배는 매일 아침 항구로 떠나고 사람들은 강가에서 기다린다."),
        ("latin-1", "Le château fut bâti où la forêt s'arrête, près du marché à côté. "),
    ],
)
def test_older_encodings_of_many_languages_are_detected(encoding: str, text: str) -> None:
    data = "\n".join(f"{row} {text}" for row in range(40)).encode(encoding)
    found = detect_encoding(data)
    assert data.decode(found) == data.decode(encoding), found


def test_a_few_bytes_that_are_no_utf_8_are_damage_and_no_other_encoding() -> None:
    assert detect_encoding(b"a\xff\nb\xfe\nc") == "utf-8"
    assert detect_encoding("größer ".encode() * 9 + b"\xff" * 8) == "utf-8"
    # Cut within a character.
    assert detect_encoding(("x" * 9 + "東").encode()[:-1], whole=False) == "utf-8"


def test_keys_over_what_is_detected(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "a~b\n1,5~|x~é|\n".encode("cp1252"))
    options = {"delimiter": "~", "quote": "|", "escape": "", "encoding": "cp1250", "decimal": "."}
    read = Read(path, csv=options, text_column="b", label_columns=["a"])
    assert (read.texts, read.labels) == (["x~é"], [{"a": "1,5"}])
    for key, value in (
        ("delimiter", "ab"),
        ("quote", "é"),
        ("encoding", "base64"),
        ("decimal", " "),
    ):
        with pytest.raises(ConfigError, match=rf"input\.csv\.{key}"):
            parse_config(
                {"input": {"path": "x", "csv": {key: value}}, "output": {"path": str(tmp_path)}}
            )


def test_lines_that_end_with_a_carriage_return_are_lines(tmp_path: Path) -> None:
    assert Read(write(tmp_path, "t.txt", b"one\rtwo\rthree")).texts == ["one", "two", "three"]
    read = Read(write(tmp_path, "t.csv", b'id,text\r1,a b\r2,"c\rd"\r'), id_column="id")
    assert read.texts == ["a b", "c\rd"]


def test_a_lone_carriage_return_ends_no_row_and_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", b'id,text\n1,a\rb\n2,"c\rd"\n3,e\r\n')
    read = Read(path, id_column="id")
    assert read.texts == ["a b", "c\rd", "e"]
    (alarm,) = read.alarms
    assert "1 carriage returns within rows were read as spaces" in alarm


def test_single_quotes_are_detected(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "id,text\n1,'it''s, good'\n2,'b, c'\n3,'x'\n")
    assert Read(path, id_column="id").texts == ["it's, good", "b, c", "x"]
    path = write(tmp_path, "u.csv", "id,text\n1,'tis good\n2,'twas late'\n3,x\n")
    assert Read(path, id_column="id").texts == ["'tis good", "'twas late'", "x"]


def test_the_line_that_names_a_separator_is_none_of_the_table(tmp_path: Path) -> None:
    read = Read(write(tmp_path, "t.csv", "sep=;\r\na;b\r\n1;2\r\n5;4\r\n"))
    assert [(row["a"], row["b"]) for row in read.rows] == [(1, 2), (5, 4)]


@pytest.mark.parametrize("first", ["1.5,2.5", "1,a good ferry", "7,8"])
def test_a_csv_file_that_begins_with_a_row_is_refused(tmp_path: Path, first: str) -> None:
    path = write(tmp_path, "t.csv", f"{first}\n{first}\n")
    with pytest.raises(
        InputError, match=r"t\.csv: the first line of csv must name the columns, bu"
    ):
        Read(path)
    for names in ("0,1", "1999,2000"):
        assert len(Read(write(tmp_path, "u.csv", f"{names}\n1.5,2.5\n3.5,1.5\n")).rows) == 2


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt"])
def test_what_lies_there_instead_of_data_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "version https://git-lfs.github.com/spec/v1\noid x\nsize 12\n")
    with pytest.raises(InputError, match="is a pointer of Git LFS; fetch the data itself"):
        Read(path)
    path = write(tmp_path, name, "\n<!DOCTYPE html><html>Not found</html>\n")
    if name != "t.txt":
        with pytest.raises(InputError, match="is a page of HTML; fetch the data itself"):
            Read(path)


@pytest.mark.parametrize("form", ["[{}.5, 2]", "[{}.5  2.]", " [ {}.5\n 2. ]"])
def test_vectors_in_text_are_vectors(tmp_path: Path, form: str) -> None:
    cells = "".join(f'{row},"{form.format(row)}"\n' for row in range(3))
    read = Read(write(tmp_path, "t.csv", f"id,v\n{cells}"), id_column="id")
    assert [row["embedding"] for row in read.rows] == [[row + 0.5, 2.0] for row in range(3)]


def test_thousands_are_read_where_they_can_be_nothing_else(tmp_path: Path) -> None:
    data = 'a,b\n"1,234.5",1\n"1,234,567",2\n"1,234",3\n"12,34.5",4\n'
    read = Read(write(tmp_path, "t.csv", data), columns=["a", "b"])
    assert [row["a"] for row in read.rows] == [1234.5, 1234567]
    read = Read(write(tmp_path, "u.csv", 'a;b\n"1.234,5";1\n2,5;2\n'), columns=["a", "b"])
    assert [row["a"] for row in read.rows] == [1234.5, 2.5]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_number_that_may_be_a_thousand_times_as_much_decides_no_decimal_mark(
    tmp_path: Path, delimiter: str
) -> None:
    data = "a,b\n950,1\n1.200,2\n3.450,3\n".replace(",", delimiter)
    taken = surveyed(write(tmp_path, "t.csv", data), columns=["a", "b"])
    assert taken.alarms == (
        "numbers such as 1.200 are read with a decimal point; if this one is 1200, set "
        "input.csv.decimal to ','",
    )
    read = Read(tmp_path / "t.csv", columns=["a", "b"], csv={"decimal": ","})
    assert [row["a"] for row in read.rows] == [950, 1200, 3450]
    path = write(tmp_path, "u.csv", data.replace(".", ","))
    read = Read(path, columns=["a", "b"])
    assert [row["a"] for row in read.rows] == [950]
    assert read.rejected[0] == "column 'a' holds '1,200', not a number"
    # A number that can be no thousand decides.
    for clear, alarms in (("0.5", ()), ("2.75", ())):
        path = write(tmp_path, "v.csv", data + f"{clear}{delimiter}4\n")
        assert surveyed(path, columns=["a", "b"]).alarms == alarms


def test_thousands_beside_decimals_of_another_column_are_an_alarm(tmp_path: Path) -> None:
    rows = [f"F{row};{15 + row % 9}.1;{30 + row}.{816 - row};{67 + row % 7}" for row in range(30)]
    rows[7] = "F7;15.1;335;67"
    data = "\n".join(["Filiale;Temperatur;Umsatz;Besucher", *rows])
    (alarm,) = surveyed(write(tmp_path, "t.csv", data)).alarms
    assert alarm.startswith("numbers such as 30.816 are read with a decimal point")
    (alarm,) = surveyed(write(tmp_path, "u.csv", data.replace(";335;", ";35.335;"))).alarms
    assert alarm.startswith("numbers such as 30.816")
    assert surveyed(write(tmp_path, "v.csv", data.replace(";335;", ";35.3;"))).alarms == ()


def test_numbers_between_spaces_are_columns(tmp_path: Path) -> None:
    data = "".join(f"{row / 7:.4f} {row * 0.3:.4f} {row % 5}\n" for row in range(40))
    taken = surveyed(write(tmp_path, "t.csv", f"mass height volume\n{data}"))
    assert taken.columns.numbers == ("mass", "height", "volume")
    assert len(Read(tmp_path / "t.csv").rows) == 40
    with pytest.raises(InputError, match="the first line of csv must name the columns, but holds"):
        surveyed(write(tmp_path, "u.csv", data))
    assert surveyed(write(tmp_path, "v.csv", "text\nthe ferry\na loaf\n")).columns.text == "text"


@pytest.mark.parametrize("form", ["csv", "txt", "jsonl"])
def test_a_packed_file_under_another_name_is_refused(tmp_path: Path, form: str) -> None:
    for data, kind in (
        (gzip.compress(table_of(20).encode()), "packed by gzip"),
        (b"PK\x03\x04" + bytes(400), "an archive or a workbook"),
    ):
        path = write(tmp_path, f"t.{form}", data)
        with pytest.raises(InputError, match=rf"t\.{form}: is {kind}, and not what its name says"):
            surveyed(path)


def test_a_title_above_the_names_is_refused_and_rows_may_end_with_delimiters(
    tmp_path: Path,
) -> None:
    rows = "".join(f"P{row};{row * 88};{row},59;{row % 4},23\n" for row in range(20))
    title = write(tmp_path, "t.csv", f"Bericht Q1;;;\nProdukt;Menge;Preis;Kosten\n{rows}")
    with pytest.raises(InputError, match="3 of 4 that hold values have no name; remove the lines"):
        surveyed(title)
    rows = "".join(f"{row},{row * 3}.5,,\n" for row in (4, 9, 2))
    assert surveyed(write(tmp_path, "u.csv", f"a,b,,\n{rows}")).columns.numbers == ("a", "b")


def test_a_header_that_comes_again_is_no_item(tmp_path: Path) -> None:
    data = "id,comment\n1,a ferry\nid,comment\n2,rye bread\n"
    read = Read(write(tmp_path, "t.csv", data), id_column="id")
    assert read.texts == ["a ferry", "rye bread"]
    assert read.rejected == ["the row repeats the header"]


def test_a_few_names_of_places_beside_variables_are_no_texts(tmp_path: Path) -> None:
    lines = [f"{row % 9}.5,{row % 7},Station at the old river bridge" for row in range(30)]
    taken = surveyed(write(tmp_path, "t.csv", "\n".join(["a,b,station", *lines])))
    assert taken.columns.numbers == ("a", "b")
    assert taken.left_out == {"station": "text"}


def test_a_tsv_file_has_tabs_unless_it_has_none(tmp_path: Path) -> None:
    for data in ("id\ttext\n1\ta, b\n", "id,text\n1,a b\n"):
        assert surveyed(write(tmp_path, "t.tsv", data)).columns.text == "text"


def test_codes_with_zeros_before_them_are_no_numbers(tmp_path: Path) -> None:
    lines = [f"{row * 37 % 900:05d},{row * row % 17}" for row in range(30)]
    taken = surveyed(write(tmp_path, "t.csv", "\n".join(["zip,x", *lines])))
    assert taken.columns.numbers == ("x",)
    assert taken.left_out == {"zip": "text"}


def test_values_that_stand_for_none_are_an_alarm(tmp_path: Path) -> None:
    lines = [f"{row % 7},{-999.0 if row % 5 == 0 else row % 3}" for row in range(40)]
    (alarm,) = surveyed(write(tmp_path, "t.csv", "\n".join(["a,b", *lines]))).alarms
    assert alarm.startswith("column 'b' holds -999 in 8 of 40 sampled rows, far from all others")
    lines = [f"{row % 7},{1e30 if row == 5 else row % 3}" for row in range(40)]
    (alarm,) = surveyed(write(tmp_path, "u.csv", "\n".join(["a,b", *lines]))).alarms
    assert alarm.startswith("column 'b' holds 1e+30 in 1 of 40 sampled rows")


MPG = "mpg,horsepower,weight,name\n"


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)


def mpg(rows: int = 30) -> list[str]:
    return [f"{20 + row % 9}.5,{90 + row % 40},{3000 - row},car{row}" for row in range(rows)]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("missing", ["?", "NA", "n/a", "-", ""])
def test_a_column_that_is_numbers_but_for_a_few_cells_is_numeric(
    tmp_path: Path, form: str, missing: str
) -> None:
    rows = [line.split(",") for line in mpg()]
    rows[3][1] = missing
    rows[4][2] = "1,200"
    frame = pd.DataFrame(rows, columns=MPG.strip().split(","))
    write_frame(frame, tmp_path / f"t.{form}")
    read = Read(tmp_path)
    assert read.columns.numbers == ("mpg", "horsepower", "weight")
    assert len(read.rows) == 28
    assert read.rejected == [
        "column 'horsepower' is missing",
        "column 'weight' holds '1,200', not a number",
    ]
    taken = surveyed(tmp_path)
    assert "modality numeric (mpg, horsepower, weight); ids: row numbers" in taken.lines[0]
    assert taken.left_out == {"name": "text"}
    assert any("left out: 'name' (text)" in line for line in taken.lines)


def test_numbers_beyond_what_can_be_computed_with_are_set_aside(tmp_path: Path) -> None:
    lines = [*mpg(9), "1e200,1,1,x", "-1.7976931348623157e308,1,1,y", "nan,1,1,z"]
    read = Read(write(tmp_path, "t.csv", MPG + "\n".join(lines)))
    assert read.rejected == [
        "column 'mpg' holds 1e+200, too large to compute with",
        "column 'mpg' holds -1.79769e+308, too large to compute with",
        "column 'mpg' is missing",
    ]
    vectors = pa.array([[1.0, 2.0], [3e38, 1.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"embedding": vectors}), tmp_path / "v.parquet")
    read = Read(tmp_path / "v.parquet")
    assert read.rejected == ["the embedding holds numbers that are too large to compute with"]


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_a_column_that_is_empty_in_the_first_file_is_used(tmp_path: Path, form: str) -> None:
    for name, value in (("a", None), ("b", 2.5), ("c", 3.5)):
        frame = pd.DataFrame({"x": [1.5, 2.5], "y": [value, value and value + 1]})
        if form == "csv":
            frame.to_csv(tmp_path / f"{name}.csv", index=False)
        elif form == "parquet":
            frame.astype({"y": object if value is None else float}).to_parquet(
                tmp_path / f"{name}.parquet"
            )
        else:
            rows = frame.drop(columns=["y"]) if value is None else frame
            rows.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
    read = Read(tmp_path)
    assert read.columns.numbers == ("x", "y")
    assert read.rejected == ["column 'y' is missing"] * 2
    assert len(read.rows) == 4


def test_a_text_that_pandas_writes_as_numbers_where_it_is_missing_is_read(tmp_path: Path) -> None:
    for name, text in (("a", np.nan), ("b", "a ferry"), ("c", np.nan)):
        frame = pd.DataFrame({"key": ["x" + name], "text": [text], "topic": [text]})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    read = Read(tmp_path, id_column="key", label_columns=["topic"])
    assert (read.texts, read.labels) == (["a ferry"], [{"topic": "a ferry"}])
    assert read.rejected == ["the text is missing"] * 2


def test_nan_in_json_is_missing(tmp_path: Path) -> None:
    lines = [
        '{"id": NaN, "text": "a"}',
        '{"id": 1, "text": NaN}',
        '{"id": 2, "text": "b", "l": NaN}',
    ]
    path = write(tmp_path, "t.jsonl", "\n".join(lines))
    read = Read(path, id_column="id", label_columns=["l"])
    assert (read.texts, read.labels) == (["b"], [{"l": None}])
    assert read.rejected == ["the id is missing", "the text is missing"]
    write(tmp_path, "u.json", "[]")
    assert Read(tmp_path, id_column="id", label_columns=["l"]).texts == ["b"]


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "n"])
def test_what_counts_rows_is_no_variable(tmp_path: Path, name: str) -> None:
    lines = [f"{row},{row % 7},{row * row % 11}" for row in range(40)]
    path = write(tmp_path, "t.csv", "\n".join([f"{name},a,b", *lines]))
    assert surveyed(path).columns.numbers == ("a", "b")
    reason = "it counts rows" if name == "n" else "an index without a name"
    assert surveyed(path).left_out == {name: reason}
    only = write(tmp_path, "u.csv", "\n".join([name or '""', *map(str, range(40))]))
    with pytest.raises(SchemaError, match=r"no column holds numbers; '.*' was left out \(.*; col"):
        surveyed(only)
    if name == "n":
        assert Read(path, columns=["n", "a"]).columns.numbers == ("n", "a")


def test_the_index_of_a_frame_is_no_variable(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": [3, 1, 2]}, index=[7, 3, 5])
    frame.to_parquet(tmp_path / "t.parquet")
    frame.rename_axis("key").to_parquet(tmp_path / "u.parquet")
    for name, index in (("t.parquet", "__index_level_0__"), ("u.parquet", "key")):
        assert surveyed(tmp_path / name).columns.numbers == ("a", "b")
        assert surveyed(tmp_path / name).left_out == {index: "the index of a pandas frame"}
    assert {row["item_id"] for row in Read(tmp_path / "u.parquet", id_column="key").rows} == {
        *("7", "3", "5")
    }


def test_ids_are_neither_variables_nor_texts_without_a_word(tmp_path: Path) -> None:
    table = pa.table(
        {
            "customer_id": [907, 33, 54, 18],
            "sku": ["A-17", "B-3", "C-44", "D-5"],
            "code": ["0071", "0033", "0015", "0044"],
            "price": [1.5, 2.5, 3.5, 9.5],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    taken = surveyed(tmp_path / "t.parquet")
    assert taken.columns.numbers == ("price",)
    assert taken.left_out == {"customer_id": "ids", "sku": "text", "code": "text"}


def test_a_variable_that_some_files_lack_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "x,y\n1.5,2\n2.5,3\n")
    write(tmp_path, "b.csv", "y,z,x\n3,9,1.5\n2,8,2.5\n")
    assert [(row["x"], row["y"]) for row in Read(tmp_path).rows] == [
        *((1.5, 2.0), (2.5, 3.0), (1.5, 3.0), (2.5, 2.0))
    ]
    assert surveyed(tmp_path).left_out == {"z": "not in every file"}


def test_texts_beside_numbers_are_the_items(tmp_path: Path) -> None:
    table = pa.table({"stars": [1, 5, 3], "review": ["too slow", "a fine ferry", "it was late"]})
    pq.write_table(table, tmp_path / "t.parquet")
    taken = surveyed(tmp_path / "t.parquet")
    assert (taken.columns.modality, taken.columns.text) == ("text", "review")
    assert taken.left_out == {"stars": "numbers"}


NAMES = ["chevrolet chevelle malibu", "buick skylark 320", "plymouth satellite", "amc rebel sst"]


@pytest.mark.parametrize(
    "values",
    [
        [f"{row:08x}-36fb-4f5e-a4a4-{row:012x}" for row in range(8)],
        [f"2024-01-{row + 1:02d} 12:00:00" for row in range(8)],
        [f"2024-01-{row + 1:02d}T12:00:00.000000+00:00" for row in range(8)],
        [f"https://example.com/{row}/a-ferry" for row in range(8)],
        NAMES * 2,
    ],
    ids=["uuids", "times", "zoned", "urls", "names"],
)
def test_names_times_and_codes_beside_variables_are_no_texts(
    tmp_path: Path, values: list[str]
) -> None:
    numbers = {"mpg": [float(row % 5) for row in range(8)], "kg": [3.0 * row for row in range(8)]}
    pq.write_table(pa.table({"car": values, **numbers}), tmp_path / "t.parquet")
    taken = surveyed(tmp_path / "t.parquet")
    assert taken.columns.numbers == ("mpg", "kg")
    assert taken.left_out == {"car": "text"}


def test_ids_beside_what_cannot_be_read_are_not_taken_for_the_texts(tmp_path: Path) -> None:
    table = pa.table({"id": ["a1", "b2", "c3"], "parts": [[[1.0]], [[2.0]], [[3.0]]]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=r"must be given.*'id' was left out \(ids\)"):
        surveyed(tmp_path / "t.parquet")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_empty_id_or_label_is_missing(tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame({"id": ["a", "", "c"], "text": ["x", "y", "z"], "topic": ["", "t", "u"]})
    write_frame(frame, tmp_path / f"t.{form}")
    read = Read(tmp_path, id_column="id", label_columns=["topic"], text_column="text")
    assert read.rejected == ["the id is missing"]
    assert read.labels == [{"topic": None}, {"topic": "u"}]


VECTORS = [[1.0, 2.0], [3.0, 4.5]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(VECTORS, pa.list_(pa.float64())),
        pa.array(VECTORS, pa.list_(pa.float16())),
        pa.array(VECTORS, pa.large_list(pa.float32())),
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(VECTORS)),
    ],
)
def test_vectors_of_every_type_are_read(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "data": column}), tmp_path / "t.parquet")
    read = Read(tmp_path / "t.parquet")
    assert [row["embedding"] for row in read.rows] == VECTORS


def test_a_ray_dataset_of_vectors_is_read(tmp_path: Path) -> None:
    from ray.data.extensions import ArrowTensorArray

    column = ArrowTensorArray.from_numpy(np.array(VECTORS, np.float32))
    pq.write_table(pa.table({"data": column}), tmp_path / "t.parquet")
    assert [row["embedding"] for row in Read(tmp_path / "t.parquet").rows] == VECTORS


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.large_string(), pa.binary()])
def test_texts_of_every_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["a ferry", "Größe"]).cast(kind)
    pq.write_table(pa.table({"body": column}), tmp_path / "t.parquet")
    assert Read(tmp_path / "t.parquet").texts == ["a ferry", "Größe"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_columns_of_one_name_are_refused_by_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"t.{form}"
    if form == "csv":
        path.write_text("id,text,text\n1,a,b\n")
    else:
        pq.write_table(pa.table([["1"], ["a"], ["b"]], names=["id", "text", "text"]), path)
    for options in ({}, {"text_column": "text", "modality": "text"}):
        with pytest.raises(
            SchemaError, match=rf"t\.{form}: column names must differ, but 'text' o"
        ):
            Read(path, **options)


def test_an_empty_part_and_a_readme_are_passed_over_and_said(tmp_path: Path) -> None:
    for name, data in (("a.csv", table_of(2)), ("b.csv", ""), ("README.txt", "x"), ("c.md", "y")):
        write(tmp_path, name, data)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(b""))
    read = Read(tmp_path, id_column="id")
    assert len(read.rows) == 2
    assert {Path(uri).name: reason for uri, reason in read.skipped.items()} == {
        "b.csv": "the file is empty",
        "README.txt": "its name is none of data",
        "c.md": "the format is not known",
    }
    assert surveyed(tmp_path).skipped == {str(tmp_path / "d.csv.gz"): "it holds nothing"}
    for name in ("README.txt", "readme-of-a-ferry.txt", "a.txt"):
        write(tmp_path, f"texts/{name}", name)
    assert Read(tmp_path / "texts").texts == ["a.txt", "readme-of-a-ferry.txt"]
    assert Read(tmp_path / "texts" / "README.txt").texts == ["README.txt"]
    with pytest.raises(InputError, match=r"b\.csv: the file is empty; replace it or leave it out"):
        Read(tmp_path / "b.csv")


def test_a_name_with_characters_of_globs_or_of_markers_is_found(tmp_path: Path) -> None:
    for name in ("data [final]/x (1).jsonl", "_x.jsonl", "what?.jsonl"):
        path = write(tmp_path, name, '{"text": "a"}')
        assert Read(path).texts == ["a"]
    for each in ("data [final]", "data [final]/*.jsonl", "d* [[]final]/x*"):
        assert Read(tmp_path / each).texts == ["a"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/deep/a.txt", "one")
    write(tmp_path, "in/b.txt", "two")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path)
    assert sorted(Read(tmp_path / "in").texts) == ["one", "two"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_names_of_folders_are_columns_where_they_are_asked_for(tmp_path: Path, form: str) -> None:
    for topic, text in (("bikes", "a wheel"), ("two%20boats", "a sail")):
        folder = tmp_path / f"topic={topic}"
        folder.mkdir()
        frame = pd.DataFrame({"text": [text]})
        write_frame(frame, folder / f"a.{form}")
    read = Read(tmp_path, label_columns=["topic"])
    assert read.texts == ["a wheel", "a sail"]
    assert read.labels == [{"topic": "bikes"}, {"topic": "two boats"}]
    assert [row["item_id"] for row in Read(tmp_path, id_column="topic").rows] == [
        "bikes",
        "two boats",
    ]
    assert surveyed(tmp_path).left_out == {"topic": "the name of a folder"}
    # Owners are counted, and the folder of those without a name has none.
    (tmp_path / "topic=bikes").rename(tmp_path / "topic=__HIVE_DEFAULT_PARTITION__")
    assert Read(tmp_path, owner_column="topic").owners.null_count == 1
    assert Read(tmp_path, label_columns=["topic"]).labels[0] == {"topic": None}


OBJECTS: list[dict[str, Any]] = [
    {"text": 'a "}" b', "n": [1, {"x": "]"}]},
    {"text": "back\\slash"},
    {"text": "c"},
]


@pytest.mark.parametrize("size", [1, 3, 2**20])
@pytest.mark.parametrize(
    "data",
    [
        json.dumps(OBJECTS),
        json.dumps(OBJECTS, indent=2),
        "\n".join(json.dumps(each, indent=2) for each in OBJECTS),
        "".join(json.dumps(each) for each in OBJECTS),
        "\n".join(map(json.dumps, OBJECTS)),
    ],
)
def test_json_is_read_in_arrays_and_over_several_lines(
    tmp_path: Path, data: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hercules_scale.reading.json_values._BLOCK_BYTES", size)
    for name in ("t.json", "t.jsonl"):
        read = Read(write(tmp_path, name, data), text_column="text")
        assert read.texts == [each["text"] for each in OBJECTS]
        assert read.rejected == []
    cut = write(tmp_path, "cut.json", json.dumps(OBJECTS, indent=2)[:-9])
    with pytest.raises(
        InputError, match=r"cut\.json: the JSON value that follows 2 others does no"
    ):
        Read(cut)


def test_packed_files_are_read(tmp_path: Path) -> None:
    data = table_of(3).encode()
    zst = pa.compress(data, "zstd", asbytes=True)
    packed = {"gz": gzip.compress(data), "bz2": bz2.compress(data), "xz": lzma.compress(data)}
    for ending, each in {**packed, "zst": zst}.items():
        path = write(tmp_path, f"t.csv.{ending}", each)
        assert len(Read(path, id_column="id").rows) == 3
        write(tmp_path, f"t.csv.{ending}", each[: len(each) - 9])
        with pytest.raises(InputError, match=rf"t\.csv\.{ending}: cannot be read as"):
            Read(path, id_column="id")


def test_a_file_of_a_spreadsheet_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", table_of(2))
    write(tmp_path, "b.xlsx", "x")
    with pytest.raises(InputError, match=r"b\.xlsx: the format must be .*; save each sheet as csv"):
        Read(tmp_path)


@pytest.mark.parametrize(
    ("marker", "lake"),
    [
        ("_delta_log/00000000000000000000.json", "Delta"),
        ("metadata/v1.metadata.json", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
def test_a_table_with_removed_files_is_refused(tmp_path: Path, marker: str, lake: str) -> None:
    write(tmp_path, "table/" + marker, "{}")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "table" / "a.parquet")
    for path in (tmp_path, tmp_path / "table", tmp_path / "table" / "*.parquet"):
        with pytest.raises(InputError, match=rf"is a {lake} table; its folder keeps files that"):
            Read(path)
    assert Read(tmp_path / "table" / "a.parquet").texts == ["a"]
    for folder in ("table/data", "table/date=2020/hour=1"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"text": ["b"]}), tmp_path / folder / "b.parquet")
        with pytest.raises(InputError, match=rf"is a {lake} table"):
            Read(tmp_path / folder)
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "b.parquet")
    assert Read(tmp_path / "b*.parquet").texts == ["b"]


def shades(image: Image.Image, form: str = "TIFF") -> list[int]:
    """What is left of a row of shades of grey."""
    data = io.BytesIO()
    image.save(data, form)
    small = Image.open(io.BytesIO(thumbnail(data.getvalue())))
    assert small.mode == "RGB"
    return [int(each) for each in np.asarray(small)[0, :, 0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 2048, 4095]], np.uint16), [0, 128, 255]),
        (np.array([[0, 100, 200]], np.uint16), [0, 100, 200]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 50000, 100000]], np.int32), [0, 128, 255]),
    ],
)
def test_shades_of_grey_are_scaled_by_their_kind(
    values: np.ndarray[Any, Any], expected: list[int]
) -> None:
    image = Image.fromarray(values)
    assert shades(image) == expected
    if values.dtype == np.uint16:
        assert shades(image, "PNG") == expected


def test_json_texts_with_decimal_commas_are_numbers(tmp_path: Path) -> None:
    rows = [{"w": f"{row},26", "h": f"{row % 7},5"} for row in range(20)]
    path = write(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert surveyed(path).lines[1] == "input: written in utf-8, decimal ','"
    assert Read(path).rows[3] | {"item_id": None} == {"w": 3.26, "h": 3.5, "item_id": None}


def test_json_texts_that_may_hold_thousands_are_an_alarm(tmp_path: Path) -> None:
    rows = [{"w": f"{row + 1}.500", "h": row % 7} for row in range(20)]
    path = write(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    (alarm,) = surveyed(path).alarms
    assert alarm.startswith("column 'w' holds texts such as 1.500, read with a decimal point")
    rows[5]["w"] = "6.25"
    path = write(tmp_path, "u.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert surveyed(path).alarms == ()


def test_the_lines_that_qualtrics_writes_below_the_names_are_no_items(tmp_path: Path) -> None:
    head = (
        'ResponseId,Q1,Q2\nResponse ID,"How happy are you,\nfrom 1 to 10?",What can improve?\n'
        '"{""ImportId"":""_recordId""}","{""ImportId"":""QID1""}","{""ImportId"":""QID2""}"\n'
    )
    rows = "".join(f'R_{row:03d},{row % 10},"the ferry was, in all, late"\n' for row in range(12))
    path = write(tmp_path, "t.csv", head + rows)
    assert (
        "without the 2 lines after the names that describe the columns" in surveyed(path).lines[1]
    )
    read = Read(path)
    assert read.texts == ["the ferry was, in all, late"] * 12
    assert not read.rejected
    assert Read(path, columns=["Q1"]).rows[-1]["Q1"] == 1


def test_lines_before_the_names_that_begin_with_a_mark_are_no_rows(tmp_path: Path) -> None:
    rows = "".join(f"the ferry {row},{row * 7 % 5}\n" for row in range(12))
    path = write(tmp_path, "t.csv", f"# made by a tool, on a day, at sea\n# 2024\ntext,n\n{rows}")
    assert "without its first lines that begin with # (2)" in surveyed(path).lines[1]
    assert Read(path).texts == [f"the ferry {row}" for row in range(12)]
    # The last such line names the columns where it is as wide as the rows.
    path = write(tmp_path, "u.csv", f"# made by a tool\n#text,n\n{rows}")
    assert surveyed(path).columns.text == "#text"
    assert len(Read(path).rows) == 12
    path = write(tmp_path, "v.csv", f"text,n\n{rows}#last,1\n")
    assert Read(path).texts[-1] == "#last"


def test_rows_with_a_field_more_than_names_are_read(tmp_path: Path) -> None:
    named = "".join(f'"{row + 1}","the ferry, {row}",{row * 7 % 5}\n' for row in range(12))
    path = write(tmp_path, "r.csv", f'"text","n"\n{named}')
    assert surveyed(path).left_out == {"": "an index without a name", "n": "numbers"}
    texts = [f"the ferry, {row}" for row in range(12)]
    assert Read(path).texts == texts
    ended = "".join(f'"the ferry, {row}",{row * 7 % 5},\n' for row in range(12))
    assert Read(write(tmp_path, "t.csv", f"text,n\n{ended}")).texts == texts
    # A comma that is not quoted makes no row names.
    wide = "".join(f"the ferry, at last,{row}\n" for row in range(12))
    with pytest.raises(InputError, match="12 of 12 rows have another width than the header"):
        surveyed(write(tmp_path, "u.csv", f"text,n\n{wide}"))


def test_letters_of_hungarian_are_read_as_such(tmp_path: Path) -> None:
    rows = "".join(
        f"{row},A magyar nyelv szép őszi időben, az űrhajó fölszállt\n" for row in range(9)
    )
    path = tmp_path / "t.csv"
    path.write_bytes(f"id,text,more\n{rows}".encode("cp1250"))
    assert Read(path, text_column="text").texts[0] == "A magyar nyelv szép őszi időben"
    # Portuguese and French have some of these letters, too.
    assert detect_encoding("São ações; pôr, põe, goût".encode("cp1252") * 9) == "cp1252"


@pytest.mark.parametrize(
    ("value", "usual"), [(65535, 300), (-127.0, 25.5), (-9999, 30), (9.96e36, 7)]
)
def test_a_repeated_value_far_from_all_others_is_an_alarm(
    tmp_path: Path, value: float, usual: float
) -> None:
    cells = [value if row % 9 == 0 else usual * (1 + row % 11) / 11 for row in range(60)]
    path = write(
        tmp_path,
        "t.csv",
        "a,b\n" + "".join(f"{cell},{1 / (i + 1)}\n" for i, cell in enumerate(cells)),
    )
    (alarm,) = surveyed(path).alarms
    assert alarm.startswith(f"column 'a' holds {value:g} in 7 of 60 sampled rows, far from")
    # One that occurs once is an outlier, and of few values one may be far from the others.
    cells = [value if row == 0 else usual * (1 + row % 11) / 11 for row in range(60)]
    path = write(
        tmp_path,
        "u.csv",
        "a,b\n" + "".join(f"{cell},{1 / (i + 1)}\n" for i, cell in enumerate(cells)),
    )
    assert bool(surveyed(path).alarms) == (value > 1e30)
    path = write(
        tmp_path,
        "v.csv",
        "a,b\n" + "".join(f"{(0, 1, 10)[i % 3]},{1 / (i + 1)}\n" for i in range(60)),
    )
    assert surveyed(path).alarms == ()


def test_a_last_row_of_sums_is_an_alarm(tmp_path: Path) -> None:
    rows = [(row * 37 % 101, row * 53 % 97) for row in range(1, 40)]
    total = tuple(map(sum, zip(*rows, strict=True)))
    data = "".join(f"r{i},{a},{b}\n" for i, (a, b) in enumerate([*rows, total]))
    (alarm,) = surveyed(write(tmp_path, "t.csv", f"region,sales,costs\n{data}")).alarms
    assert alarm.startswith("the last row of a file holds the sums of all rows before it")
    data = "".join(f"r{i},{a},{b}\n" for i, (a, b) in enumerate(rows))
    assert surveyed(write(tmp_path, "u.csv", f"region,sales,costs\n{data}")).alarms == ()


def test_one_class_is_one_though_a_file_writes_it_with_decimals(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, form in (("a", "{}"), ("b", "{}.0")):
        rows = "".join(f"the ferry {row},{form.format(row % 3)}\n" for row in range(6))
        write(tmp_path / "in", f"{name}.csv", f"text,label\n{rows}one more,\n")
    read = Read(tmp_path / "in", label_columns=["label"])
    assert {row["label"] for row in read.labels} == {"0", "1", "2", None}
    rows = "".join(f"the ferry {row},v{row % 3}.0\n" for row in range(6))
    read = Read(write(tmp_path, "c.csv", f"text,label\n{rows}"), label_columns=["label"])
    assert {row["label"] for row in read.labels} == {"v0.0", "v1.0", "v2.0"}


CZECH = "Děkuji za rychlé vyřízení, balík byl však roztržený a chyběl návod"
TURKISH = "Kargo çok geç geldi, ürün ısınıyor ve şarj olmuyor, iade ettim"
SAMPLES = {
    ("cp1250", "cp1250"): CZECH,
    ("iso8859_2", "iso8859_2"): "Jakość jest świetna, ale książka przyszła późno, źle zapakowana",
    ("cp1250", "hr"): "Punjač se pokvario već drugi dan, šteta što ništa ne radi kako treba",
    (
        "cp1250",
        "ro",
    ): "Încărcătorul nu funcţionează, iar clienţii aşteaptă răspuns de două săptămâni",
    ("cp1254", "cp1254"): TURKISH,
    ("cp1257", "cp1257"): "Kaina per didelė už tokią prastą kokybę, siunta vėlavo dvi savaites",
    ("cp850", "cp850"): "La qualité est décevante, le modèle chauffe et le reçu manque à l'arrivée",
    (
        "mac_roman",
        "mac_roman",
    ): "Die Rückgabe kam viel später, die Größe fällt kleiner aus als üblich",
    ("cp1252", "cp1252"): "Die Größe der Fähre – „sehr“ schön – übertrifft alles für uns",
    ("cp1252", "fr"): "Le goût de la crème brûlée était là, très léger, à côté du café",
    ("cp1252", "pt"): "São ações difíceis de pôr em prática, não há razões para esperar",
    ("cp1252", "es"): "El año pasado la atención fue pésima, ¿cuándo llegará mi pedido aquí?",
}


@pytest.mark.parametrize(("encoding", "name"), SAMPLES)
def test_encodings_of_latin_letters_are_told_apart(
    tmp_path: Path, encoding: str, name: str
) -> None:
    said = SAMPLES[encoding, name]
    words = said.split()
    # As people write it: not the same sentence again and again.
    texts = [" ".join([*words[row % 5 :], *words[: row % 5]]) for row in range(30)]
    path = tmp_path / "t.csv"
    path.write_bytes(
        "\n".join(["id;text", *(f"{i};{t}" for i, t in enumerate(texts))]).encode(encoding)
    )
    taken = surveyed(path)
    assert Read(path).texts == texts
    guess = next(line for line in taken.lines if "is a guess" in line)
    assert re.search(r"holds '([^']+)'", guess)[1] in said  # type: ignore[index]


def test_names_in_another_encoding_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"{row},{row % 7};{row % 5},5\n" for row in range(20))
    path.write_bytes(f"Größe;Höhe\n{rows}".encode("cp1252"))
    assert surveyed(path).columns.numbers == ("Größe", "Höhe")


def test_rows_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    rows = [f"comment {row};{row % 3}" for row in range(40)]
    rows[3], rows[10], rows[11], rows[39] = "bad", "too;wide;here", "bad;row;again", "the;last;one"
    path = write(tmp_path, "t.csv", "\n".join(["text;n", *rows]))
    config = InputConfig(path=str(path))
    sources = list_sources(config.paths)
    of_items = Layout.of(examine(config, sources))
    (piece,) = split_into_pieces(sources)
    batches = list(read_piece(config, of_items, piece))
    items = pa.concat_tables(batch.items for batch in batches).to_pylist()
    assert {each["position"]: each["text"] for each in items} == {
        row: f"comment {row}" for row in range(40) if row not in (3, 10, 11, 39)
    }
    rejected = pa.concat_tables(batch.rejected for batch in batches).to_pylist()
    assert [each["source_row"] for each in rejected] == [3, 10, 11, 39]
    assert [each["reason"].split(" has")[0] for each in rejected] == [
        f"line {row}" for row in (5, 12, 13, 41)
    ]


def test_empty_lines_of_a_single_column_are_empty_cells(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "text\nthe ferry\n\nthe pier\n")
    read = Read(path)
    assert (read.texts, read.rejected) == (["the ferry", "the pier"], ["the text is missing"])


def test_the_decimal_mark_of_most_columns_counts(tmp_path: Path) -> None:
    rows = "".join(f"{row % 24}.15;{20 + row % 7},4;{1000 + row % 9},25\n" for row in range(30))
    path = write(tmp_path, "t.csv", f"time;heat;pressure\n{rows}")
    taken = surveyed(path)
    assert taken.columns.numbers == ("heat", "pressure")
    assert taken.left_out == {"time": "text such as '0.15'"}
    (alarm,) = taken.alarms
    assert alarm.startswith("numbers such as 20,4 have a decimal comma, and others such as 0.15")


def test_decimal_commas_that_may_be_thousands_are_an_alarm(tmp_path: Path) -> None:
    rows = "".join(f"{row * 5};{20 + row % 7},477;{4 + row % 3},222\n" for row in range(30))
    path = write(tmp_path, "t.csv", f"time;value;pressure\n{rows}")
    (alarm,) = surveyed(path).alarms
    assert alarm == (
        "numbers such as 20,477 are taken for text, since this one may be 20477 or 20.477; set "
        "input.csv.decimal to '.' or ','"
    )
    taken = surveyed(path, csv={"decimal": ","})
    assert (taken.columns.numbers, taken.alarms) == (("time", "value", "pressure"), ())


def test_points_before_several_groups_of_three_are_thousands(tmp_path: Path) -> None:
    rows = "".join(
        f"p{row};{row + 1}.{100 + row}.{200 + row};{row + 1}.{500 + row}\n" for row in range(20)
    )
    read = Read(write(tmp_path, "t.csv", f"place;people;homes\n{rows}"))
    assert read.rows[1]["people"], read.rows[1]["homes"] == (2_101_201, 2_501)


def test_the_delimiter_with_more_numbers_counts(tmp_path: Path) -> None:
    rows = "".join(f"{170 + row % 9},8;{60 + row % 7},1\n" for row in range(30))
    taken = surveyed(write(tmp_path, "t.csv", f"size, cm;weight, kg\n{rows}"))
    assert taken.columns.numbers == ("size, cm", "weight, kg")


def test_a_title_above_two_columns_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"{row},the invoice arrived late\n" for row in range(30))
    with pytest.raises(InputError, match="31 of 31 rows have another width than the header"):
        surveyed(write(tmp_path, "t.csv", f"Monthly complaints\nid,note\n{rows}"))
    with pytest.raises(InputError, match="30 of 30 rows have another width than the header"):
        surveyed(
            write(
                tmp_path,
                "u.csv",
                f"nr,price\n{''.join(f'{i},{i}8,95' + chr(10) for i in range(30))}",
            )
        )


def test_stray_quotes_between_tabs_are_an_alarm(tmp_path: Path) -> None:
    rows = [f"{row}\tthe invoice {row} arrived late" for row in range(150)]
    for row in (20, 60, 100):
        rows[row] = f'{row}\t"the refund arrived'
        rows[row + 2] = f'{row + 2}\tshe said so"'
    read = Read(write(tmp_path, "t.tsv", "\n".join(["id\ttext", *rows])))
    assert read.alarms[0].startswith(
        f"{tmp_path}/t.tsv: 3 lines within quoted fields look like rows"
    )


def test_codes_of_missing_values_are_an_alarm(tmp_path: Path) -> None:
    cells = [[1, 2, 3, 4, 5, 97, 98, 99][(row * 7) % 8] for row in range(80)]
    path = write(
        tmp_path, "t.csv", "q,x\n" + "".join(f"{c},{1 / (i + 1)}\n" for i, c in enumerate(cells))
    )
    (alarm,) = surveyed(path).alarms
    assert alarm.startswith("column 'q' holds 97 and 98 and 99 in 30 of 80 sampled rows")


def test_lists_beside_texts_are_no_vectors_unless_they_may_be(tmp_path: Path) -> None:
    def detected(**lists: Any) -> tuple[str, dict[str, str]]:
        rows = [
            {"body": f"the delivery was late again {row}"} | {k: f(row) for k, f in lists.items()}
            for row in range(20)
        ]
        path = write(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
        found = surveyed(path)
        of_parquet = surveyed(tmp_path / "t.parquet")
        assert found.columns == of_parquet.columns
        return found.columns.modality, found.left_out

    assert detected(tags=lambda row: list(range(row % 5)))[0] == "text"
    assert detected(box=lambda row: [row, 3, 80, 90]) == ("text", {"box": "lists of 4"})
    assert detected(vector=lambda row: [row * 0.5] * 16)[0] == "embedding"
    rows = [{"uid": f"u{row}", "body": "the delivery was late", "files": []} for row in range(20)]
    path = write(tmp_path, "u.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert surveyed(path).left_out["files"] == "empty lists"


def test_remarks_of_a_few_rows_are_not_the_items(tmp_path: Path) -> None:
    frame = pd.DataFrame({"heat": np.arange(100) * 0.5, "wind": np.arange(100) % 7 * 1.5})
    frame["remark"] = [
        ("the sensor was cleaned today" if row % 25 == 0 else None) for row in range(100)
    ]
    frame.to_parquet(tmp_path / "t.parquet")
    assert surveyed(tmp_path / "t.parquet").columns.numbers == ("heat", "wind")


def test_a_json_column_has_the_type_of_most_values(tmp_path: Path) -> None:
    rows = [{"price": row * 0.5, "weight": row * 0.25} for row in range(20)] + [
        {"price": 1.5, "weight": False}
    ]
    path = write(tmp_path, "t.json", json.dumps(rows))
    assert surveyed(path).columns.numbers == ("price", "weight")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"page": 1, "messages": [{"text": "a"}, {"text": "b"}]},
            "and its list 'messages' 2 objects",
        ),
        ({"index": [0, 1], "data": [[1, 2], [3, 4]]}, "holds one object of 2 lists"),
        (
            {"text": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}},
            "holds one object of 2 objects by name",
        ),
    ],
)
def test_one_object_around_the_items_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    for indent in (None, 1):
        with pytest.raises(InputError, match=message):
            surveyed(write(tmp_path, "t.json", json.dumps(value, indent=indent)))


def test_lines_below_the_names_that_are_no_rows_are_no_items(tmp_path: Path) -> None:
    rows = "".join(f"{row},2024-01-02,the ferry was late {row}\n" for row in range(12))
    path = write(tmp_path, "t.csv", f"id,day,What did you like?\n,,Open-Ended Response\n{rows}")
    assert Read(path).texts[0] == "the ferry was late 0"
    path = write(tmp_path, "u.csv", f"id,day,said\n--,---,----\n{rows}")
    read = Read(path, text_column="said")
    assert (len(read.texts), read.rejected) == (12, ["the row is a ruled line"])


def test_hashtags_are_no_comments(tmp_path: Path) -> None:
    tags = "".join(f"#delivery was late {row}\n" for row in range(12))
    assert len(Read(write(tmp_path, "t.csv", f"#text\n{tags}")).texts) == 12
    rows = "".join(f"#box{row},{row % 3},{row % 5}\n" for row in range(12))
    assert surveyed(write(tmp_path, "u.csv", f"#tag,likes,shares\n{rows}")).columns.numbers == (
        "likes",
        "shares",
    )


def test_a_table_in_a_file_of_lines_is_an_alarm(tmp_path: Path) -> None:
    lines = "".join(f"{row}\tthe ferry was late\t{row % 5}\n" for row in range(30))
    (alarm,) = surveyed(write(tmp_path, "t.txt", lines)).alarms
    assert alarm.startswith("each line has 2 tabs, and each line is an item; name the file .csv")
    (alarm,) = surveyed(write(tmp_path, "u.txt", "A list\n---\n" + lines + "the end\n")).alarms
    assert alarm.startswith("most lines have 2 tabs, and each line is an item; name the file .csv")
    assert surveyed(write(tmp_path, "v.txt", "without\n" * 9 + lines)).alarms == ()


def test_addresses_beside_short_comments_are_no_texts(tmp_path: Path) -> None:
    rows = [
        f"{row},10.199.{row % 250}.{row % 200}(北京-北京),{row % 5},菜有点咸了{row}"
        for row in range(200)
    ]
    path = write(tmp_path, "survey.csv", "\n".join(["序号,来自IP,满意度,意见", *rows]))
    found = surveyed(path)
    assert found.columns.numbers == ("满意度",)
    # Texts are listed first.
    assert "left out: '来自IP' (text), '意见' (text), '序号' (it counts rows)" in found.lines[2]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{0};the ferry;en", "2 semicolons"),
        ("{0}::the ferry::en", "2 double colons"),
        ("{0},the ferry,en", "2 commas"),
        ('{{"text": "the ferry {0}"}}', "is in braces"),
        ("{0}.5 {0} 7", "holds numbers"),
    ],
)
def test_rows_in_a_file_of_lines_are_an_alarm(tmp_path: Path, line: str, said: str) -> None:
    lines = "".join(line.format(row) + "\n" for row in range(30))
    (alarm,) = surveyed(write(tmp_path, "t.txt", lines)).alarms
    assert said in alarm
    prose = "".join(f"the ferry was late, and so was pier {row}\n" for row in range(30))
    assert surveyed(write(tmp_path, "u.txt", prose)).alarms == ()


@pytest.mark.parametrize("said", ["Paid £5 at 30°C", "It doesn’t work – “at all” … 5 €", "5 €"])
def test_marks_of_western_texts_are_read_as_such(tmp_path: Path, said: str) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"{row};{said} for the ferry {row}\n" for row in range(30))
    path.write_bytes(f"nr;comment\n{rows}".encode("cp1252"))
    assert Read(path).texts[3] == f"{said} for the ferry 3"
    assert any("the encoding is a guess" in line for line in surveyed(path).lines)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[-0.26122067 -0.81581602 -0.5 ...  0.0511288 0.25]", "vectors that were cut off"),
        ("-0.8 -1.3244 -0.2484 0.1 0.2 0.3 0.4 1e-5", "lists of numbers that are not in brackets"),
        ("tensor([-0.8, -1.3, 0.1, 0.2, 0.3, 0.4, 5, 6])", "lists of numbers that are not in"),
    ],
)
def test_vectors_that_cannot_be_read_are_no_texts(tmp_path: Path, cell: str, reason: str) -> None:
    rows = "".join(f'{row},"{cell}"\n' for row in range(20))
    with pytest.raises(SchemaError, match=f"'embedding' was left out .{reason}"):
        surveyed(write(tmp_path, "t.csv", f"id,embedding\n{rows}"))


def test_a_first_row_of_data_is_no_header(tmp_path: Path) -> None:
    rows = "".join(f"{row}\tthe coffee was cold {row}\n" for row in range(30))
    with pytest.raises(InputError, match="the first line of csv must name the columns"):
        surveyed(write(tmp_path, "t.tsv", rows))
    texts = "".join(f'"The printer was late and the lamp came cheap {row}."\n' for row in range(30))
    (alarm,) = surveyed(write(tmp_path, "u.csv", texts)).alarms
    assert alarm.startswith("the name of the only column is 'The printer was late")


def test_whole_ids_have_no_decimals(tmp_path: Path) -> None:
    rows = "".join(f"{row}.0,the ferry {row}\n" for row in range(12))
    assert (
        Read(write(tmp_path, "t.csv", f"key,text\n{rows}"), id_column="key").rows[3]["item_id"]
        == "3"
    )


def test_the_only_column_of_sentences_holds_the_texts(tmp_path: Path) -> None:
    rows = "".join(
        f"{'pos' if row % 2 else 'neg'},the ferry was late again {row}\n" for row in range(30)
    )
    taken = surveyed(write(tmp_path, "t.csv", f"label,comment\n{rows}"))
    assert (taken.columns.text, taken.left_out) == ("comment", {"label": "text"})
    rows = "".join(f"the pier {row},the ferry was late again {row}\n" for row in range(30))
    with pytest.raises(SchemaError, match="2 others hold text"):
        surveyed(write(tmp_path, "u.csv", f"title,comment\n{rows}"))


def test_documents_and_locks_beside_data_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.txt", "b.docx", "c.pdf", "~$a.txt"):
        write(tmp_path, name, "the ferry\n")
    skipped: dict[str, str] = {}
    assert [source.name for source in list_sources([str(tmp_path)], skipped)] == ["a.txt"]
    assert {name.rpartition("/")[2] for name in skipped} == {"b.docx", "c.pdf"}
    with pytest.raises(InputError, match="convert it to txt, csv or jsonl"):
        list_sources([str(tmp_path / "c.pdf")])


def test_each_file_has_its_own_decimal_mark(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(
        tmp_path / "in", "a.csv", "x,y\n" + "".join(f"{row}.02,{row % 3}.5\n" for row in range(12))
    )
    write(
        tmp_path / "in",
        "b.csv",
        "x;y\n" + "".join(f"5.{100 + row},45;{row % 3},5\n" for row in range(12)),
    )
    assert surveyed(tmp_path / "in").columns.numbers == ("x", "y")
    assert Read(tmp_path / "in").rows[-1]["x"] == 5111.45


def test_files_that_programs_leave_are_no_data(tmp_path: Path) -> None:
    for folder in ("", "@eaDir/"):
        path = tmp_path / folder / "a.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(path)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert [source.name for source in list_sources([str(tmp_path)])] == ["a.png"]


def test_a_file_whose_name_begins_with_a_line_is_said_to_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "text\nthe ferry\n")
    write(tmp_path, "_b.csv", "text\nthe pier\n")
    (tmp_path / "_SUCCESS").touch()
    skipped: dict[str, str] = {}
    list_sources([str(tmp_path)], skipped)
    assert skipped == {f"file://{tmp_path}/_b.csv": "its name begins with _"} or list(
        skipped.values()
    ) == ["its name begins with _"]


def test_a_file_without_the_column_of_the_others_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("test", "train"):
        write(
            tmp_path / "in",
            f"{name}.csv",
            "id,tweet\n" + "".join(f"{row},the ferry was late\n" for row in range(12)),
        )
    write(tmp_path / "in", "sample_submission.csv", "id,target\n1,0\n")
    with pytest.raises(
        SchemaError, match=r"sample_submission.csv: has no column 'tweet', which the"
    ):
        Read(tmp_path / "in")


def test_texts_that_stand_for_none_are_an_alarm(tmp_path: Path) -> None:
    rows = "".join(
        f"{row},{'NULL' if row % 3 == 0 else 'the ferry was late'}\n" for row in range(30)
    )
    (alarm,) = surveyed(write(tmp_path, "t.csv", f"id,text\n{rows}")).alarms
    assert alarm.startswith("10 of 30 sampled texts are such as 'NULL'; if they mark")


def test_names_that_r_writes_between_spaces_are_read(tmp_path: Path) -> None:
    rows = "".join(f'"{row + 1}" {row % 7}.5 {row % 5}.25 "setosa"\n' for row in range(20))
    taken = surveyed(write(tmp_path, "t.csv", f'"len" "wid" "species"\n{rows}'))
    assert taken.columns.numbers == ("len", "wid")
    taken = surveyed(write(tmp_path, "u.csv", f'"sep=;"\na;b\n{"1;2,5" + chr(10)}' * 1))
    assert taken.columns.numbers == ("a", "b")


@pytest.mark.parametrize("cell", ["$1,234.50", "45%", "2.3 kg", "12 345,67", "3,20 €"])
def test_numbers_with_marks_are_said_to_be_such(tmp_path: Path, cell: str) -> None:
    rows = "".join(f'{row % 7 / 4},"{cell}"\n' for row in range(20))
    left_out = surveyed(write(tmp_path, "t.csv", f"a,b\n{rows}")).left_out
    assert left_out == {"b": f"text such as {cell!r}"}


def test_a_text_that_is_a_list_in_some_rows_is_a_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"MESSAGE": f"Started session {row} of a user.", "pid": row * 7 % 5, "uid": row * 3 % 7}
        for row in range(40)
    ]
    rows[3]["MESSAGE"] = [83, 116]
    read = Read(write(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert (len(read.texts), read.rejected) == (39, ["column 'MESSAGE' holds list, not text"])


def test_japanese_of_windows_is_read_as_such(tmp_path: Path) -> None:
    said = "㈱山田商事の髙橋です～パスワードを忘れてログインできません①"
    path = tmp_path / "t.csv"
    rows = "".join(f"{row},{said}{row},﨑山\n" for row in range(40))
    path.write_bytes(f"番号,お問い合わせ,担当\n{rows}".encode("cp932"))
    read = Read(path, text_column="お問い合わせ", label_columns=["担当"])
    assert read.texts[7] == f"{said}7"
    assert read.labels[7] == {"担当": "﨑山"}


def test_numbers_that_lose_digits_are_an_alarm(tmp_path: Path) -> None:
    frame = pd.DataFrame({"big": 2**60 + np.arange(50) * 13 % 997, "x": np.arange(50) % 7 * 0.5})
    frame.to_parquet(tmp_path / "t.parquet")
    (alarm,) = surveyed(tmp_path / "t.parquet").alarms
    assert alarm.startswith("column 'big' holds numbers beyond 2^53, which are read to 53 bits")


def test_columns_that_differ_in_capitals_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, column in (("a", "station"), ("b", "Station")):
        rows = "".join(f"the {column} {row},at the pier {row}\n" for row in range(20))
        write(tmp_path / "in", f"{name}.csv", f"{column},place\n{rows}")
    with pytest.raises(SchemaError, match="; 'station' and 'Station' are two columns: give them"):
        surveyed(tmp_path / "in")


def test_a_decimal_mark_that_is_named_leaves_no_alarm(tmp_path: Path) -> None:
    rows = "".join(f"{row}.{500 + row};{row % 7},5\n" for row in range(1, 30))
    path = write(tmp_path, "t.csv", f"people;rate\n{rows}956;1,5\n")
    assert surveyed(path, csv={"decimal": ","}).alarms == ()
    assert Read(path, csv={"decimal": ","}).rows[0] | {"item_id": 0} == {
        "people": 1501,
        "rate": 1.5,
        "item_id": 0,
    }


def test_the_odd_cell_of_a_column_is_shown(tmp_path: Path) -> None:
    cells = ["293.94", "(350.00)", "12.50"] * 10
    rows = "".join(f"{row % 7 / 4},{cell}\n" for row, cell in enumerate(cells))
    taken = surveyed(write(tmp_path, "t.csv", f"a,profit\n{rows}"))
    assert taken.left_out == {"profit": "text such as '(350.00)'"}
    vector = "{" + ",".join(str(number / 8) for number in range(12)) + "}"
    rows = "".join(f'{row},"{vector}"\n' for row in range(20))
    with pytest.raises(SchemaError, match=r"lists of numbers that are not in brackets \[ \]"):
        surveyed(write(tmp_path, "u.csv", f"id,embedding\n{rows}"))


def write_documents(folder: Path, n_files: int = 12) -> None:
    for number in range(n_files):
        text = f"Seen in cinema {number}.\n\nThe ferry leaves.\nIt comes back.\n"
        write(folder, f"{'pos' if number % 2 else 'neg'}/{number:03d}.txt", text)


def test_files_of_paragraphs_are_said_to_be_read_by_lines_or_are_one_text_each(
    tmp_path: Path,
) -> None:
    write_documents(tmp_path)
    (alarm,) = surveyed(tmp_path).alarms
    assert "the 12 files hold paragraphs with blank lines between; if each file is one" in alarm
    read = Read(tmp_path, documents=True, id_column="file", label_columns=["folder"])
    assert len(read.rows) == 12
    assert read.texts[0] == "Seen in cinema 0.\n\nThe ferry leaves.\nIt comes back.\n"
    assert [row["item_id"] for row in read.rows[:2]] == ["neg/000.txt", "neg/002.txt"]
    assert {label["folder"] for label in read.labels} == {"pos", "neg"}
    found = surveyed(tmp_path, documents=True)
    assert found.alarms == ()
    assert found.columns.text == "text"
    assert "input: 12 document files" in found.lines[0]
    # Lines of a corpus are as many as they are.
    write(tmp_path / "b", "lines.txt", "\n".join(f"the ferry of {row}" for row in range(900)))
    write(tmp_path / "b", "more.txt", "\n".join(f"the boat of {row}" for row in range(900)))
    assert surveyed(tmp_path / "b").alarms == ()
    for number in range(25):
        write(tmp_path / "c", f"{number}.txt", f"A letter of {number}.\nIt says much.\n")
    (alarm,) = surveyed(tmp_path / "c").alarms
    assert "the 25 files hold few lines each" in alarm


def test_documents_have_encodings_of_their_own_limits_and_no_other_format(tmp_path: Path) -> None:
    german = "Die Größe der Fähre ändert sich nicht.\nSie fährt früh über den großen Fluss.\n" * 5
    write(tmp_path, "a.txt", german.encode("cp1252"))
    write(tmp_path, "b.txt", b"\xef\xbb\xbfThe ferry.")
    write(tmp_path, "c.txt", b"x" * (16 * 2**20 + 1))
    write(tmp_path, "d.txt.gz", gzip.compress(b"The boat."))
    read = Read(tmp_path, documents=True)
    assert read.texts == [german, "The ferry.", "The boat."]
    assert read.rejected == ["the file is longer than 16 MiB"]
    write(tmp_path / "t", "t.csv", table_of(9))
    with pytest.raises(InputError, match=r"t\.csv: input\.documents is for txt files, and this"):
        Read(tmp_path / "t", documents=True)


def test_documents_are_read_in_pieces_of_one_folder_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hercules_scale.reading.input_pieces.PIECE_IMAGES", 3)
    for number in range(10):
        write(tmp_path, f"topic={number // 5}/{number}.txt", f"The ferry of {number}.")
    read = Read(tmp_path, documents=True, label_columns=["topic"])
    assert read.texts == [f"The ferry of {number}." for number in range(10)]
    assert [label["topic"] for label in read.labels] == ["0"] * 5 + ["1"] * 5


def test_wavelengths_and_padded_years_are_names_of_columns(tmp_path: Path) -> None:
    waves = [f"{1100 + 2.5 * place:.1f}" for place in range(12)]
    rng = np.random.default_rng(0)
    rows = [f"s{row},{','.join(f'{cell:.3f}' for cell in rng.random(13))}" for row in range(20)]
    path = write(tmp_path, "nir.csv", "\n".join([f"sample,{','.join(waves)},SOC", *rows]))
    assert surveyed(path).columns.numbers == (*waves, "SOC")
    years = "\t".join(["geo", "2012 ", "2013 ", "2014 "])
    rows = [f"c{row}\t{row + 0.5}\t{row + 1.5}\t{row + 2.5}" for row in range(20)]
    found = surveyed(write(tmp_path, "years.tsv", "\n".join([years, *rows]))).columns
    assert found.numbers == ("2012 ", "2013 ", "2014 ")
    # A row of data rises too, and not so evenly.
    cells = ",".join(str(place * place) for place in range(9))
    rows = [f"c{row},{cells}" for row in range(9)]
    with pytest.raises(InputError, match="the first line of csv must name the columns"):
        surveyed(write(tmp_path, "rows.csv", "\n".join(rows)))


def test_names_with_spaces_are_listed_in_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", " id | subject \n" + " 1 | the ferry of one \n" * 9)
    with pytest.raises(SchemaError, match=r"columns are ' id ', ' subject '"):
        Read(path, text_column="subject")


def test_files_of_two_formats_are_named(tmp_path: Path) -> None:
    write(tmp_path, "participants.tsv", "id\ttext\n1\tferry\n")
    write(tmp_path, "participants.json", '{"id": {"Description": "who"}}')
    with pytest.raises(InputError, match=r"csv \(participants\.tsv\) and jsonl \(participants\."):
        Read(tmp_path)


def test_a_column_of_classes_that_is_taken_for_the_text_is_an_alarm(tmp_path: Path) -> None:
    topics = ["billing question", "login trouble", "slow website", "data export", "other topics"]
    chats = [
        {"id": f"c{row}", "topic": topics[row % 5], "messages": [{"role": "user", "content": "x"}]}
        for row in range(150)
    ]
    path = write(tmp_path, "chats.jsonl", "\n".join(map(json.dumps, chats)))
    (alarm,) = surveyed(path).alarms
    assert "column 'topic' is taken for the text, and holds 5 different texts in 150" in alarm
    assert surveyed(path, text_column="topic").alarms == ()


def test_files_that_were_joined_keep_no_header_among_their_rows(tmp_path: Path) -> None:
    part = "\ufeffFeedback,Score\r\n" + "the ferry was late,3\r\n" * 40
    path = write(tmp_path, "all.csv", part + part + part.replace("Feedback", '"Feedback"') + "\x1a")
    read = Read(path, text_column="Feedback")
    assert set(read.texts) == {"the ferry was late"}
    assert read.rejected.count("the row repeats the header") == 2


def test_numbers_of_statistical_offices_and_of_any_script(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    years = [f"{year} [YR{year}]" for year in range(2010, 2014)]
    rows = [
        ",".join(
            [f"C{row}", *(".." if rng.random() < 0.2 else f"{rng.random():.3f}" for _ in years)]
        )
        for row in range(80)
    ]
    found = surveyed(write(tmp_path, "wdi.csv", "\n".join([",".join(["Code", *years]), *rows])))
    assert found.columns.numbers == tuple(years)
    rows = [f"{1000 + row:,}".replace(",", "\u00a0") + f",{row:02d};{row},5" for row in range(60)]
    path = write(tmp_path, "clients.csv", ("CA;Marge\n" + "\n".join(rows)).encode("cp1252"))
    assert surveyed(path).columns.numbers == ("CA", "Marge")
    assert Read(path).rows[8] == {"item_id": None, "CA": 1008.08, "Marge": 8.5}
    persian = str.maketrans("0123456789.", "۰۱۲۳۴۵۶۷۸۹٫")
    rows = [f"{row},{60 + row / 4:.2f}" for row in range(60)]
    rows[::3] = [",".join(cell.translate(persian) for cell in row.split(",")) for row in rows[::3]]
    read = Read(write(tmp_path, "b.csv", "سن,وزن\n" + "\n".join(rows)), columns=["سن", "وزن"])
    assert [row["وزن"] for row in read.rows] == [60 + row / 4 for row in range(60)]
    assert read.rejected == []
    devanagari = "n,m\n" + "\n".join(f"{row},१{row % 10}" for row in range(60))
    assert Read(write(tmp_path, "c.csv", devanagari), columns=["m"]).rows[3]["m"] == 13
    # Of Switzerland, of SAP, and with a typographic minus.
    cells = ["1'234.50", "758’455.48", "13.5-", "\u22120.5"] * 15
    path = write(
        tmp_path, "e.csv", "n,m\n" + "\n".join(f"{row},{c}" for row, c in enumerate(cells))
    )
    read = Read(path, columns=["m"])
    assert [row["m"] for row in read.rows[:4]] == [1234.5, 758455.48, -13.5, -0.5]
    # Digits that are no decimal ones, and numbers of phones, are no numbers.
    for cell in ("²3", "½", "612 345 678"):
        path = write(tmp_path, "d.csv", "n,m\n" + f"1,{cell}\n" * 60)
        assert len(Read(path, columns=["n", "m"]).rejected) == 60


def test_keys_of_a_database_are_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = rng.permutation(10_000)[:90]
    table = pa.table(
        {"customer_key": keys, "orders": rng.integers(0, 9, 90), "rate": rng.random(90)}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = surveyed(tmp_path / "t.parquet")
    assert found.columns.numbers == ("orders", "rate")
    assert found.left_out == {"customer_key": "ids"}


def test_one_code_in_texts_of_parquet_decides_as_in_csv(tmp_path: Path) -> None:
    insee = ["02850", *(f"{10_000 + row}" for row in range(149))]
    table = pa.table({"insee": insee, "population": [row * 7 % 31 for row in range(150)]})
    pq.write_table(table, tmp_path / "t.parquet")
    found = surveyed(tmp_path / "t.parquet")
    assert found.columns.numbers == ("population",)
    assert found.left_out == {"insee": "text"}
