"""What stands before the application, in this order: log, address, token, and limits on requests and bodies."""

import asyncio
import base64
import binascii
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realm_lib.config.base import Secret
from realm_lib.inference.server.addresses import is_own, without_port
from realm_lib.inference.server.faults import describe_fault
from realm_lib.inference.server.limits import Limits
from realm_lib.inference.server.metrics import Metrics

log = logging.getLogger("realm_lib.inference.server")

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Asked by what keeps the server running, which holds no token."""


LEFT = 499
"""Of a client that left before it was answered: in the log and the metrics, as nginx has it."""


async def refuse(send: Send, status: int, detail: str, **headers: str) -> None:
    """Answer ``status`` with {"detail"}. The connection is closed: what is left of the body is not read."""
    body = json.dumps({"detail": detail}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


class AccessLog:
    """A line for each request: method, route, status, milliseconds. No query, no path as sent, no text, no token.

    It is the outermost part: an error that nothing else caught is logged without its message and answered with 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log its end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            log.error("a request failed: %s", describe_fault(error))
            if not status:
                await refuse(watched, 500, "internal error; the server's log says where")
        finally:
            status = status or LEFT
            seconds = time.monotonic() - start
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            level = logging.DEBUG if route in OPEN_PATHS else logging.INFO  # they are asked every few seconds
            log.log(level, "%s %s %d %.0f ms", _method(scope), route, status, 1000 * seconds)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} else "other"


class AddressGuard:
    """The path in one form, and, but for ``any_name``, 421 to who calls this machine by a name that is not its own.

    A page in a browser may reach 127.0.0.1 by a name of its own (DNS rebinding), and then read what is answered.
    """

    def __init__(self, app: ASGIApp, any_name: bool) -> None:
        self.app = app
        self.any_name = any_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with a path as the routes have them."""
        if scope["type"] == "http":
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if scope["path"].startswith("http://"):  # a whole address, as to a proxy: then it counts, not the header
                host, slash, path = scope["path"].removeprefix("http://").partition("/")
                hosts, scope["path"] = [host], slash + path
            scope["path"] = scope["path"].removesuffix("/") or "/"
            # HTTP/1.0 has no Host, and no browser sends it.
            if not self.any_name and not all(is_own(without_port(host)) for host in hosts):
                told = "this server answers to localhost and 127.0.0.1 only; under another name it needs a token"
                await refuse(send, 421, f"{told}: set REALM_SERVER_TOKEN where it runs")
                return
        await self.app(scope, receive, send)


class TokenGuard:
    """401 without the token, where there is one. Asked before a body is read. ``OPEN_PATHS`` go to ``state``.

    ``Authorization: Bearer TOKEN``; or Basic with the token as password, for clients that know nothing but a URL
    (``http://realm:TOKEN@host:8000/get_reward``).
    """

    def __init__(self, app: ASGIApp, state: ASGIApp, token: Secret | None) -> None:
        self.app = app
        self.state = state
        self._token = token.reveal().encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that holds the token."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self.state(scope, receive, send)
        elif self._token is None or self._holds_token(scope):
            await self.app(scope, receive, send)
        else:
            await refuse(send, 401, "a token is needed: send Authorization: Bearer TOKEN", www_authenticate="Bearer")

    def _holds_token(self, scope: Scope) -> bool:
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, value = sent.partition(b" ")
        value = value.strip()
        if kind.lower() == b"basic":
            try:
                value = base64.b64decode(value, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != b"bearer":
            return False
        return self._token is not None and hmac.compare_digest(value, self._token)


class _Held:
    """How much of something is under way, in all and of each client, by its address."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self._of_clients: Counter[str | None] = Counter()

    def add(self, scope: Scope, amount: int) -> None:
        """``amount`` more, or less, of the client that asks."""
        self.total += amount
        self._of_clients[_client(scope)] += amount
        if not self._of_clients[_client(scope)]:
            del self._of_clients[_client(scope)]

    def is_full(self, scope: Scope, own: int) -> bool:
        """Whether it is too much with the ``own`` part of this request; a client's only request may be the half over.

        So no client can fill it for the others.
        """
        return self.total > self.most * (1 if self._of_clients[_client(scope)] > own else 2)


def _client(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


class RequestLimit:
    """503 for more requests at once than the limit. Connections without a request are not counted."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.under_way = _Held(limits.requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and count it until it is answered."""
        self.under_way.add(scope, 1)
        try:
            if self.under_way.is_full(scope, 1):
                told = f"{self.limits.requests} requests are under way, which is the limit"
                await refuse(send, 503, told, retry_after=str(self.limits.retry_after))
            else:
                await self.app(scope, receive, send)
        finally:
            self.under_way.add(scope, -1)


class BodyLimit:
    """Reads the body before the application does: 413 over the limit, 429 when all bodies together are too much.

    It counts what arrives, since Content-Length may be missing (chunked) or wrong; 408 when the body takes too long.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.held = _Held(limits.bodies_bytes)
        """Bytes of the bodies under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request with its body, read whole."""
        limits = self.limits
        body = bytearray()  # a list of pieces of one byte each would take many times their size
        size = 0
        too_large = f"the body is over the limit of {limits.body_bytes} bytes"
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
            await refuse(send, 413, too_large)
            return
        try:
            async with asyncio.timeout(limits.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    chunk = message.get("body", b"")
                    body += chunk
                    size += len(chunk)
                    self.held.add(scope, len(chunk))
                    if size > limits.body_bytes:
                        await refuse(send, 413, too_large)
                        return
                    if self.held.is_full(scope, size):
                        await refuse(send, 429, "too much is under way", retry_after=str(limits.retry_after))
                        return
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            await refuse(send, 408, f"the body took longer than {limits.timeout:g} s")
            return
        else:
            whole = bytes(body)
            body.clear()
            await self.app(scope, _replay(whole, receive), send)
        finally:
            self.held.add(scope, -size)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
