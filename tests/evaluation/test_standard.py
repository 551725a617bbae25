"""The rewards that are compared, what they like beside quality, and what the combiner made of its features."""

import random

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.evaluation.bias import length_bias, length_bias_table
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.learned import (
    disagreement,
    disagreement_table,
    folded_calibration,
    seed_spread,
    spread_against_error,
)
from realm_lib.evaluation.perturbations import (
    PERTURBATIONS,
    perturbation_suite,
    perturbation_table,
    perturbed,
    wrong_prompts,
)
from realm_lib.evaluation.resampling import EvaluationError
from realm_lib.evaluation.standard import feature_ceiling, fit_rewards, fit_scales, standard_rewards
from realm_lib.reward.combiner import Combiner, CombinerError, TreePreference, feature_matrix

pytestmark = pytest.mark.slow

MODEL = ModelParams(hidden_dims=[8], dropout=0.0, ensemble=2)
TRAINING = TrainingParams(seed=3, learning_rate=3e-3, num_epochs=12, batch_size=64, patience=12)


def make_pairs(pairs, seed):
    """Votes by a utility that is the product of the features: no weighted sum of them orders responses as it does."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"post_id": rng.integers(0, pairs // 3, pairs) + 1_000_000 * seed, "domain": "askvet_test"})
    for side in "AB":
        table[f"score_{side}"], table[f"similarity_{side}"] = rng.normal(size=pairs), rng.uniform(0, 1, pairs)
        table[f"gold_{side}"] = 5 * table[f"score_{side}"] * (table[f"similarity_{side}"] - 0.4)
        table[f"human_ref_{side}"] = ["word " * count for count in rng.integers(1, 40, pairs)]
        table["history"] = [f"post {post}" for post in table["post_id"]]
    wins = stats.logistic.cdf(table["gold_A"] - table["gold_B"])
    return table.assign(labels=(rng.random(pairs) < wins).astype(int))


def make_splits():
    return {
        name: make_pairs(count, seed)
        for name, count, seed in (("train", 1500, 1), ("validation", 300, 2), ("test", 900, 3))
    }


@pytest.fixture(scope="module")
def trained():
    features = make_splits()
    combiner = Combiner(MODEL)
    combiner.fit(features["train"], features["validation"], TRAINING)
    fitted = fit_rewards(features["train"], features["validation"], combiner, MODEL, TRAINING)
    rewards = {name: reward_of(features["test"]) for name, reward_of in fitted.items()}
    held = {name: reward_of(features["validation"]) for name, reward_of in fitted.items()}
    ceiling = feature_ceiling(features)
    evaluation = evaluate_rewards(
        features["test"],
        rewards,
        scales=fit_scales(features["validation"], held),
        feature_ceiling=ceiling,
        resamples=500,
    )
    return features, combiner, rewards, evaluation, fitted


def accuracy(evaluation, name):
    return evaluation.metrics["rewards"][name]["accuracy"]


# The rewards that are compared


def test_every_reward_of_the_design_is_there_and_is_what_it_says(trained):
    features, combiner, rewards, evaluation, fitted = trained
    assert set(rewards) == {
        "realm", "reward_model", "similarity", "length", "characters", "linear", "trees",
        "realm_with_length", "realm_without_score", "realm_without_similarity",
    }  # fmt: skip
    a, b = feature_matrix(features["test"])
    np.testing.assert_array_equal(rewards["realm"], np.stack([combiner.reward(a), combiner.reward(b)], axis=1))
    assert (rewards["characters"][:, 0] == features["test"]["human_ref_A"].str.len()).all()
    # A monotone network of one feature keeps its order or turns it; it cannot know what it was not given.
    moved = features["test"].assign(similarity_A=0.5, score_B=0.0)
    np.testing.assert_array_equal(
        fitted["realm_without_similarity"](moved)[:, 0], rewards["realm_without_similarity"][:, 0]
    )
    np.testing.assert_array_equal(fitted["realm_without_score"](moved)[:, 1], rewards["realm_without_score"][:, 1])
    assert accuracy(evaluation, "realm") > accuracy(evaluation, "linear") + 0.02
    assert accuracy(evaluation, "trees") > accuracy(evaluation, "linear") + 0.02


def test_two_features_can_do_no_better_than_their_ceiling(trained):
    found = trained[3].metrics
    # The utility is a function of the two features, so their ceiling is the ceiling.
    assert found["feature_ceiling"]["expected_accuracy"] == pytest.approx(found["ceiling"]["expected"], abs=0.01)
    for name in ("realm", "linear", "trees", "similarity"):
        assert found["rewards"][name]["expected_accuracy"] <= found["ceiling"]["expected"] + 1e-12
    assert (
        feature_ceiling({name: make_pairs(30, 1).drop(columns="gold_A") for name in ("train", "validation", "test")})
        is None
    )


NAMES = ("score", "similarity", "Log_Words", "noise2")


def with_signals(table, seed):
    """A third feature that counts, and a fourth that does not."""
    rng = np.random.default_rng(seed)
    extra = {f"noise2_{side}": rng.normal(size=len(table)) for side in "AB"}
    extra |= {f"Log_Words_{side}": np.log1p(table[f"human_ref_{side}"].str.split().str.len()) for side in "AB"}
    table = table.assign(**extra)
    for side in "AB":
        table[f"gold_{side}"] += 2 * table[f"Log_Words_{side}"]
    wins = stats.logistic.cdf(table["gold_A"] - table["gold_B"])
    return table.assign(labels=(rng.random(len(table)) < wins).astype(int))


def test_any_number_of_features_is_compared_with_each_alone_and_without_each():
    features = {name: with_signals(table, seed) for seed, (name, table) in enumerate(make_splits().items())}
    combiner = Combiner(MODEL, NAMES)
    combiner.fit(features["train"], features["validation"], TRAINING)
    fitted = fit_rewards(features["train"], features["validation"], combiner, MODEL, TRAINING, with_length=False)
    assert set(fitted) == {
        "realm", "reward_model", "similarity", "Log_Words", "noise2", "length", "characters", "linear", "trees",
        *(f"realm_without_{name}" for name in NAMES),
    }  # fmt: skip
    rewards = {name: reward_of(features["test"]) for name, reward_of in fitted.items()}
    np.testing.assert_array_equal(rewards["Log_Words"][:, 0], features["test"]["Log_Words_A"].astype(np.float32))
    # A reward that was trained without a feature cannot know it, and knows all others.
    for left_out in NAMES:
        without = fitted[f"realm_without_{left_out}"]
        for name in NAMES:
            moved = features["test"].assign(**{f"{name}_A": features["test"][f"{name}_A"] - 1.0})
            same = np.array_equal(without(moved), rewards[f"realm_without_{left_out}"])
            assert same == (name == left_out), (left_out, name)
    ceiling = feature_ceiling(features, NAMES)
    found = evaluate_rewards(
        features["test"], rewards, scales=dict.fromkeys(rewards, 1.0), feature_ceiling=ceiling, resamples=50
    )
    # The utility is a function of three of the four features.
    expected = found.metrics["feature_ceiling"]["expected_accuracy"]
    assert expected == pytest.approx(found.metrics["ceiling"]["expected"], abs=0.01)
    assert accuracy(found, "realm") > accuracy(found, "realm_without_Log_Words") + 0.03


def test_the_degree_of_the_ceilings_polynomial_falls_where_features_are_many():
    names = [f"f{number}" for number in range(9)]
    rng = np.random.default_rng(0)
    table = make_pairs(90, 1).assign(**{f"{name}_{side}": rng.normal(size=90) for name in names for side in "AB"})
    assert feature_ceiling(dict.fromkeys(("train", "validation", "test"), table), names).shape == (90,)


def test_trees_turn_their_sign_with_the_pair_and_find_an_intransitive_preference():
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame(
        rng.uniform(0, 3, size=(3000, 4)), columns=["score_A", "similarity_A", "score_B", "similarity_B"]
    )
    # Stone, scissors, paper: no reward can be right about more than two of the three.
    kinds = pairs[["score_A", "score_B"]].to_numpy().astype(int)
    pairs["labels"] = ((kinds[:, 0] - kinds[:, 1]) % 3 == 1).astype(int)
    pairs = pairs[kinds[:, 0] != kinds[:, 1]].reset_index(drop=True)
    trees = TreePreference().fit(pairs[:1200], pairs[1200:1500])
    rest = pairs[1500:]
    assert ((trees.margin(rest) > 0) == (rest["labels"] == 1)).mean() > 0.95
    swapped = rest.rename(columns=lambda name: name.translate(str.maketrans("AB", "BA")) if "_" in name else name)
    np.testing.assert_array_equal(trees.margin(swapped), -trees.margin(rest))


def test_trees_refuse_what_they_cannot_use():
    pairs = make_pairs(30, 1)
    with pytest.raises(CombinerError, match="not trained"):
        TreePreference().margin(pairs)
    with pytest.raises(CombinerError, match="training pairs and validation pairs"):
        TreePreference().fit(pairs, pairs[:0])


def test_a_combiner_of_other_features_takes_those_alone():
    pairs = make_pairs(60, 1)
    ablation = Combiner(MODEL, ("similarity",))
    ablation.fit(pairs, pairs, TRAINING)
    assert ablation.reward(pairs[["similarity_A"]].to_numpy()).shape == (60,)
    with pytest.raises(CombinerError, match=r"expected features of shape \[n, 1\]"):
        ablation.reward(np.zeros((2, 2)))
    with pytest.raises(CombinerError, match=r"lack the columns \['votes_A'"):
        Combiner(MODEL, ("votes",)).fit(pairs, pairs, TRAINING)


def test_length_needs_no_spaces():
    texts = {
        "labels": [1, 1, 0],
        "human_ref_A": ["茶，放在阴凉干燥的地方。", "if a<b:c+d", "👍"],
        "human_ref_B": ["茶，放好。", "a b", "👍🏽👨‍👩‍👧"],
    }
    pairs = make_pairs(3, 1).assign(post_id=list("abc"), **texts)
    rewards = standard_rewards(pairs)
    assert rewards["length"].tolist() == [[10, 3], [4, 2], [1, 2]]
    assert rewards["characters"].tolist() == [[12, 5], [10, 3], [1, 2]]
    found = evaluate_rewards(pairs, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=20)
    assert accuracy(found, "length") == accuracy(found, "characters") == 1
    assert found.metrics["length_split"]["chosen_longer"]["pairs"] == 3
    assert found.metrics["by_length_difference"]["over twice as long"]["pairs"] == 3


def test_without_texts_there_is_no_length():
    pairs = make_pairs(60, 1)
    with pytest.raises(EvaluationError, match="human_ref_A"):
        fit_rewards(pairs.drop(columns="human_ref_A"), pairs, Combiner(MODEL), MODEL, TRAINING)


# Length


def test_length_bias_is_a_rank_correlation_and_its_partial_one(trained):
    evaluation = trained[3]
    found = length_bias(evaluation, resamples=200)
    table = evaluation.per_pair
    gaps = {
        "x": (table["realm_A"] - table["realm_B"]).to_numpy(),
        "l": np.log1p(table["word_count_A"]).to_numpy() - np.log1p(table["word_count_B"]).to_numpy(),
        "q": (table["gold_A"] - table["gold_B"]).to_numpy(),
    }
    # Each pair in both orders: means are 0, so that Pearson's formula applies to the signed ranks.
    ranks = {key: np.sign(gap) * stats.rankdata(np.abs(gap)) for key, gap in gaps.items()}
    x, length, quality = (np.concatenate([rank, -rank]) for rank in ranks.values())
    assert found["quality"] == "true utility"
    assert found["rewards"]["realm"]["correlation"] == pytest.approx(stats.pearsonr(x, length)[0])
    rest = [one - quality * (one @ quality) / (quality @ quality) for one in (x, length)]
    assert found["rewards"]["realm"]["given_quality"] == pytest.approx(stats.pearsonr(*rest)[0])
    low, high = found["rewards"]["realm"]["ci"]
    assert low < found["rewards"]["realm"]["correlation"] < high
    assert found["rewards"]["length"]["correlation"] > 0.9
    assert len(length_bias_table(evaluation, found)) == 10


def test_length_bias_sees_through_a_quality_that_goes_with_length():
    rng = np.random.default_rng(0)
    pairs = make_pairs(1500, 1)
    words = np.stack([pairs[f"human_ref_{side}"].str.split().str.len() for side in "AB"], axis=1)
    pairs[["gold_A", "gold_B"]] = np.log(words) + 0.5 * rng.normal(size=words.shape)
    honest = pairs[["gold_A", "gold_B"]].to_numpy() + 0.5 * rng.normal(size=words.shape)
    biased = honest + np.log(words)
    evaluation = evaluate_rewards(
        pairs,
        {"honest": honest, "biased": biased, "flat": 0 * honest},
        scales=dict.fromkeys(("honest", "biased", "flat"), 1.0),
        resamples=50,
    )
    found = length_bias(evaluation, resamples=300)["rewards"]
    assert found["honest"]["correlation"] > 0.5
    assert abs(found["honest"]["given_quality"]) < 0.12
    assert found["biased"]["given_quality_ci"][0] > 0.4
    assert found["flat"] == dict.fromkeys(("correlation", "ci", "given_quality", "given_quality_ci"))


def test_quality_is_votes_or_else_the_preference():
    pairs = make_pairs(200, 1).drop(columns=["gold_A", "gold_B"])
    rewards, scales = {"realm": np.random.default_rng(0).normal(size=(200, 2))}, {"realm": 1.0}
    assert length_bias(evaluate_rewards(pairs, rewards, scales=scales, resamples=20))["quality"] == "preference"
    voted = pairs.assign(score_ratio=[np.nan, *np.linspace(1, 4, 198), np.inf])
    found = length_bias(evaluate_rewards(voted, rewards, scales=scales, resamples=20), resamples=50)
    assert (found["quality"], found["pairs"]) == ("votes", 199)
    silent = pairs.drop(columns=["human_ref_A", "human_ref_B"])
    with pytest.raises(EvaluationError, match="lengths are not known"):
        length_bias(evaluate_rewards(silent, rewards, scales=scales, resamples=20))


# Perturbations


def explain(prompts, responses):
    """A reward that counts words, and a similarity that knows whether the prompt is named."""
    words = [float(len(text.split())) for text in responses]
    named = [float(prompt in text) for prompt, text in zip(prompts, responses, strict=True)]
    reward = [count + 10 * hit for count, hit in zip(words, named, strict=True)]
    return pd.DataFrame({"reward": reward, "spread": 0.0, "score": words, "similarity": named})


def make_texts(pairs=60):
    table = make_pairs(pairs, 1)
    generator = random.Random(0)
    for side in "AB":
        table[f"human_ref_{side}"] = [
            f"One. {'two ' * generator.randint(1, 40)}three." + (f" {post}." if generator.random() < 0.5 else "")
            for post in table["history"]
        ]
    return table


def test_a_perturbation_leaves_the_words_that_were_there():
    text = "First this. Then that! And so on?"
    assert perturbed(text, "padded", 1).startswith(text)
    assert perturbed(text, "polite", 1).endswith(text)
    other = perturbed(text, "reordered", 1)
    assert other != text
    assert sorted(other.split()) == sorted(text.split())
    assert other == perturbed(text, "reordered", 1)
    assert perturbed("One sentence only.", "reordered", 1) is None
    assert perturbed("Same. Same.", "reordered", 1) is None


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("你好。今天天气很好！真的吗？", ["你好。", "今天天气很好！", "真的吗？"]),
        ("他说：“好。”我走了。", ["他说：“好。”", "我走了。"]),
        ("नमस्ते। आप कैसे हैं? ठीक।", ["नमस्ते।", " आप कैसे हैं?", " ठीक।"]),
        ("مرحبا. كيف حالك؟", ["مرحبا.", " كيف حالك؟"]),
    ],
)
def test_sentences_of_any_script_are_reordered_and_get_no_english(text, sentences):
    assert "".join(sentences) == text
    other = perturbed(text, "reordered", 1)
    assert other != text
    assert len(other) == len(text)
    assert all(sentence.strip() in other for sentence in sentences)
    assert perturbed(text, "padded", 1) is perturbed(text, "polite", 1) is None


def test_code_is_not_reordered():
    assert perturbed("Use this.\n```\na = b. c\n```\nThat is all.", "reordered", 1) is None
    assert perturbed("x = a.b\ny = a[0] if x else b\n", "reordered", 1) is None


def test_a_wrong_prompt_is_another_prompt():
    found = wrong_prompts(["a", "b", "a", "c"])
    assert set(found) == set(found.values()) == {"a", "b", "c"}
    assert all(prompt != other for prompt, other in found.items())
    with pytest.raises(EvaluationError, match="two posts"):
        wrong_prompts(["a", "a"])


def test_the_suite_measures_what_was_done_to_the_texts():
    table = make_texts()
    found = perturbation_suite(table, explain, gold=lambda _, response: float(len(response)), pairs=40, resamples=200)
    assert found["pairs"] == 40
    kinds = found["kinds"]
    assert list(kinds) == list(PERTURBATIONS)
    padded = kinds["padded"]["reward_model"]
    assert padded["raised"] == 1.0
    low, high = padded["ci"]
    assert low <= padded["change"] + 1e-12
    assert padded["change"] <= high + 1e-12
    assert low > 0, "every response gains the same number of words"
    assert high - low < 1e-9
    assert kinds["reordered"]["reward_model"]["change"] == 0
    assert kinds["reordered"]["reward_model"]["won"] == 0
    assert kinds["wrong_prompt"]["reward_model"]["change"] == 0
    assert kinds["wrong_prompt"]["similarity"]["change"] < 0
    assert kinds["wrong_prompt"]["realm"]["won"] is None
    assert 0 < padded["won"] <= 1
    shown = perturbation_table(found)
    assert len(shown) == 16
    assert set(shown["reward"]) == {"realm", "reward_model", "similarity", "gold"}
    assert perturbation_suite(table, explain, pairs=40, resamples=50)["kinds"]["padded"].keys() == {
        "responses", "realm", "reward_model", "similarity",
    }  # fmt: skip


def test_the_suite_follows_every_feature_that_varies():
    def with_more(prompts, responses):
        return explain(prompts, responses).assign(kind=[float(len(text)) for text in responses], Flat=1.0)

    names = ("score", "similarity", "kind", "Flat")
    found = perturbation_suite(make_texts(), with_more, names, pairs=40, resamples=50)["kinds"]["padded"]
    assert found.keys() == {"responses", "realm", "reward_model", "similarity", "kind"}
    assert found["kind"]["raised"] == 1.0


def test_won_counts_the_losers_that_come_out_first():
    table = make_texts(30)
    found = perturbation_suite(table, explain, pairs=30, resamples=20)["kinds"]["padded"]["reward_model"]["won"]
    words = np.stack([table[f"human_ref_{side}"].str.split().str.len() for side in "AB"])
    gain = len(perturbed("x", "padded", 0).split()) - 1
    lost = words[0] != words[1]
    assert found == pytest.approx((np.abs(words[0] - words[1])[lost] < gain).mean())


# What the combiner learned


def test_calibration_is_that_of_the_bare_differences_before_and_after_the_factor(trained):
    evaluation = trained[3]
    table = evaluation.per_pair
    margins = np.where(table["labels"] == 1, 1, -1) * (table["realm_A"] - table["realm_B"])
    found = folded_calibration(evaluation, 0.25, resamples=100)
    assert found["factor"] == 0.25
    for when, scale in (("before", 4.0), ("after", 1.0)):
        assert found[when]["log_loss"] == pytest.approx(np.log1p(np.exp(-scale * margins)).mean())
        assert found[when]["brier"] == pytest.approx((stats.logistic.cdf(-scale * margins) ** 2).mean())
    assert found["before"]["ece"] > found["after"]["ece"], "four times too sure"
    assert found["before"]["ece_ci"][0] > 0
    shown = evaluation.calibration_table(found)
    assert {"realm, bare, before", "realm, bare, after", "realm"} <= set(shown["reward"])
    assert len(shown) == len(evaluation.calibration_table()) + 2


def test_disagreement_equals_a_plain_loop(trained):
    evaluation = trained[3]
    table = evaluation.per_pair
    right = []
    for row in table.to_dict("records"):
        one, other = row["realm_A"] - row["realm_B"], row["length_A"] - row["length_B"]
        if one * other < 0:
            right.append((one > 0) == (row["labels"] == 1))
    found = disagreement(evaluation, "realm", "length", resamples=200)
    assert found["pairs"] == len(right)
    assert found["left_right"] == pytest.approx(np.mean(right))
    assert found["ci"][0] < found["left_right"] < found["ci"][1]
    never = disagreement(evaluation, "realm", "realm")
    assert (never["pairs"], never["left_right"]) == (0, None)
    shown = disagreement_table({"realm - length": found, "realm - realm": never})
    assert list(shown["rewards"]) == ["realm against length", "realm against realm"]


def test_spread_bins_hold_every_pair(trained):
    features, combiner, _, evaluation, _ = trained
    found = spread_against_error(combiner, features["test"], resamples=100)
    assert found["pairs"].sum() == 900
    assert found["disagreement"].is_monotonic_increasing
    assert (found["accuracy"] * found["pairs"]).sum() / 900 == pytest.approx(accuracy(evaluation, "realm"), abs=1e-9)
    assert found["accuracy"].iloc[0] > found["accuracy"].iloc[-1], "where members disagree there is less to know"
    with pytest.raises(EvaluationError, match="one member has no spread"):
        spread_against_error(Combiner(ModelParams(ensemble=1)), features["test"])


def test_seed_spread_begins_with_the_run_and_trains_others(trained):
    features, combiner, _, evaluation, _ = trained
    found = seed_spread(features, combiner, MODEL, TRAINING, seeds=2)
    assert found["ensemble"][0] == pytest.approx(accuracy(evaluation, "realm"), abs=1e-9)
    assert len(found["ensemble"]) == 3
    assert len(found["members"]) == 6
    assert len(set(found["members"])) > 1
    assert found["sd"] == pytest.approx(np.std(found["ensemble"], ddof=1))
