"""Variables of a submitted run, in the key-value store of a real Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray.experimental import internal_kv

from hercules_scale.runtime import job_environment
from hercules_scale.runtime.job_environment import FILE_VARIABLE, kept_environment, take_environment
from tests.integration.nodes import wait_for

pytestmark = pytest.mark.ray
NAME, KEY = "environment-1.json", "HERCULES_TEST_KEY"


def test_variables_leave_the_disk_once_the_cluster_keeps_them_and_go_when_the_job_ends(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, node = tmp_path / "driver", tmp_path / "node"
    for folder in (driver, node):
        folder.mkdir()
        (folder / NAME).write_text(f'{{"{KEY}": "secret"}}')
    monkeypatch.setenv(FILE_VARIABLE, NAME)
    monkeypatch.setenv(KEY, "")
    monkeypatch.chdir(driver)
    with kept_environment():
        assert list(driver.iterdir()) == []
        for _ in range(2):
            # As in workers of another node: the first deletes the file, all have the variables.
            job_environment._read.cache_clear()
            monkeypatch.chdir(node)
            monkeypatch.setenv(KEY, "")
            take_environment()
            assert os.environ[KEY] == "secret"
            assert list(node.iterdir()) == []
    assert internal_kv._internal_kv_get(f"gcs://{NAME}") is None


def test_ray_forgets_variables_that_no_driver_holds(local_ray: None) -> None:
    key = job_environment._key("environment-2.json")
    internal_kv._pin_runtime_env_uri(key, expiration_s=1)
    internal_kv._internal_kv_put(key, b"{}")
    assert internal_kv._internal_kv_get(key) == b"{}"
    wait_for(lambda: internal_kv._internal_kv_get(key) is None, "the variables are still there")


def test_a_process_of_no_job_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    before = dict(os.environ)
    take_environment()
    with kept_environment():
        assert dict(os.environ) == before


def test_a_job_that_ends_early_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_text("{}")
    monkeypatch.setenv(FILE_VARIABLE, NAME)
    monkeypatch.chdir(tmp_path)
    job_environment.delete_file()
    assert list(tmp_path.iterdir()) == []
