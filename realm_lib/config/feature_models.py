"""The two sections that name the models whose numbers a combiner combines."""

from dataclasses import dataclass
from typing import Any

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams


@dataclass(frozen=True)
class FeatureModels:
    """The models that made some features: what a combiner of them is saved with."""

    reward_model: RewardModelParams
    embedding: EmbeddingParams

    def to_dict(self) -> dict[str, Any]:
        """Both sections, for JSON."""
        return {name: section.model_dump(mode="json") for name, section in vars(self).items()}
