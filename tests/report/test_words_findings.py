"""What the closing cells say: every word follows from the numbers."""

from typing import Any

import pandas as pd
import pytest

from realm_lib.report.words import findings

DPO: dict[str, Any] = {
    "pairs_from": "on_policy",
    "judge": "gold",
    "win_rate": 0.61,
    "win_rate_ci": [0.54, 0.68],
    "held_out_prompts": 64,
    "held_out_pairs": 20,
    "reward_margin": {"before": 0.0, "after": 0.147, "ci": [0.125, 0.168]},
    "accuracy": {"before": 0.5, "after": 0.55, "ci": [0.49, 0.61]},
    "length": {"before": 44.2, "after": 65.8},
    "ended": {"before": 0.98, "after": 0.89},
}


def dpo(**changes: Any) -> str:
    return findings.dpo(DPO | changes, simulated=False, trained_here=False)


def gain(low: float, high: float) -> dict[str, Any]:
    return {"before": -0.5, "after": 0.25, "difference": 0.75, "ci_of_difference": [low, high]}


def ppo(simulated: bool = True, *, trained_here: bool = True, **changes: Any) -> str:
    metrics = {
        "reward": gain(0.5, 1.0), "kl": 3.25, "held_out_prompts": 1, "best_step": 3, "updates": 4, "episodes": 1024,
        "episodes_per_second": 23.6,
    }  # fmt: skip
    return findings.ppo(metrics | changes, simulated=simulated, trained_here=trained_here)


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_pairs_are_called_so(simulated: bool) -> None:
    models = {
        "parameters": 245441, "pairs": 10595, "seconds": 49.2, "validation_accuracy": 0.608, "validation_pairs": 600,
        "policy": {"parameters": 516864, "seconds": 61.7, "final_loss": 0.666},
    }  # fmt: skip
    features = {
        "pairs": 4180, "unique_responses": 4672, "scored": 4600, "cache_hits": 72, "tokens_scored": 560,
        "tokens_naive": 1000,
    }  # fmt: skip
    combiner = {
        "best_epoch": 16, "train_loss": 0.4831, "validation_loss": 0.613, "validation_accuracy": 0.673, "seconds": 1.84,
        "bend": 0.62, "scale": 0.7, "evidence": {"alpha": 0.9, "se": 0.3, "t": 3.0, "pairs": 2180},
        "linear": {"score": 0.61, "similarity": 0.55},
    }  # fmt: skip
    texts = [
        findings.offline_models(models, simulated=simulated),
        findings.features(features, simulated=simulated, rank_correlation=0.345),
        findings.combiner(combiner, simulated=simulated),
        ppo(simulated),
        findings.dpo(DPO, simulated=simulated, trained_here=False),
    ]
    assert "+0.61 for score, +0.55 for similarity" in texts[2]
    assert [("simulated pairs" in text or "simulated held-out prompt" in text) for text in texts] == [simulated] * 5
    assert "of 245,441 parameters" in texts[0]
    assert "**60.8 %** of 600" in texts[0]
    assert "(44 % fewer)" in texts[1]
    assert "72 from the store" in texts[1]
    assert "(knowing nothing: 0.693), validation accuracy **67.3 %**" in texts[2]


def test_a_probe_is_told_with_its_interval_beside_length() -> None:
    metrics = {
        "pairs": 600, "posts": 300, "validation_pairs": 202,
        "probe": {"layers": [12, 15], "poolings": ["mean", "last", "max"], "left_out_accuracy": 0.71, "seconds": 300.2},
        "rewards": {
            "probe": {"accuracy": 0.7, "ci": [0.63, 0.76]}, "length": {"accuracy": 0.72, "ci": [0.65, 0.78]}
        },
    }  # fmt: skip
    told = findings.offline_models(metrics, simulated=False)
    assert (
        "reads, over the response, the mean, the last token and the largest of the hidden states after layers 12 and 15"
        in told
    )
    assert "right in **70.0 % (63.0 to 76.0)** of 202 pairs; taking the longer response in 72.0 %" in told
    assert "policy" not in told
    assert (
        findings.offline_models({"pairs": 2}, simulated=True)
        == "2 simulated pairs are kept; nothing was to be trained."
    )


def test_the_evaluations_finding_is_its_verdict() -> None:
    assert findings.evaluation({"verdict": "REALM is fine."}) == "**REALM is fine.**"


def test_ppo_tells_the_truths_answer_where_there_is_one() -> None:
    assert "true utility" not in ppo()
    assert (
        "On 1 simulated held-out prompt the mean reward went from -0.50 to **0.25** (difference +0.75, +0.50" in ppo()
    )
    assert "after 3 of 4 updates (1,024 episodes, 24 a second)" in ppo()
    assert ppo(gold=gain(0.1, 0.9)).endswith(": the policy got better, not only better liked.")
    assert ppo(gold=gain(0.1, 0.9), reward=gain(-0.1, 0.2)).endswith(": the policy got better.")
    assert ppo(gold=gain(-0.9, -0.1)).endswith("liked better: the reward is over-optimised.")
    assert ppo(gold=gain(-0.9, -0.1), reward=gain(-0.1, 0.2)).endswith(": it got worse.")
    assert ppo(gold=gain(-0.1, 0.1)).endswith(": whether the policy got better cannot be told from chance.")


def test_dpo_says_no_more_than_the_intervals() -> None:
    text = dpo()
    assert (
        "answers beat the starting policy's: they win **61.0 %** (54.0 to 68.0), judged by the simulated truth" in text
    )
    assert "went from 0 to 0.147 (0.125 to 0.168) nats" in text
    assert "in the right order are 55.0 % (49.0 to 61.0), which cannot be told from chance" in text
    assert "Answers have 66 tokens (44 before); 89 % end by themselves (98 % before)." in text
    own = dpo(judge="realm", win_rate_ci=[0.4, 0.62], accuracy={"after": 0.4, "ci": [0.3, 0.48]})
    assert "cannot be told from the starting policy's" in own
    assert "REALM's reward, which ordered its pairs" in own
    assert "less than chance" in own
    people = dpo(judge="realm", pairs_from="human", win_rate_ci=[0.2, 0.4], accuracy={"after": 0.6, "ci": [0.55, 0.7]})
    assert "lose to the starting policy's" in people
    assert "while its pairs came from people" in people
    assert "more than chance" in people


def test_limits_stand_below_where_there_are_some() -> None:
    assert "cannot say" not in dpo()
    bounded = findings.dpo(DPO, simulated=True, trained_here=True)
    assert "\n\nWhat this can and cannot say:\n\n- Posts, comments and the truth" in bounded
    assert "\n- The policies are small" in bounded


def test_warnings_are_the_first_and_the_count_of_the_others() -> None:
    history = pd.DataFrame({"step": range(1, 7), "warnings": [["kl jumped", "too short"]] * 5 + [[]]})
    lines = findings.warnings(history, "", "stopped: it diverged").splitlines()
    assert lines[2] == "- update 1: kl jumped"
    assert lines[-3:] == ["- update 4: too short", "- and 2 more in the log", "- stopped: it diverged"]
    assert findings.warnings(history[5:], "", "") == "No warning was given."
    assert "one prompt was dropped" in findings.warnings(history[5:], "one prompt was dropped")


def test_further_judges_are_told_and_the_truth_of_a_language_model_s_own_english_is_bounded() -> None:
    text = ppo(gold=gain(0.1, 0.3), second=gain(0.2, 0.4))
    assert "By the judge `second` it went from -0.50 to **0.25**" in text
    assert "the policy got better, not only better liked" in text
    own = ppo(trained_here=False, gold=gain(0.1, 0.3))
    assert "the policy got better" not in own
    assert "not whether they are right." in own
    rates = {name: {"win_rate": 0.6, "ci": [0.5, 0.7]} for name in ("realm", "gold", "second")}
    assert dpo(win_rates=rates).count("By the judge") == 1
    assert "By the judge `second` they win 60.0 % (50.0 to 70.0)." in dpo(win_rates=rates)
