"""What a reward makes of each of its features, for any number of them."""

import numpy as np
import pandas as pd
import pytest

from realm_lib.reward.effects import partial_effects, responses_of, strongest_two

NAMES = ("score", "similarity", "Log_words")


@pytest.fixture
def features() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(200, 6)), columns=[f"{name}_{side}" for name in NAMES for side in "AB"])


def test_two_features_take_turns(features: pd.DataFrame) -> None:
    found = partial_effects(lambda x: x[:, 0] * 10 + x[:, 1], features, points=5)
    level = np.quantile(responses_of(features, ["similarity"]), 0.9)
    part = found[(found["feature"] == "score") & (found["held"] == "high")]
    assert part["held_value"].iloc[0] == pytest.approx(level)
    np.testing.assert_allclose(part["reward"], 10 * part["value"] + level, rtol=1e-4, atol=1e-4)
    low, high = np.quantile(responses_of(features, ["score"]), [0.005, 0.995])
    np.testing.assert_allclose([part["value"].min(), part["value"].max()], [low, high], rtol=1e-5)
    assert len(found) == 2 * 3 * 5


def test_of_three_all_others_are_held_together(features: pd.DataFrame) -> None:
    found = partial_effects(lambda x: x[:, 0] + 10 * x[:, 1] + 100 * x[:, 2], features, NAMES, points=4)
    score, _, words = np.quantile(responses_of(features, NAMES), 0.1, axis=0)
    part = found[(found["feature"] == "similarity") & (found["held"] == "low")]
    np.testing.assert_allclose(part["reward"], score + 10 * part["value"] + 100 * words, rtol=1e-4)
    assert part["held_value"].isna().all()
    assert len(found) == 3 * 3 * 4


def test_the_strongest_two_are_those_along_which_the_reward_moves_most(features: pd.DataFrame) -> None:
    found = partial_effects(lambda x: 3 * x[:, 0] + 0.1 * x[:, 1] - 5 * abs(x[:, 2]), features, NAMES)
    assert strongest_two(found) == ("score", "Log_words"), "in the order of the features, not of their strength"
    assert strongest_two(partial_effects(lambda x: x[:, 0], features, ["score"])) == ("score",)
    assert strongest_two(partial_effects(lambda x: 0 * x[:, 0], features, NAMES)) == ("score", "similarity")
