"""Requests that are made to cost: bodies, connections and headers. What is refused is refused at once, and says why."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp

from realm_lib.config.base import Secret
from realm_lib.data.chats import as_text
from realm_lib.data.rendered_chats import RenderedChatError, split_query, split_rendered
from realm_lib.data.texts import is_empty
from realm_lib.inference.server import Limits, ServerError
from realm_lib.inference.server.app import create_app, guarded
from realm_lib.inference.server.running import _bind, build_server, serve
from realm_lib.inference.server.service import RewardService
from realm_lib.inference.server.strict_json import parse_json

TOKEN = "a-long-and-random-token"
LARGEST = Limits.body_bytes
SECONDS, BYTES = 0.1, 50 * 2**20
EMPTY = b'{"query": []}'
"""Answered with empty lists, and without a model."""


class Unloaded(RewardService):
    """A server that never has its model: what is tried here is over before one is asked."""

    def load(self) -> None:
        """Nothing."""


@dataclass
class Answer:
    """What was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])


async def ask(app: ASGIApp, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    """One request without a client between: its own time and memory would be measured too."""
    sent: list[Any] = []
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(given, None) or await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        sent.append(message)

    fields = {"host": "localhost:8000", "content_type": "application/json", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()],
    }
    await app(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent))


@pytest.fixture(scope="module")
def app() -> ASGIApp:
    service = Unloaded(Path("none"), Limits())
    return guarded(create_app(service), service, None)


# Bodies


def filled(unit: str, size: int = LARGEST) -> str:
    """A list of as many as fit into a body."""
    return "[" + ",".join([unit] * ((size - 100) // (len(unit) + 1))) + "]"


def in_predict(prompt: str = '"a"', response: str = '"b"') -> str:
    return f'{{"prompt": {prompt}, "response": {response}}}'


FEW = 49_000
"""Bytes of a list that stays below the limit of values, whatever its items."""
MESSAGE = '{"role":"user","content":""}'
VALUES = "limit of 100000 values"
BODIES: dict[str, tuple[str, Callable[[], str], str]] = {
    "numbers": ("/predict", lambda: in_predict(filled("1")), VALUES),
    "objects": ("/predict", lambda: in_predict(filled("{}")), VALUES),
    "lists": ("/predict", lambda: in_predict(response=filled("[]")), VALUES),
    "nulls": ("/get_reward", lambda: f'{{"query": {filled("null")}}}', VALUES),
    "empty texts": ("/v1/score/evaluation", lambda: f'{{"messages": {filled(chr(34) * 2)}}}', VALUES),
    "labels": ("/get_reward", lambda: f'{{"query": [], "labels": {filled("[[]]")}}}', VALUES),
    "messages": ("/predict", lambda: in_predict(filled(MESSAGE)), VALUES),
    "keys": ("/predict", lambda: "{" + ",".join(f'"secret{n}":1' for n in range(200_000)) + "}", VALUES),
    "nesting": ("/predict", lambda: "[" * (LARGEST - 100), VALUES),
    "some nesting": ("/predict", lambda: in_predict("[" * 90_000), "nested too deeply"),
    "some numbers": ("/predict", lambda: in_predict(filled("1", FEW)), "prompt.0: Input should be a valid string"),
    "some objects": ("/predict", lambda: in_predict(filled("{}", FEW)), "prompt.0.role: Field required"),
    "some lists": ("/predict", lambda: in_predict(filled("[]", FEW)), "at least 1 item"),
    "some responses": ("/predict", lambda: in_predict(response=filled('""', FEW)), "at most 256 items"),
    "some messages": ("/predict", lambda: in_predict(filled(MESSAGE, 10 * FEW)), "at most 256 items"),
    "some chats": ("/predict", lambda: in_predict(filled(f"[{MESSAGE}]", 10 * FEW)), "at most 256 items"),
    "bad messages": ("/predict", lambda: in_predict(filled('{"role":"secret"}', 5 * FEW)), "prompt.0.content"),
    "long chats": ("/predict", lambda: in_predict(filled(f"[{','.join([MESSAGE] * 257)}]", 10 * FEW)), "at most 256"),
    "some queries": ("/get_reward", lambda: f'{{"query": {filled("[]", FEW)}}}', "query.0: Input should be"),
    "some prompts": ("/get_reward", lambda: f'{{"query": "a", "prompts": {filled("{}", FEW)}}}', "prompts.0: Input"),
    "some texts": ("/v1/score/evaluation", lambda: f'{{"messages": {filled("[]", FEW)}}}', "messages.0: Input should"),
    "digits": ("/predict", lambda: in_predict(filled("1" * 4000)), "too many digits"),
    "escapes": ("/predict", lambda: in_predict(response='"' + "\\u0041" * 690_000 + '"'), "690000 characters"),
    "wide": ("/predict", lambda: in_predict(response='"\U0001f600\\u0041' + "a" * 4_100_000 + '"'), "limit is 100000"),
    "headings": ("/predict", lambda: in_predict('"' + "\\n\\nHuman:" * 380_000 + '"'), "limit is 100000"),
    "a long chat": (
        "/predict",
        lambda: in_predict(f'[{{"role": "user", "content": "{"secret" * 690_000}"}}]'),
        "the prompt of response 0 has 4140000 characters",
    ),
    "a long query": ("/get_reward", lambda: '{"query": "' + "secret" * 690_000 + '"}', "the limit is 200000"),
    "a long prompt": (
        "/get_reward",
        lambda: '{"query": "a", "prompts": "' + "secret" * 690_000 + '"}',
        "prompts[0] has 4140000 characters, the limit is 200000",
    ),
    "ends": ("/v1/score/evaluation", lambda: f'{{"messages": ["{"</s>" * 49_900}x"]}}', "can be told apart"),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_over_a_limit_is_refused_at_once(app: ASGIApp, name: str) -> None:
    """Numbers in a body of 4 MiB were answered after 84 seconds and 8.8 GB, and nobody else before."""
    path, written, message = BODIES[name]
    body = written().encode()
    assert len(body) <= LARGEST
    took = []
    for _ in range(3):
        start = time.process_time()
        answer = asyncio.run(ask(app, "POST", path, body))
        took.append(time.process_time() - start)
    tracemalloc.start()
    try:
        asyncio.run(ask(app, "POST", path, body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status in {400, 422}
    assert message in answer.detail
    assert "secret" not in answer.detail
    assert len(answer.body) < 1000
    assert min(took) < SECONDS
    assert peak < BYTES


def test_all_long_responses_are_named_before_a_long_prompt_is(app: ASGIApp) -> None:
    """A trainer leaves out what is named, and asks again."""
    long = "a" * 100_001
    body = json.dumps({"prompt": [long, "a", "a"], "response": ["b", long, long]}).encode()
    answer = json.loads(asyncio.run(ask(app, "POST", "/predict", body)).body)
    assert (answer["unscorable"], "response 1 has 100001 characters" in answer["detail"]) == ([1, 2], True)


def test_the_limits_stand_in_the_schema(app: ASGIApp) -> None:
    schemas = json.loads(asyncio.run(ask(app, "GET", "/openapi.json")).body)["components"]["schemas"]
    one, chat, texts, chats = schemas["PredictRequest"]["properties"]["prompt"]["anyOf"]
    assert one["maxLength"] == texts["items"]["maxLength"] == 100_000
    assert chat["maxItems"] == texts["maxItems"] == chats["maxItems"] == chats["items"]["maxItems"] == 256
    assert schemas["ScoresRequest"]["properties"]["messages"]["items"]["maxLength"] == 200_000


JSONS = st.recursive(
    st.none() | st.integers(-1000, 1000) | st.text(st.sampled_from('a"\\,:[{é\n'), max_size=6),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(st.sampled_from('a"\\,[')), part, max_size=4),
    max_leaves=12,
)


def marks(value: Any) -> int:
    """How many of , : [ { the JSON of a value has outside its texts."""
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(marks, value))
    if isinstance(value, dict):
        return 1 + max(len(value) - 1, 0) + len(value) + sum(map(marks, value.values()))
    return 0


@given(JSONS, st.integers(1, 40))
def test_values_are_counted_outside_texts_only(value: Any, most: int) -> None:
    body = json.dumps(value).encode()
    if marks(value) < most:
        assert parse_json(body, most) == value
    else:
        with pytest.raises(HTTPException) as caught:
            parse_json(body, most)
        assert caught.value.status_code == 422


CHARACTERS = 200_000
TURN = "<|user|>\na<|assistant|>\n"
TEXTS = {
    "special tokens": TURN + "</s>" * (CHARACTERS // 4) + "x",
    "special tokens and blanks": TURN + "</s> \n" * (CHARACTERS // 6) + "x",
    "special tokens at the end": TURN + "</s>" * (CHARACTERS // 4),
    "blanks": " " * CHARACTERS + "x",
    "blanks at the end": TURN + "</s>" + " " * CHARACTERS + "x",
    "line breaks": "\n" * CHARACTERS + "x",
    "headings": "<|user|>\n" * (CHARACTERS // 9),
    "turns": "\n\nHuman: " * (CHARACTERS // 9),
    "combining marks": "a" + "\u0301\u0327" * (CHARACTERS // 2),
    "brackets": TURN + "<" * CHARACTERS,
    "records": "\x1e" + "[" * CHARACTERS,
    "gone": "[deleted by " + " on account of violating " * (CHARACTERS // 25) + "x",
    "gone marks": "[deleted" + "\u0301\u0327" * (CHARACTERS // 2) + "]",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_takes_no_square_of_its_length(name: str) -> None:
    """Linear ones take some hundredths of a second; 131,000 characters of special tokens took 26 seconds."""
    text = TEXTS[name]
    for read in (
        split_rendered,
        lambda text: split_query(text, text[: len(text) // 2]),
        lambda text: split_query(text, text[: len(text) // 2] + "y"),
        lambda text: split_query(text[len(text) // 3 :] + "z", text),
        as_text,
        is_empty,
    ):
        start = time.thread_time()
        try:
            read(text)
        except RenderedChatError:
            pass
        assert time.thread_time() - start < 2


def test_other_requests_are_answered_while_long_texts_are_split(app: ASGIApp) -> None:
    body = json.dumps({"messages": ["\n\nHuman: a\n\nAssistant: b" * 4000] * 6 + ["x"]}).encode()

    async def main() -> tuple[int, int]:
        asked = asyncio.create_task(ask(app, "POST", "/v1/score/evaluation", body))
        answered = 0
        while not asked.done():
            assert (await ask(app, "GET", "/healthz")).status == 200
            answered += 1
            await asyncio.sleep(0)
        return asked.result().status, answered

    status, answered = asyncio.run(main())
    assert status == 422
    assert answered >= 5


# Connections


@contextmanager
def served(limits: Limits, token: Secret | None = None) -> Iterator[tuple[str, int]]:
    """The server's own connections, on loopback, in a thread."""
    service = Unloaded(Path("none"), limits)
    listener = _bind("127.0.0.1", 0)
    address = listener.getsockname()
    server = build_server(guarded(create_app(service), service, token), limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(120)


def head(path: str, length: int = 0, token: str = "") -> bytes:
    method = "POST" if length else "GET"
    fields = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {length}", "Connection: close"]
    fields += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode()


def connected(address: tuple[str, int], sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address, timeout=120)
    connection.sendall(sent)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while piece := connection.recv(2**16):
            found += piece
    except ConnectionError:
        pass
    return found


def status_of(address: tuple[str, int], sent: bytes) -> int:
    with connected(address, sent) as connection:
        return int(read_all(connection).split()[1])


def wait_for(status: int, address: tuple[str, int], sent: bytes) -> None:
    """Until what was sent, or closed, before is seen at the other side."""
    end = time.monotonic() + 60
    while status_of(address, sent) != status:
        assert time.monotonic() < end


ASKED = head("/get_reward", len(EMPTY)) + EMPTY


def test_silent_connections_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,024 of them stopped the server, for those who hold no token too."""
    monkeypatch.setenv("REALM_TEST_TOKEN", TOKEN)
    limits = Limits(connections=8, requests=4)
    with served(limits, Secret("${REALM_TEST_TOKEN}")) as address, ExitStack() as stack:
        silent = [stack.enter_context(connected(address, start)) for start in (b"", b"GET /healthz HT") * 20]
        assert status_of(address, head("/healthz")) == 200
        assert status_of(address, ASKED) == 401
        assert status_of(address, head("/get_reward", len(EMPTY), TOKEN) + EMPTY) == 200
        for connection in silent[:-8]:
            assert read_all(connection) == b""  # closed, the first ones first
        silent[-1].sendall(b"TP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(silent[-1]).startswith(b"HTTP/1.1 200")


def test_requests_under_way_are_limited_and_state_is_answered() -> None:
    with served(Limits(connections=8, requests=3)) as address:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(connected(address, ASKED[:-1]))
            wait_for(503, address, ASKED)
            assert status_of(address, head("/healthz")) == 200
        wait_for(200, address, ASKED)


def test_a_head_that_never_ends_and_an_answer_that_nobody_takes_have_their_time() -> None:
    with served(Limits(head=0.2)) as address:
        for start in (b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"):
            with connected(address, start) as connection:
                assert read_all(connection) == b""
        for piece in (b"G", b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000):
            with connected(address) as connection, pytest.raises(ConnectionError):
                send_for_ever(connection, piece)


def send_for_ever(connection: socket.socket, piece: bytes) -> None:
    """Until the other side closes; what it answers is not read."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        connection.sendall(piece)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET http://localhost:1/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        (b"GET http://a/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 421),
        (b"HEAD /healthz/ HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", 200),
    ],
    ids=["no host", "two hosts", "HTTP/1.0", "whole address", "another's address", "HEAD"],
)
def test_request_lines_and_hosts(plain: tuple[str, int], sent: bytes, status: int) -> None:
    with connected(plain, sent) as connection:
        answer = read_all(connection)
    assert int(answer.split()[1]) == status
    assert answer.endswith(b"\r\n\r\n") == sent.startswith(b"HEAD")


@pytest.fixture(scope="module")
def plain() -> Iterator[tuple[str, int]]:
    with served(Limits()) as address:
        yield address


FITTED = """
import resource, sys
from realm_lib.inference.server import Limits
from realm_lib.inference.server.running import fit_files
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
limits = fit_files(Limits(connections=100, requests=25))
print(limits.connections, limits.requests, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "fitted"),
    [(300, 356, "50 12 356"), (300, 500, "100 25 456"), (480, 500, "100 25 480")],
    ids=["few", "raised", "enough"],
)
def test_connections_are_no_more_than_files_may_be_open(soft: int, hard: int, fitted: str) -> None:
    command = [sys.executable, "-c", FITTED, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == fitted
    assert ("50 connections at once instead of 100" in done.stderr) == (hard == 356)


# Headers


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:1", True),
        ("127.8.9.10", True),
        ("[::1]:8000", True),
        ("evil.example", False),
        ("localhost.evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("192.0.2.1", False),
        ("0.0.0.0:8000", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_without_a_token_only_own_names_are_served(app: ASGIApp, host: str, own: bool, method: str) -> None:
    """A page whose name is made to mean 127.0.0.1 could read what is answered."""
    path, body = ("/get_reward", EMPTY) if method == "POST" else ("/healthz", b"")
    answer = asyncio.run(ask(app, method, path, body, host=host))
    assert answer.status == (200 if own else 421)
    assert own or "REALM_SERVER_TOKEN" in answer.detail


def test_with_a_token_any_name_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALM_TEST_TOKEN", TOKEN)
    service = Unloaded(Path("none"), Limits())
    locked = guarded(create_app(service), service, Secret("${REALM_TEST_TOKEN}"))
    asked = ask(locked, "POST", "/get_reward", EMPTY, host="gpu-7:8000", authorization=f"Bearer {TOKEN}")
    assert asyncio.run(asked).status == 200


@pytest.mark.parametrize("path", ["/predict", "/get_reward", "/v1/score/evaluation", "/healthz", "/metrics"])
def test_a_slash_at_the_end_is_no_other_route(app: ASGIApp, path: str) -> None:
    method = "GET" if path in {"/healthz", "/metrics"} else "POST"
    answers = [asyncio.run(ask(app, method, asked, b"[]")) for asked in (path, path + "/", path + "//")]
    assert [answer.status for answer in answers] == [answers[0].status] * 2 + [404]
    assert answers[0].status in {200, 422}


def test_state_is_asked_by_head_too_and_takes_no_body(app: ASGIApp) -> None:
    assert [asyncio.run(ask(app, "HEAD", path)).status for path in ("/healthz", "/readyz")] == [200, 503]
    assert asyncio.run(ask(app, "POST", "/healthz", b"a" * (LARGEST + 1))).status == 405


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "GET"])
def test_no_page_of_another_origin_may_read_an_answer(app: ASGIApp, method: str) -> None:
    headers = {"origin": "http://evil.example", "access_control_request_method": "POST"}
    answer = asyncio.run(ask(app, method, "/get_reward", EMPTY, **headers))
    assert answer.status == (200 if method == "POST" else 405)
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("text/plain", 422),
        ("text/plain; a=application/json", 422),
        ("application/x-www-form-urlencoded", 422),
        ("multipart/form-data; boundary=json", 422),
        ("", 422),
    ],
)
def test_what_a_page_may_send_unasked_is_not_read(app: ASGIApp, kind: str, status: int) -> None:
    """A browser sends these types to any address, without asking whether it may."""
    assert asyncio.run(ask(app, "POST", "/get_reward", EMPTY, content_type=kind)).status == status


@pytest.mark.parametrize(
    "token", [" a", "a ", "a\n", "\ta", " ", "a\nb", "a\x7fb", "schl\xfcssel", "a\u2028"], ids=ascii
)
def test_a_token_that_no_header_carries_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    monkeypatch.setenv("REALM_SERVER_TOKEN", token)
    with pytest.raises(ServerError, match=r"REALM_SERVER_TOKEN .* cannot be sent in a header") as caught:
        serve(tmp_path, "127.0.0.1", 0, Limits())
    assert "schl" not in str(caught.value)
