"""Asking hosted models: keys that are not shown, several requests at once, retries that know their end.

Nothing here knows which service is asked. A client raises :class:`RemoteError` with what the :class:`Service` said;
whether and when to ask again is decided here.
"""

import email.utils
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from realm_lib.config.base import Secret
from realm_lib.models.quotas import Quota, find_quota
from realm_lib.models.rate_limiter import Cancelled, RateLimiter

if TYPE_CHECKING:
    import httpx

RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})
"""Answers that another try may change. 400, 401, 403 and 404 say that the request itself is wrong."""
LONGEST_BACKOFF = 60.0
LONGEST_RETRY_AFTER = 600.0
"""Seconds. A service that asks for more is better asked again by the user."""
LONGEST_MESSAGE = 300
"""Characters of what a service says that an error repeats."""
_BYTES_PER_TOKEN = 4  # a rule of thumb for English (Google's own too): the services' tokenizers are not public

Answer = TypeVar("Answer")
Question = TypeVar("Question")


class RemoteError(RuntimeError):
    """A request that failed. ``retryable`` says whether another try may help."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        connection_failed: bool = False,
        quota: Quota | None = None,
    ) -> None:
        """``status`` is HTTP's, None without an answer; ``retry_after`` is in seconds; ``quota`` is what ran out."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.content = b""
        """The body of the service's answer, where it is known; it may hold what must not be shown."""
        self.retryable = connection_failed or (status in RETRIED_STATUS and (quota is None or quota.passes))
        self.told_to_wait = self.retryable and retry_after is not None and retry_after <= LONGEST_RETRY_AFTER
        """Whether the service said how long to wait, and that it is worth waiting."""


@dataclass(frozen=True)
class Service:
    """What the errors of a service share: its name, what its HTTP statuses mean, and the key that they hide."""

    name: str
    hints: Mapping[int, str]
    secret: Secret | None
    """None: it takes no key."""

    def shown(self, text: str) -> str:
        """``text`` as an error may repeat it: without the key, and not long."""
        return self.hidden(text)[:LONGEST_MESSAGE]

    def hidden(self, text: str) -> str:
        """``text`` without the key."""
        return text if self.secret is None else self.secret.hide(text)

    def request(self, client: "httpx.Client", method: str, url: str, content: Any = None) -> "httpx.Response":
        """Ask once, with ``content`` as JSON and the key as a bearer token; the answer, if its status is 200.

        Raises :class:`RemoteError` for every other end, without httpx's error behind it: that one holds the request and
        so the key. Raises UnicodeEncodeError for a text with a lone surrogate.
        """
        import httpx

        headers = {"Accept": "application/json"}
        if self.secret is not None:
            headers["Authorization"] = f"Bearer {self.secret.reveal()}"
        failure: RemoteError
        try:
            answer = client.request(method, url, json=content, headers=headers)
            if answer.status_code == httpx.codes.OK:
                return answer
            quota = find_quota(_json(answer)) if answer.status_code == httpx.codes.TOO_MANY_REQUESTS else None
            failure = self.refusal(answer.status_code, answer.text, answer.headers.get("Retry-After"), quota)
            failure.content = answer.content
        except httpx.TimeoutException:
            failure = self.timed_out(client.timeout.read or 0.0)
        except (httpx.TransportError, httpx.DecodingError) as error:
            failure = self.not_connected(error)
        raise failure from None

    def refusal(self, status: int, message: str, retry_after: str | None, quota: Quota | None = None) -> RemoteError:
        """An answer with an HTTP error; ``retry_after`` as :func:`parse_retry_after` reads it.

        The ``quota`` that ran out is named before what the service says, which may be long and is cut.
        """
        hint = self.hints.get(status)
        if quota is not None:
            hint = self.hidden(str(quota)) + (f"; {hint}" if hint and quota.passes else "")
        message = f"{self.name} answered {status}{f' ({hint})' if hint else ''}: {self.shown(message)}"
        return RemoteError(message, status=status, retry_after=parse_retry_after(retry_after), quota=quota)

    def timed_out(self, seconds: float) -> RemoteError:
        """No answer in time."""
        return RemoteError(f"{self.name} did not answer within {seconds:g} s", connection_failed=True)

    def not_connected(self, error: Exception) -> RemoteError:
        """A connection that failed, by the client library's ``error``."""
        said = self.shown(f"{type(error).__name__}: {error}")
        return RemoteError(f"the connection to {self.name} failed: {said}", connection_failed=True)


def estimate_tokens(text: str) -> int:
    """About how many tokens a service reads in ``text``, by its bytes."""
    return max(1, math.ceil(len(text.encode(errors="replace")) / _BYTES_PER_TOKEN))


def with_retries(
    request: Callable[[], Answer],
    *,
    limiter: RateLimiter,
    tokens: int = 0,
    requests: int = 1,
    max_attempts: int = 6,
    first_wait: float = 1.0,
    cancelled: threading.Event | None = None,
) -> Answer:
    """The answer of ``request``, asked again while its :class:`RemoteError` is retryable, each try within the limits.

    The waits are random, up to ``first_wait`` * 2^n seconds and up to a minute ("full jitter", which spreads clients
    that failed together), or what the service asks for in Retry-After and a little more. After ``max_attempts`` the
    last error is raised, its message saying how often it was tried. A 429 that says how long to wait is no attempt
    where another request of the ``limiter`` was answered since the last one: the service works, at its own pace; once
    nothing gets through, the attempts run out. The limits count a try as ``tokens`` and ``requests``.
    """
    stopped = cancelled or threading.Event()
    attempts = 0
    answers = limiter.answers

    def attempt() -> Answer:
        nonlocal attempts, answers
        limiter.acquire(tokens, stopped, requests)
        try:
            answer = request()
        except RemoteError as error:
            if error.told_to_wait and error.retry_after is not None:
                limiter.hold(error.retry_after)
            others, answers = limiter.answers - answers, limiter.answers
            if not (others and error.told_to_wait and error.status == 429):
                attempts += 1
            raise
        limiter.answered()
        return answer

    backoff = tenacity.wait_random_exponential(multiplier=first_wait, max=LONGEST_BACKOFF)
    spread = tenacity.wait_random(0, first_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        asked_for = getattr(state.outcome.exception(), "retry_after", None) if state.outcome else None
        return backoff(state) if asked_for is None else asked_for + spread(state)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_help),
        stop=lambda _: attempts >= max_attempts,
        wait=wait,
        sleep=tenacity.sleep_using_event(stopped),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except RemoteError as error:
        tries = int(retrying.statistics["attempt_number"])
        if error.retryable and error.retry_after is not None and not error.told_to_wait:
            reason = f"; the service asks to wait {error.retry_after:.0f} s, so try again then"
        else:
            reason = f" (tried {tries} times)" if tries > 1 else ""
        error.args = (f"{error}{reason}",)
        last = error
    raise last


def _may_help(error: BaseException) -> bool:
    return isinstance(error, RemoteError) and error.retryable and (error.retry_after is None or error.told_to_wait)


def _json(answer: "httpx.Response") -> Any:
    """The body of a refusal, None where it is no JSON: it is then shown as it is."""
    try:
        return answer.json()
    except ValueError:
        return None


def ask_all(
    questions: Sequence[Question],
    ask: Callable[[Question, threading.Event], Answer],
    *,
    max_in_flight: int,
    expected: tuple[type[Exception], ...],
) -> Generator[tuple[int, Answer | Exception]]:
    """The index of each question and its answer, in the order in which answers come, several asked at once.

    Those that came together are given in the questions' order.

    ``ask`` is given a question and an event that is set when the asking is over. The first of the ``expected`` errors
    ends it: it is given in place of the answer, so are those of questions in flight, and no new one is asked.
    """
    stopped = threading.Event()
    failed = False
    waiting = iter(range(len(questions)))
    in_flight: dict[Future[Answer], int] = {}
    pool = ThreadPoolExecutor(max_in_flight, thread_name_prefix="remote")
    try:
        while True:
            # Twice as many as there are threads, so that none waits for the consumer, which writes to a disk.
            while not failed and len(in_flight) < 2 * max_in_flight and (index := next(waiting, None)) is not None:
                in_flight[pool.submit(ask, questions[index], stopped)] = index
            if not in_flight:
                return
            for future in sorted(wait(in_flight, return_when=FIRST_COMPLETED).done, key=in_flight.__getitem__):
                index = in_flight.pop(future)
                answer: Answer | Exception
                try:
                    answer = future.result()
                except Cancelled:
                    continue
                except expected as error:
                    failed = True
                    stopped.set()
                    answer = error
                yield index, answer
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110: seconds or a date) or a duration as ``"3.5s"``.

    None when there is none or it cannot be read: then the usual waits apply.
    """
    if not value:
        return None
    try:
        seconds = float(value.strip().removesuffix("s"))
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
