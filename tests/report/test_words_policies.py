"""Policies compared, in words: only what is shown is called better, and what cannot be said stands beside it."""

import itertools
from typing import Any

from realm_lib.report.words.policies import floored, label, limits, verdict


def entry(
    win: float, low: float, high: float, *, kl: float = 3.0, kind: str = "estimate", **more: Any
) -> dict[str, Any]:
    rate = {"win_rate": win, "ci": [low, high], "length_controlled": win, "length_controlled_ci": [low, high]}
    rate |= more.pop("equal", {})
    realm = more.pop("realm", rate)
    return {**rate, "kl": kl, "kl_kind": kind, "by_judge": {"gold": rate, "realm": realm}, **more}


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
    assert text.startswith("Judged by the simulated truth on 64 held-out prompts:")
    assert "- PPO beats the start: wins 71.0 % (60.0 to 80.0), at equal length 71.0 %" in text
    assert "- DPO cannot be told from the start: wins 55.0 %" in text
    assert "- Best-of-4 loses to the start" in text
    assert "at a KL of at most 0.6 nats" in text
    assert (
        "- PPO wins most often against the start; it cannot be told from DPO and best-of-4, or does not beat them."
        in text
    )


def test_the_verdict_says_who_beats_whom_directly() -> None:
    better = {"dpo over ppo": {"win_rate": 0.7, "ci": [0.6, 0.8]}}
    first = verdict(metrics(pairwise=better, ppo=entry(0.6, 0.55, 0.65), dpo=entry(0.7, 0.6, 0.8)))
    assert "DPO wins most often against the start; directly, it beats PPO." in first
    worse = {"dpo over ppo": {"win_rate": 0.3, "ci": [0.2, 0.4]}}
    turned = verdict(metrics(pairwise=worse, ppo=entry(0.7, 0.6, 0.8), dpo=entry(0.6, 0.55, 0.65)))
    assert "PPO wins most often against the start; directly, it beats DPO." in turned
    none = verdict(metrics(ppo=entry(0.52, 0.45, 0.6), dpo=entry(0.5, 0.4, 0.6)))
    assert "No policy is shown to be better than the start." in none
    assert "wins most often" not in none


def test_the_verdict_says_when_length_may_explain_a_win() -> None:
    equal = {"length_controlled": 0.51, "length_controlled_ci": [0.4, 0.62]}
    assert "so that length may explain it" in verdict(metrics(dpo=entry(0.7, 0.6, 0.8, equal=equal)))
    assert "length may explain" not in verdict(metrics(dpo=entry(0.7, 0.6, 0.8)))


def test_the_verdict_names_over_optimisation_and_an_interested_judge() -> None:
    high = {"win_rate": 0.9, "ci": [0.8, 0.95]}
    text = verdict(metrics(ppo=entry(0.45, 0.35, 0.55, realm=high), dpo=entry(0.7, 0.6, 0.8, realm=high)))
    assert "PPO wins 90.0 % under REALM's reward, which the truth does not confirm (45.0 %)" in text
    assert "DPO wins 90.0 %" not in text
    own = verdict(metrics(judge="realm", dpo=entry(0.9, 0.8, 0.95)))
    assert "Judged by REALM's own reward" in own
    assert "The judge is the reward that the policies were made by." in own


def test_policies_have_names_for_people() -> None:
    assert [label(name) for name in ("base", "ppo", "dpo", "best_of_16")] == [
        "the starting policy", "PPO", "DPO", "best-of-16",
    ]  # fmt: skip


def test_limits_are_told_where_there_are_some() -> None:
    demo = limits(simulated=True, trained_here=True, pairs="on_policy")
    assert demo.count("- ") == 2
    assert "**simulated**" in demo
    assert "larger model" in demo
    human = limits(simulated=False, trained_here=True, pairs="human")
    assert "simulated" not in human
    assert "DPO learned from pairs that people decided" in human
    assert limits(simulated=False, trained_here=False, pairs="on_policy") == ""


def test_the_sentence_is_there_only_where_there_were_any() -> None:
    assert floored({}) == floored({"floored": 0}) == floored({"floored": {"before": 0, "after": 0}}) == ""
    assert floored({"floored": 1}).startswith(" 1 response was empty or too long")
    assert floored({"floored": {"training": 1200, "after": 1}}).startswith(" 1,201 responses were")
