from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).parents[1] / "cluster_configs"


def load(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return values


def test_the_launcher_file_is_one_that_ray_takes() -> None:
    validate_config(prepare_config(load("local.yaml")))


def test_a_misspelt_key_of_the_launcher_file_is_refused() -> None:
    values = load("local.yaml")
    values["max_wokers"] = values.pop("max_workers")
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(values)
