from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hercules_scale.errors import InputError
from hercules_scale.storage import layout, scratch
from hercules_scale.storage.scratch import ScratchFolder


def filled() -> ScratchFolder:
    folder = ScratchFolder()
    for name in ("items/part.parquet", f"{layout.WORK}/commits/0.json"):
        path = Path(folder.run, name)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
    return folder


def test_a_pickle_holds_the_files_but_those_of_work() -> None:
    folder = filled()
    data, place = pickle.dumps(folder), folder.run
    del folder
    assert not Path(place).exists()
    again = pickle.loads(data)
    assert again.run != place
    files = [path for path in Path(again.run).rglob("*") if path.is_file()]
    assert [path.relative_to(again.run).as_posix() for path in files] == ["items/part.parquet"]
    assert files[0].read_bytes() == b"12345"


def test_what_is_too_large_for_a_pickle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "PICKLED_BYTES", 4)
    with pytest.raises(InputError, match=r"hold the 5 bytes .* at most 4 .*; give fit an output"):
        pickle.dumps(filled())


def test_a_forked_process_deletes_nothing_of_its_parent() -> None:
    code = """
import os
from hercules_scale.storage.scratch import ScratchFolder
folder = ScratchFolder()
os.mkdir(folder.run)
place, child = folder.run, os.fork()
if child:
    os.waitpid(child, 0)
    print(os.path.exists(place))
del folder
if child:
    print(os.path.exists(place))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_one_that_is_removed_early_stays_removed() -> None:
    folder = filled()
    folder.remove()
    assert not os.path.exists(folder.run)
