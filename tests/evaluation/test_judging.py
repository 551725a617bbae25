"""The statistics against plain loops, sklearn and scipy; their coverage and size on simulated clusters; bad input."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import log_loss

from realm_lib.evaluation.calibration import expected_calibration_error
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.resampling import EvaluationError, bootstrap_over_posts, permutation_p_value
from realm_lib.evaluation.result import Evaluation
from realm_lib.reward.temperature import fit_scale
from realm_lib.runs.files import write_json


def make_features(pairs=60, posts=15, seed=0, gold=False, texts=False):
    rng = np.random.default_rng(seed)
    post = rng.integers(0, posts, pairs)
    features = pd.DataFrame(
        {
            "post_id": [f"p{number}" for number in post],
            "domain": [f"{('askvet', 'askhr', 'askdocs')[number % 3]}_test" for number in post],
            "labels": rng.integers(0, 2, pairs),
        }
    )
    if texts:
        for side in "AB":
            features[f"human_ref_{side}"] = ["word " * count for count in rng.integers(1, 9, pairs)]
    if gold:
        features[["gold_A", "gold_B"]] = rng.normal(size=(pairs, 2))
    return features


def make_reward(features, seed, skill=0.8):
    """A reward that prefers the chosen response by ``skill`` deviations of its noise; rounded, so that some tie."""
    noise = np.random.default_rng(seed).normal(size=(len(features), 2))
    noise[:, 0] += skill * np.where(features["labels"] == 1, 1, -1)
    return noise.round(1)


def judge(features, rewards, **options):
    options = {"scales": dict.fromkeys(rewards, 1.0), "resamples": 200} | options
    return evaluate_rewards(features, rewards, **options)


def metrics_of(pairs=200, posts=40, **kinds):
    features = make_features(pairs, posts, **kinds)
    rewards = {"realm": make_reward(features, 1), "reward_model": make_reward(features, 2, 0.3)}
    return features, rewards, judge(features, rewards)


# What is computed, against plain loops and other people's code.


def test_scores_equal_plain_loops():
    features, rewards, evaluation = metrics_of(gold=True, texts=True)
    metrics = evaluation.to_dict()
    assert metrics["pairs"] == 200
    assert metrics["posts"] == features["post_id"].nunique()
    by_domain: dict[str, list[float]] = {}
    longer: list[float] = []
    shorter: list[float] = []
    scores, ties, loss = [], 0, 0.0
    for row, (a, b) in zip(features.itertuples(), rewards["realm"].tolist(), strict=True):
        chosen, rejected = (a, b) if row.labels == 1 else (b, a)
        score = 0.5 if chosen == rejected else float(chosen > rejected)
        scores.append(score)
        ties += chosen == rejected
        loss += math.log(1 + math.exp(-(chosen - rejected)))
        by_domain.setdefault(row.domain.removesuffix("_test"), []).append(score)
        words = (len(row.human_ref_A.split()) - len(row.human_ref_B.split())) * (1 if row.labels else -1)
        if words:
            (longer if words > 0 else shorter).append(score)
    found = metrics["rewards"]["realm"]
    assert ties > 0
    assert found["ties"] == ties
    assert found["accuracy"] == pytest.approx(np.mean(scores))
    assert found["log_loss"] == pytest.approx(loss / 200)
    assert found["domain_mean_accuracy"] == pytest.approx(np.mean([np.mean(part) for part in by_domain.values()]))
    assert {domain: part["pairs"] for domain, part in metrics["by_domain"].items()} == {
        domain: len(part) for domain, part in by_domain.items()
    }
    for domain, part in by_domain.items():
        assert metrics["by_domain"][domain]["realm"]["accuracy"] == pytest.approx(np.mean(part))
    split = metrics["length_split"]
    assert split["chosen_longer"]["pairs"] == len(longer)
    assert split["chosen_longer"]["realm"]["accuracy"] == pytest.approx(np.mean(longer))
    assert split["chosen_shorter"]["realm"]["accuracy"] == pytest.approx(np.mean(shorter))
    right = [(row.gold_A > row.gold_B) == (row.labels == 1) for row in features.itertuples()]
    sure = [1 / (1 + math.exp(-abs(row.gold_A - row.gold_B))) for row in features.itertuples()]
    assert metrics["ceiling"]["accuracy"] == pytest.approx(np.mean(right))
    assert metrics["ceiling"]["expected"] == pytest.approx(np.mean(sure))


def test_log_loss_equals_sklearn_with_scale():
    features, rewards, _ = metrics_of()
    evaluation = judge(features, rewards, scales={"realm": 0.37, "reward_model": 2.0})
    p = evaluation.per_pair["realm_p"]
    assert p.to_numpy() == pytest.approx(1 / (1 + np.exp(-0.37 * (rewards["realm"] @ [1, -1]))))
    expected = log_loss(features["labels"], p)
    assert evaluation.to_dict()["rewards"]["realm"]["log_loss"] == pytest.approx(expected)


def test_log_loss_of_a_very_sure_reward_stays_exact():
    features = make_features(2, 2)
    wrong = np.where(features["labels"].to_numpy()[:, None] == 1, [[0, 5000]], [[5000, 0]])
    assert judge(features, {"realm": wrong}).to_dict()["rewards"]["realm"]["log_loss"] == pytest.approx(5000)


def test_fields_are_those_of_the_design_and_are_json(tmp_path):
    _, _, evaluation = metrics_of(gold=True, texts=True)
    metrics = evaluation.to_dict()
    assert set(metrics) == {
        "pairs", "posts", "rewards", "differences", "by_domain", "length_split", "by_length_difference", "by_post_size",
        "ceiling", "domain_mean",
    }  # fmt: skip
    assert set(metrics["rewards"]["realm"]) == {
        "accuracy", "ci", "ties", "log_loss", "brier", "ece", "ece_ci", "ece_by_chance", "temperature",
        "domain_mean_accuracy", "domain_mean_ci", "length_controlled", "expected_accuracy",
    }  # fmt: skip
    assert set(metrics["differences"]) == {"realm - reward_model"}
    assert set(metrics["differences"]["realm - reward_model"]) == {
        "value", "ci", "p_value", "p_holm", "detectable", "log_loss",
    }  # fmt: skip
    assert set(metrics["by_domain"]) == {"askvet", "askhr", "askdocs"}
    write_json(tmp_path / "evaluation.json", metrics)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == metrics
    metrics["rewards"].clear()
    assert evaluation.to_dict()["rewards"], "to_dict must hand out a copy"


def test_calibration_error_equals_a_plain_loop():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.5, 1, 1000)
    correct = (rng.random(1000) < confidence**2).astype(float)
    order = np.argsort(confidence)
    expected = sum(
        abs(sum(confidence[k] for k in part) - sum(correct[k] for k in part)) for part in np.array_split(order, 10)
    )
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected / 1000)
    assert expected > 50


def test_equal_confidences_share_a_bin():
    # In the order given, bins of fifty would each look badly calibrated; together they are calibrated exactly.
    assert expected_calibration_error(np.full(100, 0.5), np.repeat([0.0, 1.0], 50)) == 0


# Intervals and p-values.


def test_bootstrap_equals_a_plain_loop():
    features = make_features(50, 12)
    values = np.random.default_rng(5).random((50, 3))
    found = bootstrap_over_posts(values, features["post_id"], resamples=40, seed=9)
    names = list(dict.fromkeys(features["post_id"]))
    drawn = np.random.default_rng(9).integers(0, len(names), size=(40, len(names)))
    for row, resampled in zip(drawn, found.resampled, strict=True):
        rows = np.concatenate([np.flatnonzero(features["post_id"] == names[post]) for post in row])
        assert resampled == pytest.approx(values[rows].mean(axis=0))
    sizes = features.groupby("post_id").size()
    alike = sizes.sum() ** 2 / (sizes**2).sum()
    tail = stats.norm.cdf(stats.t.ppf(0.025, alike - 1) * math.sqrt(alike / (alike - 1)))
    assert found.lows == pytest.approx(np.quantile(found.resampled, tail, axis=0))
    assert found.highs == pytest.approx(np.quantile(found.resampled, 1 - tail, axis=0))
    assert found.means == pytest.approx(values.mean(axis=0))


def test_bootstrap_agrees_with_scipy_where_every_pair_is_its_own_post():
    values = np.random.default_rng(6).exponential(size=300)
    ours = bootstrap_over_posts(values, np.arange(300), resamples=8000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.lows[0] - theirs.low) < 0.05 * width
    assert abs(ours.highs[0] - theirs.high) < 0.05 * width


def test_chunks_do_not_change_the_resamples(monkeypatch):
    values, posts = np.random.default_rng(0).random((90, 2)), np.arange(90) // 3
    whole = bootstrap_over_posts(values, posts, resamples=100).resampled
    p_value = permutation_p_value(values[:, 0] - values[:, 1], posts, resamples=96)
    monkeypatch.setattr("realm_lib.evaluation.resampling._CELLS", 30 * 7)
    # The same draws; a product of another shape may round its last bit otherwise.
    np.testing.assert_allclose(bootstrap_over_posts(values, posts, resamples=100).resampled, whole, rtol=1e-14)
    assert permutation_p_value(values[:, 0] - values[:, 1], posts, resamples=96) == p_value


def _clustered(rng, posts=60):
    """Right or wrong on 1 to 8 pairs a post, with a post's own difficulty; the mean over many posts is 0.5."""
    sizes = rng.integers(1, 9, posts)
    share = np.repeat(rng.beta(0.6, 0.6, posts), sizes)
    return (rng.random(len(share)) < share).astype(float), np.repeat(np.arange(posts), sizes)


def test_interval_over_posts_covers_and_over_pairs_does_not():
    rng = np.random.default_rng(0)
    by_post = by_pair = 0
    for trial in range(1000):
        values, posts = _clustered(rng)
        found = bootstrap_over_posts(values, posts, shares=True, resamples=400, seed=trial)
        by_post += found.lows[0] <= 0.5 <= found.highs[0]
        if trial < 200:
            found = bootstrap_over_posts(values, np.arange(len(values)), shares=True, resamples=200, seed=trial)
            by_pair += found.lows[0] <= 0.5 <= found.highs[0]
    assert 935 <= by_post <= 970, "a 95 % interval must cover in about 95 % of the trials"
    assert by_pair <= 160, "pairs of one post are not independent, and an interval that says so is too narrow"


def test_permutation_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(1)
    p_values = []
    for trial in range(300):
        left, posts = _clustered(rng, 40)
        # Exchangeable by post: the second reward is the first one's twin, with the two swapped in half of the posts.
        other = np.where(rng.random(len(left)) < 0.5, left, 1 - left)
        flip = np.where(rng.random(40) < 0.5, 1, -1)[posts]
        p_values.append(permutation_p_value((left - other) * flip, posts, resamples=199, seed=trial))
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert np.mean(np.array(p_values) <= 0.05) < 0.09


def test_permutation_p_value_equals_all_flips():
    differences, posts = np.array([1, 1, 0.5, -1, 1, 0, 1.0]), np.array([0, 0, 1, 2, 3, 4, 5])
    sums = np.array([2, 0.5, -1, 1, 0, 1])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = np.mean(np.abs(flips @ sums) >= abs(sums.sum()) - 1e-9)
    assert permutation_p_value(differences, posts, resamples=20_000) == pytest.approx(exact, abs=0.015)


def test_p_value_of_no_difference_is_one_and_of_a_large_one_small():
    assert permutation_p_value(np.zeros(10), np.arange(10)) == 1.0
    assert permutation_p_value(np.ones(40), np.arange(40), resamples=999) == pytest.approx(0.001)


def test_difference_is_paired():
    features = make_features(600, 200)
    base = make_reward(features, 1, skill=0.5)
    twin = base.copy()
    twin[:5] = twin[:5, ::-1]  # other answers on five pairs only
    found = judge(features, {"realm": base, "reward_model": twin}).to_dict()
    low, high = found["differences"]["realm - reward_model"]["ci"]
    alone = np.subtract(*found["rewards"]["realm"]["ci"][::-1])
    assert high - low < alone / 2


def test_accuracies_without_spread_get_an_honest_interval():
    features = make_features(4, 2).assign(post_id=["a", "a", "b", "b"], domain="askvet_test")
    right = np.where(features["labels"].to_numpy()[:, None] == 1, [[1, 0]], [[0, 1]])
    found = judge(features, {"realm": right, "reward_model": -right}).to_dict()
    low, high = found["rewards"]["realm"]["ci"]
    wilson = stats.binomtest(2, 2).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high))
    low, high = found["differences"]["realm - reward_model"]["ci"]
    assert low < 0.5
    assert high == pytest.approx(1)
    same = judge(features, {"realm": right, "reward_model": right}).to_dict()["differences"]["realm - reward_model"]
    assert {key: same[key] for key in ("value", "ci", "p_value", "p_holm")} == {
        "value": 0, "ci": [-1, 1], "p_value": 1, "p_holm": 1,
    }  # fmt: skip


def test_same_seed_same_numbers_other_seed_other_intervals():
    features, rewards, evaluation = metrics_of()
    assert judge(features, rewards).to_dict() == evaluation.to_dict()
    assert (
        judge(features, rewards, seed=1).to_dict()["rewards"]["realm"]["ci"]
        != (evaluation.to_dict()["rewards"]["realm"]["ci"])
    )


# The scale.


def test_fit_scale_equals_a_generic_optimiser():
    rng = np.random.default_rng(2)
    margins = rng.normal(0.4, 1, 500) * 37
    expected = optimize.minimize_scalar(
        lambda scale: np.logaddexp(0, -scale * margins).mean(), bounds=(0, 1), options={"xatol": 1e-10}
    ).x
    assert fit_scale(margins) == pytest.approx(expected, rel=1e-4)
    assert fit_scale(margins / 1000) == pytest.approx(1000 * fit_scale(margins), rel=1e-6)


def test_fit_scale_finds_the_scale_that_made_the_pairs():
    rng = np.random.default_rng(4)
    margin = rng.normal(size=20_000) * 3
    chosen = np.where(rng.random(20_000) < 1 / (1 + np.exp(-0.7 * margin)), margin, -margin)
    assert fit_scale(chosen) == pytest.approx(0.7, abs=0.03)


def test_fit_scale_at_its_bounds():
    assert fit_scale(np.array([-1.0, -2, 0.5])) == 0
    assert fit_scale(np.zeros(5)) == 0
    n = 98
    assert 1 / (1 + math.exp(-fit_scale(np.full(n, 4.0)) * 4)) == pytest.approx((n + 1) / (n + 2))


@pytest.mark.parametrize("margins", [[], [[1.0, 2.0]], [1.0, math.nan], [math.inf]])
def test_fit_scale_refuses(margins):
    with pytest.raises(ValueError, match="fit_scale"):
        fit_scale(np.array(margins))


# Properties.


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.booleans(), st.integers(0, 4)), min_size=1),
    st.randoms(use_true_random=False),
)
def test_what_must_not_change_anything(rows, random):
    a, b, labels, posts = (np.array(column) for column in zip(*rows, strict=True))
    features = pd.DataFrame({"post_id": posts, "domain": "askvet_test", "labels": labels.astype(int)})
    reward = np.stack([a, b], axis=1).astype(float)
    base = judge(features, {"realm": reward}, resamples=20).to_dict()["rewards"]["realm"]

    squeezed = judge(features, {"realm": reward**3 + 2 * reward - 5}, resamples=20).to_dict()["rewards"]["realm"]
    assert {key: squeezed[key] for key in ("accuracy", "ci", "ties")} == {
        key: base[key] for key in ("accuracy", "ci", "ties")
    }

    swap = np.array([random.random() < 0.5 for _ in rows])
    swapped = features.assign(labels=np.where(swap, 1 - features["labels"], features["labels"]))
    crossed = np.where(swap[:, None], reward[:, ::-1], reward)
    assert judge(swapped, {"realm": crossed}, resamples=20).to_dict()["rewards"]["realm"] == base

    opposite = judge(features, {"realm": -reward}, resamples=20).to_dict()["rewards"]["realm"]
    assert opposite["accuracy"] == pytest.approx(1 - base["accuracy"])
    assert base["ci"][0] - 1e-12 <= base["accuracy"] <= base["ci"][1] + 1e-12 or len(set(posts)) < 5


# What readers see.


def test_table_has_a_row_a_reward_best_first():
    _, _, evaluation = metrics_of()
    table = evaluation.table()
    found = evaluation.to_dict()["rewards"]["realm"]
    assert list(table["reward"]) == ["realm", "reward_model"]
    low, high = (100 * end for end in found["ci"])
    assert table["accuracy (95 % interval)"][0] == f"{100 * found['accuracy']:.1f} % ({low:.1f} to {high:.1f})"
    assert list(table["pairs"]) == [200, 200]


def test_everything_can_be_computed_again_from_per_pair():
    features, rewards, evaluation = metrics_of(gold=True, texts=True)
    frame = evaluation.per_pair.assign(human_ref_A="", human_ref_B="")
    for side in "AB":
        frame[f"human_ref_{side}"] = ["w " * count for count in frame[f"word_count_{side}"]]
    again = judge(frame, {name: frame[[f"{name}_A", f"{name}_B"]].to_numpy() for name in rewards})
    assert again.to_dict() == evaluation.to_dict()
    assert list(frame["post_id"]) == list(features["post_id"])


def test_reliability_bins_hold_all_pairs_and_give_the_error():
    _, _, evaluation = metrics_of()
    bins = evaluation.reliability("realm")
    assert bins["pairs"].sum() == 200
    assert len(bins) <= 10
    error = (bins["pairs"] * (bins["predicted"] - bins["observed"]).abs()).sum() / 200
    assert error == pytest.approx(evaluation.to_dict()["rewards"]["realm"]["ece"])
    with pytest.raises(EvaluationError, match="no reward 'oracle'"):
        evaluation.reliability("oracle")


def test_no_texts_and_no_gold_leave_their_parts_out():
    _, _, evaluation = metrics_of()
    assert isinstance(evaluation, Evaluation)
    assert not {"length_split", "ceiling"} & set(evaluation.to_dict())


def test_an_empty_half_of_the_length_split_is_null():
    features = make_features(20, 5, texts=True)
    features["human_ref_A"], features["human_ref_B"] = "a b", "a"
    features["labels"] = 1
    found = judge(features, {"realm": make_reward(features, 1)}).to_dict()["length_split"]
    assert found["chosen_longer"]["pairs"] == 20
    assert found["chosen_shorter"] == {"pairs": 0, "posts": 0, "realm": {"accuracy": None, "ci": None}}


def test_compare_picks_the_differences():
    features, rewards, _ = metrics_of()
    found = judge(features, rewards, compare=[("reward_model", "realm")]).to_dict()["differences"]
    default = judge(features, rewards).to_dict()["differences"]["realm - reward_model"]
    assert found["reward_model - realm"]["value"] == pytest.approx(-default["value"])
    assert default["detectable"] > 0
    with pytest.raises(EvaluationError, match="compare names 'oracle'"):
        judge(features, rewards, compare=[("realm", "oracle")])


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="post_id"), "lack the column 'post_id'"),
        (lambda f: f.assign(gold_A=0.0), "lack the column 'gold_B'"),
        (lambda f: f.iloc[:0], "no pairs"),
        (lambda f: f.assign(labels=[2, *f["labels"][1:]]), "row 0 has"),
        (lambda f: f.assign(labels=[*f["labels"][:-1], math.nan]), "row 59 has"),
        (lambda f: f.assign(domain=[None, *f["domain"][1:]]), "domain of row 0 is missing"),
        (lambda f: f.assign(human_ref_A="a", human_ref_B=[None] * 60), "human_ref_B of row 0 is missing"),
        (lambda f: f.assign(gold_A=math.nan, gold_B=1.0), "'gold' is NaN"),
    ],
)
def test_bad_features_are_refused(change, message):
    features = make_features()
    reward = make_reward(features, 1)
    changed = change(features)
    with pytest.raises(EvaluationError, match=message):
        judge(changed, {"realm": reward[: len(changed)]})


def test_bad_rewards_and_options_are_refused():
    features = make_features()
    reward = make_reward(features, 1)
    broken = reward.copy()
    broken[7, 1] = math.nan
    with pytest.raises(EvaluationError, match=f"'linear' is NaN .* row 7 .*{features['post_id'][7]}"):
        judge(features, {"realm": reward, "linear": broken})
    with pytest.raises(EvaluationError, match=r"'realm' has shape \(60,\); expected \(60, 2\)"):
        judge(features, {"realm": reward[:, 0]})
    with pytest.raises(EvaluationError, match="'realm' has no scale: fit one"):
        judge(features, {"realm": reward}, scales={})
    with pytest.raises(EvaluationError, match="scale of reward 'realm'"):
        judge(features, {"realm": reward}, scales={"realm": -1.0})
    with pytest.raises(EvaluationError, match="rewards is empty"):
        judge(features, {})
    with pytest.raises(EvaluationError, match="cannot be called 'pairs'"):
        judge(features, {"pairs": reward})
    with pytest.raises(EvaluationError, match="confidence"):
        judge(features, {"realm": reward}, confidence=95)
    with pytest.raises(EvaluationError, match="resamples"):
        judge(features, {"realm": reward}, resamples=0)


def test_bootstrap_refuses_what_it_cannot_resample():
    with pytest.raises(EvaluationError, match="no pairs"):
        bootstrap_over_posts(np.empty((0, 2)), [])
    with pytest.raises(EvaluationError, match="3 post ids"):
        bootstrap_over_posts(np.ones(2), [1, 2, 3])
    with pytest.raises(EvaluationError, match="row 1 are not finite"):
        bootstrap_over_posts([1.0, math.nan], [1, 2])
    with pytest.raises(EvaluationError, match="post id of row 1 is missing"):
        permutation_p_value([1.0, 2.0], ["a", None])
