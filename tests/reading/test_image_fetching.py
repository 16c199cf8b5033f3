"""Cells of an image column lead nowhere that the configuration does not name."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hercules_scale.config.file import parse_config
from hercules_scale.errors import ConfigError
from hercules_scale.reading import image_fetching
from hercules_scale.reading.image_fetching import RefusedFileError, fetch_image
from hercules_scale.reading.images import UnusableImageError, read_image


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/to/"))
            self.end_headers()
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 16))
        elif path == "/drip":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif path == "/image":
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"image")
        else:
            self.send_error(404)

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as url:
        yield url


def test_a_host_is_asked_where_it_is_named_alone(server: str) -> None:
    assert fetch_image(f"{server}/image", "/", (f"{server}/",)) == b"image"
    assert fetch_image(f"{server}/to//image#place", "/", (server,)) == b"image"
    for allowed in ((), ("https://",), (f"{server}/photos/",), ("http://127.0.0.1:9/",), ("/",)):
        with pytest.raises(RefusedFileError, match=r"input\.image_sources does not name it"):
            fetch_image(f"{server}/image", "/", allowed)
    with pytest.raises(RefusedFileError, match="does not name it"):
        fetch_image(f"{server}/photos/../image", "/", (f"{server}/photos/",))
    with pytest.raises(FileNotFoundError):
        fetch_image(f"{server}/gone", "/", (server,))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1", "192.168.1.1", "[::1]", "0"]
)
def test_every_public_host_is_no_private_one(host: str) -> None:
    with pytest.raises(RefusedFileError, match="is in a private network; name it"):
        fetch_image(f"http://{host}:9/image", "/", ("http://",))


def test_a_redirect_leads_to_named_hosts_alone(server: str) -> None:
    with serving() as other, pytest.raises(RefusedFileError, match="does not name it"):
        fetch_image(f"{server}/to/{other}/image", "/", (server,))
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/a"):
        with pytest.raises(RefusedFileError, match="does not name it"):
            fetch_image(f"{server}/to/{place}", "/", (server,))
    with pytest.raises(RefusedFileError, match="from one address to another, 5 times"):
        fetch_image(f"{server}/to//to//to//to//to//to//image", "/", (server,))


def test_bodies_and_times_have_limits(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_fetching, "MOST_BYTES", 1 << 20)
    with pytest.raises(RefusedFileError, match="has more than 1 MiB"):
        fetch_image(f"{server}/endless", "/", (server,))
    monkeypatch.setattr(image_fetching, "FETCH_SECONDS", 0.3)
    with pytest.raises(RefusedFileError, match="no answer within 0 s"):
        fetch_image(f"{server}/drip", "/", (server,))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RefusedFileError, match="no answer within 0 s"):
            fetch_image(f"{url}/image", "/", (url,))


def test_files_are_read_in_the_folder_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, beside = tmp_path / "input", tmp_path / "input_2"
    for each in (folder, beside):
        each.mkdir()
        (each / "a.png").write_bytes(b"image")
    (folder / "link.png").symlink_to(beside / "a.png")
    os.mkfifo(folder / "pipe.png")
    assert fetch_image(f"{folder}/a.png", str(folder), ()) == b"image"
    assert fetch_image(f"file://{folder}/a.png", str(folder), ()) == b"image"
    for place in (f"{folder}/../input_2/a.png", "/etc/passwd", "file:///etc/passwd",
                  f"{folder}/link.png"):  # fmt: skip
        with pytest.raises(RefusedFileError, match=r"name its folder in input\.image_sources"):
            fetch_image(place, str(folder), ("https://",))
        # A table on an object store has no folder on this machine.
        with pytest.raises(RefusedFileError):
            fetch_image(place, "s3://bucket/input", ())
    assert fetch_image(f"{folder}/link.png", str(folder), (str(beside),)) == b"image"
    with pytest.raises(RefusedFileError, match="is no file"):
        fetch_image(f"{folder}/pipe.png", str(folder), ())
    monkeypatch.setattr(image_fetching, "MOST_BYTES", 4)
    with pytest.raises(RefusedFileError, match="has more than"):
        fetch_image(f"{folder}/a.png", str(folder), ())


@pytest.mark.parametrize(
    "place", ["images.example.com", "ftp://host/", "s3://bucket", "http://host:99999/"]
)
def test_a_source_is_a_folder_or_a_beginning_of_a_url(place: str) -> None:
    values = {"input": {"path": "a", "image_sources": [place]}, "output": {"path": "b"}}
    with pytest.raises(ConfigError, match=r"input\.image_sources"):
        parse_config(values)


@pytest.mark.parametrize(
    "location",
    ["a" * 100_000, "ftp://" + "b" * 100_000, "ftp://u:" + "secret" * 50 + "@host/a.png"],
)
def test_a_reason_holds_a_short_piece_of_a_place_and_no_secret(
    location: str, tmp_path: Path
) -> None:
    with pytest.raises(UnusableImageError) as raised:
        read_image(location, str(tmp_path))
    assert len(str(raised.value)) < 500
    assert "secret" not in str(raised.value)
