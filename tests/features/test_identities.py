"""Which models made the features: equal ones are the same wherever they lie, and others are told by both names."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.features.identities import changed, identities_of
from realm_lib.features.signals import SimilaritySignal
from realm_lib.models.embedders.gemini import GeminiEmbedder

SCORE = {"backend": "inform", "model": "run:models/reward_model", "weights": "a" * 64, "max_length": 512}
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers(), max_size=2)
IDENTITIES = st.dictionaries(st.text(min_size=1), st.dictionaries(st.text(), VALUES, max_size=4), max_size=3)


def test_both_versions_are_named() -> None:
    then = {"score": SCORE, "second": SCORE}
    now = {"score": {**SCORE, "weights": "b" * 64, "max_length": 256}, "second": SCORE}
    assert changed(then, now) == (
        "reward_model (run:models/reward_model): weights aaaaaaaaaaaa became bbbbbbbbbbbb, max_length 512 became 256"
    )
    assert changed(then, {"score": SCORE}) == "signals.second is missing"
    assert changed({"score": SCORE}, then) == "signals.second is new"


def test_another_place_is_the_same_model_and_another_name_is_not() -> None:
    """A hosted model's name is all there is; two functions of one file have the same digest."""
    assert changed({"score": SCORE}, {"score": {**SCORE, "model": "/elsewhere"}}) is None
    hosted = {"backend": "nim", "model": "nvidia/a", "api_endpoint": None}
    assert changed({"score": hosted}, {"score": {**hosted, "model": "nvidia/b"}}) == (
        'reward_model (nvidia/b): model "nvidia/a" became "nvidia/b"'
    )
    function = {"model": "mine:short", "weights": "a" * 64}
    assert changed({"short": function}, {"short": {**function, "model": "mine:long"}}) == (
        'signals.short (mine:long): model "mine:short" became "mine:long"'
    )


@settings(max_examples=40)
@given(identities=IDENTITIES)
def test_what_was_written_and_read_back_is_the_same(identities: Mapping[str, Mapping[str, Any]]) -> None:
    assert changed(identities, json.loads(json.dumps(identities))) is None


@pytest.mark.parametrize("key", ["backend", "weights", "max_length"])
@pytest.mark.parametrize("value", [None, 7, "other"])
def test_every_field_counts(key: str, value: object) -> None:
    assert f"{key} " in (changed({"score": SCORE}, {"score": {**SCORE, key: value}}) or "")


def test_a_hosted_embedder_is_known_by_both_its_task_types() -> None:
    """Prompts under another task type have other vectors, though the responses' are the same."""
    plain = EmbeddingParams(backend="gemini", model_id="gemini-embedding-001", task_type="RETRIEVAL_DOCUMENT")
    answering = plain.model_copy(update={"prompt_task_type": "QUESTION_ANSWERING"})
    then, now = (
        identities_of({"similarity": SimilaritySignal(GeminiEmbedder(params))}) for params in (plain, answering)
    )
    assert then["similarity"]["task_type"] == now["similarity"]["task_type"]
    assert now["similarity"]["of_prompts"]["task_type"] == "QUESTION_ANSWERING"
    assert "of_prompts" in (changed(then, now) or "")
