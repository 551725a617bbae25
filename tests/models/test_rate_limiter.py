"""What is sent in any minute stays within what is allowed, and what is allowed is used."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from realm_lib.models.rate_limiter import RateLimiter, _Allowance


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "tokens", "gap"), [((1200, None), 1, 0.05), ((None, 60_000), 50, 0.05)])
def test_a_limit_holds_for_many_threads_and_is_used(
    limits: tuple[int | None, int | None], tokens: int, gap: float
) -> None:
    limiter = RateLimiter(*limits)
    times: list[float] = []

    def ask(_: int) -> None:
        limiter.acquire(tokens)
        times.append(time.monotonic())

    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    assert 39 * gap <= time.monotonic() - start < 30  # how near it comes to the limit: tests/benchmarks/bench_gemini.py
    for count, at in enumerate(sorted(times)):
        assert at - start >= count * gap - 0.005  # never ahead of what is allowed


def test_both_limits_hold_together() -> None:
    limiter = RateLimiter(requests_per_minute=1200, tokens_per_minute=60_000)
    start = time.monotonic()
    for tokens in (200, 1, 1, 1):  # 0.2 s of tokens, then 0.05 s a request
        limiter.acquire(tokens)
    assert 0.3 <= time.monotonic() - start < 30


def times_of(amounts: list[int], per_minute: int) -> list[float]:
    """When a meter lets each of ``amounts`` go that come at once."""
    meter = _Allowance(per_minute)
    times = []
    for amount in amounts:
        times.append(meter.earliest(1000.0, amount))
        meter.take(times[-1], amount)
    return times


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_holds_more_than_allowed_whatever_the_amounts(seed: int) -> None:
    chance = random.Random(seed)
    amounts = [chance.choice([1, 1, 2, 40, 98, 100]) for _ in range(200)]
    times = times_of(amounts, 100)
    assert times == sorted(times)
    for end in times:
        last_minute = [amount for at, amount in zip(times, amounts, strict=True) if end - 60 + 1e-6 < at <= end]
        assert sum(last_minute) <= 100
    assert times[-1] - times[0] <= 1.7 * 60 * sum(amounts) / 100


def test_two_probes_before_a_full_request_wait_for_their_minute_to_pass() -> None:
    assert times_of([1, 1, 100, 100], 100) == [1000.0, 1000.6, 1060.6, 1120.6]


def test_an_amount_over_the_allowance_goes_alone() -> None:
    assert times_of([5, 30, 5], 10) == [1000.0, 1060.0, 1240.0]


def test_a_request_may_count_as_several() -> None:
    limiter = RateLimiter(requests_per_minute=6000)
    start = time.monotonic()
    for _ in range(3):
        limiter.acquire(requests=20)
    assert 0.4 <= time.monotonic() - start < 30
