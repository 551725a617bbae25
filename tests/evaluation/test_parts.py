"""Rewards that stand for one feature, or for all but one, are known by their names."""

import pytest

from realm_lib.config.judges import RESERVED_SIGNALS
from realm_lib.evaluation.parts import alone, parts
from realm_lib.evaluation.per_pair import RESERVED_REWARDS


def test_the_score_alone_is_the_reward_model() -> None:
    assert [alone(name) for name in ("score", "similarity", "Log_words")] == [
        "reward_model", "similarity", "Log_words",
    ]  # fmt: skip


def test_parts_are_the_standard_two_and_what_a_reward_was_trained_without() -> None:
    rewards = ["realm", "reward_model", "similarity", "linear", "length", "realm_with_length"]
    assert parts(rewards) == ("reward_model", "similarity")
    rewards += ["Log_words", "my_own", "realm_without_score", "realm_without_similarity", "realm_without_Log_words"]
    assert parts(rewards) == ("reward_model", "similarity", "Log_words")
    assert parts(["realm", "similarity"]) == ("similarity",)
    assert parts([]) == ()


@pytest.mark.parametrize("name", [*RESERVED_REWARDS, "responses"])
def test_no_signal_is_called_as_what_the_evaluation_puts_beside_its_rewards(name: str) -> None:
    assert name in RESERVED_SIGNALS
