"""A reward over HTTP: the same numbers as at home, every fault of the way mended or named, and no token in a word."""

import json
import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, make_params, make_policy
from support.predict_server import MODELS, Fault, PredictServer, numbers, running_predict_server
from support.server_process import ServerProcess

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import load_params
from realm_lib.config.rlhf import RewardServerParams
from realm_lib.data.chats import PairsError
from realm_lib.inference.remote_reward import RemoteReward, RemoteRewardError
from realm_lib.models.hosted import RemoteError
from realm_lib.models.reward_models import UnscorableError
from realm_lib.reward.realm_reward import RealmReward
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.rewards import ask_reward, load_reward
from realm_lib.runs.run import Run

TOKEN = "a-long-and-random-token"
REFERENCE = "${REALM_TEST_TOKEN}"
ASKED = ["Why?", "Why?", "How do cats purr?", "Why?", "What is a quark?"]
ANSWERS = ["Yeast makes gas.", "No.", "With the larynx.", "Yeast makes gas.", "A part of a proton."]
LONG = "word " * 900


def remote(url: str, **changes: Any) -> RemoteReward:
    return RemoteReward(RewardServerParams(url=url, **{"retry_wait": 0.01, "timeout": 60.0, **changes}))


@pytest.fixture
def stub() -> Iterator[PredictServer]:
    with running_predict_server() as server:
        yield server


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALM_TEST_TOKEN", TOKEN)


# A real server


@pytest.fixture(scope="module")
def served(run_folder: Path) -> Iterator[str]:
    with ServerProcess(run_folder, REALM_SERVER_TOKEN=TOKEN) as server:
        yield server.wait_ready().url


@pytest.mark.slow
@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("chats", [False, True])
def test_the_numbers_are_those_of_the_same_reward_here(served: str, run_reward: RealmReward, chats: bool) -> None:
    prompts: list[Any] = [[{"role": "user", "content": text}] for text in ASKED] if chats else ASKED
    answers: list[Any] = [[{"role": "assistant", "content": text}] for text in ANSWERS] if chats else ANSWERS
    reward = remote(served, token=REFERENCE, batch_size=2)
    here = run_reward.explain(prompts, answers)
    pd.testing.assert_frame_equal(reward.explain(prompts, answers), here, check_dtype=False, atol=1e-5)
    assert reward(prompts=prompts, completions=answers, other=1) == pytest.approx(here["reward"].tolist(), abs=1e-5)
    assert reward.models == remote(served, token=REFERENCE).models == run_reward.models
    assert reward.explain([], []).shape == (0, 5)
    with pytest.raises(ValueError, match="1 prompts but 0"):
        reward.explain(["a"], [])


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_what_is_too_long_is_named_by_its_place_as_here(served: str, run_reward: RealmReward) -> None:
    answers = [LONG, LONG, "No.", "word " * 30_000, "Yes."]
    reward = remote(served, token=REFERENCE, batch_size=2)
    with pytest.raises(UnscorableError, match=r"3 of 5: .*422") as there:
        reward.explain(ASKED, answers)
    with pytest.raises(UnscorableError) as here:
        run_reward.explain(ASKED, answers)
    assert there.value.places == here.value.places == [0, 1, 3]
    tables = [ask_reward(one, ASKED, answers, range(5), needs_spread=True, floor=-9.0) for one in (reward, run_reward)]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)
    assert tables[0]["floored"].tolist() == [True, True, False, True, False]


def test_what_is_no_answer_is_named_by_its_place_before_anything_is_sent(stub: PredictServer) -> None:
    with pytest.raises(PairsError, match="completion 1: a response is text or one assistant message"):
        remote(stub.url)(["Why?", "Why?"], ["So.", [{"role": "user", "content": "So."}]])
    with pytest.raises(PairsError, match="the prompt of completion 1: the prompt is empty"):
        remote(stub.url)(["Why?", "\n"], ["So.", "So."])
    assert stub.asked == []


@pytest.mark.slow
def test_the_server_s_token_must_be_known_here(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALM_TEST_TOKEN", "another-token")
    for reward in (remote(served), remote(served, token=REFERENCE)):
        with pytest.raises(
            RemoteError, match=r"401 \(the token is missing or wrong: look at rlhf.reward_server"
        ) as told:
            reward(ASKED, ANSWERS)
        assert "another-token" not in str(told.value)
    monkeypatch.delenv("REALM_TEST_TOKEN")
    with pytest.raises(ParamsError, match="REALM_TEST_TOKEN is not set"):
        remote(served, token=REFERENCE)(ASKED, ANSWERS)


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_a_training_by_it_is_the_training_by_the_reward_itself(served: str, run_folder: Path, tmp_path: Path) -> None:
    ppo = {"total_episodes": 16, "num_epochs": 1, "evaluate_every": 2, "reward_uncertainty_penalty": 2.0}
    local = make_params(make_policy(tmp_path / "policy"), **ppo)
    server = RewardServerParams(url=served, token=REFERENCE)
    histories = []
    for params in (local, local.model_copy(update={"reward_server": server})):
        reward = load_reward(params, Run(run_folder))
        assert isinstance(reward, RealmReward if params.reward_server is None else RemoteReward)
        result = train_ppo(params, reward, PROMPTS, held_out=HELD_OUT, choose_on=CHOOSE_ON)
        histories.append(result.history[["reward", "spread", "score", "similarity", "policy_loss", "kl", "floored"]])
    pd.testing.assert_frame_equal(*histories, atol=1e-4)
    assert (histories[0]["spread"] > 0).all()


# A server that misbehaves


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=429),
        Fault(status=503, headers={"Retry-After": "0.01"}),
        Fault(status=504),
        Fault(cut_off=True),
        Fault(delay=1.0),
    ],
    ids=["429 with a wait", "429", "503", "504", "cut off", "late"],
)
def test_what_passes_is_asked_again(stub: PredictServer, fault: Fault) -> None:
    stub.faults = [fault, fault]
    found = remote(stub.url, timeout=0.5, max_attempts=3).explain(ASKED, ANSWERS)
    wanted = [numbers(*texts) for texts in zip(ASKED, ANSWERS, strict=True)]
    assert [row.pop("signals") for row in wanted] == [{}] * 5
    assert found.to_dict("records") == wanted
    assert stub.asked == [[*ANSWERS[:3], ANSWERS[4]]] * 3
    assert stub.authorizations == {None}


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503])
def test_what_stays_is_an_error_that_holds_no_token(stub: PredictServer, status: int) -> None:
    stub.faults = [Fault(status=status, stays=True)]
    with pytest.raises(RemoteError, match=f"the reward server {stub.url} answered {status}.*server says") as caught:
        remote(stub.url, token=REFERENCE, max_attempts=2, batch_size=1)(ASKED[:1], ANSWERS[:1])
    assert stub.authorizations == {f"Bearer {TOKEN}"}
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    assert REFERENCE in shown
    assert TOKEN not in shown
    assert len(stub.asked) == (2 if status in {429, 500, 503} else 1)


def test_nobody_there_is_an_error_after_the_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(
        RemoteError, match=rf"the connection to the reward server http://127.0.0.1:{port} failed.*2 times"
    ):
        remote(f"http://127.0.0.1:{port}", max_attempts=2)(ASKED, ANSWERS)


def answer(**changes: Any) -> bytes:
    return json.dumps({"results": [{**numbers("a", "b"), "models": MODELS, **changes}]}).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "cannot be read: ''"),
        (b"<html>502 Bad Gateway</html>", "cannot be read: '<html>"),
        (b"[1.0]", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"rewards": [1.0]}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"results": []}', "0 rewards for 1 responses"),
        (answer(models=None), "cannot be read"),
        (answer(reward=math.nan), "answered reward nan"),
        (answer(spread=None), "answered spread None"),
        (answer(score="1.0"), "answered score '1.0'"),
        (answer(similarity=True), "answered similarity True"),
        (answer(outside=0), "answered outside 0, which is neither true nor false"),
        (answer(signals={"words": None}), "answered words None"),
        (answer(signals=[1.0]), "cannot be read"),
        (answer().replace(b'"outside"', b'"outsid"'), "does not say outside and signals, as an earlier version"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_answer_that_is_not_the_rewards_is_refused_at_once(stub: PredictServer, body: bytes, says: str) -> None:
    stub.faults = [Fault(body=body, stays=True)]
    with pytest.raises(RemoteRewardError, match=re.escape(says)):
        remote(stub.url)(["a"], ["b"])
    assert len(stub.asked) == 1
    with pytest.raises(RewardError, match="the reward failed on prompts 7: RemoteRewardError"):
        ask_reward(remote(stub.url), ["a"], ["b"], [7], needs_spread=False, floor=-9.0)


def test_another_reward_behind_the_same_address_is_refused(stub: PredictServer) -> None:
    reward = remote(stub.url)
    assert reward.models == MODELS
    stub.faults = [Fault(models={**MODELS, "combiner": "3"})]
    with pytest.raises(RemoteRewardError, match=r"another reward than before: combiner 2 became 3\."):
        reward(ASKED, ANSWERS)
    assert reward(["a"], ["b"]) == [numbers("a", "b")["reward"]]


def test_signals_are_columns_by_the_servers_names(stub: PredictServer) -> None:
    told = answer(signals={"words": 1.5, "second": -2.0}, outside=True)
    stub.faults = [Fault(body=told)]
    reward = remote(stub.url)
    found = reward.explain(["a"], ["b"])
    assert list(found.columns) == ["reward", "spread", "score", "similarity", "words", "second", "outside"]
    assert (found["words"][0], found["second"][0], found["outside"][0]) == (1.5, -2.0, True)
    assert list(reward.explain([], []).columns) == list(found.columns)
    with pytest.raises(RemoteRewardError, match="answered reward, spread, score, similarity, outside, and before that"):
        reward(["a"], ["b"])


def test_a_body_that_is_too_large_is_sent_in_parts(stub: PredictServer) -> None:
    stub.faults = [Fault(status=413, stays=True, only_if=lambda count: count > 1)]
    assert remote(stub.url)(ASKED, ANSWERS) == [numbers(*texts)["reward"] for texts in zip(ASKED, ANSWERS, strict=True)]
    assert [len(texts) for texts in stub.asked] == [4, 2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"unscorable": [4]}', b'{"unscorable": "all"}', b'{"unscorable": []}', b"no"]
)
def test_a_422_that_names_no_place_is_no_reason_for_a_floor(stub: PredictServer, body: bytes) -> None:
    stub.faults = [Fault(status=422, body=body, stays=True)]
    with pytest.raises(RewardError, match=r"RemoteError: .*422"):
        ask_reward(remote(stub.url), ["a"], ["b"], [0], needs_spread=False, floor=-9.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("url: 'http://realm:secret@host:8000'", "without a user or a token in it"),
        ("url: 'host:8000'", "url must be http"),
        ("url: 'https://host/?token=secret'", "url must be http"),
        ("{url: 'http://host', token: secret}", "write the name of an environment variable"),
    ],
)
def test_a_token_stands_in_the_parameters_by_name_only(change: str, says: str) -> None:
    given = change if change.startswith("{") else f"{{{change}}}"
    with pytest.raises(ParamsError, match=says) as caught:
        load_params("params/test.yaml", [f"rlhf.reward_server={given}"])
    assert "secret@" not in str(caught.value)
    assert RewardServerParams(url="https://host/realm/").url == "https://host/realm"
