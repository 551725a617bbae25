"""Holm, power, Brier, calibration intervals, slices, length control: against loops, other people's code, simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss

from realm_lib.evaluation.calibration import calibration_interval, expected_calibration_error
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.resampling import (
    EvaluationError,
    bootstrap_over_posts,
    detectable_difference,
    holm,
    permutation_p_value,
)
from realm_lib.evaluation.slices import slices


def make_features(pairs=300, posts=60, seed=0, **columns):
    rng = np.random.default_rng(seed)
    post = rng.integers(0, posts, pairs)
    features = pd.DataFrame({"post_id": post, "domain": np.where(post % 3, "askvet_test", "askhr_test")})
    features["labels"] = rng.integers(0, 2, pairs)
    for side in "AB":
        features[f"human_ref_{side}"] = ["word " * count for count in rng.integers(1, 30, pairs)]
    return features.assign(**columns)


def make_reward(features, seed=1, skill=0.8):
    noise = np.random.default_rng(seed).normal(size=(len(features), 2))
    noise[:, 0] += skill * np.where(features["labels"] == 1, 1, -1)
    return noise


def judge(features, rewards, **options):
    return evaluate_rewards(features, rewards, **{"scales": dict.fromkeys(rewards, 1.0), "resamples": 300} | options)


# Holm and power


def test_holm_is_the_closed_test_of_bonferroni():
    rng = np.random.default_rng(0)
    for _ in range(30):
        p = dict(zip("abcde", rng.random(5) ** 2, strict=True))
        found = holm(p)
        # Definition by closure: the largest Bonferroni p-value over all sets of hypotheses that hold this one.
        for name in p:
            sets = [s for n in range(1, 6) for s in itertools.combinations(p, n) if name in s]
            assert found[name] == pytest.approx(min(1, max(len(s) * min(p[k] for k in s) for s in sets)))
    assert list(holm({"b": 0.01, "a": 0.5})) == ["b", "a"]
    assert holm({}) == {}


def test_holm_rarely_errs_anywhere_when_nothing_differs():
    rng = np.random.default_rng(1)
    wrong = sum(min(holm(dict(enumerate(rng.random(9)))).values()) <= 0.05 for _ in range(2000))  # type: ignore[arg-type]
    assert 60 <= wrong <= 140, "5 % of 2,000 families"


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five():
    rng = np.random.default_rng(2)
    posts = np.repeat(np.arange(120), 4)

    def drawn(mean):
        return mean + np.repeat(rng.normal(size=120), 4) * 0.3 + rng.normal(size=480) * 0.5

    size = detectable_difference(bootstrap_over_posts(drawn(0), posts, resamples=4000).resampled)
    found = [permutation_p_value(drawn(size), posts, resamples=299, seed=n) <= 0.05 for n in range(300)]
    assert 0.7 < np.mean(found) < 0.9


# Probabilities


def test_brier_equals_sklearn_and_temperature_is_the_scales_inverse():
    features = make_features()
    evaluation = judge(features, {"realm": make_reward(features)}, scales={"realm": 0.4})
    found = evaluation.to_dict()["rewards"]["realm"]
    assert found["brier"] == pytest.approx(brier_score_loss(features["labels"], evaluation.per_pair["realm_p"]))
    assert found["temperature"] == pytest.approx(2.5)
    flat = judge(features, {"realm": make_reward(features)}, scales={"realm": 0.0}).to_dict()["rewards"]["realm"]
    assert flat["temperature"] is None
    assert flat["brier"] == pytest.approx(0.25)


@pytest.mark.slow
def test_calibration_interval_holds_the_error_and_knows_what_chance_gives():
    rng = np.random.default_rng(3)
    inside, from_zero, errors, chances = 0, 0, [], []
    for trial in range(100):
        sure = rng.uniform(0.5, 1, 1500)
        right = (rng.random(1500) < 0.5 + 0.6 * (sure - 0.5)).astype(float)  # too sure: the true error is 0.1
        low, high, _ = calibration_interval(sure, right, np.arange(1500) // 3, resamples=300, seed=trial)
        inside += low <= 0.1 <= high
        honest = (rng.random(1500) < sure).astype(float)
        errors.append(expected_calibration_error(sure, honest))
        low, _, chance = calibration_interval(sure, honest, np.arange(1500) // 3, resamples=300, seed=trial)
        chances.append(chance)
        from_zero += low == 0
    assert inside >= 93
    assert from_zero >= 93, "a calibrated reward's interval reaches to 0, though its error never is 0"
    assert np.mean(chances) == pytest.approx(np.mean(errors), rel=0.15)


def test_one_post_says_nothing_of_a_calibration_error():
    assert calibration_interval(np.linspace(0.5, 1, 8), np.ones(8), ["one"] * 8, resamples=9)[:2] == (0.0, 1.0)


# Groups of pairs


def test_slices_equal_plain_loops():
    features = make_features(score_ratio=np.random.default_rng(4).uniform(1, 12, 300))
    per_pair = judge(features, {"realm": make_reward(features)}).per_pair
    found = slices(per_pair)
    bounds = {"under half as long": 0.5, "0.5 to 0.8 times": 0.8, "0.8 to 1.25 times": 1.25, "1.25 to 2 times": 2}
    for place, row in enumerate(features.itertuples()):
        words = [len(text.split()) for text in (row.human_ref_A, row.human_ref_B)]
        chosen, rejected = words if row.labels else words[::-1]
        name = next((name for name, end in bounds.items() if chosen / rejected < end), "over twice as long")
        assert [key for key, mask in found["by_length_difference"].items() if mask[place]] == [name]
        size = (features["post_id"] == row.post_id).sum()
        (group,) = (key for key, mask in found["by_post_size"].items() if mask[place])
        assert group.startswith("1 " if size == 1 else "2 " if size < 5 else "5 " if size < 10 else "10 ")
        ratios = [float(key) for key, mask in found["by_score_ratio"].items() if mask[place]]
        assert ratios == [least for least in (1, 1.5, 2, 3, 5, 10) if row.score_ratio >= least]


def test_responses_without_a_word_are_equally_long():
    features = make_features(human_ref_A=["..."] * 300, human_ref_B=["?!"] * 300)
    found = slices(judge(features, {"realm": make_reward(features)}).per_pair)
    assert found["by_length_difference"]["0.8 to 1.25 times"].all()


def test_votes_that_are_not_known_or_all_alike_make_no_curve():
    features = make_features()
    assert "by_score_ratio" not in judge(features, {"realm": make_reward(features)}).metrics
    same = features.assign(score_ratio=2.0)
    evaluation = judge(same, {"realm": make_reward(same)})
    assert "by_score_ratio" not in evaluation.metrics
    with pytest.raises(EvaluationError, match="by_score_ratio was not evaluated"):
        evaluation.slice_table("by_score_ratio")
    some = features.assign(score_ratio=[math.nan, *np.linspace(1, 5, 299)])
    assert judge(some, {"realm": make_reward(some)}).metrics["by_score_ratio"]["1"]["pairs"] == 299


def test_length_controlled_accuracy_gives_both_halves_the_same_weight():
    features = make_features()
    words = np.stack([features[f"human_ref_{side}"].str.split().str.len() for side in "AB"], axis=1)
    metrics = judge(features, {"realm": make_reward(features), "length": words}).to_dict()
    halves = [metrics["length_split"][half]["realm"]["accuracy"] for half in ("chosen_longer", "chosen_shorter")]
    controlled = metrics["rewards"]["realm"]["length_controlled"]
    assert controlled["accuracy"] == pytest.approx(np.mean(halves))
    assert controlled["ci"][0] < controlled["accuracy"] < controlled["ci"][1]
    assert metrics["rewards"]["length"]["length_controlled"] == {"accuracy": 0.5, "ci": [0.5, 0.5]}
    one_sided = features.assign(human_ref_A="a b", human_ref_B="a", labels=1)
    found = judge(one_sided, {"realm": make_reward(one_sided)}).to_dict()
    assert found["rewards"]["realm"]["length_controlled"] is None


def test_domain_mean_interval_draws_posts_within_domains():
    features = make_features(2000, 400)
    found = judge(features, {"realm": make_reward(features)}, resamples=2000).to_dict()
    parts = [found["by_domain"][name]["realm"] for name in ("askhr", "askvet")]
    low, high = found["rewards"]["realm"]["domain_mean_ci"]
    # Two independent means: the half widths add as their squares do.
    expected = np.hypot(*[np.subtract(*part["ci"][::-1]) for part in parts]) / 2
    assert high - low == pytest.approx(expected, rel=0.12)


def test_expected_accuracy_is_the_mean_over_the_votes_that_could_have_been():
    features = make_features(gold_A=np.random.default_rng(5).normal(size=300), gold_B=0.3)
    reward = make_reward(features)
    found = judge(features, {"realm": reward}, feature_ceiling=reward[:, 0] - reward[:, 1]).to_dict()
    wins = stats.logistic.cdf(features["gold_A"] - 0.3)
    expected = np.mean(np.where(reward[:, 0] > reward[:, 1], wins, 1 - wins))
    assert found["rewards"]["realm"]["expected_accuracy"] == pytest.approx(expected)
    assert found["ceiling"]["expected"] == pytest.approx(np.mean(np.maximum(wins, 1 - wins)))
    assert found["feature_ceiling"]["accuracy"] == found["rewards"]["realm"]["accuracy"]
    difference = found["feature_ceiling"]["difference"]
    # Two more pairs than these, one for either side, could be all that lies between them.
    assert difference == {"value": 0, "ci": pytest.approx([-2 / 300, 2 / 300], rel=0.01)}


def test_log_loss_difference_is_paired_and_has_its_sign():
    features = make_features()
    good, bad = make_reward(features, skill=2.0), make_reward(features, 2, skill=0.0)
    metrics = judge(features, {"realm": good, "linear": bad}).to_dict()
    difference = metrics["differences"]["realm - linear"]["log_loss"]
    losses = [metrics["rewards"][name]["log_loss"] for name in ("realm", "linear")]
    assert difference["value"] == pytest.approx(losses[0] - losses[1])
    assert difference["ci"][0] < difference["value"] < difference["ci"][1] < 0


def test_tables_for_readers_hold_every_reward_and_group():
    features = make_features()
    evaluation = judge(features, {"realm": make_reward(features, skill=2.0), "linear": make_reward(features, 2)})
    rewards = evaluation.metrics["rewards"]
    assert list(evaluation.calibration_table()["reward"]) == sorted(rewards, key=lambda name: rewards[name]["ece"])
    table = evaluation.slice_table("by_domain", ["realm"])
    assert list(table.columns) == ["domain", "pairs", "realm"]
    assert table["pairs"].sum() == 300
    assert "mean over 2 domains" in evaluation.table()


def test_domains_that_are_pooled_are_named():
    features = make_features()
    small = features["post_id"].isin([1, 2])
    features["domain"] = np.where(small, "askscience_test", features["domain"])
    evaluation = judge(features, {"realm": make_reward(features)})
    assert evaluation.metrics["domain_mean"] == {"domains": 3, "pooled": ["askhr", "askscience"]}
    assert "mean over 3 domains, small ones pooled: 2" in evaluation.table()
    alone = judge(features[small].iloc[:1], {"realm": make_reward(features[small].iloc[:1])}).metrics
    low, high = alone["rewards"]["realm"]["domain_mean_ci"]
    assert high - low > 0.7, "one domain of one post"
