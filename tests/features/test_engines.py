"""Engines: the one of this process, and the errors of one that is not installed."""

import importlib.metadata
from pathlib import Path

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.run import RunParams
from realm_lib.features.engines import LocalEngine, build_engine
from realm_lib.models.reward_models.transformer import TransformerScorer


def test_the_local_engine_builds_models_here(inform_folder: Path) -> None:
    engine = build_engine(RunParams(name="trial"))
    assert isinstance(engine, LocalEngine)
    assert isinstance(
        engine.scorer(RewardModelParams(backend="inform", model_id=str(inform_folder))), TransformerScorer
    )
    engine.close()


def test_ray_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none_installed)
    with pytest.raises(ParamsError, match=r"run\.engine ray: Ray is not installed"):
        build_engine(RunParams(name="trial", engine="ray"))
