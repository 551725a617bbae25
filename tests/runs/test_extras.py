"""An extra that a profile asks for and that is missing is known before anything runs."""

import importlib.metadata

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.config.run import RunParams
from realm_lib.runs.extras import check_engine
from realm_lib.runs.notebooks import prepare


def none_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_ray_is_asked_for_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", none_installed)
    check_engine(RunParams(name="trial"))
    with pytest.raises(ParamsError, match=r"run\.engine ray: Ray is not installed: .*pip install .*\[ray\]"):
        check_engine(RunParams(name="trial", engine="ray"))
    with pytest.raises(ParamsError, match="Ray is not installed"):
        prepare("test", ["run.engine=ray", "run.name=never"])


def test_an_engine_that_is_there_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "2.60.0")
    assert check_engine(RunParams(name="trial", engine="ray")) is None
