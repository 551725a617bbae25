"""Best-of-n's curve: against the enumeration of all draws, interpolation by hand, and another bootstrap."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from realm_lib.evaluation.best_of_n import against_curve, at_distance, curve_distances, curve_weights

REWARDS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(1, 6)), elements=st.integers(0, 3).map(float)
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rewards=REWARDS, seed=st.integers(0, 99))
def test_the_curve_is_the_mean_over_all_draws_of_every_n(rewards: np.ndarray, seed: int) -> None:
    truth = np.random.default_rng(seed).normal(size=rewards.shape)
    curve = np.einsum("npa,pa->pn", curve_weights(rewards), truth)
    for prompt, (own, judged) in enumerate(zip(rewards, truth, strict=True)):
        for n in range(1, len(own) + 1):
            kept = []
            for draw in itertools.combinations(range(len(own)), n):
                top = max(own[list(draw)])
                kept.append(np.mean([judged[one] for one in draw if own[one] == top]))
            assert curve[prompt, n - 1] == pytest.approx(np.mean(kept))


def test_distances_begin_at_the_start_and_grow() -> None:
    found = curve_distances(5)
    assert found.tolist() == pytest.approx([0, *(math.log(n) - 1 + 1 / n for n in range(2, 6))])
    assert curve_distances(1).tolist() == [0.0]


def test_between_two_n_the_curve_is_straight_over_the_root_of_the_distance() -> None:
    curve = np.array([[1.0, 2.0, 5.0]])
    two, three = math.log(2) - 1 / 2, math.log(3) - 2 / 3
    for share in (0.0, 0.3, 1.0):
        first = ((1 - share) * 0 + share * math.sqrt(two)) ** 2
        second = ((1 - share) * math.sqrt(two) + share * math.sqrt(three)) ** 2
        assert at_distance(curve, [first])[0] == pytest.approx(1 + share)
        assert at_distance(curve, [second])[0] == pytest.approx(2 + 3 * share)
    assert at_distance(np.repeat(curve, 2, axis=0), [-0.4, 9.0]).tolist() == [1.0, 5.0], "the ends, not beyond them"


@pytest.mark.parametrize("kl", [0.3, 4.0])
def test_the_difference_and_its_interval_are_those_of_another_computation(kl: float) -> None:
    rng = np.random.default_rng(4)
    rewards = rng.normal(size=(80, 5)) + rng.normal(size=(80, 1))
    values, log_ratios = rng.normal(0.7, 1, 80) + rewards.mean(axis=1), rng.normal(kl, 0.8, 80)
    curve = np.einsum("npa,pa->pn", curve_weights(rewards), rewards)
    found = against_curve(curve, values, log_ratios, resamples=4000)

    def difference(rows: np.ndarray) -> tuple[float, float]:
        best = [
            np.mean([max(rewards[row, list(draw)]) for row in rows for draw in itertools.combinations(range(5), n)])
            for n in range(1, 6)
        ]
        roots = [math.sqrt(math.log(n) - (n - 1) / n) for n in range(1, 6)]
        root = min(math.sqrt(max(log_ratios[rows].mean(), 0)), roots[-1])
        left = max(index for index in range(4) if roots[index] <= root)
        share = (root - roots[left]) / (roots[left + 1] - roots[left])
        height = (1 - share) * best[left] + share * best[left + 1]
        return float(height), float(values[rows].mean() - height)

    assert (found.curve, found.difference) == pytest.approx(difference(np.arange(80)))
    drawn = [difference(rng.integers(0, 80, 80))[1] for _ in range(300)]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.06)
    assert found.to_dict() == {"curve": found.curve, "difference": found.difference, "ci": [found.low, found.high]}


def test_a_policy_that_is_best_of_n_lies_on_the_curve() -> None:
    rng = np.random.default_rng(8)
    rewards = rng.normal(size=(1500, 6))
    curve = np.einsum("npa,pa->pn", curve_weights(rewards), rewards)
    own = rng.normal(size=(1500, 3)).max(axis=1)
    found = against_curve(curve, own, np.full(1500, math.log(3) - 2 / 3), resamples=400)
    assert found.low < 0 < found.high
    assert found.high - found.low < 0.2
    assert found.curve == pytest.approx(3 / (2 * math.sqrt(math.pi)), abs=0.05)  # the mean of the largest of three
