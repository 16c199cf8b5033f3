"""Numbers, vectors and images out of files of every kind."""

from __future__ import annotations

import functools
import io
import json
import math
import struct
import threading
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hercules_scale.config.reading import InputConfig
from hercules_scale.errors import InputError, SchemaError
from hercules_scale.reading import file_rows, images, input_pieces
from hercules_scale.reading.file_rows import raw_batches, read_columns
from hercules_scale.reading.images import UnusableImageError, image_title, thumbnail
from hercules_scale.reading.in_memory_items import write_items
from hercules_scale.reading.input_pieces import split_into_pieces
from hercules_scale.reading.items import Layout, examine, read_piece
from hercules_scale.reading.listing import list_sources
from hercules_scale.storage.tables import column_vectors


def read(path: Path, **options: Any) -> tuple[pa.Table, dict[tuple[str, int], str]]:
    """Items of an input, and the reason for each row that is none, by file and row."""
    config = InputConfig.model_validate({"path": str(path), **options})
    named = list_sources(config.paths)
    of_items = Layout.of(examine(config, named))
    batches = [
        batch for piece in split_into_pieces(named) for batch in read_piece(config, of_items, piece)
    ]
    rejected = {
        (row["source_file"].rpartition("/")[2], row["source_row"]): row["reason"]
        for batch in batches
        for row in batch.rejected.to_pylist()
    }
    items = pa.concat_tables(batch.items for batch in batches)
    assert items.num_rows + len(rejected) == sum(batch.n_rows for batch in batches)
    return items, rejected


def image_bytes(size: tuple[int, int], form: str = "PNG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, form)
    return data.getvalue()


NUMBERS = [{"a": 1, "b": 0.5}, {"a": 2, "b": None}, {"a": 3, "b": -1e99}]


def write_numbers(folder: Path, form: str) -> Path:
    path = folder / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(NUMBERS), path)
    elif form == "csv":
        path.write_text("a,b\n1,0.5\n2,\n3,-1e99\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in NUMBERS))
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_columns_of_numbers_are_detected_and_missing_values_rejected(
    tmp_path: Path, form: str
) -> None:
    items, rejected = read(write_numbers(tmp_path, form))
    assert items.select(["a", "b"]).to_pylist() == [{"a": 1.0, "b": 0.5}, {"a": 3.0, "b": -1e99}]
    assert rejected == {("t." + form, 1): "column 'b' is missing"}


def test_named_columns_come_in_their_order_and_others_are_left_out(tmp_path: Path) -> None:
    items, _ = read(write_numbers(tmp_path, "csv"), columns=["b"])
    assert items.schema.names == ["position", "item_id", "b"]


@pytest.mark.parametrize("cell", ["1e400", "inf", "-Infinity"])
def test_what_is_not_finite_is_rejected(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f"a,b\n1,2\n{cell},3\n")
    items, rejected = read(tmp_path / "t.csv", columns=["a", "b"])
    assert items.num_rows == 1
    assert rejected == {("t.csv", 1): "column 'a' is not finite"}


@pytest.mark.parametrize("cell", ["twelve", "1,500", "1.5.2", "1_000", "0x10"])
def test_what_is_no_number_is_rejected_with_what_it_holds(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f'a,b\n1,2\n"{cell}",3\n')
    _, rejected = read(tmp_path / "t.csv", columns=["a", "b"])
    assert rejected == {("t.csv", 1): f"column 'a' holds {cell!r}, not a number"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": ["a", "c"]},
            r"input\.columns names 'c', which is not there; columns are a, b",
        ),
        ({"modality": "numeric", "text_column": "a"}, "text_column has no meaning for input.modal"),
        ({"metadata": {"z": {"unit": "cm"}}}, r"input\.metadata names 'z', .*columns a, b; fix"),
        ({"modality": "embedding"}, r"embedding_column must be given.* 0 others hold lists of num"),
        ({"modality": "image"}, r"image_column must be given.* 0 others hold images \(none\)"),
        ({"id_column": "a", "label_columns": ["b"]}, "text_column must be given"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        read(write_numbers(tmp_path, "parquet"), **options)


def test_a_variable_may_not_have_the_name_of_a_column_of_ours(tmp_path: Path) -> None:
    pq.write_table(pa.table({"row": [1.0, 2.0]}), tmp_path / "t.parquet")
    with pytest.raises(SchemaError, match=r"columns must not hold 'row', .*rename it"):
        read(tmp_path / "t.parquet")


VECTORS: list[Any] = [[1.0, 2.0], None, [3.0], [4.0, math.nan], [5.0, None], [6.0, 7.0]]
REASONS = [
    "the embedding is missing",
    "the embedding has 1 numbers, not 2",
    "the embedding is not finite",
    "the embedding is not finite",
]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), None])
def test_vectors_of_another_length_or_not_finite_are_rejected(
    tmp_path: Path, kind: pa.DataType | None
) -> None:
    if kind is None:
        lines = [json.dumps({"embedding": row}) for row in VECTORS]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
    else:
        pq.write_table(pa.table({"embedding": pa.array(VECTORS, kind)}), tmp_path / "t.parquet")
    items, rejected = read(tmp_path)
    np.testing.assert_array_equal(column_vectors(items["embedding"]), [[1, 2], [6, 7]])
    expected = REASONS
    if kind is None:
        # JSON has no null among numbers.
        expected = [*REASONS[:3], "the embedding is not a list of numbers"]
    assert list(rejected.values()) == expected


def test_vectors_as_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('v,w\n"[1, 2.5]",x\n"[1, 2",y\n"[true, 1]",z\n')
    items, rejected = read(tmp_path / "t.csv", embedding_column="v", text_column="w")
    assert items["embedding"].to_pylist() == [[1.0, 2.5]]
    assert items["text"].to_pylist() == ["x"]
    assert set(rejected.values()) == {"the embedding is not a list of numbers"}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", ">f4"])
def test_rows_of_npy_files_are_vectors(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_pieces, "PIECE_ROWS", 4)
    monkeypatch.setattr(file_rows, "BATCH_ROWS", 3)
    values = np.arange(22, dtype=dtype).reshape(11, 2)
    np.save(tmp_path / "a.npy", values)
    items, rejected = read(tmp_path)
    np.testing.assert_array_equal(column_vectors(items["embedding"]), values)
    assert rejected == {}
    numbers, _ = read(tmp_path, modality="numeric", columns=["column_1"])
    np.testing.assert_array_equal(numbers["column_1"].to_numpy(), values[:, 1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([["a"]]), "must hold real numbers, got <U1; save an array of them"),
        (np.array([{}], dtype=object), "must hold real numbers, got object"),
        (np.zeros((2, 2, 2)), r"must hold an array of shape \(items, numbers\), got \(2, 2, 2\)"),
        (np.asfortranarray(np.zeros((3, 2))), "C order"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path, values: np.ndarray[Any, Any], message: str
) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.npy")


def test_wide_rows_of_npy_files_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_rows, "BATCH_BYTES", 100)
    np.save(tmp_path / "a.npy", np.arange(36, dtype=np.float64).reshape(9, 4))
    config = InputConfig(path=str(tmp_path / "a.npy"))
    (source,) = list_sources(config.paths)
    (piece,) = split_into_pieces([source])
    tables = [table for table, _ in raw_batches(piece, read_columns(config, source))]
    assert [table.num_rows for table in tables] == [3, 3, 3]


def test_a_cut_off_npy_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 4)))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is cut off, its header says 9 rows"):
        read(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(whole[:20])
    with pytest.raises(InputError, match="cannot be read as npy"):
        read(tmp_path / "a.npy")


def test_a_folder_of_images_is_read_with_bad_files_set_aside(tmp_path: Path) -> None:
    (tmp_path / "red_boat-2.png").write_bytes(image_bytes((40, 30)))
    (tmp_path / "large.jpg").write_bytes(image_bytes((1200, 900), "JPEG"))
    (tmp_path / "cut.png").write_bytes(image_bytes((40, 30))[:200])
    (tmp_path / "text.png").write_bytes(b"not an image")
    items, rejected = read(tmp_path)
    assert [Path(uri).name for uri in items["image_uri"].to_pylist()] == [
        "large.jpg",
        "red_boat-2.png",
    ]
    sizes = [Image.open(io.BytesIO(data)).size for data in items["thumbnail"].to_pylist()]
    assert sizes == [(341, 256), (40, 30)]
    assert rejected[("text.png", 0)] == "the file is not an image that can be read"
    assert rejected[("cut.png", 0)].startswith("the image cannot be decoded")
    assert image_title("s3://b/red_boat-2.png") == "red boat 2"


@pytest.mark.parametrize("form", ["bytes", "record", "paths"])
def test_images_in_tables_are_bytes_records_or_paths(tmp_path: Path, form: str) -> None:
    data = image_bytes((20, 20))
    (tmp_path / "one.png").write_bytes(data)
    (tmp_path / "table").mkdir()
    path = tmp_path / "table" / "t.parquet"
    column: Any = [data, None, b"x"]
    if form == "record":
        column = [{"bytes": each, "path": None} for each in column]
    if form == "paths":
        (tmp_path / "table" / "one.png").write_bytes(data)
        column = [str(tmp_path / "table" / "one.png"), None, "one.txt"]
    pq.write_table(pa.table({"image": column}), path)
    items, rejected = read(path)
    assert items.num_rows == 1
    assert list(rejected) == [("t.parquet", 1), ("t.parquet", 2)]
    assert rejected[("t.parquet", 1)] == "the image is missing"


def test_links_in_a_folder_of_images_and_in_a_list_are_the_users_own(tmp_path: Path) -> None:
    for name in ("photos", "chosen"):
        (tmp_path / name).mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(image_bytes((20, 20)))
    link = tmp_path / "chosen" / "one.png"
    link.symlink_to(tmp_path / "photos" / "one.png")
    items, rejected = read(link.parent)
    assert (items.num_rows, rejected) == (1, {})
    path, section = write_items([str(link)], str(tmp_path / "work"))
    items, rejected = read(Path(path), **section)
    assert (items.num_rows, rejected) == (1, {})


def test_images_are_read_by_url(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(image_bytes((20, 20)))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        (tmp_path / "list.csv").write_text(f"image\n{url}/one.png\n{url}/gone.png\n")
        items, rejected = read(tmp_path / "list.csv", modality="image", image_sources=[f"{url}/"])
        refused = read(tmp_path / "list.csv", modality="image", image_sources=["http://"])[1]
        unnamed = read(tmp_path / "list.csv", modality="image")[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert items["image_uri"].to_pylist() == [f"{url}/one.png"]
    assert rejected[("list.csv", 1)].startswith(f"there is no file {url}/gone.png")
    assert "127.0.0.1 is in a private network" in refused["list.csv", 0]
    assert "since input.image_sources does not name it" in unnamed["list.csv", 0]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    small = Image.open(io.BytesIO(thumbnail(image_bytes((10, 12), form, mode))))
    assert (small.mode, small.size) == ("RGB", (10, 12))


def pictured(*images: Image.Image, form: str = "PNG", **options: Any) -> list[tuple[int, ...]]:
    """The corners of what is left of a picture, left to right and down."""
    data = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if images[1:] else {}
    images[0].save(data, form, **more, **options)
    small = Image.open(io.BytesIO(thumbnail(data.getvalue())))
    right, low = small.width - 1, small.height - 1
    return [
        tuple(round(each, -1) for each in small.getpixel(place))  # type: ignore[union-attr]
        for place in ((0, 0), (right, 0), (0, low))
    ]


def test_colours_are_those_that_people_see() -> None:
    red, blue, white = (250, 0, 0), (0, 0, 250), (260, 260, 260)
    halves = Image.new("RGB", (8, 8), red)
    halves.paste(blue, (4, 0, 8, 8))
    assert pictured(halves) == [red, blue, red]
    # What is transparent is white, also in a palette.
    see_through = Image.new("RGBA", (8, 8), (0, 0, 250, 0))
    see_through.paste((250, 0, 0, 255), (0, 0, 4, 8))
    assert pictured(see_through) == [red, white, red]
    palette = halves.convert("P", palette=Image.Palette.ADAPTIVE)
    assert pictured(palette, transparency=palette.getpixel((7, 0))) == [red, white, red]
    assert pictured(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), form="TIFF")[0][0] > 200
    assert pictured(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), form="JPEG")[0][1] < 60
    # The first frame of several.
    assert pictured(halves, Image.new("RGB", (8, 8), "green"), form="GIF") == [red, blue, red]
    assert pictured(halves, Image.new("RGB", (8, 8), "green")) == [red, blue, red]


def test_a_picture_that_says_how_it_is_turned_is_upright() -> None:
    halves = Image.new("RGB", (8, 8), (250, 0, 0))
    halves.paste((0, 0, 250), (4, 0, 8, 8))
    turned = halves.getexif()
    # Rotate by 90 degrees to the right: the left half is above.
    turned[0x0112] = 6
    left, right, below = pictured(halves, form="PNG", exif=turned)
    assert left == right == (250, 0, 0)
    assert below == (0, 0, 250)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 99)
    with pytest.raises(UnusableImageError, match="has 10 x 10 pixels, more than 99"):
        thumbnail(image_bytes((10, 10)))


@pytest.mark.parametrize("form", ["png", "gif"])
def test_a_small_file_of_very_many_pixels_is_set_aside(tmp_path: Path, form: str) -> None:
    side = 60_000
    if form == "png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts
        )
    else:
        data = b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b"\x3b"
    assert len(data) < 2_000
    (tmp_path / f"bomb.{form}").write_bytes(data)
    (tmp_path / f"boat.{form}").write_bytes(image_bytes((9, 9), form))
    items, rejected = read(tmp_path)
    assert items.num_rows == 1
    message = "the image has 60,000 x 60,000 pixels, more than 100,000,000"
    if form == "gif":
        # Its first frame is what counts, and it has none.
        message = "the file is not an image that can be read"
    assert rejected == {(f"bomb.{form}", 0): message}


def test_file_names_that_mean_harm_become_titles_as_they_are(tmp_path: Path) -> None:
    for name in ("<img src=x onerror=alert(1)>.png", "\x1b[2J.png", "=cmd.png"):
        (tmp_path / name).write_bytes(image_bytes((9, 9)))
    items, rejected = read(tmp_path)
    assert sorted(image_title(uri) for uri in items["image_uri"].to_pylist()) == [
        "\x1b[2J",
        "<img src=x onerror=alert(1)>",
        "=cmd",
    ]
    assert rejected == {}


def test_signatures_of_urls_are_not_kept(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/a.png?X-Amz-Signature=c4na6y"
    (tmp_path / "list.csv").write_text(f"image\n{url}\n")
    sources = ["http://127.0.0.1:9/"]
    _, rejected = read(tmp_path / "list.csv", modality="image", image_sources=sources)
    (reason,) = rejected.values()
    assert "http://127.0.0.1:9/a.png?*** cannot be read" in reason
    assert "c4na6y" not in reason


def test_a_very_long_image_stays_small() -> None:
    size = Image.open(io.BytesIO(thumbnail(image_bytes((8000, 20))))).size
    assert size == (1024, 256)
