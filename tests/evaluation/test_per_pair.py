"""The table of judged pairs, and the wrong ones found again among the features by their names."""

import numpy as np
import pandas as pd
import pytest

from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.per_pair import wrong_pairs
from realm_lib.evaluation.resampling import EvaluationError


def make_features(pairs=40):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "pair_id": [f"pair {row}" for row in range(pairs)],
            "post_id": [f"post {row // 2}" for row in range(pairs)],
            "domain": "askvet_test",
            "labels": rng.integers(0, 2, pairs),
            "history": [f"prompt {row}" for row in range(pairs)],
            "human_ref_A": [f"A of {row}" for row in range(pairs)],
            "human_ref_B": [f"B of {row}" for row in range(pairs)],
            "score_ratio": rng.uniform(1, 5, pairs),
        }
    )


def per_pair_of(features, rewards):
    return evaluate_rewards(features, {"realm": rewards}, scales={"realm": 0.7}, resamples=20).per_pair


@pytest.fixture
def features():
    return make_features()


@pytest.fixture
def rewards():
    return np.random.default_rng(1).normal(size=(40, 2))


def test_wrong_pairs_equal_a_plain_loop(features, rewards):
    expected = []
    for row, (a, b) in zip(features.to_dict("records"), rewards.tolist(), strict=True):
        (chosen, c), (rejected, r) = (("A", a), ("B", b)) if row["labels"] == 1 else (("B", b), ("A", a))
        if c < r:
            texts = row["history"], row[f"human_ref_{chosen}"], row[f"human_ref_{rejected}"]
            expected.append((row["pair_id"], *texts, c, r, 1 / (1 + np.exp(-0.7 * (r - c))), row["score_ratio"]))
    expected.sort(key=lambda pair: -pair[6])
    found = wrong_pairs(per_pair_of(features, rewards), features, "realm")
    columns = ["pair_id", "prompt", "chosen", "rejected", "reward_chosen", "reward_rejected", "sure", "score_ratio"]
    pd.testing.assert_frame_equal(found[columns], pd.DataFrame(expected, columns=columns))
    assert set(found["domain"]) == {"askvet"}


def test_texts_are_found_by_name_in_whatever_order(features, rewards):
    per_pair = per_pair_of(features, rewards)
    shuffled = features.sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(wrong_pairs(per_pair, shuffled, "realm"), wrong_pairs(per_pair, features, "realm"))
    wrong = per_pair.loc[per_pair["realm_correct"] == 0, "pair_id"].iloc[0]
    with pytest.raises(EvaluationError, match=f"{wrong} was judged, but is not among"):
        wrong_pairs(per_pair, features[features["pair_id"] != wrong], "realm")
    with pytest.raises(EvaluationError, match="before pairs had a pair_id"):
        wrong_pairs(per_pair.drop(columns="pair_id"), features, "realm")


def test_pairs_without_names_are_named_by_their_row(features, rewards):
    named, plain = per_pair_of(features, rewards), per_pair_of(features.drop(columns="pair_id"), rewards)
    assert list(named["pair_id"]) == list(features["pair_id"])
    assert list(plain["pair_id"]) == [str(row) for row in range(40)]
    found = wrong_pairs(plain, features.drop(columns="pair_id"), "realm")
    assert list(found["prompt"]) == list(wrong_pairs(named, features, "realm")["prompt"])


def test_two_pairs_of_one_name_are_refused(features, rewards):
    with pytest.raises(EvaluationError, match="two pairs have the pair_id 'pair 0'"):
        per_pair_of(features.assign(pair_id=["pair 0", "pair 0", *features["pair_id"][2:]]), rewards)
