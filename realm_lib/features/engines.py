"""What the models of features run on, by ``run.engine``: this process, or copies of each model on a Ray cluster."""

import importlib.metadata
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.run import RunParams
from realm_lib.models.embedders import Embedder, build_embedder
from realm_lib.models.reward_models import Scorer, build_scorer


class Engine(Protocol):
    """Where models run. What they say of a text is the same everywhere."""

    def scorer(self, params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
        """As :func:`realm_lib.models.reward_models.build_scorer`."""

    def embedder(self, params: EmbeddingParams, run_folder: Path | None = None) -> Embedder:
        """As :func:`realm_lib.models.embedders.build_embedder`."""

    def __enter__(self) -> Self:
        """The engine itself, to be left when its models are no longer asked."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go what the engine holds."""


class LocalEngine:
    """Models in this process, one after the other."""

    def scorer(self, params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
        """See :func:`realm_lib.models.reward_models.build_scorer`."""
        return build_scorer(params, run_folder)

    def embedder(self, params: EmbeddingParams, run_folder: Path | None = None) -> Embedder:
        """See :func:`realm_lib.models.embedders.build_embedder`."""
        return build_embedder(params, run_folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""


def build_engine(params: RunParams) -> Engine:
    """The engine that ``run.engine`` names; of ray, the cluster is reached or started.

    Raises what :func:`check_engine` raises, and :class:`realm_lib.features.ray.EngineError` where the cluster cannot be
    reached or lacks what ``run`` asks of it.
    """
    if params.engine == "local":
        return LocalEngine()
    check_engine(params)
    from realm_lib.features.ray import RayEngine

    return RayEngine(params)


def check_engine(params: RunParams) -> None:
    """Raise :class:`ParamsError` with the line that installs it where ``run.engine`` is not installed."""
    if params.engine == "ray":
        try:
            importlib.metadata.version("ray")
        except importlib.metadata.PackageNotFoundError:
            raise ParamsError(
                "run.engine ray: Ray is not installed: .venv/bin/pip install -c constraints.txt '.[ray]' "
                "(run.engine local needs none)"
            ) from None
