"""``realm serve``: bind, load, answer, and stop when told to, after what was accepted is answered."""

import ipaddress
import logging
import os
import socket
import sys
from pathlib import Path

from realm_lib.config.base import ParamsError, Secret, reveal_secret
from realm_lib.inference.server.limits import Limits, ServerError

TOKEN = "${REALM_SERVER_TOKEN}"


def serve(run: Path, host: str, port: int, limits: Limits) -> None:
    """Serve the reward of ``run`` until SIGINT or SIGTERM.

    Raises :class:`ServerError` when the address cannot be bound, or is not this machine's own and there is no token;
    and what loading the reward raises.
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
    import uvicorn

    from realm_lib.inference.server.app import create_app, guarded
    from realm_lib.inference.server.service import RewardService

    def stop() -> None:
        server.should_exit = True

    service = RewardService(run, limits)
    config = uvicorn.Config(
        guarded(create_app(service, stop), service, token),
        lifespan="on",
        access_log=False,  # it would write what stands after the question mark
        log_config=None,
        limit_concurrency=limits.connections,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(limits.timeout) + 5,
        server_header=False,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure


def _token(host: str) -> Secret | None:
    try:
        reveal_secret(TOKEN)
    except ParamsError:
        if _is_own(host):
            return None
        raise ServerError(
            f"--host {host} is open to other machines: set REALM_SERVER_TOKEN (environment or .env) to a long random "
            "text that clients send, or listen on 127.0.0.1"
        ) from None
    return Secret(TOKEN)


def _is_own(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
