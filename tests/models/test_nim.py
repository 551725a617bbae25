"""NVIDIA's hosted reward model: a reward is what the service said about that text, or there is none."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.reward_server import MODEL, Fault, RewardServer, reward, running_server

from realm_lib.config.base import ParamsError
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.features.scores import score_texts
from realm_lib.features.store import FeatureStore
from realm_lib.models.reward_models import HostedScorer, ScorerError, build_scorer
from realm_lib.models.reward_models.nim import NIMScorer

KEY = "nv-a-key-that-nobody-may-see"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RewardServer]:
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    with running_server() as running:
        yield running


def scorer_at(server: RewardServer, **options: Any) -> NIMScorer:
    settings = {"backend": "nim", "model_id": MODEL, "api_endpoint": server.url, "retry_wait": 0.01, "timeout": 30.0}
    scorer = build_scorer(RewardModelParams.model_validate(settings | options))
    assert isinstance(scorer, NIMScorer)
    return scorer


def expected(prompt: str, response: str) -> float:
    return reward([{"role": "user", "content": prompt}, {"role": "assistant", "content": response}])


TEXTS = [(f"Question {n // 3}?", f"Answer {n}, 你好 \U0001f35e") for n in range(12)]
PROMPTS, RESPONSES = (list(side) for side in zip(*TEXTS, strict=True))


@pytest.mark.slow
def test_each_distinct_text_is_asked_for_once(server: RewardServer) -> None:
    scorer = scorer_at(server)
    assert isinstance(scorer, HostedScorer)
    scores = scorer.score([*PROMPTS, *PROMPTS], [*RESPONSES, *RESPONSES])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [expected(*text) for text in TEXTS] * 2)
    assert len(server.asked) == len(TEXTS)
    assert server.authorizations == {f"Bearer {KEY}"}
    assert scorer.score([], []).shape == (0,)
    assert (scorer.count_tokens(PROMPTS, RESPONSES) > 3).all()


def test_several_turns_arrive_as_turns(server: RewardServer) -> None:
    scorer_at(server).score(["\n\nHuman: Why?\n\nAssistant: Why what?\n\nHuman: Bread."], ["Yeast."])
    assert [turn["role"] for turn in server.asked[0]] == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=500),
        Fault(status=503),
        Fault(cut_off=True),
        Fault(delay=1.5),
    ],
    ids=["429", "500", "503", "cut off", "late"],
)
def test_what_may_pass_is_tried_again(server: RewardServer, fault: Fault) -> None:
    server.faults = [fault]
    timeout = 0.5 if fault.delay else 30.0
    scores = scorer_at(server, timeout=timeout, max_in_flight=1).score(PROMPTS[:2], RESPONSES[:2])
    np.testing.assert_array_equal(scores, [expected(*text) for text in TEXTS[:2]])
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "hint"), [(400, "limit of tokens"), (401, "NVIDIA_API_KEY"), (404, "model_id"), (302, "302")]
)
def test_a_refusal_is_not_tried_again_and_shows_no_key(server: RewardServer, status: int, hint: str) -> None:
    server.faults = [Fault(status=status, stays=True, headers={"Location": "/elsewhere"})]
    with pytest.raises(ScorerError, match=hint) as caught:
        scorer_at(server, max_in_flight=1).score(PROMPTS, RESPONSES)
    assert "text 0 (id " in str(caught.value)
    assert KEY not in repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__context__)
    assert len(server.asked) <= 2  # one may have been in flight


def test_an_account_without_credits_is_not_asked_again(server: RewardServer) -> None:
    body = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    server.faults = [Fault(status=429, stays=True, body=body)]
    with pytest.raises(ScorerError, match=r"answered 429 \(the account has no credits left \(insufficient_quota\)"):
        scorer_at(server).score(PROMPTS[:1], RESPONSES[:1])
    assert len(server.asked) == 1


def test_tries_end(server: RewardServer) -> None:
    server.faults = [Fault(status=503, stays=True)]
    with pytest.raises(ScorerError, match=r"answered 503.*tried 3 times"):
        scorer_at(server, max_attempts=3).score(PROMPTS[:1], RESPONSES[:1])
    assert len(server.asked) == 3


BAD = [
    "",
    "reward:",
    "reward:nan",
    "reward:inf",
    "reward:1e5",
    "reward:-3.2 reward:4",
    "-3.2",
    "I would say reward:3",
    "reward:٣",
    "reward:--3",
    ["reward:3"],
    3.5,
    None,
]


@pytest.mark.parametrize("said", BAD, ids=repr)
def test_an_answer_that_is_no_reward_is_an_error_and_never_cached(
    server: RewardServer, said: Any, tmp_path: Path
) -> None:
    choice = {"message": {"role": "assistant", "content": said}}
    server.faults = [Fault(body=json.dumps({"choices": [choice]}).encode(), only_if=lambda text: text == RESPONSES[4])]
    store = FeatureStore(tmp_path)
    scorer = scorer_at(server, max_in_flight=1)
    with pytest.raises(ScorerError, match=r"(?s)is not one reward.*new scores are in the feature store") as caught:
        score_texts(scorer, PROMPTS, RESPONSES, store, label=None)
    assert RESPONSES[4][:20] in str(caught.value)
    first = len(server.asked)
    again = score_texts(scorer, PROMPTS, RESPONSES, store, label=None)
    np.testing.assert_array_equal(again.values, [expected(*text) for text in TEXTS])
    assert len(server.asked) == len(TEXTS) + 1  # what was answered before the error was kept
    assert first < len(server.asked)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"text": "reward:1"}]}', b"[1]", b"\xff",
     b'{"choices": [{"message": {"content": "reward:1"}}, {"message": {"content": "reward:2"}}]}'],
)  # fmt: skip
def test_an_answer_that_cannot_be_read_is_an_error(server: RewardServer, body: bytes) -> None:
    server.faults = [Fault(body=body, stays=True)]
    with pytest.raises(ScorerError, match=r"cannot be read|is not one reward"):
        scorer_at(server).score(["a"], ["b"])


@pytest.mark.parametrize(
    ("said", "value"), [("reward:-3.2", -3.2), ("reward: 4", 4.0), ("reward:-3.28125\n", -3.28125)]
)
def test_what_counts_as_a_reward(server: RewardServer, said: str, value: float) -> None:
    server.faults = [Fault(content=said)]
    assert scorer_at(server).score(["a"], ["b"])[0] == pytest.approx(value, abs=1e-6)


def test_texts_that_cannot_be_sent_are_named(server: RewardServer) -> None:
    with pytest.raises(ScorerError, match=r"text 1 \(id .*: the response is empty"):
        scorer_at(server).score(["a", "a"], ["b", " "])
    with pytest.raises(ScorerError, match=r"text 0 .*not Unicode"):
        scorer_at(server).score(["a"], ["b\ud800"])


def test_no_key_no_request(server: RewardServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="NVIDIA_API_KEY is not set"):
        scorer_at(server).score(["a"], ["b"])
    assert not server.asked


def test_identity_and_no_key_in_it(server: RewardServer) -> None:
    scorer = scorer_at(server)
    assert KEY not in json.dumps(dict(scorer.identity))
    assert scorer.identity != scorer_at(server, model_id="other").identity
    elsewhere = RewardModelParams(backend="nim", model_id=MODEL)
    assert scorer.identity != build_scorer(elsewhere).identity
    assert scorer.identity == scorer_at(server, max_in_flight=3, timeout=1.0, requests_per_minute=7).identity
    with pytest.raises(TypeError):
        pickle.dumps(scorer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "4bit"}, "quantization must be null"),
        ({"device_map": "auto"}, "device_map must be null"),
        ({"revision": "main"}, "revision must be null"),
        ({"api_endpoint": "http://example.org/v1"}, "https://HOST"),
        ({"api_endpoint": "https://key@example.org/v1"}, "https://HOST"),
        ({"api_key": "nvapi-something"}, "name of an environment variable"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        RewardModelParams.model_validate({"backend": "nim", "model_id": MODEL, **options})
    assert "nvapi-something" not in str(caught.value)
