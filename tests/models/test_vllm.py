"""A reward model that vLLM serves: the same numbers as here, by several endpoints, some of which may be gone."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_scorers import copied, scorer_of, stock_folder
from support.vllm_reward_server import RewardStandIn, running_reward_model
from support.vllm_server import Fault

from realm_lib.config.base import ParamsError
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.features.scores import score_texts
from realm_lib.features.store import FeatureStore
from realm_lib.models.reward_models import (
    CheckingScorer,
    HostedScorer,
    LongResponseError,
    ReadingScorer,
    ScorerError,
    build_scorer,
)
from realm_lib.models.reward_models.vllm import VLLMScorer

KEY = "a-key-that-nobody-may-see"
CHAT = "\n\nHuman: Why?\n\nAssistant: Why what?\n\nHuman: Bread."
TEXTS = [
    (CHAT if n // 3 == 2 else f"Question {n // 3}? " + "It is long. " * (n // 3 * 2), f"Answer {n}, 你好.")
    for n in range(24)
]
PROMPTS, RESPONSES = (list(side) for side in zip(*TEXTS, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> Path:
    return stock_folder(tmp_path_factory.mktemp("served") / "llama", tiny_tokenizer, tiny_config, "llama", False)


@pytest.fixture
def server(folder: Path) -> Iterator[RewardStandIn]:
    with running_reward_model(folder) as running:
        yield running


def scorer_at(folder: Path, *servers: RewardStandIn, **options: Any) -> VLLMScorer:
    settings = {"backend": "vllm", "model_id": str(folder), "endpoints": [server.url for server in servers]}
    settings |= {"max_length": 128, "retry_wait": 0.01, "max_attempts": 2}
    scorer = build_scorer(RewardModelParams.model_validate(settings | options))
    assert isinstance(scorer, VLLMScorer)
    return scorer


def here(folder: Path, prompts: list[str] = PROMPTS, responses: list[str] = RESPONSES, **options: Any) -> Any:
    return scorer_of(folder, "sequence_classification", max_length=128, **options).score(prompts, responses)


def test_scores_are_those_of_the_model_here(folder: Path, server: RewardStandIn) -> None:
    """Turns, cut prompts and text twice included; responses to one prompt arrive after one another."""
    scorer = scorer_at(folder, server, max_in_flight=1)
    for protocol in (HostedScorer, CheckingScorer, ReadingScorer):
        assert isinstance(scorer, protocol)
    scores = scorer.score([*PROMPTS, *PROMPTS[:4]], [*RESPONSES, *RESPONSES[:4]])
    np.testing.assert_allclose(scores[: len(TEXTS)], here(folder), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(scores[len(TEXTS) :], scores[:4])
    assert scores.dtype == np.float32
    tokens, reading = scorer.read(PROMPTS, RESPONSES)
    assert reading.cut_prompts > 0
    asked = server.texts[-len(TEXTS) :]
    assert [len(ids) for ids in asked] == tokens.tolist()
    assert len(server.posted("/classify")) == 3 + len(set(PROMPTS))  # three looks, then a request a prompt
    assert scorer.score([], []).shape == (0,)


def test_a_model_that_rewards_every_token_is_read_at_the_last(folder: Path) -> None:
    with running_reward_model(folder, route="/pooling", answers="tokens") as server:
        scores = scorer_at(folder, server).score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(scores, here(folder), atol=1e-5, rtol=0)


def test_a_prompt_has_an_endpoint_and_answers_are_kept(folder: Path, tmp_path: Path) -> None:
    with running_reward_model(folder) as one, running_reward_model(folder) as other:
        found = score_texts(scorer_at(folder, one, other), PROMPTS, RESPONSES, FeatureStore(tmp_path), label=None)
        np.testing.assert_allclose(found.values, here(folder), atol=1e-5, rtol=0)
        halves = [server.posted("/classify")[3:] for server in (one, other)]
        assert all(halves)
        assert sum(map(len, halves)) == len(set(PROMPTS))
        assert (
            len(score_texts(scorer_at(folder, other), PROMPTS, RESPONSES, FeatureStore(tmp_path), label=None).computed)
            == 0
        )


def test_what_may_pass_is_tried_again(folder: Path, server: RewardStandIn) -> None:
    scorer = scorer_at(folder, server, max_in_flight=1, max_attempts=4)
    for fault in (Fault(status=429, headers={"Retry-After": "0"}), Fault(status=503), Fault(cut_off=True)):
        server.faults.append(fault)
    np.testing.assert_allclose(scorer.score(PROMPTS, RESPONSES), here(folder), atol=1e-5, rtol=0)


def test_the_texts_of_an_endpoint_that_dies_go_to_the_other(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One is gone from the start, one dies after some answers; one that comes back is looked at again."""
    with running_reward_model(folder) as one, running_reward_model(folder, dies_after=4) as other:
        scorer = scorer_at(folder, one, other, max_in_flight=1)
        with caplog.at_level(logging.WARNING, "realm_lib.models.reward_models"):
            np.testing.assert_allclose(scorer.score(PROMPTS, RESPONSES), here(folder), atol=1e-5, rtol=0)
        assert other.dead
        assert len([line for line in caplog.messages if "the other endpoints take its texts" in line]) == 1
        one.dead = True
        with pytest.raises(ScorerError, match=r"0 of 24 texts were scored.*none of 2 endpoints answers") as caught:
            scorer.score(PROMPTS, RESPONSES)
        assert caught.value.places == []
        other.dies_after = None
        other.restart()
        seen = len(other.posted("/v1/models"))
        scorer.score(PROMPTS, RESPONSES)
        assert len(other.log) > seen + len(set(PROMPTS))


def test_endpoints_with_other_weights_are_found_out(folder: Path) -> None:
    with running_reward_model(folder) as one, running_reward_model(folder, shift=1.0) as other:
        with pytest.raises(ScorerError, match="other rewards for the same texts"):
            scorer_at(folder, one, other).check_endpoints()
        other.dead = True
        assert scorer_at(folder, one, other).check_endpoints() == "1 of 2 endpoints answer rewards"


def test_what_was_answered_before_all_died_is_kept(folder: Path, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    with running_reward_model(folder, dies_after=5) as server:
        scorer = scorer_at(folder, server, max_in_flight=1)
        with pytest.raises(ScorerError, match=r"(?s)6 of 24 texts were scored.*6 new scores are in the feature store"):
            score_texts(scorer, PROMPTS, RESPONSES, store, label=None)
        server.dies_after = None
        server.restart()
        again = score_texts(scorer, PROMPTS, RESPONSES, store, label=None)
    assert len(again.computed) == 18
    np.testing.assert_allclose(again.values, here(folder), atol=1e-5, rtol=0)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"data": [1]}', b'{"data": []}'], ids=repr)
def test_an_answer_that_cannot_be_read_is_an_error(folder: Path, server: RewardStandIn, body: bytes) -> None:
    scorer = scorer_at(folder, server)
    scorer.check_endpoints()
    server.faults = [Fault(body=body, stays=True)]
    with pytest.raises(ScorerError, match=r"cannot be read|answered 0 rewards to 3 texts"):
        scorer.score(PROMPTS, RESPONSES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda answer: answer["data"].pop(), "answered 2 rewards to 3 texts"),
        (lambda answer: answer["data"][0].update(index=1), r"answered 3 rewards to 3 texts \(index \[1, 1, 2\]\)"),
        (lambda answer: answer["data"][1].update(probs=[None]), "not finite"),
        (lambda answer: answer["data"][1].update(probs=["1"]), "cannot be read"),
        (lambda answer: answer["data"][1].update(probs=[]), "answers 0 numbers"),
    ],
)
def test_an_answer_that_is_no_reward_for_each_is_an_error(
    folder: Path, server: RewardStandIn, change: Any, says: str
) -> None:
    scorer = scorer_at(folder, server, max_in_flight=1)
    scorer.check_endpoints()
    server.faults = [Fault(change=change)]
    with pytest.raises(ScorerError, match=says) as caught:
        scorer.score(PROMPTS, RESPONSES)
    assert caught.value.places == ([1] if says == "not finite" else [])


def test_rewards_in_another_order_are_put_in_theirs(folder: Path, server: RewardStandIn) -> None:
    scorer = scorer_at(folder, server, max_in_flight=1)
    server.faults = [
        Fault(change=lambda answer: answer["data"].reverse(), stays=True, only_if=lambda path: path == "/classify")
    ]
    np.testing.assert_allclose(scorer.score(PROMPTS, RESPONSES), here(folder), atol=1e-5, rtol=0)


def test_long_responses_are_named_before_one_is_asked_for(folder: Path, server: RewardStandIn) -> None:
    scorer = scorer_at(folder, server)
    responses = [*RESPONSES[:2], "word " * 400]
    with pytest.raises(LongResponseError, match="text 2 "):
        scorer.score(PROMPTS[:3], responses)
    assert list(scorer.refused(PROMPTS[:3], responses)) == [2]
    assert server.log == []
    cut = scorer_at(folder, server, long_responses="cut").score(PROMPTS[:3], responses)
    np.testing.assert_allclose(cut, here(folder, PROMPTS[:3], responses, long_responses="cut"), atol=1e-5, rtol=0)


def test_a_key_is_sent_and_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_reward_model(folder, key=KEY) as server:
        with pytest.raises(ScorerError, match=r"401 .*reward_model\.api_key"):
            scorer_at(folder, server).score(PROMPTS, RESPONSES)
        named = scorer_at(folder, server, api_key="${VLLM_API_KEY}")
        monkeypatch.delenv("VLLM_API_KEY", raising=False)
        with pytest.raises(ParamsError, match="VLLM_API_KEY is not set"):
            named.score(PROMPTS, RESPONSES)
        monkeypatch.setenv("VLLM_API_KEY", "another")
        with pytest.raises(ScorerError) as caught:
            named.score(PROMPTS, RESPONSES)
        assert "another" not in str(caught.value)
        monkeypatch.setenv("VLLM_API_KEY", KEY)
        assert named.score(PROMPTS[:1], RESPONSES[:1]).shape == (1,)


def test_scores_are_kept_by_the_model_and_not_by_its_address(folder: Path, server: RewardStandIn) -> None:
    identity = dict(scorer_at(folder, server).identity)
    elsewhere = scorer_at(folder, server, endpoints=["http://127.0.0.1:9"], max_in_flight=3).identity
    assert elsewhere == identity
    local = scorer_of(folder, "sequence_classification", max_length=128).identity
    assert {key for key in identity if local[key] != identity[key]} == {"backend"}
    assert scorer_at(folder, server, dtype="bfloat16").identity != identity
    assert json.loads(json.dumps(identity)) == identity


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("INFORMForSequenceClassification", "vLLM does not serve INF-ORM's head of two layers"),
        ("LlamaForCausalLM", "vLLM serves a causal model's text"),
        ("Qwen2ForProcessRewardModel", "a score for each step"),
    ],
)
def test_models_that_vllm_has_no_reward_of_are_refused(
    folder: Path, tmp_path: Path, architecture: str, says: str
) -> None:
    other = copied(folder, tmp_path / "other", architectures=[architecture])
    with pytest.raises(ScorerError, match=says):
        build_scorer(RewardModelParams(backend="vllm", model_id=str(other), endpoints=["http://127.0.0.1:9"]))


def test_no_text_is_asked_for_where_one_endpoint_refuses(folder: Path) -> None:
    """Of another's weights nothing is kept, whichever endpoint is the first to answer."""
    with running_reward_model(folder) as one, running_reward_model(folder, shift=1.0) as other:
        with pytest.raises(ScorerError, match="other rewards for the same texts"):
            scorer_at(folder, one, other).score(PROMPTS, RESPONSES)
        assert len(one.posted("/classify")) == len(other.posted("/classify")) == 3
        other.key = KEY
        with pytest.raises(ScorerError, match="401"):
            scorer_at(folder, one, other).score(PROMPTS, RESPONSES)
