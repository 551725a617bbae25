"""Rewards that stand for one feature, or for all but one, are known by their names."""

from realm_lib.evaluation.parts import alone, parts


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
