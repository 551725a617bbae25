"""What one request, and all requests together, may ask of the server."""

from dataclasses import dataclass


class ServerError(RuntimeError):
    """The server cannot start as it was told to; the message says what to change."""


@dataclass(frozen=True)
class Limits:
    """Limits of the server. One that is exceeded is answered with a status that says the limit.

    The forms of requests (``wire``) hold the first numbers of ``responses`` and ``messages``: a server may take less.
    """

    body_bytes: int = 4 * 2**20
    """Most bytes of a body (413)."""
    bodies_bytes: int = 64 * 2**20
    """Most bytes of the bodies of all requests under way (429)."""
    values: int = 100_000
    """Most values in the JSON of a body (422): a number or an empty list takes many times its text in memory."""
    responses: int = 256
    """Most responses in one request (422)."""
    characters: int = 100_000
    """Most characters of a prompt or a response (422); the reward model's ``max_length`` may be reached before."""
    messages: int = 256
    """Most messages of a chat (422)."""
    queue: int = 4096
    """Most responses that wait for an answer (429); twice as many with those of clients of whom nothing else waits."""
    batch: int = 64
    """Most distinct responses computed together."""
    batch_characters: int = 40_000
    """About how many characters are computed together, in texts that differ: half of them by turns, half by age, each
    half one text at least."""
    remembered: int = 16_384
    """Most rewards kept in memory for when their texts come again, as a hash of the texts and a few numbers each."""
    wait: float = 0.004
    """Seconds that the first response of a batch waits for others."""
    timeout: float = 120.0
    """Seconds to read a body (408), and to answer (503 when the computing had not begun, 504 when it had). OpenRLHF
    gives up after 180."""
    requests: int = 1024
    """Most requests under way at once (503); those for the server's state are not counted."""
    connections: int = 4096
    """Most connections at once: for one more, the one that has sent no request for longest is closed. More than twice
    ``requests``, so that there is always one for who asks for the server's state."""
    head: float = 20.0
    """Seconds for the head of a request to arrive whole, and for an answer to be taken; then it is closed."""
    stop: float = 8.0
    """Seconds that a stop waits for what was accepted, before it answers the rest with 503. Docker kills after 10."""
    retry_after: int = 1
    """Seconds that a refused client is asked to wait (Retry-After)."""
