"""Models in folders of an object store, on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from hercules_scale.embedding.sentence_transformer import SentenceTransformerEncoder
from hercules_scale.errors import ConfigError
from hercules_scale.models.names import resolve_embedding_model
from hercules_scale.storage.store import Store
from hercules_scale.storage.stored_models import check_source, local_model
from tests.s3_server import upload

pytestmark = pytest.mark.s3


@pytest.fixture
def stored(s3: str) -> str:
    """The URI of minilm's folder."""
    return upload(resolve_embedding_model("minilm"), f"{s3}/models/minilm")


def test_a_model_on_a_store_is_copied_once_and_embeds_as_it_does_elsewhere(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path))
    check_source("embedding.model", stored)
    folder = Path(local_model(stored))
    assert folder.is_relative_to(tmp_path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert local_model(stored) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    texts = ["A ferry leaves the harbour.", "Interest rates rise."]
    found, expected = (
        SentenceTransformerEncoder(name, "float32", device="cpu").encode(texts)
        for name in (stored, "minilm")
    )
    assert found.tobytes() == expected.tobytes()


def test_a_tokenizer_needs_no_weights(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path))
    names = {path.name for path in Path(local_model(stored, with_weights=False)).iterdir()}
    assert "tokenizer.json" in names
    assert "model.safetensors" not in names


@pytest.mark.parametrize("name", ["minilm", "owner/name", "/folder"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert local_model(name) == name


def test_an_alias_and_a_folder_of_this_machine_are_asked_for_nowhere(tmp_path: Path) -> None:
    check_source("embedding.model", "minilm")
    check_source("embedding.model", str(tmp_path))


def test_a_folder_without_a_model_is_refused(s3: str) -> None:
    uri = f"{s3}/models/none"
    Store(uri).write_bytes("notes.txt", b"")
    for refuse in (lambda: check_source("summaries.model", uri), lambda: local_model(uri)):
        with pytest.raises(ConfigError, match=r"there is neither config\.json nor modules\.json"):
            refuse()


@pytest.mark.parametrize("uri", ["https://models.example.com/owner/name", "s3://no-such-bucket/x"])
def test_a_place_that_cannot_be_read_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=rf"summaries\.model {uri}: "):
        check_source("summaries.model", uri)
