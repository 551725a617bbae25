"""Load that is meant to keep others waiting: responses that do not fit, clients that leave, and a stop amid them."""

import json
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from realm_lib.inference.server import Limits
from realm_lib.inference.server.app import create_app, guarded
from realm_lib.inference.server.running import _bind, build_server
from realm_lib.inference.server.service import RewardService
from realm_lib.models.reward_models import LongResponseError
from realm_lib.reward.explanations import explain_each
from realm_lib.reward.realm_reward import RealmReward

LETTERS = 51_000
"""More than half of what is tokenized at once."""


class Held(RewardService):
    """A server whose model is not there before ``go``."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(Path("none"), limits)
        self.go = threading.Event()

    def load(self) -> None:
        """Wait."""
        assert self.go.wait(120)


@contextmanager
def served(limits: Limits) -> Iterator[tuple[Held, Any, tuple[str, int]]]:
    """The service, uvicorn's server in a thread, and its address on loopback."""
    service = Held(limits)
    listener = _bind("127.0.0.1", 0)
    address = listener.getsockname()
    server = build_server(guarded(create_app(service), service, None), limits, service.stop)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield service, server, address
    finally:
        service.go.set()
        server.should_exit = True
        thread.join(120)
    assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def asking(address: tuple[str, int], responses: Sequence[str]) -> socket.socket:
    body = json.dumps({"prompt": "Why?", "response": list(responses)}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    connection = socket.create_connection(address, timeout=120)
    connection.sendall(f"{head}\r\n\r\n".encode() + body)
    return connection


def test_what_clients_that_left_had_asked_for_leaves_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "realm_lib.inference.server")
    with served(Limits()) as (service, _, address):
        connections = [asking(address, [f"{n} {m}" for m in range(256)]) for n in range(4)]
        until(lambda: service.batcher.waiting == 1024)
        connections[0].shutdown(socket.SHUT_RDWR)
        until(lambda: service.batcher.waiting == 768)
        for connection in connections:
            connection.close()
        until(lambda: service.batcher.waiting == 0)
        until(lambda: caplog.text.count("POST /predict 499") == 4)
        text = httpx.get(f"http://127.0.0.1:{address[1]}/metrics").text
        assert 'realm_requests_total{route="/predict",status="499"} 4.0' in text
    assert "failed" not in caplog.text


def test_a_stop_tells_who_waits_to_come_again() -> None:
    with served(Limits(stop=0.1)) as (service, server, address):
        with asking(address, ["a", "b"]) as connection:
            until(lambda: service.batcher.waiting == 2)
            server.should_exit = True
            answer = b""
            while piece := connection.recv(2**16):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer.lower()
        assert b"the server is stopping" in answer


def test_bodies_of_one_client_do_not_keep_out_another() -> None:
    """Addresses of the loopback network are as many clients."""
    asked = b'{"query": []}' + b" " * 3000  # answered without a model
    with served(Limits(bodies_bytes=10_000)) as (service, _, address):
        held = [asking(address, ["x" * 3000 + str(n)]) for n in range(3)]
        until(lambda: service.batcher.waiting == 3)
        statuses = []
        for local in ("127.0.0.1", "127.0.0.2"):
            with httpx.Client(transport=httpx.HTTPTransport(local_address=local), timeout=120) as client:
                url = f"http://127.0.0.1:{address[1]}/get_reward"
                answer = client.post(url, content=asked, headers={"content-type": "application/json"})
                statuses.append(answer.status_code)
        assert statuses == [429, 200]
        for connection in held:
            connection.close()


def peak(call: Callable[[], object]) -> int:
    """Most bytes that Python held beside what it had before."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.slow
def test_long_texts_take_the_memory_of_one(run_reward: RealmReward) -> None:
    texts = [str(number) + " ab" * (LETTERS // 3) for number in range(3)]

    def refused(number: int) -> int:
        outcomes = explain_each(run_reward, ["Why?"] * number, texts[:number])
        assert all(isinstance(outcome, LongResponseError) for outcome in outcomes)
        return len(outcomes)

    refused(1)
    assert peak(lambda: refused(3)) < 1.5 * peak(lambda: refused(1))


def test_a_prompt_of_thousands_of_turns_takes_no_square_of_them(run_reward: RealmReward) -> None:
    """Each turn looked at every token."""

    def seconds(turns: int) -> float:
        prompt = "\n\nHuman: a\n\nAssistant: b" * turns + "\n\nHuman: c"
        start = time.thread_time()
        explain_each(run_reward, [prompt], ["Because."])
        return time.thread_time() - start

    seconds(10)
    assert min(seconds(3000) for _ in range(2)) < 3
