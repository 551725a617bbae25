"""What a combiner is saved with: written and read back the same, the hub's models in the commit that was trained on."""

import json
from typing import Any

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.signals import EmbeddingSignal, LengthSignal, RewardModelSignal

COMMIT, DIGEST = "0123456789abcdef" * 2 + "01234567", "89abcdef" * 8


def models(**identities: Any) -> FeatureModels:
    scorer = RewardModelParams(backend="sequence_classification", model_id="some/model")
    embedding = EmbeddingParams(backend="sentence_transformers", model_id="some/encoder", revision="main")
    return FeatureModels(
        scorer,
        embedding,
        max_prompt_words=7,
        signals={
            "second": RewardModelSignal(kind="reward_model", reward_model=scorer),
            "near": EmbeddingSignal(kind="embedding", embedding=embedding),
            "words": LengthSignal(kind="length"),
        },
        identities=identities,
    )


def test_what_is_written_reads_back_the_same() -> None:
    told = models(score={"weights": COMMIT})
    assert FeatureModels.from_dict(json.loads(json.dumps(told.to_dict()))) == told


def test_the_hubs_models_are_those_of_the_commit_that_was_trained_on() -> None:
    """A branch moves, and whoever loads the reward gets what was trained all the same."""
    named = models(**{name: {"weights": COMMIT} for name in ("score", "similarity", "second", "near", "words")})
    pinned = named.of_commits()
    assert pinned.reward_model == named.reward_model.model_copy(update={"revision": COMMIT})
    assert pinned.embedding.revision == COMMIT
    second, near = pinned.signals["second"], pinned.signals["near"]
    assert isinstance(second, RewardModelSignal)
    assert isinstance(near, EmbeddingSignal)
    assert second.reward_model.revision == near.embedding.revision == COMMIT
    assert pinned.identities == named.identities


def test_folders_and_services_have_no_commit() -> None:
    of_folders = models(score={"weights": DIGEST}, similarity={"weights": None}, second={"model": COMMIT})
    assert of_folders.of_commits() == of_folders
