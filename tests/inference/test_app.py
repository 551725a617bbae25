"""The server with a real, small reward behind all its guards: every form, every limit, and no text in the log."""

import asyncio
import base64
import html
import json
import logging
import math
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.identified import identified

from realm_lib.config.base import Secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.inference.server import Limits, ServerError
from realm_lib.inference.server.app import create_app, guarded
from realm_lib.inference.server.running import _bind, serve
from realm_lib.inference.server.service import RewardService
from realm_lib.reward.realm_reward import RealmReward

PROMPT, RESPONSE = "Why does bread rise?", "Yeast makes gas."
TOKEN = "a-long-and-random-token"
LIMITS = Limits(body_bytes=50_000, responses=8, characters=5000)
JSON = {"content-type": "application/json"}
HERE = "http://127.0.0.1"


def ready(client: TestClient) -> TestClient:
    for _ in range(10_000):
        if client.get("/readyz").status_code == 200:
            return client
        client.portal.call(asyncio.sleep, 0.02)  # type: ignore[union-attr]
    raise TimeoutError


def ours(caplog: pytest.LogCaptureFixture) -> str:
    """What the server logged: the test's own HTTP client logs too, and its addresses with their queries."""
    return "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))


@pytest.fixture(scope="module")
def service(run_folder: Path) -> RewardService:
    return RewardService(run_folder, LIMITS)


@pytest.fixture(scope="module")
def client(service: RewardService) -> Iterator[TestClient]:
    app = guarded(create_app(service), service, None)
    with TestClient(app, HERE, raise_server_exceptions=False) as opened:
        yield ready(opened)


@pytest.fixture(scope="module")
def wanted(run_reward: RealmReward) -> Any:
    """The reward computed alone."""
    return lambda response, prompt=PROMPT: pytest.approx(run_reward([prompt], [response])[0], abs=1e-4)


# The forms


def test_one_response(client: TestClient, wanted: Any, run_reward: RealmReward) -> None:
    answer = client.post("/predict", json={"prompt": PROMPT, "response": RESPONSE})
    assert answer.status_code == 200
    assert answer.json()["reward"] == wanted(RESPONSE)
    assert set(answer.json()) == {"reward", "spread", "score", "similarity", "outside", "signals", "models"}
    assert answer.json()["models"] == run_reward.models == client.get("/readyz").json()["models"]


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, [PROMPT, PROMPT], [{"role": "user", "content": PROMPT}], [[{"role": "user", "content": PROMPT}]] * 2],
    ids=["one for all", "one each", "messages", "messages each"],
)
def test_a_list_of_responses(client: TestClient, wanted: Any, prompt: Any) -> None:
    answer = client.post("/predict", json={"prompt": prompt, "response": [RESPONSE, "No."]}).json()
    assert answer["rewards"] == [wanted(RESPONSE), wanted("No.")]
    assert [one["reward"] for one in answer["results"]] == answer["rewards"]


@pytest.mark.parametrize("blank", ["", " \n", "\u200b"], ids=ascii)
@pytest.mark.parametrize("route", ["/predict", "/get_reward", "/v1/score/evaluation"])
def test_an_empty_response_has_a_reward_and_an_empty_prompt_is_refused(
    client: TestClient, wanted: Any, route: str, blank: str
) -> None:
    def asked(prompt: str, response: str) -> Any:
        if route == "/predict":
            return {"prompt": prompt, "response": [response]}
        chat = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        if route == "/get_reward":
            return {"query": [chat + response], "prompts": [chat]}
        return {"messages": [chat + response]}

    answer = client.post(route, json=asked(PROMPT, blank)).json()
    assert answer["scores" if "score" in route else "rewards"] == [wanted(blank)]
    refused = client.post(route, json=asked(blank, RESPONSE))
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("the prompt of response 0: the prompt is empty")


def test_a_hosted_model_is_not_asked_about_an_empty_response(
    tmp_path: Path, run_folder: Path, run_reward: RealmReward
) -> None:
    """It has no number for one: the places are named, as of what is too long, and nobody tries again."""
    shutil.copytree(run_folder, tmp_path / "run")
    hosted = EmbeddingParams(backend="gemini", model_id="gemini-embedding-001", api_key="${NOT_SET}")
    assert run_reward.feature_models is not None
    models = identified(replace(run_reward.feature_models, embedding=hosted), tmp_path / "run")
    RealmReward.save_pretrained(tmp_path / "run" / "models" / "combiner", run_reward.combiner, models)
    with TestClient(create_app(RewardService(tmp_path / "run", LIMITS)), raise_server_exceptions=False) as opened:
        refused = ready(opened).post("/predict", json={"prompt": PROMPT, "response": ["", "\u200b"]})
    assert refused.status_code == 422
    assert refused.json() == {
        "detail": "response 0 is empty: a hosted model has no number for it",
        "unscorable": [0, 1],
    }


def test_a_byte_order_mark_and_what_is_not_asked_for_are_passed_over(client: TestClient, wanted: Any) -> None:
    asked = json.dumps({"prompt": PROMPT, "response": RESPONSE, "mine": {"\ud83d": ["\ud83d"]}})
    answer = client.post("/predict", content=asked.encode("utf-8-sig"), headers=JSON)
    assert answer.json()["reward"] == wanted(RESPONSE)


def test_signals_are_answered_and_logged(signals_folder: Path, signals_reward: RealmReward) -> None:
    service = RewardService(signals_folder, LIMITS)
    (row,) = signals_reward.explain([PROMPT], [RESPONSE]).to_dict("records")
    with TestClient(create_app(service), raise_server_exceptions=False) as opened:
        client = ready(opened)
        answer = client.post("/predict", json={"prompt": PROMPT, "response": RESPONSE}).json()
        assert answer["signals"] == pytest.approx(
            {name: row[name] for name in ("second", "words", "repeats")}, abs=1e-4
        )
        assert answer["outside"] is row["outside"]
        assert answer["models"]["repeats"] == signals_reward.models["repeats"]
        logs = client.post("/get_reward", json={"query": [PROMPT + RESPONSE], "prompts": [PROMPT]}).json()["extra_logs"]
        assert set(logs) == {"score", "similarity", "spread", "outside", "second", "words", "repeats"}
        assert (logs["words"], logs["outside"]) == ([answer["signals"]["words"]], [float(row["outside"])])
        failed = client.post("/predict", json={"prompt": PROMPT, "response": [RESPONSE, "no number"]})
        assert (failed.status_code, failed.json()["detail"]) == (
            500,
            "the function of the signal repeats has no number for response 1",
        )
        long = client.post("/predict", json={"prompt": PROMPT, "response": [RESPONSE, "word " * 200]})
        assert (long.status_code, long.json()["unscorable"]) == (422, [1])
        shown = client.get("/openapi.json").json()["components"]["schemas"]["Explained"]["properties"]
        assert (shown["outside"]["type"], shown["signals"]["type"]) == ("boolean", "object")


def test_openrlhf(client: TestClient, wanted: Any) -> None:
    prompt = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    query = [prompt + RESPONSE + "<|im_end|>", PROMPT + "No."]
    answer = client.post("/get_reward", json={"query": query, "prompts": [prompt, PROMPT], "labels": ["x", None]})
    assert answer.status_code == 200
    assert set(answer.json()) == {"rewards", "scores", "extra_logs"}
    assert answer.json()["rewards"] == [wanted(RESPONSE), wanted("No.")]
    assert answer.json()["scores"] == [1 / (1 + math.exp(-reward)) for reward in answer.json()["rewards"]]
    assert all(len(values) == 2 for values in answer.json()["extra_logs"].values())
    # Its first version sends no prompts.
    assert client.post("/get_reward", json={"query": query[:1]}).json()["rewards"] == [wanted(RESPONSE)]


@pytest.mark.slow
def test_a_text_that_the_embedding_model_is_not_to_cut_is_named(
    tmp_path: Path, run_folder: Path, run_reward: RealmReward, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "realm_lib.inference.server")
    shutil.copytree(run_folder, tmp_path / "run")
    assert run_reward.feature_models is not None
    embedding = run_reward.feature_models.embedding.model_copy(update={"long_texts": "refuse"})
    models = identified(replace(run_reward.feature_models, embedding=embedding), tmp_path / "run")
    RealmReward.save_pretrained(tmp_path / "run" / "models" / "combiner", run_reward.combiner, models)
    with TestClient(create_app(RewardService(tmp_path / "run", LIMITS)), raise_server_exceptions=False) as opened:
        asked = {"prompt": PROMPT, "response": [RESPONSE, "Yeast makes gas. " * 70]}
        refused = ready(opened).post("/predict", json=asked)
    assert refused.status_code == 422
    assert refused.json()["unscorable"] == [1]
    assert refused.json()["detail"].startswith("response 1 or its prompt is longer than the embedding model reads")
    assert "similarity: its model reads 254 word pieces at once; long_texts: refuse" in caplog.text


def test_openrlhfs_empty_lists_are_empty_lists(client: TestClient) -> None:
    answer = client.post("/get_reward", json={"query": [], "prompts": [], "labels": []}).json()
    assert (answer["rewards"], answer["scores"]) == ([], [])


def test_llama_factory(client: TestClient, wanted: Any) -> None:
    text = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{RESPONSE}<|im_end|>\n"
    answer = client.post("/v1/score/evaluation", json={"model": "model", "messages": [text]})
    assert answer.json()["scores"] == [wanted(RESPONSE)]


# What is refused


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "body"),
        (b"\x00\xff\xfe", 400, "not UTF-8"),
        (b"{", 400, "not JSON"),
        (b"[" * 40_000, 400, "nested too deeply"),
        (b'{"prompt": NaN, "response": "b"}', 400, "NaN is not a number of JSON"),
        (b'{"query": [], "labels": [Infinity]}', 400, "Infinity is not a number of JSON"),
        (b'{"prompt": ' + b"1" * 5000 + b"}", 400, "too many digits"),
        (b"[]", 422, "body"),
        (b'{"prompt": "a", "response": "b", "prompt": "secret"}', 400, "a key that stands twice"),
        (b'{"prompt": [{"role": "user", "role": "user", "content": "secret"}], "response": "b"}', 400, "stands twice"),
        (b'{"query": [], "labels": [{"secret": 1, "secret": 2}]}', 400, "a key that stands twice"),
        (b'{"prompt": [{"role": "user", "content": "secret \\ud83d"}], "response": "b"}', 422, "lone surrogate"),
        (b'{"prompt": [{"role": "secret \\ud83d", "content": "a"}], "response": "b"}', 422, "role"),
        (b'{"prompt": "a", "response": ["b", "secret \\ud83d"]}', 422, "response 1 holds a lone surrogate"),
        (b'{"query": ["secret \\ud83d"], "prompts": ["secret"]}', 422, "query[0] holds a lone surrogate"),
        (b'{"messages": ["\\n\\nHuman: a\\n\\nAssistant: secret \\ud83d"]}', 422, "messages[0] holds a lone surrogate"),
        (b'{"prompt": "secret"}', 422, "response"),
        (b'{"prompt": "secret", "response": {"secret": 1}}', 422, "response"),
        (b'{"prompt": ["a", "b"], "response": ["secret"]}', 422, "2 prompts but 1 responses"),
        (b'{"prompt": ["a", "b"], "response": "secret"}', 422, "several prompts but one response"),
        (b'{"prompt": [{"role": "robot", "content": "secret"}], "response": "b"}', 422, "role"),
        (b'{"prompt": "secret \\ud800", "response": "b"}', 422, "lone surrogate"),
        (b'{"prompt": "secret", "response": []}', 422, "at least 1 item"),
        (b'{"prompt": [], "response": "secret"}', 422, "at least 1 item"),
        (b'{"prompt": [], "response": []}', 422, "at least 1 item"),
        (b'{"model": "secret", "messages": []}', 422, "at least 1 item"),
        (json.dumps({"prompt": "a", "response": ["secret"] * 9}).encode(), 422, "9 texts, the limit is 8"),
        (json.dumps({"prompt": "a", "response": "secret" * 1000}).encode(), 422, "6000 characters, the limit is 5000"),
        (json.dumps({"prompt": "a", "response": "secret \t" * 600}).encode(), 422, "the reward model reads 512"),
        (b'{"prompt": "' + b"secret" * 10_000 + b'"}', 413, "limit of 50000 bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_bad_body_is_a_clear_4xx_that_repeats_nothing(
    client: TestClient, caplog: pytest.LogCaptureFixture, content: bytes, status: int, message: str
) -> None:
    caplog.set_level(logging.DEBUG)
    path = "/get_reward" if b"query" in content else "/predict"
    path = "/v1/score/evaluation" if b"messages" in content else path
    answer = client.post(path + "?secret=1", content=content, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert message in answer.json()["detail"]
    assert "secret" not in answer.text + ours(caplog)


def test_a_fault_of_one_request_is_not_the_others(client: TestClient, wanted: Any) -> None:
    answer = client.post("/predict", json={"prompt": PROMPT, "response": [RESPONSE, "word " * 900]})
    assert answer.status_code == 422
    assert "response 1 and the chat template" in answer.json()["detail"]
    assert answer.json()["unscorable"] == [1]
    several = ["word " * 900, RESPONSE, "word " * 950]
    assert client.post("/predict", json={"prompt": PROMPT, "response": several}).json()["unscorable"] == [0, 2]
    several = ["word " * 2000, RESPONSE, "word " * 900]  # more characters than the server reads: it asks nobody
    assert client.post("/predict", json={"prompt": PROMPT, "response": several}).json()["unscorable"] == [0]
    longer = client.post("/predict", json={"prompt": "word " * 2000, "response": RESPONSE})
    assert (longer.status_code, "unscorable" in longer.json()) == (422, False)
    assert client.post("/predict", json={"prompt": PROMPT, "response": RESPONSE}).json()["reward"] == wanted(RESPONSE)


@pytest.mark.parametrize("path", ["/get_reward", "/v1/score/evaluation"])
def test_a_chat_that_cannot_be_split_is_422(client: TestClient, path: str) -> None:
    answer = client.post(path, json={"query": ["secret"], "prompts": ["other"], "messages": ["secret"]})
    assert answer.status_code == 422
    assert "[0] " in answer.json()["detail"]
    assert "secret" not in answer.text


def test_a_body_without_a_length_is_limited_too(client: TestClient) -> None:
    assert client.post("/predict", content=(b"x" * 10_000 for _ in range(100))).status_code == 413


@pytest.mark.parametrize("path", ["/predict", "/get_reward", "/v1/score/evaluation"])
@pytest.mark.parametrize("kind", [None, "", "application/x-www-form-urlencoded", "text/plain", "application", "json"])
def test_json_must_be_called_json(client: TestClient, path: str, kind: str | None) -> None:
    """curl calls a body a form where nobody says otherwise; a page in a browser can send text/plain anywhere."""
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post(path, content=json.dumps({"prompt": "secret", "response": "b"}), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    assert answer.json() == {"detail": "the body must say that it is JSON: send Content-Type: application/json"}


def test_other_paths_and_methods(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "realm_lib.inference.server")
    assert client.get("/secret/path").status_code == 404
    assert client.get("/predict").status_code == 405
    assert "secret" not in ours(caplog)


def test_metrics_count_and_name_no_text(client: TestClient) -> None:
    client.post("/predict", json={"prompt": PROMPT, "response": RESPONSE})
    shown = client.get("/metrics").text
    assert 'realm_requests_total{route="/predict",status="200"}' in shown
    assert "realm_batch_responses_bucket" in shown
    assert "realm_waiting_responses 0.0" in shown
    assert "bread" not in shown


def test_the_openapi_page_has_examples(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/predict", "/get_reward", "/v1/score/evaluation"} <= set(schema["paths"])
    assert all(schema["components"]["schemas"][name]["examples"] for name in ("PredictRequest", "GetRewardRequest"))


def test_the_page_of_the_api_needs_no_network(client: TestClient) -> None:
    """Every operation with its example, and nothing that a browser would fetch."""
    answer = client.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = html.unescape(answer.text)
    schema = client.get("/openapi.json").json()
    assert all(f"<code>{path}</code>" in page for path in schema["paths"])
    for name in ("PredictRequest", "GetRewardRequest", "ScoresRequest", "Explained"):
        assert json.dumps(schema["components"]["schemas"][name]["examples"][0], indent=2) in page
    assert "Retry-After says when" in page
    assert re.findall(r"(?:src|href)=\"([^\"]*)", page) == ["openapi.json"]
    assert not re.search(r"<script|@import|url\(|https?:", page)


@given(content=st.one_of(st.binary(max_size=300), st.text().map(lambda text: json.dumps(text).encode())))
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("path", ["/predict", "/get_reward", "/v1/score/evaluation"])
def test_random_bytes_are_a_4xx(client: TestClient, path: str, content: bytes) -> None:
    answer = client.post(path, content=content, headers=JSON)
    assert answer.status_code in {400, 422}
    assert answer.json()["detail"]


@pytest.mark.slow
def test_schemathesis_finds_no_500(client: TestClient) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    seen = set()
    quick = settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    for found in schema.get_all_operations():
        operation = found.ok()

        @quick
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            arguments = case.as_transport_kwargs(base_url=HERE)
            arguments = {key: value for key, value in arguments.items() if value is not None and key != "timeout"}
            answer = client.request(**arguments)
            seen.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code == 503

        ask()
    assert 200 in seen


# The token


@pytest.fixture
def locked(service: RewardService, monkeypatch: pytest.MonkeyPatch, client: TestClient) -> TestClient:  # noqa: ARG001
    """The same application behind a token, its model already loaded."""
    monkeypatch.setenv("REALM_TEST_TOKEN", TOKEN)
    return TestClient(guarded(create_app(service), service, Secret("${REALM_TEST_TOKEN}")))  # type: ignore[attr-defined]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"realm:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (None, 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (basic(TOKEN), 200),
        (basic("wrong"), 401),
        ("Basic !!!", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        (TOKEN, 401),
    ],
)
def test_the_token(locked: TestClient, caplog: pytest.LogCaptureFixture, sent: str | None, status: int) -> None:
    caplog.set_level(logging.DEBUG)
    answer = locked.post("/get_reward", json={"query": []}, headers={"authorization": sent} if sent else {})
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert TOKEN not in answer.text + ours(caplog)


def test_state_needs_no_token_and_numbers_do(locked: TestClient) -> None:
    assert [locked.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 401]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.org"])
def test_an_open_address_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str) -> None:
    monkeypatch.delenv("REALM_SERVER_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServerError, match="REALM_SERVER_TOKEN"):
        serve(tmp_path, host, 0, Limits())


# Before the model is there, and when it cannot be loaded


def test_what_comes_while_the_model_is_loaded_waits_for_it(run_folder: Path, wanted: Any) -> None:
    go = threading.Event()

    class SlowService(RewardService):
        def load(self) -> None:
            assert go.wait(60)
            super().load()

    service = SlowService(run_folder, replace(LIMITS, queue=2))
    with TestClient(guarded(create_app(service), service, None), HERE) as client, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, "/predict", json={"prompt": PROMPT, "response": text}) for text in ("a", "b")]
        while service.batcher.waiting < 2:
            time.sleep(0.01)
        assert client.get("/readyz").status_code == 503
        assert client.post("/predict", json={"prompt": PROMPT, "response": "c"}).status_code == 429
        go.set()
        answers = [each.result() for each in asked]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["reward"] for answer in answers] == [wanted("a"), wanted("b")]


def test_a_model_that_takes_too_long_to_load_is_503(run_folder: Path) -> None:
    go = threading.Event()

    class SlowService(RewardService):
        def load(self) -> None:
            assert go.wait(60)

    service = SlowService(run_folder, replace(LIMITS, timeout=0.2))
    with TestClient(guarded(create_app(service), service, None), HERE) as client:
        answer = client.post("/predict", json={"prompt": PROMPT, "response": RESPONSE})
        go.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "the model is being loaded" in answer.json()["detail"]


def test_not_ready_is_503_and_a_failure_is_kept(tmp_path: Path) -> None:
    failed = []
    service = RewardService(tmp_path / "none", replace(LIMITS))
    app = guarded(create_app(service, lambda: failed.append(True)), service, None)
    with TestClient(app, HERE) as client:
        assert client.get("/healthz").status_code == 200
        answer = client.post("/predict", json={"prompt": "a", "response": "b"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 503
    assert failed == [True]
    assert "02_combiner_training" in str(service.failure)


def test_an_answer_is_not_held_back_until_its_headers_are_acknowledged() -> None:
    """Forty milliseconds a request, for a client that asks one at a time."""
    with _bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
