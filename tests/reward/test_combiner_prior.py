"""The prior: no worse than a weighted sum where that is the truth, believed where pairs bear the network out.

And what holds whatever was learned: outside the training range, for features that the reward cannot fall with, for the
scale, and for the spread of small data.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner import Combiner, CombinerError, TrainingHistory, chosen_and_rejected
from realm_lib.reward.combiner.prior import Evidence, draw_folds, find_evidence

Matrix = NDArray[np.floating[Any]]

PARAMS = TrainingParams(learning_rate=1e-3, num_epochs=12, patience=6, batch_size=256)


def gated(score: Matrix, similarity: Matrix) -> Matrix:
    return 0.2 * score + 1.6 * score / (1 + np.exp(-3 * similarity)) + 0.2 * similarity


def linear(score: Matrix, similarity: Matrix) -> Matrix:
    return 0.8 * score + 0.4 * similarity


def falling(score: Matrix, similarity: Matrix) -> Matrix:
    """A utility that is best in the middle of the scores."""
    return -1.5 * np.abs(score) - 0.3 * score + 0.4 * similarity


def make_pairs(
    count: int, seed: int, utility: Callable[[Matrix, Matrix], Matrix] = linear, certainty: float = 1.0
) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    score, similarity = generator.normal(size=(2, count, 2))
    utilities = certainty * utility(score, similarity)
    wins = generator.random(count) < 1 / (1 + np.exp(utilities[:, 1] - utilities[:, 0]))
    columns = {"post_id": np.arange(count) // 2, "labels": wins.astype(int)}
    for place, side in enumerate("AB"):
        columns |= {f"score_{side}": 5 * score[:, place] - 2, f"similarity_{side}": 0.1 * similarity[:, place] + 0.4}
    return pd.DataFrame(columns)


def margins_of(combiner: Combiner, pairs: pd.DataFrame) -> Matrix:
    chosen, rejected = chosen_and_rejected(pairs)
    return combiner.reward(chosen).astype(np.float64) - combiner.reward(rejected)


@cache
def fitted(world: Callable[[Matrix, Matrix], Matrix], pairs: int = 600, **model: Any) -> tuple[Combiner, Any]:
    combiner = Combiner(ModelParams(**{"ensemble": 2} | {name: list(v) if isinstance(v, tuple) else v
                                                        for name, v in model.items()}))  # fmt: skip
    return combiner, combiner.fit(make_pairs(pairs, 11, world), make_pairs(300, 2, world), PARAMS)


# How much of the network is believed


def test_where_the_truth_is_a_weighted_sum_the_reward_is_one() -> None:
    combiner, history = fitted(linear)
    assert history.bend == combiner.bend == 0
    features = np.random.default_rng(0).normal([-2, 0.4], [4, 0.08], size=(50, 2))
    standardised = (features - combiner.feature_mean.numpy()) / combiner.feature_std.numpy()
    standardised = np.clip(standardised, combiner.feature_low.numpy(), combiner.feature_high.numpy())
    sums = standardised @ list(combiner.linear.values())
    rewards = combiner.reward(features)
    np.testing.assert_allclose(rewards - rewards[0], sums - sums[0], atol=2e-5)


@pytest.mark.slow
def test_where_the_truth_bends_most_of_what_the_network_gives_is_kept() -> None:
    combiner, history = fitted(gated, 2000)
    assert history.bend > 0.8
    assert history.best_epoch > 0
    assert history.out_of_fold_loss[history.best_epoch] == min(history.out_of_fold_loss)
    assert history.evidence["t"] > 4
    test = make_pairs(20_000, 3, gated)
    straight, _ = fitted(linear, 2000)
    assert (margins_of(combiner, test) > 0).mean() > (margins_of(straight, test) > 0).mean() + 0.005


def test_history_begins_with_the_weighted_sum_and_ends_at_the_best_epoch() -> None:
    _, history = fitted(gated)
    assert isinstance(history, TrainingHistory)
    assert history.best_epoch == int(np.argmin(history.out_of_fold_loss))
    assert len(history.train_loss) == len(history.validation_loss) == history.best_epoch + 1
    assert history.member_epochs == [history.best_epoch] * 2
    waited = len(history.out_of_fold_loss) - 1 - history.best_epoch
    assert waited == PARAMS.patience or len(history.out_of_fold_loss) == PARAMS.num_epochs + 1
    metrics = history.metrics()
    assert list(metrics["evidence"]) == ["alpha", "se", "t", "pairs"]
    assert metrics["evidence"]["pairs"] == 600 + 300
    assert set(metrics["linear"]) == {"score", "similarity"}


def test_a_heavier_prior_keeps_the_network_nearer_to_the_weighted_sum() -> None:
    train, validation = make_pairs(600, 1, gated), make_pairs(300, 2, gated)
    histories = []
    for prior_pairs in (0, 30, 300):
        params = PARAMS.model_copy(update={"prior_pairs": prior_pairs})
        histories.append(Combiner().fit(train, validation, params))
    assert [history.prior_pairs for history in histories] == [0, 30, 300]
    losses = [history.out_of_fold_loss[1] for history in histories]
    assert losses[0] < losses[1] < losses[2]


def test_where_labels_have_no_chance_in_them_the_prior_gives_way() -> None:
    """As those of a judge who never wavers: 300 pairs more that agree with the weighted sum would be wrong."""
    train, validation = make_pairs(600, 1, gated, certainty=30), make_pairs(300, 2, gated, certainty=30)
    params = PARAMS.model_copy(update={"learning_rate": 3e-3})
    loose, tight = (
        Combiner().fit(train, validation, params.model_copy(update={"prior_pairs": prior_pairs}))
        for prior_pairs in (30, 300)
    )
    assert tight.prior_pairs in (0.3, 3, 30)
    assert tight.out_of_fold_loss[tight.best_epoch] <= loose.out_of_fold_loss[loose.best_epoch] + 0.01
    noisy = fitted(gated)[1]
    assert noisy.prior_pairs == noisy.metrics()["prior_pairs"] == 300


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 200), st.floats(0.05, 3))
def test_evidence_is_the_logistic_regression_of_one_number_beside_an_offset(
    seed: int, pairs: int, scale: float
) -> None:
    generator = np.random.default_rng(seed)
    offset, margins = generator.normal(0.3, 1, pairs), scale * generator.normal(0.1, 1, pairs)
    margins[0], margins[1] = 3 * scale, -3 * scale  # neither order is without fault: there is a best factor

    def loss(alpha: float) -> float:
        return float(np.logaddexp(0, -(offset + alpha * margins)).sum())

    best = optimize.minimize_scalar(loss, bracket=(-1, 1), tol=1e-12)
    evidence = find_evidence(offset, margins)
    assert evidence.alpha == pytest.approx(best.x, rel=1e-4, abs=1e-4)
    assert evidence.se is not None
    step = 1e-3 / scale
    curvature = (loss(best.x + step) - 2 * best.fun + loss(best.x - step)) / step**2
    assert evidence.se == pytest.approx(curvature**-0.5, rel=1e-2)
    assert evidence.t == pytest.approx(evidence.alpha / evidence.se)


@pytest.mark.parametrize(
    ("alpha", "se", "bend"),
    [(1.0, 0.25, 0.75), (0.5, 0.25, 0.0), (0.6, 0.25, 0.6 * (1 - 4 / 2.4**2)), (3.0, 0.1, 1.0), (-2.0, 0.1, 0.0)],
)
def test_the_bend_is_shrunk_by_the_rule_of_james_and_stein(alpha: float, se: float, bend: float) -> None:
    assert Evidence(alpha, se, alpha / se, 100).bend == pytest.approx(bend)


@pytest.mark.parametrize("margins", [np.zeros(9), np.zeros(0), np.full(9, 0.5), np.full(9, 1e6)])
def test_evidence_is_finite_where_there_is_none_and_where_pairs_are_separable(margins: Matrix) -> None:
    evidence = find_evidence(np.zeros(len(margins)), margins)
    assert math.isfinite(evidence.alpha)
    assert 0 <= evidence.bend <= 1
    if not margins.any():
        assert (evidence.se, evidence.bend) == (None, 0)


# Folds


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(0, 100))
def test_pairs_of_a_post_are_in_one_fold_and_folds_are_even_in_posts(posts: list[int], seed: int) -> None:
    fold = draw_folds(np.array(posts), seed)
    of_post = pd.Series(fold).groupby(posts).agg(["min", "max"])
    assert (of_post["min"] == of_post["max"]).all()
    assert fold.min() == 0
    counts = of_post["min"].value_counts()
    assert counts.max() - counts.min() <= 1


def test_of_many_pairs_some_are_cross_fitted_from_everywhere_in_the_table() -> None:
    fold = draw_folds(np.arange(100_000) // 2, 0)
    used = np.flatnonzero(fold >= 0)
    assert 9_990 <= len(used) <= 10_000
    assert np.histogram(used, 10, (0, 100_000))[0] == pytest.approx(1000, rel=0.15)


def test_one_post_is_enough_and_nothing_is_believed() -> None:
    pairs = make_pairs(40, 1, gated).assign(post_id=7)
    history = Combiner().fit(pairs, pairs, PARAMS)
    assert (history.best_epoch, history.bend, history.out_of_fold_loss) == (0, 0, [])


# Outside the training range


@pytest.mark.parametrize("world", [linear, gated])
def test_beyond_the_border_the_reward_is_that_of_the_border(world: Callable[[Matrix, Matrix], Matrix]) -> None:
    combiner, _ = fitted(world)
    train = np.concatenate(chosen_and_rejected(make_pairs(600, 11, world))).astype(np.float64)
    low, high = np.quantile(train, [0.001, 0.999], axis=0)
    for column, value in ((0, "score"), (1, "similarity")):
        for border, direction in ((low, -1), (high, 1)):
            inside = np.median(train, axis=0)[None].repeat(4, axis=0)
            inside[:, column] = border[column] + direction * np.array([0, 1e-3, 10 * train[:, column].std(), 1e30])
            rewards, spread = combiner.reward_and_spread(inside)
            assert np.isfinite(rewards).all(), value
            assert np.isfinite(spread).all()
            np.testing.assert_allclose(rewards, rewards[-1], atol=2e-4)
            assert combiner.outside(inside).tolist()[1:] == [True] * 3


def test_the_share_outside_is_two_in_a_thousand_of_each_feature_of_the_training_responses() -> None:
    combiner, _ = fitted(linear)
    train = np.concatenate(chosen_and_rejected(make_pairs(600, 11, linear)))
    assert 0 < combiner.outside(train).sum() <= 2 * 2 * 2
    assert not combiner.outside(train.mean(axis=0)[None]).any()
    with pytest.raises(CombinerError, match="NaN"):
        combiner.outside([[math.nan, 0.4]])
    with pytest.raises(CombinerError, match="not trained"):
        Combiner().outside([[0.0, 0.4]])


def test_a_constant_feature_is_never_outside(tmp_path: Path) -> None:
    train = make_pairs(100, 1).assign(similarity_A=0.4, similarity_B=0.4)
    combiner = Combiner()
    with pytest.warns(UserWarning, match="'similarity' is the same"):
        combiner.fit(train, make_pairs(50, 2), PARAMS)
    combiner.save_pretrained(tmp_path)
    assert not Combiner.from_pretrained(tmp_path).outside([[-2.0, 99.0]]).any()


# Features that the reward cannot fall with


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-40, 40, width=32),
    st.floats(0, 40, width=32),
    st.floats(-1, 2, width=32),
    st.sampled_from([None, "weighted_sum"]),
)
def test_a_monotone_reward_never_falls(score: float, more: float, similarity: float, prior: Any) -> None:
    combiner, _ = fitted(falling, monotone=("score",), prior=prior)
    low, high = combiner.reward(np.array([[score, similarity], [score + more, similarity]]))
    assert high >= low - 1e-5 * max(1, abs(low))


def test_the_world_of_that_test_makes_a_free_reward_fall() -> None:
    combiner, _ = fitted(falling)
    low, high = combiner.reward([[-2.0, 0.4], [8.0, 0.4]])
    assert high < low - 0.1


def test_a_monotone_reward_can_bend_both_ways() -> None:
    def saturating(score: Matrix, similarity: Matrix) -> Matrix:
        return 3 * np.tanh(2 * score) + 0.4 * similarity

    combiner = Combiner(ModelParams(monotone=["score", "similarity"]))
    params = PARAMS.model_copy(update={"learning_rate": 3e-3, "num_epochs": 40, "patience": 40, "prior_pairs": 0})
    combiner.fit(make_pairs(1500, 1, saturating), make_pairs(300, 2, saturating), params)
    at = combiner.reward(np.stack([5 * np.array([-2.0, -1, 0, 1, 2]) - 2, np.full(5, 0.4)], axis=1))
    steps = np.diff(at)
    assert (steps >= -1e-5).all()
    assert min(steps[1:3]) > 2 * max(steps[0], steps[3])


def test_an_ablation_without_the_monotone_feature_is_trained_all_the_same() -> None:
    combiner = Combiner(ModelParams(monotone=["score"]), ("similarity",))
    combiner.fit(make_pairs(200, 1), make_pairs(100, 2), PARAMS)
    assert np.isfinite(combiner.reward([[0.4]])).all()


# The scale, the spread, the features, saving


@pytest.mark.parametrize("prior", [None, "weighted_sum"])
def test_differences_are_the_log_odds_of_validation_pairs(prior: Any) -> None:
    combiner = Combiner(ModelParams(prior=prior))
    # Training pairs as people vote who are surer than those of validation.
    train, validation = make_pairs(1500, 1, linear, certainty=2.0), make_pairs(3000, 2, linear, certainty=0.7)
    history = combiner.fit(train, validation, PARAMS)
    assert history.scale == combiner.scale == pytest.approx(0.35, abs=0.08)
    margins = margins_of(combiner, make_pairs(20_000, 3, linear, certainty=0.7))
    best = optimize.minimize_scalar(lambda scale: np.logaddexp(0, -scale * margins).mean()).x
    assert best == pytest.approx(1, abs=0.15)
    on_validation = margins_of(combiner, validation)
    assert history.kept["validation_loss"] == pytest.approx(np.logaddexp(0, -on_validation).mean(), abs=1e-5)
    # Bare differences are what they were before.
    assert margins.std() / combiner.scale == pytest.approx(margins.std() / 0.35, rel=0.25)


def test_a_reward_that_validation_contradicts_says_so_and_keeps_its_scale() -> None:
    validation = make_pairs(300, 2)
    combiner = Combiner()
    with pytest.warns(UserWarning, match=r"300 validation pairs the reward of score, similarity is no better"):
        combiner.fit(make_pairs(300, 1), validation.assign(labels=1 - validation["labels"]), PARAMS)
    assert combiner.scale == 1
    assert combiner.linear["score"] > 0


def test_on_small_data_members_disagree_though_the_network_is_not_believed() -> None:
    small, large = (fitted(linear, pairs, ensemble=4)[0] for pairs in (60, 1500))
    features = np.random.default_rng(0).normal([-2, 0.4], [5, 0.1], size=(200, 2))
    assert small.bend == large.bend == 0
    spreads = [combiner.reward_and_spread(features)[1] / combiner.scale for combiner in (small, large)]
    assert np.median(spreads[0]) > 2 * np.median(spreads[1]) > 0


def test_any_features_are_learned_from_saved_and_loaded(tmp_path: Path) -> None:
    def with_length(pairs: pd.DataFrame, seed: int) -> pd.DataFrame:
        words = np.random.default_rng(seed).normal(size=(2, len(pairs)))
        first = (words[0] > words[1]).astype(int)  # the longer one wins, whatever else
        return pairs.assign(words_A=words[0], words_B=words[1], labels=first)

    names = ("score", "similarity", "words")
    combiner = Combiner(ModelParams(ensemble=2), names)
    combiner.fit(with_length(make_pairs(300, 1), 5), with_length(make_pairs(100, 2), 6), PARAMS)
    assert max(combiner.linear, key=lambda name: abs(combiner.linear[name])) == "words"
    combiner.save_pretrained(tmp_path)
    again = Combiner.from_pretrained(tmp_path)
    assert again.features == names
    assert (again.bend, again.scale, again.linear) == (combiner.bend, combiner.scale, combiner.linear)
    features = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_array_equal(again.reward(features), combiner.reward(features))
    with pytest.raises(CombinerError, match=r"shape \[n, 3\]"):
        again.reward([[0.0, 0.0]])
