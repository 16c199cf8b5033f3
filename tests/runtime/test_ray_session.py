"""A run starts its Ray, shares one or waits for its turn, and ends in words without it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray._private.utils import validate_socket_filepath

from hercules_scale.errors import ConfigError, HerculesScaleError
from hercules_scale.runtime import ray_session
from hercules_scale.runtime.ray_session import local_or_cluster_ray
from hercules_scale.summarization.function import _Threads
from tests.conftest import resolved


@pytest.mark.ray
def test_a_loss_that_no_stage_makes_good_ends_with_one_line(
    tmp_path: Path, local_ray: None
) -> None:
    @ray.remote(num_cpus=0)
    class Lost:
        def ask(self) -> None:
            pass

    values = {"input": {"path": str(tmp_path)}, "output": {"path": str(tmp_path / "run")}}

    def ask_the_lost() -> None:
        lost = Lost.remote()  # type: ignore[attr-defined]
        ray.kill(lost)
        ray.get(lost.ask.remote())

    with (
        pytest.raises(HerculesScaleError, match=r"^Ray failed: .*; run again, it resumes$"),
        local_or_cluster_ray(resolved(values)),
    ):
        ask_the_lost()


def test_ray_that_starts_too_slowly_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Exception("The current node timed out during startup. This could happen because ...")
    starts: list[Exception | None] = [slow, None]
    monkeypatch.setattr(ray, "init", lambda **options: raise_if(starts.pop(0)))
    # The Ray of other tests goes on.
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    ray_session._start_ray({})
    assert starts == []
    monkeypatch.setattr(ray, "init", lambda **options: raise_if(slow))
    with pytest.raises(HerculesScaleError, match="did not start within 30 s, 3 times in a row"):
        ray_session._start_ray({})
    monkeypatch.setattr(ray, "init", lambda **options: raise_if(ValueError("no such option")))
    with pytest.raises(ValueError, match="no such option"):
        ray_session._start_ray({})


def test_the_line_about_the_log_level_alone_stays_off_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**options: object) -> None:
        os.write(2, b"[1] logging.cc:303: Set ray log level from environment variable X to 3\n")
        os.write(2, b"a warning\n")

    monkeypatch.setattr(ray, "init", init)
    ray_session._start_ray({})
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a warning\nafter\n"


def test_runs_of_one_process_that_start_a_ray_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    begun, waited_for = threading.Event(), threading.Event()
    events: list[str] = []

    def first() -> None:
        with ray_session._turn_at_ray(events.append) as mine:
            assert mine
            begun.set()
            assert waited_for.wait(60)
            events.append("first ends")

    def second() -> None:
        def say(message: str) -> None:
            events.append(message)
            waited_for.set()

        assert begun.wait(60)
        with ray_session._turn_at_ray(say) as mine:
            assert mine
            events.append("second begins")

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(first), threads.submit(second)]:
            each.result()
    message, *others = events
    assert message.startswith("waits for another run of this process to end")
    assert others == ["first ends", "second begins"]


def test_a_run_within_a_users_function_of_another_waits_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def run_another() -> bool:
        with ray_session._turn_at_ray(pytest.fail) as mine:
            return mine

    with ray_session._turn_at_ray(pytest.fail) as mine:
        assert mine
        assert run_another() is False
        threads = _Threads(1)
        # The function that writes titles is called in a thread.
        assert threads.submit(run_another).result(60) is False
        threads.close()


def test_runs_share_a_ray_that_their_caller_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    both = threading.Barrier(2, timeout=60)

    def share() -> bool:
        with ray_session._turn_at_ray(lambda message: None) as mine:
            both.wait()
            return mine

    with ThreadPoolExecutor(2) as threads:
        assert [each.result() for each in [threads.submit(share) for _ in range(2)]] == [False] * 2


def test_ray_gets_a_short_folder_where_that_of_temporary_files_is_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = f"/{'temporary-files-of-a-user/' * 4}"
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert ray_session._ray_folder() == {}
    monkeypatch.setenv("TMPDIR", long)
    monkeypatch.setattr(ray_session, "SHORT_FOLDERS", ("/none", str(tmp_path)))
    assert ray_session._ray_folder() == {"_temp_dir": f"{tmp_path}/ray"}
    # The socket of the longest name in a folder of the longest path is as long as Ray takes.
    folder = "x" * ray_session.RAY_FOLDER_BYTES
    validate_socket_filepath(folder + ray_session.RAY_SOCKET)
    with pytest.raises(OSError, match="AF_UNIX path length"):
        validate_socket_filepath(folder + "x" + ray_session.RAY_SOCKET)
    monkeypatch.setattr(ray_session, "SHORT_FOLDERS", ("/none",))
    with pytest.raises(
        ConfigError, match=r"^TMPDIR must be .* 39 bytes.*set RAY_TMPDIR to a short"
    ):
        ray_session._ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", long)
    with pytest.raises(ConfigError, match=r"^RAY_TMPDIR must be a path of at most 39 bytes"):
        ray_session._ray_folder()


def raise_if(error: Exception | None) -> None:
    if error is not None:
        raise error
