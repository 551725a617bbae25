"""The models whose numbers a combiner combines, and the prompts that they are shown."""

from dataclasses import dataclass
from typing import Any

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams


@dataclass(frozen=True)
class FeatureModels:
    """The models that made some features: what a combiner of them is saved with."""

    reward_model: RewardModelParams
    embedding: EmbeddingParams
    max_prompt_words: int | None = None
    """Words to which their prompts were cut (``data.preprocessing.max_length``); None where nothing cut them."""

    def to_dict(self) -> dict[str, Any]:
        """Both sections and the number of words, for JSON."""
        sections = {name: getattr(self, name).model_dump(mode="json") for name in ("reward_model", "embedding")}
        return {**sections, "max_prompt_words": self.max_prompt_words}
