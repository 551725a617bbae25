"""The luck of a training: stand-ins trained again, and how far everything that follows moves."""

import numpy as np
import pandas as pd
import pytest

from realm_lib.config.data import DataParams, SplitSizes
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.training import ModelParams, OfflineRewardModelParams, TrainingParams
from realm_lib.data.pairs import load_pairs
from realm_lib.evaluation.retrained import retrained_features, retrained_spread
from realm_lib.models.offline import train_reward_model
from realm_lib.models.reward_models import build_scorer
from realm_lib.reward.combiner import Combiner, LinearCombiner

pytestmark = pytest.mark.slow

OFFLINE = OfflineRewardModelParams(vocab_size=400, hidden_size=16, num_heads=2, max_length=512, num_epochs=1)
SCORER = RewardModelParams(backend="inform", model_id="run:models/reward_model", max_length=512)
MODEL = ModelParams(hidden_dims=[8], ensemble=2, prior=None)  # where all is the weighted sum, no seed tells
TRAINING = TrainingParams(num_epochs=5, learning_rate=3e-3, batch_size=32)


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    sizes = SplitSizes(train=60, validation=10, test=10)
    return load_pairs(DataParams(source="simulator", splits=sizes, domains=["askvet"]), "train")


@pytest.fixture(scope="module")
def features(pairs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    known = pairs.assign(
        **{f"{name}_{side}": rng.normal(size=len(pairs)) for name in ("score", "similarity") for side in "AB"}
    )
    return {"train": known[:30], "validation": known[30:40], "test": known[40:].reset_index(drop=True)}


def test_only_the_scores_are_anothers_and_they_are_its_own(pairs, features, tmp_path):
    found = retrained_features(features, pairs, OFFLINE, SCORER, seed=4)
    train_reward_model(pairs, OFFLINE, tmp_path / "model", seed=4, progress=False)
    scorer = build_scorer(SCORER.model_copy(update={"model_id": str(tmp_path / "model")}))
    for split, table in features.items():
        others = [name for name in table if not name.startswith("score_") or name == "score_ratio"]
        pd.testing.assert_frame_equal(found[split][others], table[others])
        wanted = scorer.score(table["history"].tolist(), table["human_ref_B"].tolist())
        np.testing.assert_allclose(found[split]["score_B"], wanted, atol=1e-5)
    assert not np.allclose(found["test"]["score_A"], features["test"]["score_A"])


def test_the_spread_is_that_of_accuracies_counted_by_hand(features):
    rng = np.random.default_rng(1)
    other = {split: table.assign(score_A=rng.normal(size=len(table))) for split, table in features.items()}
    own = {"reward_model": 0.5, "linear": 0.6, "realm": 0.7, "length": 0.1}
    found = retrained_spread(own, [features, other], MODEL, TRAINING)
    assert {name: found[name][0] for name in ("reward_model", "linear", "realm")} == {
        name: own[name] for name in ("reward_model", "linear", "realm")
    }

    def by_hand(table, reward):
        right = 0.0
        for row in table.itertuples():
            a, b = reward([[row.score_A, row.similarity_A]])[0], reward([[row.score_B, row.similarity_B]])[0]
            right += 0.5 if a == b else float((a > b) == (row.labels == 1))
        return right / len(table)

    for number, tables in enumerate((features, other), start=1):
        assert found["reward_model"][number] == by_hand(tables["test"], lambda rows: [rows[0][0]])
        assert found["linear"][number] == by_hand(tables["test"], LinearCombiner().fit(tables["train"]).reward)
    for name in ("reward_model", "linear", "realm"):
        assert len(found[name]) == 3
        assert found["sd"][name] == pytest.approx(np.std(found[name], ddof=1))


def test_the_other_features_of_a_run_are_used_too(features):
    rng = np.random.default_rng(2)
    names = ("score", "similarity", "Log_words")
    known = {
        split: table.assign(**{f"Log_words_{side}": rng.normal(size=len(table)) for side in "AB"})
        for split, table in features.items()
    }
    own = dict.fromkeys(("reward_model", "linear", "realm"), 0.5)
    found = retrained_spread(own, [known], MODEL, TRAINING, names)
    linear = LinearCombiner(names).fit(known["train"])
    a, b = (known["test"][[f"{name}_{side}" for name in names]].to_numpy(np.float32) for side in "AB")
    sign = np.where(known["test"]["labels"] == 1, 1, -1)
    assert found["linear"][1] == pytest.approx(((linear.reward(a) - linear.reward(b)) * sign > 0).mean())
    assert found["reward_model"][1] == pytest.approx(((a[:, 0] - b[:, 0]) * sign > 0).mean())


def test_the_combiner_has_another_seed_too(features):
    """A spread that kept the combiner's seed would leave a part of the luck out."""
    own = dict.fromkeys(("reward_model", "linear", "realm"), 0.5)
    found = retrained_spread(own, [features] * 4, MODEL, TRAINING)
    assert len(set(found["linear"][1:])) == 1
    same = Combiner(MODEL)
    same.fit(features["train"], features["validation"], TRAINING)
    assert len(set(found["realm"][1:])) > 1
