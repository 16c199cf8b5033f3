"""What a run names is the same for workers that Ray started in another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hercules_scale.errors import ConfigError
from hercules_scale.models.names import resolve_chat_model
from hercules_scale.runtime.machines import check_models, with_absolute_folders
from tests.conftest import resolved


def test_folders_of_models_and_the_cache_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("minilm", "models", "models/mine"):
        (tmp_path / name).mkdir()
    values: dict[str, Any] = {"input": {"path": "a.csv"}, "output": {"path": "run"}}

    def named(**embedding: str) -> tuple[str | None, str | None]:
        config = with_absolute_folders(resolved({**values, "embedding": embedding}))
        return config.embedding.model, config.embedding.cache

    assert named(model="models/mine", cache="kept") == (
        str(tmp_path / "models" / "mine"),
        str(tmp_path / "kept"),
    )
    # An alias is no folder, also where there is one of its name; nor is an id of a hub.
    assert named(model="minilm", cache="s3://bucket/kept") == ("minilm", "s3://bucket/kept")
    assert named(model="owner/name") == ("owner/name", None)
    values["input"]["image_sources"] = ["./pictures", "https://pictures.example.com/"]
    assert with_absolute_folders(resolved(values)).input.image_sources == [
        str(tmp_path / "pictures"),
        "https://pictures.example.com/",
    ]
    assert resolve_chat_model("models/mine") == str(tmp_path / "models" / "mine")


@pytest.mark.parametrize(
    ("key", "section"), [("resources.embed", "embedding"), ("resources.llm_replicas", "summaries")]
)
def test_a_folder_that_a_node_lacks_is_said_to_be_none_and_no_hub_is_asked(
    key: str, section: str
) -> None:
    values = {"input": {"path": "a.csv"}, "output": {"path": "run"}}
    config = resolved({**values, section: {"model": "/models/mine"}})
    with pytest.raises(ConfigError, match=rf"{section}\.model must be an alias .*/models/mine"):
        check_models(config, [key])
