"""A request ends with its client, and is otherwise passed on as it is."""

import asyncio
from typing import Any

import pytest

from realm_lib.inference.server.leaving import LeavesWithClient

BODY = {"type": "http.request", "body": b"{}", "more_body": False}


async def run(app: Any, left: asyncio.Event) -> list[Any]:
    """What ``app`` sent; ``left`` is set when the client leaves."""
    sent: list[Any] = []
    messages = [BODY]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await LeavesWithClient(app)({"type": "http"}, receive, send)
    return sent


def test_a_request_is_passed_on_and_hears_of_the_end() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await send(await receive())
        left.set()
        await send(await receive())

    left = asyncio.Event()
    sent = asyncio.run(run(app, left))
    assert sent[0] == BODY


def test_it_is_cancelled_when_the_client_leaves() -> None:
    ended = []

    async def app(_: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        await receive()
        left.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    left = asyncio.Event()
    assert asyncio.run(run(app, left)) == []
    assert ended == ["cancelled"]


def test_its_fault_is_raised() -> None:
    async def app(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(app, asyncio.Event()))


def test_nothing_goes_on_when_it_is_cancelled_itself() -> None:
    ended = []

    async def app(*_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main() -> None:
        task = asyncio.create_task(run(app, asyncio.Event()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
