"""The combiner beside what is known of the world that its pairs come from."""

import math

import numpy as np
from support.preference_worlds import best_slope, draw_world

from realm_lib.config.training import TrainingParams
from realm_lib.reward.combiner import Combiner, feature_matrix

QUICK = TrainingParams(num_epochs=3, learning_rate=1e-3)


def test_outside_is_beyond_the_quantiles_of_the_training_responses_in_any_feature() -> None:
    train, validation, _ = draw_world("linear", 600, 0, test_pairs=1)
    combiner = Combiner()
    combiner.fit(train, validation, QUICK)
    responses = np.concatenate(feature_matrix(train)).astype(float)
    low, high = np.quantile(responses, [0.001, 0.999], axis=0)
    asked = np.random.default_rng(0).normal(responses.mean(axis=0), 3 * responses.std(axis=0), size=(500, 2))
    beyond = ((asked < low) | (asked > high)).any(axis=1)
    assert 0.1 < beyond.mean() < 0.9
    np.testing.assert_array_equal(combiner.outside(asked), beyond)


def test_differences_are_log_odds_of_all_pairs_where_training_saw_clear_votes_only() -> None:
    """`data.min_score_ratio` of 4, and true probabilities: bare differences are up to 1.6 times too large.

    Among pairs with difference d of utilities whose votes have a ratio of r at least, log-odds of being preferred are
    log sigmoid(d - log r) - log sigmoid(-d - log r), which is 2 r / (1 + r) times d near 0.
    """
    train, validation, test = draw_world("linear", 3000, 0, test_pairs=20_000)
    clear = train[train["log_votes"].abs() >= math.log(4)].reset_index(drop=True)
    combiner = Combiner()
    combiner.fit(clear, validation, QUICK)
    a, b = feature_matrix(test)
    given = combiner.reward(a).astype(float) - combiner.reward(b)
    slope = best_slope(given, test["log_odds"].to_numpy())
    assert abs(slope - 1) < 0.15
    assert 1 / 1.6 - 0.1 < slope * combiner.scale < 0.8
