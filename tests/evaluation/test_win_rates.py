"""Win rates: against loops, brute force over subsets, another bootstrap, and another logistic regression."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from realm_lib.evaluation.intervals import wilson
from realm_lib.evaluation.win_rates import (
    AtEqualLength,
    best_of_n_kl,
    best_of_n_weights,
    distinct_n,
    length_controlled_win_rate,
    win_rate,
    win_shares,
)

SCORES = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.integers(-2, 2).map(float))


@settings(max_examples=100, deadline=None)
@given(first=SCORES, second=SCORES)
def test_shares_are_those_of_every_comparison(first: np.ndarray, second: np.ndarray) -> None:
    rows = min(len(first), len(second))
    first, second = first[:rows], second[:rows]
    expected = [
        np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(*pair)])
        for pair in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(win_shares(first, second), expected)
    np.testing.assert_allclose(win_shares(second, first), 1 - np.array(expected))


def test_weighted_answers_count_by_their_weights() -> None:
    shares = win_shares(
        np.array([[1.0, 3.0]]), np.array([[2.0, 3.0]]), np.array([[0.25, 0.75]]), np.array([[0.9, 0.1]])
    )
    assert shares == pytest.approx([0.75 * 0.9 + 0.75 * 0.1 / 2])


def test_the_interval_is_that_of_another_bootstrap_over_prompts() -> None:
    shares = np.random.default_rng(3).choice([0.0, 0.5, 1.0], p=[0.3, 0.1, 0.6], size=120)
    found = win_rate(shares, resamples=20_000)
    assert found.value == pytest.approx(shares.mean())
    rng = np.random.default_rng(99)
    means = [rng.choice(shares, len(shares)).mean() for _ in range(20_000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.006)
    error = shares.std() / math.sqrt(len(shares))
    assert (found.low, found.high) == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.01)
    assert found.to_dict() == {"win_rate": found.value, "ci": [found.low, found.high]}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = [(rate := win_rate(rng.random(150) < 0.6, resamples=400)).low <= 0.6 <= rate.high for _ in range(300)]
    assert 0.90 <= np.mean(held) <= 0.985


@pytest.mark.parametrize(
    ("wins", "prompts", "low", "high"),
    [(128, 128, 0.971, 1.0), (1, 1, 0.207, 1.0), (0, 128, 0.0, 0.029), (127, 128, 0.957, 0.9986)],
)
def test_luck_can_win_every_prompt(wins: int, prompts: int, low: float, high: float) -> None:
    rate = win_rate(np.arange(prompts) < wins)
    assert (rate.value, rate.low, rate.high) == pytest.approx((wins / prompts, low, high), abs=1e-3)


# At equal length


def two_policies(prompts: int = 300, *, by_length: float, better: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    lengths, other = rng.integers(60, 240, prompts), rng.integers(20, 200, prompts)
    odds = better + by_length * np.tanh((lengths - other) / (lengths - other).std())
    return rng.random(prompts) < 1 / (1 + np.exp(-odds)), lengths, other


def above_and_below(model: LogisticRegression) -> tuple[float, float]:
    """What the other library's fit gives just above and just below a difference of zero."""
    theta, _, psi = model.coef_[0]
    return 1 / (1 + math.exp(-theta - psi)), 1 / (1 + math.exp(-theta + psi))


def test_the_rate_at_equal_length_is_that_of_other_logistic_regressions() -> None:
    wins, lengths, other = two_policies(by_length=1.5, better=0.4)
    shares = wins * 0.8 + 0.1  # shares between 0 and 1, as weighted answers give
    found = length_controlled_win_rate(shares, lengths, other, resamples=200)
    assert found.rate is not None

    difference = (lengths - other).astype(float)
    x = np.tanh(difference / difference.std())
    # scikit-learn takes no soft labels: each prompt twice, won and lost, with its share as the weight. The penalty is
    # on all its coefficients but not on its intercept, so the constant is a column.
    design = np.column_stack([np.ones_like(x), x, np.sign(x)])
    model = LogisticRegression(C=1 / 0.1, fit_intercept=False, tol=1e-10, max_iter=1000)
    labels = np.repeat([1, 0], len(x))
    model.fit(np.vstack([design, design]), labels, sample_weight=np.concatenate([shares, 1 - shares]))
    assert found.rate.value == pytest.approx(np.mean(above_and_below(model)), abs=1e-5)
    assert (found.longer, found.shorter) == pytest.approx((np.mean(difference > 0), np.mean(difference < 0)))

    def loss(at: np.ndarray) -> float:
        odds = design @ at
        return float((np.logaddexp(0, odds) - shares * odds).sum() + 0.05 * (at @ at))

    best = minimize(loss, np.zeros(3), tol=1e-12).x
    both = [1 / (1 + math.exp(-best[0] - side * best[2])) for side in (1, -1)]
    assert found.rate.value == pytest.approx(np.mean(both), abs=1e-5)

    # The interval: prompts drawn again, x as it is, fitted by the other library; far from 0 and 1, so nearly Student's.
    rng, rates = np.random.default_rng(1), []
    for _ in range(200):
        drawn = rng.integers(0, len(x), len(x))
        weights = np.concatenate([shares[drawn], 1 - shares[drawn]])
        model.fit(np.vstack([design[drawn], design[drawn]]), labels, sample_weight=weights)
        rates.append(np.mean(above_and_below(model)))
    half = 1.97 * float(np.std(rates))
    expected = (found.rate.value - half, found.rate.value + half)
    assert (found.rate.low, found.rate.high) == pytest.approx(expected, abs=0.015)


def test_every_pair_of_answers_counts_by_its_weight_at_equal_length() -> None:
    rng = np.random.default_rng(2)
    shares, lengths, other = rng.choice([0.0, 0.5, 1.0], (40, 6)), rng.integers(0, 30, (40, 6)), rng.random((40, 6)) * 9
    weights = rng.dirichlet(np.ones(6), 40) * (np.arange(6) != 2)
    weights /= weights.sum(axis=1, keepdims=True)
    found = length_controlled_win_rate(shares, lengths, other, weights, resamples=150)
    assert found.rate is not None

    difference = lengths - other
    mean = (weights * difference).sum() / 40
    x = np.tanh(difference / math.sqrt((weights * (difference - mean) ** 2).sum() / 40)).ravel()
    model = LogisticRegression(C=1 / 0.1, fit_intercept=False, tol=1e-8, max_iter=1000, solver="newton-cholesky")
    design, won, counted = (
        np.column_stack([np.ones(x.size), x, np.sign(x)]),
        (weights * shares).ravel(),
        weights.ravel(),
    )
    labels = np.repeat([1, 0], len(design))
    model.fit(np.vstack([design, design]), labels, sample_weight=np.concatenate([won, counted - won]))
    assert found.rate.value == pytest.approx(np.mean(above_and_below(model)), abs=1e-5)
    assert found.shorter == pytest.approx((weights * (difference < 0)).sum() / 40)


def test_more_answers_to_a_prompt_ask_the_same_question_at_equal_length() -> None:
    # Where a judge likes length, means over a prompt's answers would say less than one answer does.
    rng = np.random.default_rng(6)
    lengths = 40 + rng.normal(0, 10, (2, 1500, 4)) + rng.normal(0, 5, (1500, 1))
    lengths[0] += 8
    scores = 0.15 * lengths + rng.normal(size=lengths.shape)
    scores[0] += 1
    lengths = np.round(lengths)
    won = (scores[0][:, :, None] > scores[1][:, None, :]).reshape(1500, 16)
    first, second = np.repeat(lengths[0], 4, axis=1), np.tile(lengths[1], 4)
    one = length_controlled_win_rate(won[:, 0], first[:, 0], second[:, 0], resamples=100).rate
    every = length_controlled_win_rate(won, first, second, resamples=100).rate
    assert one is not None
    assert every is not None
    assert one.low < every.value < one.high
    assert every.high - every.low < one.high - one.low


def at_equal_length(kind: str, shift: float, better: float, rng: np.random.Generator) -> tuple[AtEqualLength, float]:
    """A policy ``shift`` characters longer under a judge of length alone, of the truth alone or of both; its true rate.

    The first policy's answers are ``better`` in truth, and lengths have a standard deviation of some 18.
    """
    lengths = np.round(40 + rng.normal(0, 10, (2, 150)) + rng.normal(0, 8, 150) + [[shift], [0]])
    quality = rng.logistic(size=150) + better  # of the first less the second
    margin = {"length": lengths[0] - lengths[1], "truth": quality, "both": quality + 0.06 * (lengths[0] - lengths[1])}
    won = np.sign(margin[kind]) / 2 + 0.5
    truth = 0.5 if kind == "length" else 1 / (1 + math.exp(-better))
    return length_controlled_win_rate(won, *lengths, resamples=150, seed=int(rng.integers(1 << 30))), truth


@pytest.mark.parametrize("kind", ["length", "truth", "both"])
@pytest.mark.parametrize("shift", [0, 10, 20])
def test_the_interval_at_equal_length_holds_the_truth_or_there_is_none(kind: str, shift: float) -> None:
    rng = np.random.default_rng(3)
    found = [at_equal_length(kind, shift, 0.0 if kind == "length" else 1.0, rng) for _ in range(40)]
    known = [(entry.rate.low <= truth <= entry.rate.high) for entry, truth in found if entry.rate is not None]
    assert len(known) >= 36, "with this many shorter answers something can be told"
    assert np.mean(known) >= 0.9, f"{np.sum(known)} of {len(known)}"


@pytest.mark.parametrize("kind", ["length", "truth"])
def test_a_policy_that_is_always_longer_is_not_known_at_equal_length(kind: str) -> None:
    found, _ = at_equal_length(kind, 80, 0.0, np.random.default_rng(4))
    assert found.to_dict() == {"length_controlled": None, "length_controlled_ci": None, "longer": 1.0, "shorter": 0.0}
    constant = length_controlled_win_rate(np.ones(400), np.full(400, 9), np.full(400, 7))
    assert constant.rate is None, "always two longer is always longer"


def test_the_better_policy_at_equal_length_is_the_other_ones_worse() -> None:
    wins, lengths, other = two_policies(by_length=1.0, better=0.3)
    one, swapped = (length_controlled_win_rate(*each) for each in ((wins, lengths, other), (1 - wins, other, lengths)))
    assert one.rate is not None
    assert swapped.rate is not None
    assert swapped.rate.value == pytest.approx(1 - one.rate.value)
    assert (swapped.rate.low, swapped.rate.high) == pytest.approx((1 - one.rate.high, 1 - one.rate.low))
    assert (swapped.longer, swapped.shorter) == (one.shorter, one.longer)


def test_without_any_difference_in_length_it_is_the_win_rate() -> None:
    wins = np.arange(400) % 4 > 0
    found = length_controlled_win_rate(wins, np.full(400, 9), np.full(400, 9), resamples=400).rate
    plain = win_rate(wins)
    assert found is not None
    # The penalty draws it a little to one half.
    assert (found.value, found.low, found.high) == pytest.approx((0.75, plain.low, plain.high), abs=4e-3)


def test_a_policy_that_always_wins_is_not_sure_to_at_equal_length() -> None:
    found = length_controlled_win_rate(np.ones(60), np.arange(60), np.full(60, 30), resamples=200).rate
    assert found is not None
    assert found.value > 0.95
    assert found.low < wilson(1.0, 60, 0.95)[0]
    assert 0.996 < found.high <= 1


# Best of n


@settings(max_examples=60, deadline=None)
@given(
    rewards=hnp.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=st.integers(0, 3).map(float)
    ),
    data=st.data(),
)
def test_best_of_n_is_the_mean_over_all_subsets(rewards: np.ndarray, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, rewards.shape[1]))
    weights = best_of_n_weights(rewards, n)
    for row, own in zip(rewards, weights, strict=True):
        expected = np.zeros(len(row))
        subsets = list(itertools.combinations(range(len(row)), n))
        for subset in subsets:
            winners = [place for place in subset if row[place] == max(row[list(subset)])]
            expected[winners] += 1 / len(winners) / len(subsets)
        # Equal answers share their weight; within one subset they might win by turns, over all they win alike.
        for value in np.unique(row):
            np.testing.assert_allclose(own[row == value].sum(), expected[row == value].sum())
            assert np.ptp(own[row == value]) < 1e-12
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_best_of_more_than_were_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="best of 5 needs 5 answers to each prompt, there are 4"):
        best_of_n_weights(np.zeros((2, 4)), 5)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_kl_of_best_of_n_is_the_integral_where_nothing_repeats(n: int) -> None:
    """With u the rank of an answer, uniform under the policy, best-of-n has the density n u^(n-1)."""
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    density = n * u ** (n - 1)
    assert best_of_n_kl(n) == pytest.approx((density * np.log(density)).mean(), abs=1e-4)


def test_the_kl_of_best_of_n_is_a_bound_where_answers_repeat() -> None:
    policy = np.array([0.5, 0.3, 0.2])  # in the order of the reward
    reached = np.cumsum(policy)
    for n in (2, 4, 16):
        best = np.diff(np.concatenate([[0], reached**n]))
        assert 0 < (best * np.log(best / policy)).sum() < best_of_n_kl(n)


def test_distinct_n_counts_different_ngrams() -> None:
    assert distinct_n(["the dough rises", "The dough falls"], 1) == pytest.approx(4 / 6)
    assert distinct_n(["the dough rises", "The dough falls"], 2) == pytest.approx(3 / 4)
    assert distinct_n(["gas", ""], 2) == 0.0


def test_distinct_n_needs_no_spaces() -> None:
    assert distinct_n(["面包发酵", "面包发霉"], 1) == pytest.approx(5 / 8)
    assert distinct_n(["(a+b)", "a, b!"], 2) == pytest.approx(1 / 2)
    assert distinct_n(["👍👎", "Straße", "STRASSE"], 1) == pytest.approx(3 / 4)
