"""Keys that are not shown, and retries that know their end."""

import copy
import pickle
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from realm_lib.config.base import ParamsError, Secret
from realm_lib.models.hosted import RemoteError, Service, ask_all, parse_retry_after, with_retries
from realm_lib.models.quotas import Quota
from realm_lib.models.rate_limiter import Cancelled, RateLimiter

KEY = "AIzaSyTheSecretKey0123456789"


def failing(times: int, **fault: object) -> tuple[Callable[[], str], list[float]]:
    """A request that fails ``times`` times and then answers, and when it was asked."""
    asked: list[float] = []

    def request() -> str:
        asked.append(time.monotonic())
        if len(asked) <= times:
            raise RemoteError("it failed", **fault)  # type: ignore[arg-type]
        return "answer"

    return request, asked


def test_a_secret_is_shown_as_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    secret = Secret("${SOME_KEY}")
    assert secret.reveal() == KEY
    assert str(secret) == repr(secret) == f"{secret}" == "Secret(${SOME_KEY})"
    assert KEY not in repr(vars(secret))
    assert secret.hide(f"bad key {KEY}, twice {KEY}") == "bad key ${SOME_KEY}, twice ${SOME_KEY}"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            leak(secret)
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ParamsError, match="SOME_KEY is not set"):
        secret.reveal()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_another_try_may_cure_is_tried_again(status: int) -> None:
    request, asked = failing(3, status=status)
    assert with_retries(request, limiter=RateLimiter(), first_wait=0.001) == "answer"
    assert len(asked) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302, 413])
def test_a_wrong_request_is_not_tried_again(status: int) -> None:
    request, asked = failing(3, status=status)
    with pytest.raises(RemoteError, match=r"^it failed$") as caught:
        with_retries(request, limiter=RateLimiter(), first_wait=0.001)
    assert (len(asked), caught.value.status) == (1, status)


def test_the_last_error_says_how_often_it_was_tried() -> None:
    request, asked = failing(9, connection_failed=True)
    with pytest.raises(RemoteError, match=r"it failed \(tried 4 times\)") as caught:
        with_retries(request, limiter=RateLimiter(), max_attempts=4, first_wait=0.001)
    assert len(asked) == 4
    assert caught.value.retryable
    assert caught.value.__context__ is None


def test_an_error_of_another_kind_passes_through() -> None:
    def request() -> str:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        with_retries(request, limiter=RateLimiter())


def test_retry_after_is_waited_for_by_everyone() -> None:
    limiter = RateLimiter()
    request, asked = failing(1, status=429, retry_after=0.4)
    start = time.monotonic()
    assert with_retries(request, limiter=limiter, first_wait=0.01) == "answer"
    assert 0.4 <= asked[1] - asked[0] < 30
    other, times = failing(0)
    limiter.hold(0.3)
    assert with_retries(other, limiter=limiter) == "answer"
    assert times[0] - start >= 0.7


def test_a_wait_of_hours_is_left_to_the_user() -> None:
    request, asked = failing(1, status=429, retry_after=7200.0)
    start = time.monotonic()
    with pytest.raises(RemoteError, match="asks to wait 7200 s"):
        with_retries(request, limiter=RateLimiter(), first_wait=0.01)
    assert len(asked) == 1
    assert time.monotonic() - start < 60  # and not for hours


def test_a_quota_that_no_wait_brings_back_is_not_tried_again() -> None:
    day = Quota("RequestsPerDay", "1000", "day")
    request, asked = failing(1, status=429, retry_after=0.01, quota=day)
    with pytest.raises(RemoteError) as caught:
        with_retries(request, limiter=RateLimiter(), first_wait=0.01)
    assert (len(asked), caught.value.retryable) == (1, False)


def test_a_wait_that_is_asked_for_is_no_attempt_while_others_get_through() -> None:
    limiter = RateLimiter()
    request, asked = failing(6, status=429, retry_after=0.01)

    def beside_others() -> str:
        limiter.answered()
        return request()

    assert with_retries(beside_others, limiter=limiter, max_attempts=2, first_wait=0.01) == "answer"
    assert len(asked) == 7

    alone, times = failing(6, status=429, retry_after=0.01)
    with pytest.raises(RemoteError, match=r"it failed \(tried 2 times\)"):
        with_retries(alone, limiter=limiter, max_attempts=2, first_wait=0.01)
    assert len(times) == 2


@pytest.mark.parametrize("fault", [{"status": 429}, {"status": 503, "retry_after": 0.01}])
def test_other_failures_are_attempts_whoever_gets_through(fault: dict[str, object]) -> None:
    limiter = RateLimiter()
    request, asked = failing(6, **fault)

    def beside_others() -> str:
        limiter.answered()
        return request()

    with pytest.raises(RemoteError, match="tried 3 times"):
        with_retries(beside_others, limiter=limiter, max_attempts=3, first_wait=0.01)
    assert len(asked) == 3


def test_the_quota_is_named_before_a_long_message_is_cut() -> None:
    service = Service("It", {429: "ask less"}, None)
    long = "words " * 200
    passing = str(service.refusal(429, long, "1", Quota("PerMinute", "100", "minute")))
    assert passing.startswith("It answered 429 (the quota (100 of PerMinute) is used up for now; ask less): words")
    assert len(passing) < 400
    gone = str(service.refusal(429, long, "1", Quota("PerDay", "100", "day")))
    assert gone.startswith("It answered 429 (the day's quota (100 of PerDay) is used up: run again tomorrow): words")


def test_waits_differ_and_grow() -> None:
    gaps = []
    for _ in range(3):
        request, asked = failing(5, status=503)
        with_retries(request, limiter=RateLimiter(), first_wait=0.01)
        gaps.append([later - sooner for sooner, later in pairwise(asked)])
    assert len({round(gap, 5) for row in gaps for gap in row}) > 10
    assert max(gap for row in gaps for gap in row) < 20  # of at most 0.32 s each, on a machine however busy


def test_cancelling_ends_waits_at_once() -> None:
    stop = threading.Event()
    request, asked = failing(9, status=503, retry_after=30.0)
    threading.Timer(0.2, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        with_retries(request, limiter=RateLimiter(), cancelled=stop)
    assert (len(asked), time.monotonic() - start < 25) == (1, True)
    with pytest.raises(Cancelled):
        RateLimiter(requests_per_minute=1).acquire(cancelled=stop)


def test_retry_after_in_every_form() -> None:
    assert parse_retry_after("7") == 7.0
    assert parse_retry_after("3.5s") == 3.5
    assert parse_retry_after("-3") == 0.0
    date = (datetime.now(UTC) + timedelta(seconds=30)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert 25 < (parse_retry_after(date) or 0) <= 30
    assert [parse_retry_after(text) for text in (None, "", "soon", "nan", "inf")] == [None] * 5


def test_answers_that_come_together_keep_the_questions_order() -> None:
    first_is_given, last_is_asked, over = (threading.Event() for _ in range(3))

    def ask(question: int, _: threading.Event) -> int:
        if question == 15:  # the one thread that is not held took it, so that it is done with those before
            last_is_asked.set()
        if question != 0:
            held = question < 8 or question == 15
            assert (over if held else first_is_given).wait(60)
        return question

    answers = ask_all(range(16), ask, max_in_flight=8, expected=(RemoteError,))
    assert next(answers) == (0, 0)
    first_is_given.set()
    assert last_is_asked.wait(60)
    together = [next(answers) for _ in range(7)]
    over.set()
    assert together == [(question, question) for question in range(8, 15)]
    assert {index for index, _ in answers} == {*range(1, 8), 15}
