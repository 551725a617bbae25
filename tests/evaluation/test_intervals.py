"""Intervals: exact cases, other people's, properties, and how often they hold the truth where posts are few."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from realm_lib.evaluation.intervals import (
    difference_interval,
    effective_posts,
    expanded_interval,
    share_interval,
    wilson,
)
from realm_lib.evaluation.resampling import EvaluationError, bootstrap_over_posts

SHARES = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
POSTS = st.lists(
    st.lists(st.integers(0, 2).map(lambda value: value / 2), min_size=1, max_size=6), min_size=1, max_size=9
)


def flat(posts: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(posts), np.repeat(np.arange(len(posts)), [len(post) for post in posts])


def test_effective_posts_are_the_posts_where_all_are_alike_and_fewer_else() -> None:
    assert effective_posts([3, 3, 3, 3]) == pytest.approx(4)
    assert effective_posts([20, 1]) == pytest.approx(441 / 401)


@pytest.mark.parametrize(("won", "of"), [(128, 128), (1, 1), (0, 7), (3, 7)])
def test_wilson_is_scipys(won: int, of: int) -> None:
    other = stats.binomtest(won, of).proportion_ci(method="wilson")
    assert wilson(won / of, of, 0.95) == pytest.approx([other.low, other.high])


@given(
    share=SHARES,
    variance=st.just(0.0) | st.floats(1e-12, 0.3),
    posts=st.floats(1, 1e4),
    confidence=st.floats(0.5, 0.999),
)
def test_a_shares_interval_holds_it_and_lies_in_0_and_1(
    share: float, variance: float, posts: float, confidence: float
) -> None:
    low, high = share_interval(share, variance, posts, confidence)
    assert 0 <= low <= share <= high <= 1
    assert high > low, "no finite number of posts is sure"
    other = share_interval(1 - share, variance, posts, confidence)
    assert other == pytest.approx([1 - high, 1 - low], abs=1e-9)


@given(difference=st.floats(-1, 1), variance=st.floats(0, 1), pairs=st.integers(1, 10_000), posts=st.floats(1, 1e4))
def test_a_differences_interval_holds_it_and_lies_in_minus_1_and_1(
    difference: float, variance: float, pairs: int, posts: float
) -> None:
    low, high = difference_interval(difference, variance, pairs, min(posts, pairs), 0.95)
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1
    assert high > low


def test_independent_shares_differ_as_agresti_and_min_say() -> None:
    """Theirs is the Wald interval with half a pair more in each of four cells; its variance, about our value."""
    won, lost, pairs = 9, 4, 300
    variance = (won + lost - (won - lost) ** 2 / pairs) / pairs**2
    low, high = difference_interval((won - lost) / pairs, variance, pairs, pairs, 0.95)
    theirs = math.sqrt(won + lost + 1 - (won - lost) ** 2 / (pairs + 2)) / (pairs + 2)
    assert high - low == pytest.approx(2 * 1.96 * theirs, rel=0.02)


@settings(max_examples=60, deadline=None)
@given(posts=POSTS, seed=st.integers(0, 99))
def test_neither_the_order_nor_the_names_of_posts_matter(posts: list[list[float]], seed: int) -> None:
    values, ids = flat(posts)
    found = bootstrap_over_posts(values, ids, shares=True, resamples=50)
    low, high = found.interval()
    assert 0 <= low <= found.means[0] <= high <= 1
    named = bootstrap_over_posts(values, [f"post {7 * post}" for post in ids], shares=True, resamples=50)
    assert named.interval() == found.interval()
    # Posts in another order meet other draws: the same interval but for those.
    order = np.random.default_rng(seed).permutation(len(posts))
    many = [
        bootstrap_over_posts(*flat(each), shares=True, resamples=4000) for each in (posts, [posts[n] for n in order])
    ]
    assert many[0].posts == pytest.approx(many[1].posts)
    assert many[0].interval() == pytest.approx(many[1].interval(), abs=0.05)


def test_the_expanded_interval_of_normal_means_is_students() -> None:
    resampled = np.random.default_rng(0).normal(5, math.sqrt(11 / 12), 400_000)
    half = stats.t.ppf(0.975, 11)
    assert expanded_interval(resampled, 12, 0.95) == pytest.approx([5 - half, 5 + half], abs=0.03)
    with_none = np.concatenate([resampled, [math.nan, math.inf]])
    assert expanded_interval(with_none, 12, 0.95) == pytest.approx(expanded_interval(resampled, 12, 0.95), abs=1e-3)


def test_shares_that_are_none_are_refused() -> None:
    with pytest.raises(EvaluationError, match="shares lie between 0 and 1, these go from -1 to 1"):
        bootstrap_over_posts([-1.0, 1.0], [0, 1], shares=True)


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_twenty_posts_are_enough_to_hold_the_truth(share: float) -> None:
    rng = np.random.default_rng(1)
    held = {"share": 0, "loss": 0, "difference": 0}
    for trial in range(400):
        sizes = np.clip(rng.geometric(0.2, 20), 1, 20)
        ids = np.repeat(np.arange(20), sizes)
        of_post = np.repeat(rng.beta(9 * share, 9 * (1 - share), 20), sizes)
        right = np.stack([rng.random(len(ids)) < of_post, rng.random(len(ids)) < of_post], axis=1).astype(float)
        found = bootstrap_over_posts(right, ids, shares=True, resamples=300, seed=trial)
        held["share"] += found.lows[0] <= share <= found.highs[0]
        low, high = found.share_difference(0, 1)
        held["difference"] += low <= 0 <= high
        losses = (0.1 + 0.3 * rng.normal(size=20))[ids] + rng.laplace(size=len(ids))
        loss = bootstrap_over_posts(losses, ids, resamples=600, seed=trial)
        held["loss"] += loss.lows[0] <= 0.1 <= loss.highs[0]
    assert min(held.values()) >= 0.93 * 400, held
