"""What each feature adds, costs and shares with the others, beside other ways to count it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.result import Evaluation
from realm_lib.evaluation.signals import (
    feature_correlations,
    feature_costs,
    outside_range,
    signals_table,
    signals_worth,
)
from realm_lib.reward.combiner import Combiner
from realm_lib.runs.run import MissingStepError, Run

NAMES = ("score", "similarity", "Log_words")
COST = {"computed": 1200, "cache_hits": 0, "tokens": 34567, "seconds": 12.34, "cost": 0.5}
STORED = {"computed": 0, "cache_hits": 1200, "tokens": None, "seconds": None, "cost": None}


def make_pairs(pairs: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(pairs, 6)), columns=[f"{name}_{side}" for name in NAMES for side in "AB"])
    table["Log_words_A"] += table["score_A"]  # what goes with the score in A alone goes with it within pairs too
    return table.assign(post_id=np.arange(pairs) // 3, domain="askvet", labels=rng.integers(0, 2, pairs))


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    pairs = make_pairs()
    sign = np.where(pairs["labels"] == 1, 1, -1)[:, None] * [[1, 0]]
    rng = np.random.default_rng(1)
    sizes = {"realm": 1.5, "realm_without_score": 0.2, "realm_without_Log_words": 1.4}
    rewards = {name: sign * size + rng.normal(size=(300, 2)) for name, size in sizes.items()}
    return evaluate_rewards(pairs, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=200)


def test_a_feature_is_worth_what_the_reward_loses_without_it(evaluation: Evaluation) -> None:
    worth = signals_worth(evaluation, {"score": COST, "similarity": COST, "Log_words": STORED})
    assert list(worth) == ["score", "Log_words"], "without a reward that lacks it, a feature's worth is not known"
    for name, entry in worth.items():
        accuracies = [evaluation.metrics["rewards"][key]["accuracy"] for key in ("realm", f"realm_without_{name}")]
        assert entry["gained"]["value"] == pytest.approx(accuracies[0] - accuracies[1])
        tested = evaluation.metrics["differences"][f"realm - realm_without_{name}"]
        assert entry["gained"] == {key: tested[key] for key in ("value", "ci", "p_holm")}
    assert (worth["score"]["cost"], worth["Log_words"]["cost"]) == (COST, STORED)
    shown = signals_table(worth)
    assert list(shown["feature"]) == ["score", "Log_words"]
    assert shown.iloc[0, 3:].tolist() == ["1,200", "0", "34,567", "12.3", "0.50"]
    assert shown.iloc[1, 3:].tolist() == ["0", "1,200", "", "", ""]


def test_costs_are_those_of_notebook_01(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_metrics("features", {"costs": {"score": COST, "similarity": STORED, "other": COST}})
    assert feature_costs(run, ("score", "similarity")) == {"score": COST, "similarity": STORED}
    with pytest.raises(MissingStepError, match=r"features\.json: does not say what Log_words cost: run 01_feature"):
        feature_costs(run, NAMES)
    run.write_metrics("features", {"pairs": 3})
    with pytest.raises(MissingStepError, match="what score cost"):
        feature_costs(run, NAMES)


def test_correlations_are_those_of_the_signed_ranks_of_each_pair_in_both_orders() -> None:
    pairs = make_pairs()
    found = feature_correlations(pairs, NAMES)
    for one in NAMES:
        for other in NAMES:
            gaps = [pairs[f"{name}_A"].astype(np.float32) - pairs[f"{name}_B"].astype(np.float32)
                    for name in (one, other)]  # fmt: skip
            ranks = [np.sign(gap) * stats.rankdata(np.abs(gap)) for gap in gaps]
            expected = stats.pearsonr(*(np.concatenate([rank, -rank]) for rank in ranks)).statistic
            assert found[one][other] == pytest.approx(expected, abs=1e-9)
    swapped = pairs.rename(columns=lambda name: name.translate(str.maketrans("AB", "BA")) if name[-2] == "_" else name)
    values: Any = pd.DataFrame(feature_correlations(swapped, NAMES)).to_numpy()
    np.testing.assert_allclose(values, pd.DataFrame(found).to_numpy())
    flat = feature_correlations(pairs.assign(similarity_A=0.5, similarity_B=0.5), NAMES)
    assert flat["score"]["similarity"] is None


def test_outside_is_counted_by_response_and_by_feature() -> None:
    pairs = make_pairs()
    combiner = Combiner(ModelParams(hidden_dims=[4]), NAMES)
    combiner.fit(pairs, pairs, TrainingParams(num_epochs=1))
    inside = pairs.assign(**{f"{name}_{side}": 0.0 for name in NAMES for side in "AB"})
    assert outside_range(combiner, inside) == {"responses": 600, "share": 0.0, "by_feature": dict.fromkeys(NAMES, 0.0)}
    beyond = inside.copy()
    beyond.loc[:59, "score_A"], beyond.loc[:29, "similarity_A"], beyond.loc[:29, "Log_words_B"] = 50.0, -50.0, 50.0
    found = outside_range(combiner, beyond)
    assert found["by_feature"] == {"score": 0.1, "similarity": 0.05, "Log_words": 0.05}
    assert found["share"] == pytest.approx(0.15), "a response with two features outside counts once"
