"""The features of a reward in words: what is said of each follows from its interval and its cost."""

from typing import Any

import pytest
from support.evaluation_made_up import difference
from support.plain_words import check_language

from realm_lib.report.words.pairs import lies_outside
from realm_lib.report.words.rewards import all_features, reward_name
from realm_lib.report.words.signals import combiner_is, correlated, outside, spent, worth_paying

FREE = {"computed": 12, "cache_hits": 0, "tokens": None, "seconds": 0.2, "cost": None}
PAID = {"computed": 12000, "cache_hits": 0, "tokens": 1234567, "seconds": 81.4, "cost": 0.4}
STORED = {"computed": 0, "cache_hits": 12000, "tokens": 1234567, "seconds": 1.3, "cost": None}


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (FREE, "12 computed, under 1 s"),
        (PAID, "12,000 computed, 1,234,567 tokens, 81 s, $0.40"),
        (STORED, "all from the store, 1,234,567 tokens"),
        (PAID | {"cache_hits": 4000}, "12,000 of 16,000 computed, 1,234,567 tokens, 81 s, $0.40"),
        (PAID | {"cost": 0.0, "tokens": 1}, "12,000 computed, 1 token, 81 s"),
        (FREE | {"seconds": None}, "12 computed"),
    ],
)
def test_what_was_spent_is_told_as_far_as_it_is_known(cost: dict[str, Any], said: str) -> None:
    assert spent(cost) == said


def entry(value: float, low: float, high: float, p: float = 0.01, cost: dict[str, Any] = PAID) -> dict[str, Any]:
    return {"gained": difference(value, low, high, p=p), "cost": cost}


def test_a_signal_is_worth_its_cost_only_where_its_interval_says_so() -> None:
    text = worth_paying(
        {
            "score": entry(0.09, 0.07, 0.11),
            "similarity": entry(0.02, 0.001, 0.04, p=0.2),
            "Log_words": entry(0.001, -0.01, 0.012, p=1.0, cost=FREE),
            "chars2": entry(0.0, 0.0, 0.0, p=1.0, cost=STORED),
            "noise": entry(-0.02, -0.03, -0.01),
        },
        2000,
    )
    check_language(text)
    assert text.startswith("By what the reward loses without each, on 2,000 pairs. ")
    assert "Shown to add something: score (+9.0 points, +7.0 to +11.0; 12,000 computed" in text
    assert "Perhaps adding something: similarity (+2.0 points, +0.1 to +4.0, but p = 0.200 after correction; " in text
    assert "Not shown to be worth what they cost: Log_words (+0.1 points, -1.0 to +1.2; 12 computed, " in text
    assert " and chars2 (+0.0 points" in text
    assert "Better left out: noise (-2.0 points" in text
    assert worth_paying({}, 5) == "The reward has one feature: there is nothing to leave out."


def test_outside_is_told_by_feature() -> None:
    none = {"responses": 4000, "share": 0.0, "by_feature": {"score": 0.0}}
    assert outside(none) == "Of 4,000 responses none lies outside the range of the training responses."
    some = {"responses": 1, "share": 1.0, "by_feature": {"score": 0.012, "Log_words": 1.0, "similarity": 0.0}}
    check_language(outside(some))
    assert "Of 1 response 100.0 % lie outside" in outside(some)
    assert "(score 1.2 %, Log_words 100.0 %)" in outside(some)
    assert lies_outside("B") == "Response B lies outside the training range: the reward takes the border's value."
    assert lies_outside("AB").startswith("Responses A and B lie outside")


def test_features_that_say_the_same_are_named_once() -> None:
    table = {
        "a": {"a": 1.0, "B": -0.72, "c": None},
        "B": {"a": -0.72, "B": 1.0, "c": 0.69},
        "c": {"a": None, "B": 0.69, "c": 1.0},
    }
    assert correlated(table) == "Nearly the same is said by a and B (-0.72): one of them may do."
    assert correlated(table, strong=0.8).startswith("No two features say nearly the same")


COMBINER = {"scale": 0.8, "bend": 0.83, "linear": {"score": 0.61, "Log_words": -0.05}}


def test_what_the_combiner_is_says_how_much_of_the_bend_the_evidence_supports() -> None:
    text = combiner_is(COMBINER | {"evidence": {"alpha": 1.0, "se": 0.1, "t": 9.9, "pairs": 2180}})
    check_language(text)
    assert "(in log-odds for one standard deviation: +0.61 for score, -0.05 for Log_words)" in text
    assert "the evidence supports 83 % of the bend (t = 9.9 on 2,180 pairs that it was not trained on)" in text
    assert "divided by 1.25" in text
    flat = combiner_is(COMBINER | {"bend": 0.0, "evidence": {"alpha": 0.1, "se": 0.2, "t": 0.4, "pairs": 200}})
    check_language(flat)
    assert "nothing more: the network's bend was not supported (t = 0.4)" in flat
    plain = combiner_is(COMBINER | {"bend": 1.0, "evidence": None})
    assert plain.startswith("The reward is a plain network, without a weighted sum")
    assert "as training left them" in combiner_is(COMBINER | {"scale": 1.0, "evidence": None})


def test_rewards_are_named_by_what_they_are_made_of() -> None:
    rewards = [
        "realm",
        "linear",
        "my_own",
        "{odd}",
        "Log_words",
        *(f"realm_without_{n}" for n in ("a", "b", "Log_words")),
    ]
    assert reward_name("Log_words", rewards) == "Log_words alone"
    assert reward_name("my_own", rewards) == "my_own"
    assert reward_name("{odd}", rewards) == "{odd}"
    assert reward_name("linear", rewards) == "a plain weighted sum of all three"
    assert reward_name("trees", rewards) == "boosted trees on all three"
    assert reward_name("trees", ["realm"]) == "boosted trees on both"
    assert all_features([f"realm_without_{number}" for number in range(12)]) == "all 12"
