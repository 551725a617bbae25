"""Policies compared, in words: only what is shown is called better, and what cannot be said stands beside it."""

import itertools
from typing import Any

import pytest
from support.policies_made_up import made_up_comparison

from realm_lib.report.words.distances import against_best_of_n, ends_less
from realm_lib.report.words.policies import floored, label, limits, verdict


def entry(
    win: float, low: float, high: float, *, kl: float = 3.0, kind: str = "estimate", **more: Any
) -> dict[str, Any]:
    rate = {"win_rate": win, "ci": [low, high], "length_controlled": win, "length_controlled_ci": [low, high]}
    rate |= more.pop("equal", {})
    realm = more.pop("realm", rate)
    return {**rate, "kl": kl, "kl_kind": kind, "ended": 1.0, "by_judge": {"gold": rate, "realm": realm}, **more}


def metrics(judge: str = "gold", pairwise: dict[str, Any] | None = None, **policies: Any) -> dict[str, Any]:
    names = [*policies]
    none = {f"{a} over {b}": {"win_rate": 0.5, "ci": [0.4, 0.6]} for b, a in itertools.combinations(names, 2)}
    return {
        "judge": judge,
        "prompts": 64,
        "policies": {"base": entry(0.5, 0.5, 0.5, kl=0.0, kind="start"), **policies},
        "pairwise": {judge: {**none, **(pairwise or {})}},
    }


def test_the_verdict_calls_better_only_what_is_shown_to_be() -> None:
    text = verdict(
        metrics(
            ppo=entry(0.71, 0.6, 0.8),
            dpo=entry(0.55, 0.45, 0.65),
            best_of_4=entry(0.3, 0.2, 0.4, kl=0.6, kind="upper bound"),
        )
    )
    assert text.startswith("Judged by the simulated truth on 64 held-out prompts, 1 answer each:")
    assert "- PPO beats the start: wins 71.0 % (60.0 to 80.0), at equal length 71.0 %" in text
    assert "- DPO cannot be told from the start: wins 55.0 %" in text
    assert "- Best-of-4 loses to the start" in text
    assert "at a KL of at most 0.6 nats" in text
    assert "- PPO alone beats the start; directly, it cannot be told from DPO and best-of-4." in text


def test_the_verdict_says_who_beats_whom_directly() -> None:
    better = {"dpo over ppo": {"win_rate": 0.7, "ci": [0.6, 0.8]}}
    first = verdict(metrics(pairwise=better, ppo=entry(0.6, 0.55, 0.65), dpo=entry(0.7, 0.6, 0.8)))
    assert "DPO wins most often of those that beat the start; directly, it beats PPO." in first
    worse = {"dpo over ppo": {"win_rate": 0.3, "ci": [0.2, 0.4]}}
    turned = verdict(metrics(pairwise=worse, ppo=entry(0.7, 0.6, 0.8), dpo=entry(0.6, 0.55, 0.65)))
    assert "PPO wins most often of those that beat the start; directly, it beats DPO." in turned
    none = verdict(metrics(ppo=entry(0.52, 0.45, 0.6), dpo=entry(0.5, 0.4, 0.6)))
    assert "No policy is shown to be better than the start." in none
    assert "wins most often" not in none


def test_the_verdict_says_when_length_may_explain_a_win() -> None:
    equal = {"length_controlled": 0.51, "length_controlled_ci": [0.4, 0.62]}
    assert "so that length may explain it" in verdict(metrics(dpo=entry(0.7, 0.6, 0.8, equal=equal)))
    assert "length may explain" not in verdict(metrics(dpo=entry(0.7, 0.6, 0.8)))


def test_the_verdict_says_when_nobody_can_tell_what_length_explains() -> None:
    unknown: dict[str, Any] = {
        "length_controlled": None,
        "length_controlled_ci": None,
        "longer": 0.99,
        "shorter": 0.004,
    }
    text = verdict(metrics(dpo=entry(0.7, 0.6, 0.8, equal=unknown)))
    assert (
        "at equal length not known (its answer is the shorter one in 0.4 % of comparisons), "
        "so that length may explain it"
    ) in text
    short = unknown | {"longer": 0.0, "shorter": 1.0}
    text = verdict(metrics(dpo=entry(0.5, 0.4, 0.6, equal=short)))
    assert "(its answer is the longer one in 0.0 % of comparisons), at a KL" in text


def test_the_verdict_names_over_optimisation_and_an_interested_judge() -> None:
    high = {"win_rate": 0.9, "ci": [0.8, 0.95]}
    text = verdict(metrics(ppo=entry(0.45, 0.35, 0.55, realm=high), dpo=entry(0.7, 0.6, 0.8, realm=high)))
    assert "PPO wins 90.0 % under REALM's reward, which the truth does not confirm (45.0 % (35.0 to 55.0))." in text
    assert "DPO wins 90.0 %" not in text
    own = verdict(metrics(judge="realm", dpo=entry(0.9, 0.8, 0.95)))
    assert "Judged by REALM's own reward" in own
    assert "The judge is the reward itself." in own


def test_a_further_judge_has_a_line_of_its_own() -> None:
    second = {"win_rate": 0.4, "ci": [0.3, 0.45]}
    rates = entry(0.9, 0.8, 0.95)
    found = metrics(judge="realm", dpo={**rates, "by_judge": {**rates["by_judge"], "second": second}})
    found["pairwise"]["second"] = {}
    lines = verdict(found).splitlines()
    assert "- By the judge `second` DPO loses to the start (40.0 % (30.0 to 45.0))." in lines
    assert not any("that takes people" in line for line in lines)


def beside(difference: float, spread: float = 0.1, curve: float = 1.0) -> dict[str, Any]:
    return {"curve": curve, "difference": difference, "ci": [difference - spread, difference + spread]}


def against(realm: float, gold: float | None = None, *, kl: float = 1.5, **more: Any) -> str:
    judges = {"realm": beside(realm)} | ({} if gold is None else {"gold": beside(gold)})
    found = {"at": min(kl, 2.0), "end": 2.0, "n": 20, "by_judge": judges, "length": beside(0.0), "ended": beside(0.0)}
    return against_best_of_n("PPO", {"kl": kl, "against_best_of_n": {**found, **more}})


def test_a_policy_s_place_against_best_of_n_is_said_where_it_can_be_told() -> None:
    assert against(-0.3).startswith(
        "PPO's reward lies below best-of-n's curve at its distance: 0.70 against 1.00, a difference of -0.30 (-0.40 to "
        "-0.20). Best-of-n comes near the most"
    )
    assert against(0.05) == (
        "PPO's reward cannot be told from best-of-n's curve at its distance: 1.05 against 1.00, a difference of +0.05 "
        "(-0.05 to +0.15)."
    )
    assert "lies above best-of-n's curve" in against(0.3)
    assert against(0.3).endswith("upper bounds: the true curve may lie higher.")
    assert "; its truth lies below it too: 0.80" in against(-0.3, -0.2)
    assert "; its truth cannot be told from it: 1.02" in against(-0.3, 0.02)
    assert "; its truth cannot be told from it either: 1.02" in against(0.0, 0.02)
    assert against_best_of_n("PPO", {"kl": 1.5}) == "", "metrics that were made before there was a curve"


def test_beyond_the_curve_s_end_only_below_can_be_told() -> None:
    below = against(-0.3, kl=3.25)
    assert "lies below the end of best-of-n's curve (best of 20 at 2.0 nats)" in below
    assert "PPO went farther, to 3.2 nats, where best-of-n's reward can only be higher." in below
    for realm in (0.0, 0.3):
        assert against(realm, kl=3.25).endswith(
            "PPO went farther, to 3.2 nats, where it would take more answers to tell."
        )


def test_in_what_else_a_policy_below_differs_is_told_by_what_its_answers_show() -> None:
    assert against(-0.3).endswith("the policy's answers cannot be told by length and endings from best-of-n's.")
    text = against(-0.3, length=beside(12.0, 2.0, curve=50.0), ended=beside(-0.1, 0.01, curve=0.95))
    assert text.endswith(
        "the policy's answers differ in length (62.0 tokens against 50.0) and in how many end by themselves (85.0 % "
        "against 95.0 %) from best-of-n's."
    )
    assert "Best-of-n comes near" not in against(0.3, length=beside(12.0, 2.0, curve=50.0))


@pytest.mark.parametrize(
    ("own", "start", "kind", "warns"),
    [
        (0.969, 0.98, "estimate", True),
        (0.97, 0.98, "estimate", False),
        (0.9, 0.9, "estimate", False),
        (0.9, 0.98, "upper bound", False),
    ],
)
def test_a_trained_policy_that_does_not_end_its_answers_is_warned_of(
    own: float, start: float, kind: str, warns: bool
) -> None:
    text = ends_less("DPO", {"ended": own, "kl_kind": kind}, {"ended": start})
    assert bool(text) == warns
    assert not warns or text.startswith("Warning: DPO ends 96.9 % of its answers by itself, the start 98.0 %")


def test_the_verdict_of_a_whole_comparison_has_both() -> None:
    found = made_up_comparison().metrics()
    found["policies"]["ppo"]["ended"] = 0.9
    lines = verdict(found).splitlines()
    assert lines[0].endswith("on 40 held-out prompts, 2 answers each:")
    assert sum("best-of-n's curve" in line for line in lines) == 1
    assert sum(line.startswith("- Warning: PPO ends 90.0 %") for line in lines) == 1


def test_policies_have_names_for_people() -> None:
    assert [label(name) for name in ("base", "ppo", "dpo", "best_of_16")] == [
        "the starting policy", "PPO", "DPO", "best-of-16",
    ]  # fmt: skip


def test_limits_are_told_where_there_are_some() -> None:
    demo = limits(simulated=True, trained_here=True, pairs="on_policy")
    assert demo.count("- ") == 2
    assert "**simulated**" in demo
    assert "larger model" in demo
    assert "knows the simulator's sentences alone" not in demo
    assert "knows the simulator's sentences alone" in limits(simulated=True, trained_here=False, pairs="on_policy")
    human = limits(simulated=False, trained_here=True, pairs="human")
    assert "simulated" not in human
    assert "DPO learned from pairs that people decided" in human
    assert limits(simulated=False, trained_here=False, pairs="on_policy") == ""


def test_the_sentence_is_there_only_where_there_were_any() -> None:
    assert floored({}) == floored({"floored": 0}) == floored({"floored": {"before": 0, "after": 0}}) == ""
    assert floored({"floored": 1}).startswith(" 1 response was empty or too long")
    assert floored({"floored": {"training": 1200, "after": 1}}).startswith(" 1,201 responses were")


def test_the_verdict_says_which_prompts_were_left_out() -> None:
    found = metrics(ppo=entry(0.7, 0.6, 0.8)) | {"dropped": "2 of 9 prompts left out: seen in training (ppo 2)"}
    assert "- 2 of 9 prompts left out: seen in training (ppo 2)." in verdict(found).splitlines()
    assert "left out" not in verdict(found | {"dropped": ""})
