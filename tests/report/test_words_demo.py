"""What the documents say of the demo: each number is the reference's, each column there when its numbers are."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from realm_lib.report.words import demo

METRICS = Path(__file__).parents[2] / "outputs" / "reference" / "demo" / "metrics"


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {name: json.loads((METRICS / f"{name}.json").read_text()) for name in ("evaluation", "policies")}


def rows(text: str) -> list[list[str]]:
    """The cells of the first table's rows, without head, rule and emphasis."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines[2:]]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def test_the_rows_are_the_evaluations(metrics: dict[str, Any]) -> None:
    evaluation = metrics["evaluation"]
    evaluation["seeds"].pop("retrained", None)
    found = {**evaluation["rewards"], "ceiling": evaluation["ceiling"]}
    text = demo.rewards(metrics)
    assert f"{evaluation['pairs']:,} **simulated** test pairs of {evaluation['posts']} posts" in text
    assert [row[1:] for row in rows(text)] == [
        [
            f"{percent(found[name]['accuracy'])} %",
            " to ".join(percent(end) for end in found[name]["ci"]),
            f"{found[name]['log_loss']:.3f}" if "log_loss" in found[name] else "",
        ]
        for name in ("ceiling", "realm", "linear", "similarity", "reward_model", "length")
    ]


def test_another_training_has_a_column_where_it_was_measured(metrics: dict[str, Any]) -> None:
    spread = {"reward_model": 0.0123, "realm": 0.0064, "linear": 0.01}
    accuracies = {name: [0.6, 0.61, 0.62] for name in spread}
    metrics["evaluation"]["seeds"]["retrained"] = {**accuracies, "sd": spread}
    text = demo.rewards(metrics)
    assert "over 3 trainings" in " ".join(text.split())
    assert [row[-1] for row in rows(text)] == ["", "± 0.6", "± 1.0", "", "± 1.2", ""]
    assert all(line.count("|") == 6 for line in text.splitlines() if line.startswith("|"))


def test_the_sentence_follows_the_numbers(metrics: dict[str, Any]) -> None:
    changed = copy.deepcopy(metrics)
    difference = changed["evaluation"]["differences"]["realm - reward_model"]
    difference["ci"] = [-0.3, -0.2]
    assert "worse than the reward model" not in " ".join(demo.rewards(metrics).split())
    assert "worse than the reward model" in " ".join(demo.rewards(changed).split())


def test_answers_leave_length_to_the_readme(metrics: dict[str, Any]) -> None:
    text = demo.answers(metrics)
    assert text.startswith("- Is it better? ")
    assert "Is it only length?" not in text
    assert all(re.match(r"- \S|  \S", line) for line in text.splitlines())


def test_the_rows_are_the_policies(metrics: dict[str, Any]) -> None:
    policies = metrics["policies"]["policies"]
    shown = rows(demo.policies(metrics))
    assert shown[0][:4] == ["the start", "", "", "0"]
    assert [row[1:] for row in shown[1:]] == [
        [
            f"{percent(policy['win_rate'])} % ({' to '.join(map(percent, policy['ci']))})",
            f"{percent(policy['length_controlled'])} % ({' to '.join(map(percent, policy['length_controlled_ci']))})",
            ("at most " if policy["kl_kind"] == "upper bound" else "") + f"{policy['kl']:.1f}",
            f"{percent(policy['ended'])} %",
            f"{percent(policy['distinct_2'])} %",
        ]
        for policy in map(policies.get, ("best_of_16", "best_of_4", "ppo", "dpo"))
    ]


def test_a_rate_at_equal_length_may_be_unknown(metrics: dict[str, Any]) -> None:
    metrics["policies"]["policies"]["ppo"] |= {"length_controlled": None, "length_controlled_ci": None}
    assert rows(demo.policies(metrics))[3][2] == "not known"


def test_a_policy_repeats_itself_only_where_it_does(metrics: dict[str, Any]) -> None:
    policies = metrics["policies"]["policies"]
    for share, said in ((0.74, True), (0.76, False)):
        policies["ppo"]["distinct_2"] = share * policies["base"]["distinct_2"]
        assert ("PPO repeats itself" in demo.policies(metrics)) is said
    policies["best_of_4"]["distinct_2"] = 0.0
    assert "Best-of-4 repeats" not in demo.policies(metrics)
