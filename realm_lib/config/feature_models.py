"""The models whose numbers a combiner combines, and the prompts that they are shown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import TypeAdapter

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.signals import SignalsParams

FEATURES = ("score", "similarity")
"""What a combiner knows of a response where no signals are named, in the order of its input."""

_SIGNALS: TypeAdapter[SignalsParams] = TypeAdapter(SignalsParams)


@dataclass(frozen=True)
class FeatureModels:
    """The models that made some features: what a combiner of them is saved with."""

    reward_model: RewardModelParams
    embedding: EmbeddingParams
    max_prompt_words: int | None = None
    """Words to which their prompts were cut (``data.preprocessing.max_length``); None where nothing cut them."""
    signals: SignalsParams = field(default_factory=dict)
    identities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Which model each feature is of, by the feature's name: its weights and whatever else changes a number."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in the combiner's order."""
        return (*FEATURES, *self.signals)

    def to_dict(self) -> dict[str, Any]:
        """The three sections, the number of words and the identities, for JSON."""
        sections = {name: getattr(self, name).model_dump(mode="json") for name in ("reward_model", "embedding")}
        signals = _SIGNALS.dump_python(self.signals, mode="json")
        identities = {name: dict(identity) for name, identity in self.identities.items()}
        return {
            **sections,
            "signals": signals,
            "max_prompt_words": self.max_prompt_words,
            "identities": identities,
        }

    def of_commits(self) -> Self:
        """The same, each of the hub's models in the commit that its identity names: a branch may move."""
        content = self.to_dict()
        sections = {"score": content["reward_model"], "similarity": content["embedding"]}
        for name, signal in content["signals"].items():
            sections[name] = signal.get("reward_model") or signal.get("embedding") or {}
        for name, section in sections.items():
            weights = str(self.identities.get(name, {}).get("weights"))
            if re.fullmatch("[0-9a-f]{40}", weights):
                section["revision"] = weights
        return self.from_dict(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave; without signals where an earlier version, which had none, wrote it."""
        return cls(
            RewardModelParams.model_validate(content["reward_model"]),
            EmbeddingParams.model_validate(content["embedding"]),
            content["max_prompt_words"],
            _SIGNALS.validate_python(content.get("signals", {})),
            content.get("identities", {}),
        )
