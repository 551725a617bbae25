"""The combiner where it has not been, and for pairs of another kind than it was trained on."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from support.preference_worlds import best_slope, draw_world

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner import Combiner, CombinerError, feature_matrix

Matrix = NDArray[np.floating[Any]]

QUICK = TrainingParams(num_epochs=3, learning_rate=1e-3)
KINDS: dict[str, dict[str, Any]] = {
    "combiner": {},
    "monotone": {"monotone": ["score"]},
    "plain network": {"prior": None},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def as_cosines(pairs: pd.DataFrame) -> pd.DataFrame:
    """Similarities as an encoder gives them: far from 1."""
    return pairs.assign(**{f"similarity_{side}": 0.4 + 0.1 * pairs[f"similarity_{side}"] for side in "AB"})


def fit(kind: str, train: pd.DataFrame, validation: pd.DataFrame, params: TrainingParams = QUICK) -> Combiner:
    combiner = Combiner(ModelParams.model_validate({"ensemble": 3, **KINDS[kind]}))
    combiner.fit(train, validation, params)
    return combiner


@pytest.fixture(scope="module")
def responses() -> Matrix:
    """The training responses, float64 [n, 2]."""
    return np.concatenate(feature_matrix(as_cosines(draw_world("gated", 600, 0, test_pairs=1).train))).astype(float)


@pytest.fixture(scope="module", params=list(KINDS))
def combiner(request: pytest.FixtureRequest) -> Combiner:
    train, validation, _ = draw_world("gated", 600, 0, test_pairs=1)
    return fit(request.param, as_cosines(train), as_cosines(validation))


@pytest.mark.parametrize("feature", [0, 1])
@pytest.mark.parametrize("end", [0.001, 0.999])
@pytest.mark.parametrize("deviations", [10.0, 1e6])
def test_far_beyond_the_training_range_a_response_gets_what_the_border_gets(
    combiner: Combiner, responses: Matrix, feature: int, end: float, deviations: float
) -> None:
    at_border = responses[:200].copy()
    at_border[:, feature] = np.quantile(responses[:, feature], end)
    beyond = at_border.copy()
    far = math.copysign(deviations, end - 0.5) * responses[:, feature].std()
    beyond[:, feature] = responses[:, feature].mean() + far
    for ours, border in zip(combiner.reward_and_spread(beyond), combiner.reward_and_spread(at_border), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, border, atol=1e-4)
    assert combiner.outside(beyond).all()


def test_outside_is_beyond_the_quantiles_of_the_training_responses_in_any_feature(
    combiner: Combiner, responses: Matrix
) -> None:
    low, high = np.quantile(responses, [0.001, 0.999], axis=0)
    middle, deviation = responses.mean(axis=0), responses.std(axis=0)
    asked = middle + deviation * np.random.default_rng(0).normal(scale=3, size=(500, 2))
    beyond = (asked < low) | (asked > high)
    assert 0.1 < beyond.any(axis=1).mean() < 0.9
    np.testing.assert_array_equal(combiner.outside(asked), beyond.any(axis=1))
    # A thousandth of the responses at each end of each feature, and at these numbers no more than a few.
    assert 0 < combiner.outside(responses).sum() <= 12


def test_a_response_that_copies_its_prompt_is_outside_and_earns_no_more_than_the_border(
    combiner: Combiner, responses: Matrix
) -> None:
    copied = responses[:50].copy()
    copied[:, 1] = 1.0
    assert copied[0, 1] > responses[:, 1].max()
    at_border = copied.copy()
    at_border[:, 1] = np.quantile(responses[:, 1], 0.999)
    assert combiner.outside(copied).all()
    np.testing.assert_allclose(combiner.reward(copied), combiner.reward(at_border), atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("feature", [0, 1])
def test_outside_refuses_what_the_reward_refuses(combiner: Combiner, bad: float, feature: int) -> None:
    features = np.zeros((3, 2))
    features[1, feature] = bad
    for ask in (combiner.outside, combiner.reward):
        with pytest.raises(CombinerError, match="NaN or infinite in float32, the first in row 1"):
            ask(features)


def deepest_fall(combiner: Combiner, responses: Matrix) -> float:
    """The most that the reward falls by while the score rises from far below to far above."""
    middle, deviation = responses.mean(axis=0), responses.std(axis=0)
    line = np.linspace(-10, 10, 401)
    falls = []
    for held in np.linspace(-3, 3, 13):
        features = middle + deviation * np.column_stack([line, np.full_like(line, held)])
        rewards = combiner.reward(features).astype(float)
        falls.append((np.maximum.accumulate(rewards) - rewards).max())
    return float(max(falls))


def test_a_monotone_reward_never_falls_while_the_score_rises_and_a_free_one_does_where_people_do() -> None:
    """People prefer the response of the middle score: nothing but the constraint keeps the reward up."""
    train, validation, _ = draw_world("linear", 2000, 0, test_pairs=1)
    for pairs in (train, validation):
        pairs["labels"] = (pairs["score_A"].abs() < pairs["score_B"].abs()).astype(int)
    responses = np.concatenate(feature_matrix(train))
    params = TrainingParams(num_epochs=6, learning_rate=3e-3)
    assert deepest_fall(fit("combiner", train, validation, params), responses) > 0.5
    assert deepest_fall(fit("monotone", train, validation, params), responses) <= 1e-5


@pytest.mark.parametrize("kind", list(KINDS))
def test_differences_are_log_odds_of_all_pairs_where_training_saw_clear_votes_only(kind: str) -> None:
    """`data.min_score_ratio` of 4: bare differences are 1.6 times too large where labels are Bradley-Terry's."""
    train, validation, test = draw_world("linear", 3000, 0, test_pairs=20_000)
    clear = train[train["log_votes"].abs() >= math.log(4)].reset_index(drop=True)
    combiner = fit(kind, clear, validation)
    a, b = feature_matrix(test)
    given = combiner.reward(a).astype(float) - combiner.reward(b)
    truth = test["log_odds"].to_numpy()
    bare_slope, slope = best_slope(given / combiner.temperature, truth), best_slope(given, truth)
    assert abs(slope - 1) < 0.15
    assert bare_slope < 0.8
    assert math.isclose(bare_slope, slope * combiner.temperature, rel_tol=1e-6)
