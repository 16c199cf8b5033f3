"""The encoder of labels, in a process of its own."""

from __future__ import annotations

import os
import signal

import pytest

from hercules_scale.config.resources import StorageConfig
from hercules_scale.errors import StageError
from hercules_scale.runtime.resources import Pool
from hercules_scale.stages.language_model import open_encoder


class Deadly:
    """A configuration that ends each process that loads its model, as a lack of memory."""

    @property
    def engine(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_an_encoder_that_dies_each_time_ends_the_run(local_ray: None) -> None:
    said = (
        r"^stage summarize: 5 processes died one after another as they embedded 2 titles and "
        r"descriptions, most likely out of memory; give the machine more, .*; run again, it "
        r"resumes$"
    )
    with (
        open_encoder(Deadly(), StorageConfig(), Pool("", 1, 1, 0.0)) as encode,  # type: ignore[arg-type]
        pytest.raises(StageError, match=said),
    ):
        encode(["a title", "a description"])
