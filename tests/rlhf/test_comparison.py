"""Comparing policies: every number from another computation, and a verdict that says no more than the numbers."""
# ruff: noqa: ARG005, the signature of a reward is what is tested

import copy
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import regex
import torch
from scipy import stats
from support.dpo_run import make_params
from support.ppo_run import letters, make_policy, vowels

from realm_lib.config.base import ParamsError
from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.config.rlhf import ComparisonParams, RlhfParams
from realm_lib.data.lengths import words_of
from realm_lib.rlhf.comparison.answers import compare_policies, starting_policy, trained_policy
from realm_lib.rlhf.comparison.result import ComparisonError, PolicyComparison
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.policies import Policy, encode_prompts, load_policy, save_policy
from realm_lib.rlhf.samples import SampleStore, policy_identity
from realm_lib.runs.run import Run

ASKED = [f"What {'ever ' * (n % 3)}makes dough {n} rise?" for n in range(14)]
SETTINGS = ComparisonParams(prompts=12, answers=3, best_of=[2, 4], resamples=400)


class Explained:
    """The reward of letters with its parts, as RealmReward tells them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return letters(prompts, completions)

    def explain(self, prompts: Sequence[str], completions: Sequence[str]) -> pd.DataFrame:
        self.asked += zip(prompts, completions, strict=True)
        rewards = np.array(letters(prompts, completions))
        return pd.DataFrame({"reward": rewards, "spread": 0.1, "score": 2 * rewards, "similarity": rewards / 3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a starting policy and two others: moved a little, and moved more."""
    run = tmp_path_factory.mktemp("run")
    make_policy(run / "models" / "policy_sft")
    for name, scale in (("ppo", 0.01), ("dpo", 0.05)):
        policy = load_policy(start(run).ppo)
        torch.manual_seed(1)
        with torch.no_grad():
            for value in policy.model.parameters():
                value.add_(torch.randn_like(value), alpha=scale)
        save_policy(policy, run / "models" / f"policy_{name}")
    return run


def start(run: Path, sampling: dict[str, Any] | None = None, **dpo: Any) -> RlhfParams:
    params = make_params(run / "models" / "policy_sft", {"temperature": 0.8, **(sampling or {})}, **dpo)
    return params.model_copy(update={"comparison": SETTINGS})


def compare(run: Path, params: RlhfParams | None = None, **changes: Any) -> PolicyComparison:
    params = params or start(run)
    options: dict[str, Any] = {
        "reward": Explained(),
        "prompts": ASKED,
        "judge": {"realm": letters, "gold": vowels},
        "trained": {name: trained_policy(params.ppo, f"models/policy_{name}") for name in ("ppo", "dpo")},
        "run": Run(run),
        **changes,
    }
    return compare_policies(params, start=starting_policy(params), **options)


@pytest.fixture(scope="module")
def comparison(folder: Path) -> PolicyComparison:
    return compare(folder)


@pytest.fixture(scope="module")
def found(comparison: PolicyComparison) -> dict[str, Any]:
    return comparison.metrics()


def answers(comparison: PolicyComparison, policy: str) -> list[pd.DataFrame]:
    own = comparison.answers[comparison.answers["policy"] == policy]
    return [rows.sort_values("number") for _, rows in own.groupby("row")]


# Answers


def test_every_policy_answers_the_same_prompts(comparison: PolicyComparison) -> None:
    assert comparison.policies == ["base", "best_of_2", "best_of_4", "ppo", "dpo"]
    sizes = {name: {len(rows) for rows in answers(comparison, name)} for name in comparison.policies}
    assert sizes == {"base": {3}, "best_of_2": {2}, "best_of_4": {4}, "ppo": {3}, "dpo": {3}}
    for name in comparison.policies:
        own = answers(comparison, name)
        assert [rows["prompt"].iloc[0] for rows in own] == ASKED[:12]
        assert all(rows["weight"].sum() == pytest.approx(1) for rows in own)
        assert all(rows["picked"].sum() == 1 for rows in own)
    table = comparison.answers
    assert table["realm"].tolist() == pytest.approx(letters([], table["answer"]))
    assert table["gold"].tolist() == vowels([], table["answer"])
    assert table["score"].tolist() == pytest.approx((2 * table["realm"]).tolist())
    assert table["characters"].tolist() == [len(regex.findall(r"\X", text)) for text in table["answer"]]


def test_no_answer_of_the_start_serves_two_policies(folder: Path, comparison: PolicyComparison) -> None:
    params = start(folder)
    place = starting_policy(params)
    policy = load_policy(place, folder)
    ids = encode_prompts(policy.tokenizer, ASKED[:12], 60).ids
    drawn = SampleStore(None, policy_identity(place, folder), params.sampling, 42).draw(policy, ids, range(9))
    for name, first, last in (("base", 0, 3), ("best_of_2", 3, 5), ("best_of_4", 5, 9)):
        for own, row in zip(answers(comparison, name), drawn, strict=True):
            assert own["number"].tolist() == list(range(first, last))
            assert own["answer"].tolist() == [one.text for one in row[first:last]]
            assert own["length"].tolist() == [len(one.ids) for one in row[first:last]]
    for name in ("base", "ppo", "dpo"):
        for rows in answers(comparison, name):
            assert rows["weight"].tolist() == pytest.approx([1 / 3] * 3)
            assert rows["picked"].tolist() == [True, False, False]
    for n in (2, 4):
        for rows in answers(comparison, f"best_of_{n}"):
            best = rows["realm"] == rows["realm"].max()
            assert rows["weight"].tolist() == pytest.approx((best / best.sum()).tolist())
            assert rows[rows["picked"]].index == rows[best].index[:1], "the answer that is shown is the best"


def test_equal_answers_to_a_prompt_are_scored_once(folder: Path) -> None:
    reward = Explained()
    comparison = compare(folder, reward=reward, judge=None)
    assert len(reward.asked) == len(set(reward.asked))
    assert set(reward.asked) == set(zip(comparison.answers["prompt"], comparison.answers["answer"], strict=True))


@pytest.mark.slow
def test_a_second_comparison_draws_nothing_and_finds_the_same(folder: Path, found: dict[str, Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("samples/*/*")}
    assert compare(folder).metrics() == found
    assert {path: path.stat().st_mtime_ns for path in folder.glob("samples/*/*")} == before
    assert compare(folder, seed=7).metrics() != found


# Numbers


def test_metrics_are_what_other_computations_find(comparison: PolicyComparison, found: dict[str, Any]) -> None:
    json.dumps(found, allow_nan=False)
    assert (found["prompts"], found["judge"]) == (12, "gold")
    entries = {key for entry in found["policies"].values() for key in entry}
    assert {*comparison.answers, *entries} <= RESERVED_JUDGES | {"realm", "gold"}, "a judge would overwrite it"
    for name in comparison.policies:
        entry, own = found["policies"][name], answers(comparison, name)
        for column in ("realm", "gold"):
            means = [np.average(rows[column], weights=rows["weight"]) for rows in own]
            assert entry[column]["mean"] == pytest.approx(np.mean(means))
            assert entry[column]["ci"][0] <= entry[column]["mean"] <= entry[column]["ci"][1]
        for column in ("score", "similarity", "length", "characters", "ended"):
            expected = np.mean([np.average(rows[column].astype(float), weights=rows["weight"]) for rows in own])
            assert entry[column] == pytest.approx(expected), column
        words = [words_of(rows[rows["picked"]]["answer"].iloc[0].casefold()) for rows in own]
        assert entry["distinct_1"] == pytest.approx(len({w for row in words for w in row}) / sum(map(len, words)))
        assert "spread" not in entry
    base = found["policies"]["base"]
    assert (base["win_rate"], base["kl"], base["kl_kind"]) == (0.5, 0.0, "start")
    assert found["answers"] == 3
    for n in (2, 4):
        best = found["policies"][f"best_of_{n}"]
        assert (best["kl"], best["kl_kind"]) == (pytest.approx(math.log(n) - (n - 1) / n), "upper bound")


@pytest.mark.slow
def test_win_rates_are_those_of_every_pair_of_answers(comparison: PolicyComparison, found: dict[str, Any]) -> None:
    for judge in ("realm", "gold"):
        for second, first in itertools.combinations(comparison.policies, 2):
            shares = []
            for left, right in zip(answers(comparison, first), answers(comparison, second), strict=True):
                share = 0.0
                for a, wa in zip(left[judge], left["weight"], strict=True):
                    for b, wb in zip(right[judge], right["weight"], strict=True):
                        share += wa * wb * (1.0 if a > b else 0.5 if a == b else 0.0)
                shares.append(share)
            entry = found["pairwise"][judge][f"{first} over {second}"]
            assert entry["win_rate"] == pytest.approx(np.mean(shares))
            # Wilson's ends: as many standard errors, with the end's own variance, away from the share.
            mean, error = float(np.mean(shares)), stats.sem(shares)
            for end in entry["ci"]:
                away = stats.t.ppf(0.975, len(shares) - 1) * error * math.sqrt(end * (1 - end) / (mean * (1 - mean)))
                assert abs(end - mean) == pytest.approx(away, rel=0.12)
            assert comparison.win_rate(second, first, judge).value == pytest.approx(1 - np.mean(shares))
    dpo = found["policies"]["dpo"]
    assert dpo["win_rate"] == found["pairwise"]["gold"]["dpo over base"]["win_rate"]
    assert dpo["by_judge"]["realm"]["win_rate"] == found["pairwise"]["realm"]["dpo over base"]["win_rate"]
    equal = comparison.length_controlled("dpo", "base").to_dict()
    assert {key: dpo[key] for key in equal} == equal
    with pytest.raises(ComparisonError, match="no policy 'grpo' was compared; there are base, best_of_2"):
        comparison.win_rate("grpo", "base")


def test_the_kl_is_the_mean_log_ratio_at_the_sampling_temperature(
    folder: Path, comparison: PolicyComparison, found: dict[str, Any]
) -> None:
    params = start(folder)
    base = load_policy(starting_policy(params), folder)
    for name in ("ppo", "dpo"):
        place = trained_policy(params.ppo, f"models/policy_{name}")
        policy = load_policy(place, folder)
        ids = encode_prompts(policy.tokenizer, ASKED[:12], 60).ids
        drawn = SampleStore(None, policy_identity(place, folder), params.sampling, 42).draw(policy, ids, range(3))
        ratios = []
        for prompt, row in zip(ids, drawn, strict=True):
            for response in row:
                own, other = (by_the_forward_pass(model, prompt, response.ids, 0.8) for model in (policy, base))
                ratios.append(own - other)
        rows = pd.concat(answers(comparison, name))
        assert rows["log_ratio"].tolist() == pytest.approx(ratios, abs=1e-3)
        entry = found["policies"][name]
        assert entry["kl"] == pytest.approx(np.mean(ratios), abs=1e-4)
        means = [np.mean(ratios[first : first + 3]) for first in range(0, 36, 3)]  # answers to a prompt belong together
        assert entry["kl_error"] == pytest.approx(np.std(means, ddof=1) / math.sqrt(12), rel=1e-3)
        assert entry["kl_kind"] == "estimate"
        assert entry["kl_k3"] > 0
    assert found["policies"]["dpo"]["kl_k3"] > found["policies"]["ppo"]["kl_k3"], "the one that moved more"


def by_the_forward_pass(policy: Policy, prompt: list[int], answer: list[int], temperature: float) -> float:
    model = copy.deepcopy(policy.model).double()
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / temperature
    return float(torch.log_softmax(logits, dim=-1)[torch.arange(len(answer)), torch.tensor(answer)].sum())


def test_trained_policies_stand_beside_best_of_n_at_their_distance(
    comparison: PolicyComparison, found: dict[str, Any]
) -> None:
    start = [
        pd.concat(rows)
        for rows in zip(*(answers(comparison, name) for name in ("base", "best_of_2", "best_of_4")), strict=True)
    ]
    curve = found["best_of_n"]
    assert curve["kl"] == pytest.approx([math.log(n) - (n - 1) / n for n in range(1, 10)])
    assert set(curve["by_judge"]) == {"realm", "gold"}
    for column in ("realm", "gold", "length", "ended"):
        means = [np.mean([best_of(rows, n, column) for rows in start]) for n in range(1, 10)]
        if column in curve["by_judge"]:
            assert curve["by_judge"][column]["mean"] == pytest.approx(means)
            low, high = (np.array(curve["by_judge"][column][end]) for end in ("low", "high"))
            assert (low <= means).all()
            assert (means <= high).all()
        for name in ("ppo", "dpo"):
            entry = found["policies"][name]
            beside = entry["against_best_of_n"]
            kl = min(max(entry["kl"], 0.0), curve["kl"][-1])
            assert (beside["at"], beside["end"], beside["n"]) == (kl, curve["kl"][-1], 9)
            one = {**beside, **beside["by_judge"]}[column]
            assert one["curve"] == pytest.approx(np.interp(math.sqrt(kl), np.sqrt(curve["kl"]), means))
            own = np.mean([rows[column].astype(float).mean() for rows in answers(comparison, name)])
            assert one["difference"] == pytest.approx(own - one["curve"])
            assert one["ci"][0] <= one["difference"] <= one["ci"][1]
    assert not any("against_best_of_n" in found["policies"][name] for name in ("base", "best_of_2", "best_of_4"))


def best_of(rows: pd.DataFrame, n: int, column: str) -> float:
    """The mean of ``column`` of the best of n of these answers, over all draws of n; ties are one of them by chance."""
    rewards, values = rows["realm"].to_numpy(), rows[column].to_numpy(dtype=float)
    kept = []
    for draw in map(list, itertools.combinations(range(len(rewards)), n)):
        kept.append(values[draw][rewards[draw] == rewards[draw].max()].mean())
    return float(np.mean(kept))


def test_tables_for_people(comparison: PolicyComparison, found: dict[str, Any]) -> None:
    table = comparison.table()
    assert list(table.index) == comparison.policies
    assert table.loc["dpo", "wins"] == found["policies"]["dpo"]["win_rate"]
    assert table.loc["best_of_4", "KL"] == found["policies"]["best_of_4"]["kl"]
    shown = comparison.side_by_side([0, 1])
    assert shown["policy"].tolist() == comparison.policies * 2
    assert shown["prompt"].tolist() == [ASKED[0]] * 5 + [ASKED[1]] * 5
    assert {"answer", "realm", "gold"} <= set(shown.columns)
    apart = comparison.apart()
    assert sorted(apart) == list(range(found["prompts"]))
    most, least = (comparison.side_by_side([row])["realm"] for row in (apart[0], apart[-1]))
    assert most.max() - most.min() >= least.max() - least.min()
    assert comparison.side_by_side([apart[-1], 0])["prompt"].iloc[-1] == ASKED[0]


# What is refused


def test_policies_that_cannot_be_compared_are_refused(folder: Path) -> None:
    with pytest.raises(ComparisonError, match="temperature must be above 0"):
        compare(folder, start(folder, {"temperature": 0.0}))
    with pytest.raises(ComparisonError, match="two prompts at least: 11 of 12 prompts left out"):
        compare(folder, start(folder, {"max_prompt_tokens": 20}), prompts=["Why?", *["Why? " * 30] * 13])
    params = start(folder)
    other = params.model_copy(update={"dpo": params.dpo.model_copy(update={"model_name": "elsewhere"})})  # type: ignore[union-attr]
    with pytest.raises(ComparisonError, match=r"rlhf\.dpo from elsewhere: policies are compared with one start"):
        starting_policy(other)


def test_a_policy_with_other_tokens_or_another_template_is_refused(folder: Path, tmp_path: Path) -> None:
    params = start(folder)
    policy = load_policy(starting_policy(params), folder)
    save_policy(policy, tmp_path / "models" / "policy_sft")
    template = policy.tokenizer.chat_template
    policy.tokenizer.chat_template = template.replace("{{ message['content'] }}", "Q: {{ message['content'] }}")
    save_policy(policy, tmp_path / "models" / "policy_dpo")
    changed = start(tmp_path)
    trained = {"dpo": trained_policy(changed.ppo, "models/policy_dpo")}
    with pytest.raises(ComparisonError, match="dpo: its chat template is not that of"):
        compare(tmp_path, changed, trained=trained)
    policy.tokenizer.chat_template = template
    policy.tokenizer.add_tokens(["<|new|>"])
    save_policy(policy, tmp_path / "models" / "policy_dpo")
    with pytest.raises(ComparisonError, match="dpo: its tokenizer is not that of"):
        compare(tmp_path, changed, trained=trained)


def test_judges_are_named_and_checked(folder: Path) -> None:
    with pytest.raises(RewardError, match="judge 'mine' answered nan"):
        compare(folder, judge={"mine": lambda prompts, completions: [math.nan] * len(prompts)})
    with pytest.raises(ParamsError, match="'characters' is taken"):
        compare(folder, judge={"characters": vowels})
    own = compare(folder, judge={"mine": vowels}).metrics()
    assert own["judge"] == "realm", "no truth is known"
    assert own["policies"]["dpo"]["by_judge"]["mine"]["win_rate"] >= 0
    assert own["policies"]["base"]["mine"]["mean"] >= 0
