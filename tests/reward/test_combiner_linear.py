"""The weighted sum: the maximum of its likelihood, weights drawn as the posterior says, signs where they are asked."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize

from realm_lib.reward.combiner import CombinerError, LinearCombiner, TreePreference, feature_matrix
from realm_lib.reward.combiner.linear import draw_weights, fit_weights, logistic_regression

Matrix = NDArray[np.floating[Any]]


def make_differences(pairs: int, seed: int, weights: tuple[float, ...] = (0.8, 0.4)) -> Matrix:
    """Chosen less rejected features, where the log-odds are ``weights`` times the difference."""
    generator = np.random.default_rng(seed)
    differences = generator.normal(size=(pairs, len(weights)))
    wins = generator.random(pairs) < 1 / (1 + np.exp(-differences @ weights))
    return np.where(wins[:, None], differences, -differences)


def as_table(differences: Matrix, names: tuple[str, ...] = ("score", "similarity")) -> pd.DataFrame:
    """Pairs with those differences: B's features are a constant's, and the order is by turns."""
    columns: dict[str, Any] = {"labels": (np.arange(len(differences)) % 2 == 0).astype(int)}
    sign = np.where(columns["labels"] == 1, 1, -1)
    for name, values in zip(names, differences.T, strict=True):
        columns |= {f"{name}_A": sign * values + 3, f"{name}_B": np.full(len(values), 3.0)}
    return pd.DataFrame(columns)


def test_coefficients_are_those_of_sklearn_and_the_hessian_is_that_of_finite_differences() -> None:
    from sklearn.linear_model import LogisticRegression

    differences = make_differences(300, 1)
    found, hessian = logistic_regression(differences)
    model = LogisticRegression(fit_intercept=False, tol=1e-12, solver="newton-cholesky")
    model.fit(np.concatenate([differences, -differences]), np.repeat([1, 0], 300))
    np.testing.assert_allclose(found, model.coef_[0], rtol=1e-6)

    def gradient(weights: Matrix) -> Matrix:
        return 0.5 * weights - differences.T @ (1 / (1 + np.exp(differences @ weights)))

    slow = np.array([(gradient(found + step) - gradient(found - step)) / 2e-5 for step in 1e-5 * np.eye(2)])
    np.testing.assert_allclose(hessian, slow, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(0.01, 100), st.floats(-30, 30))
def test_newton_finds_the_minimum_of_any_pairs(seed: int, pairs: int, scale: float, offset: float) -> None:
    inputs = scale * np.random.default_rng(seed).normal(size=(pairs, 2))

    def loss(weights: Matrix) -> float:
        return float(np.logaddexp(0, -(offset + inputs @ weights)).sum() + 0.25 * weights @ weights)

    found, _ = logistic_regression(inputs, offset)
    assert np.isfinite(found).all()
    assert loss(found) <= optimize.minimize(loss, np.zeros(2)).fun + 1e-9


def test_baseline_is_the_maximum_of_the_likelihood() -> None:
    train = as_table(make_differences(3000, 4))
    model = LinearCombiner().fit(train)
    a, b = feature_matrix(train)
    std = np.concatenate([a, b]).astype(np.float64).std(axis=0)
    sign = np.where(train["labels"] == 1, 1, -1)

    def loss(coefficients: Matrix) -> float:
        return float(np.logaddexp(0, -sign * (((a - b) / std) @ coefficients)).sum())

    best = optimize.minimize(loss, np.zeros(2)).x
    # The ridge moves it by less than a per cent at this size.
    np.testing.assert_allclose(list(model.coefficients.values()), best, rtol=0.01)
    rewards = model.reward(a)
    assert rewards.dtype == np.float32
    np.testing.assert_allclose(rewards - rewards[0], (a - a[0]) / std @ best, rtol=0.02, atol=1e-3)


def test_baselines_take_the_features_that_they_are_given() -> None:
    names = ("score", "similarity", "brevity")
    table = as_table(make_differences(2000, 5, (0.8, 0.0, 0.6)), names)
    model = LinearCombiner(names).fit(table)
    assert list(model.coefficients) == list(names)
    assert model.coefficients["brevity"] > 5 * abs(model.coefficients["similarity"])
    margins = np.subtract(*(model.reward(side) for side in feature_matrix(table, names)))
    trees = TreePreference(names).fit(table, table[:500]).margin(table)
    assert np.corrcoef(margins, trees)[0, 1] > 0.8
    with pytest.raises(CombinerError, match=r"shape \[n, 3\]"):
        model.reward([[1.0, 2.0]])


def test_a_weight_that_must_not_be_negative_is_the_bounded_maximum() -> None:
    differences = make_differences(500, 7, (-0.5, 0.6, -0.2))
    differences[:, 1] += 0.5 * differences[:, 0]

    def loss(weights: Matrix) -> float:
        return float(np.logaddexp(0, -differences @ weights).sum() + 0.25 * weights @ weights)

    free, _ = fit_weights(differences)
    assert free[0] < 0
    found, covariance = fit_weights(differences, (0,))
    bounded = optimize.minimize(loss, np.ones(3), bounds=[(0, None), (None, None), (None, None)], tol=1e-12).x
    np.testing.assert_allclose(found, bounded, atol=1e-4)
    assert (np.diag(covariance) > 0).all()
    assert fit_weights(np.array([[-1.0, -2.0]]), (0, 1))[0].tolist() == [0, 0]


@pytest.mark.parametrize("members", [2, 3, 5, 40])
def test_drawn_weights_have_the_mean_and_the_deviation_that_pairs_leave(members: int) -> None:
    weights, covariance = fit_weights(make_differences(400, 2))
    drawn = draw_weights(weights, covariance, members, seed=3)
    np.testing.assert_allclose(drawn.mean(axis=0), weights, rtol=1e-12)
    np.testing.assert_allclose(drawn.std(axis=0), np.sqrt(np.diag(covariance)), rtol=1e-12)
    assert (draw_weights(weights, covariance, members, seed=4) != drawn).any()
    np.testing.assert_array_equal(draw_weights(weights, covariance, 1, seed=3), weights[None])


def test_the_covariance_is_how_far_weights_of_other_pairs_lie() -> None:
    found = np.array([fit_weights(make_differences(300, seed))[0] for seed in range(300)])
    _, covariance = fit_weights(make_differences(300, 1000))
    np.testing.assert_allclose(found.std(axis=0), np.sqrt(np.diag(covariance)), rtol=0.2)
