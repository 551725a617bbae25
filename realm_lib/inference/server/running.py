"""``realm serve``: bind, load, answer, and stop when told to, after what was accepted is answered."""

import logging
import math
import os
import re
import resource
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_lib.config.base import ParamsError, Secret, reveal_secret
from realm_lib.inference.server.addresses import is_own
from realm_lib.inference.server.limits import Limits, ServerError

if TYPE_CHECKING:
    import uvicorn

TOKEN = "${REALM_SERVER_TOKEN}"
_LAST_BATCH = 5
"""Seconds that a stop waits for the batch that is being computed at its end; then its requests get 500."""
_OTHER_FILES = 256
"""Most files that the server has open beside its connections, with a wide margin."""


def serve(run: Path, host: str, port: int, limits: Limits) -> None:
    """Serve the reward of ``run`` until SIGINT or SIGTERM.

    Raises :class:`ServerError` when the address cannot be bound, or is not this machine's own and there is no token,
    and for a token that no client could send; and what loading the reward raises.
    """
    token = _token(host)
    # Before all that takes a second to import: from here on a client waits instead of being refused.
    listener = _bind(host, port)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    log = logging.getLogger("realm_lib.inference.server")
    log.setLevel(logging.INFO)
    shown, bound = listener.getsockname()[:2]
    address = f"[{shown}]:{bound}" if ":" in shown else f"{shown}:{bound}"
    log.info("serving %s on http://%s, %s; loading", run, address, "with a token" if token else "without a token")
    # Threads that compute wait for each other in a loop, and keep the core from the requests' own work: briefly, then.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from realm_lib.inference.server.app import create_app, guarded
    from realm_lib.inference.server.service import RewardService

    def stop() -> None:
        server.should_exit = True

    limits = fit_files(limits)
    service = RewardService(run, limits)
    server = build_server(guarded(create_app(service, stop), service, token), limits, service.stop)
    server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure


def build_server(app: Any, limits: Limits, on_stop: Callable[[], None] = lambda: None) -> "uvicorn.Server":
    """uvicorn with our limits in the place of its own; ``on_stop`` is called when it begins to stop."""
    import uvicorn

    from realm_lib.inference.server.connections import Connection

    config = uvicorn.Config(
        app,
        http=partial(Connection, limits),  # type: ignore[arg-type]
        ws="none",  # its connections would be under no limit
        lifespan="on",
        access_log=False,  # it would write what stands after the question mark
        log_config=None,
        backlog=limits.connections,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(limits.stop) + _LAST_BATCH,
        server_header=False,
    )

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            on_stop()
            await super().shutdown(sockets)

    return Server(config)


def fit_files(limits: Limits) -> Limits:
    """The limits, with no more connections than this process may have open, which is raised as far as it can be."""
    wanted = 2 * limits.connections + _OTHER_FILES  # as many as there are may be accepted before one is closed
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == unlimited or soft >= wanted:
        return limits
    most = max(1, (soft - _OTHER_FILES) // 2)
    logging.getLogger("realm_lib.inference.server").warning(
        "%d files may be open: %d connections at once instead of %d (ulimit -Hn)", soft, most, limits.connections
    )
    return replace(limits, connections=most, requests=min(limits.requests, max(1, most // 4)))


def _token(host: str) -> Secret | None:
    try:
        value = reveal_secret(TOKEN)
    except ParamsError:
        if is_own(host):
            return None
        raise ServerError(
            f"--host {host} is open to other machines: set REALM_SERVER_TOKEN (environment or .env) to a long random "
            "text that clients send, or listen on 127.0.0.1"
        ) from None
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", value):
        raise ServerError(
            "REALM_SERVER_TOKEN (environment or .env) cannot be sent in a header: it begins or ends with white space, "
            "or has characters other than ASCII's letters, digits and signs. Take them out, here and where clients "
            "send it"
        )
    return Secret(TOKEN)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
        # Connections inherit it. asyncio sets it on sockets that name their protocol only, and without it every answer
        # waits 40 ms for the client's acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServerError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from error
