"""What the models of features run on, by ``run.engine``: this process, or copies of each model on a Ray cluster."""

from pathlib import Path
from typing import Protocol

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.run import RunParams
from realm_lib.models.embedders import Embedder, build_embedder
from realm_lib.models.reward_models import Scorer, build_scorer
from realm_lib.runs.extras import check_engine


class Engine(Protocol):
    """Where models run. What they say of a text is the same everywhere."""

    def scorer(self, params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
        """As :func:`realm_lib.models.reward_models.build_scorer`."""

    def embedder(self, params: EmbeddingParams, run_folder: Path | None = None) -> Embedder:
        """As :func:`realm_lib.models.embedders.build_embedder`."""

    def close(self) -> None:
        """Let go what the engine holds; its models are not asked after that."""


class LocalEngine:
    """Models in this process, one after the other."""

    def scorer(self, params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
        """See :func:`realm_lib.models.reward_models.build_scorer`."""
        return build_scorer(params, run_folder)

    def embedder(self, params: EmbeddingParams, run_folder: Path | None = None) -> Embedder:
        """See :func:`realm_lib.models.embedders.build_embedder`."""
        return build_embedder(params, run_folder)

    def close(self) -> None:
        """Nothing is held."""


def build_engine(params: RunParams) -> Engine:
    """The engine that ``run.engine`` names; of ray, the cluster is reached or started.

    Raises what :func:`check_engine` raises, and :class:`realm_lib.features.ray.pool.EngineError` where the cluster
    cannot be reached.
    """
    if params.engine == "local":
        return LocalEngine()
    check_engine(params)
    from realm_lib.features.ray.engine import RayEngine

    return RayEngine(params)
