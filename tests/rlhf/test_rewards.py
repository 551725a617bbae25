"""What cannot be scored: a floor where the parameters give one, and an error that names the parameter where not."""
# ruff: noqa: ARG001, ARG002, ARG005, the signature of a reward is what is tested

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, make_params, make_policy

from realm_lib.config.rlhf import ComparisonParams, DPOParams, RlhfParams
from realm_lib.models.reward_models import LongResponseError, UnscorableError
from realm_lib.report.words import findings
from realm_lib.rlhf.comparison.answers import compare_policies, starting_policy
from realm_lib.rlhf.dpo.pairs import choose_pairs
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.rewards import ask_all, ask_judge, ask_reward
from realm_lib.runs.run import Run

FLOOR = -9.0


class Letters:
    """A reward with parts: the number of letters. It reads ``most`` characters, and nothing empty."""

    def __init__(self, most: int = 10) -> None:
        self.most = most
        self.asked: list[list[str]] = []

    def explain(self, prompts: Sequence[Any], completions: Sequence[str]) -> pd.DataFrame:
        self.asked.append(list(completions))
        assert all(text.strip() for text in completions)
        if long := {place: len(text) for place, text in enumerate(completions) if len(text) > self.most}:
            raise LongResponseError(f"texts {list(long)} are too long", long, self.most)
        count = [float(len(text)) for text in completions]
        return pd.DataFrame({"reward": count, "score": count, "spread": 0.5})

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return list(self.explain(prompts, completions)["reward"])


def ask(reward: Any, responses: list[str], floor: float | None = FLOOR, **more: Any) -> pd.DataFrame:
    return ask_reward(
        reward, ["p"] * len(responses), responses, range(len(responses)), **{"needs_spread": False} | more, floor=floor
    )


def test_what_cannot_be_scored_gets_the_floor_and_has_no_parts() -> None:
    reward = Letters()
    table = ask(reward, ["abc", "", "a" * 11, " \n", "ab", "a" * 12], needs_spread=True)
    assert table["reward"].tolist() == [3.0, FLOOR, FLOOR, FLOOR, 2.0, FLOOR]
    assert table["floored"].tolist() == [False, True, True, True, False, True]
    assert table["spread"].isna().tolist() == table["score"].isna().tolist() == table["floored"].tolist()
    assert reward.asked == [["abc", "a" * 11, "ab", "a" * 12], ["abc", "ab"]]
    assert not ask(reward, ["abc"])["floored"].any()


@pytest.mark.parametrize("responses", [["", "\t", "\u200b"], ["a" * 11], ["", "a" * 11]])
def test_nothing_may_be_left_to_score(responses: list[str]) -> None:
    table = ask(Letters(), responses, needs_spread=True)
    assert table["reward"].tolist() == [FLOOR] * len(responses)
    assert table["floored"].all()
    judged = ask_judge("mine", Letters(), ["p"] * len(responses), responses, range(len(responses)), floor=FLOOR)
    assert judged.tolist() == [FLOOR] * len(responses)


def test_without_a_floor_the_error_names_the_parameter() -> None:
    with pytest.raises(RewardError, match=r"failed on prompts 0, 1: LongResponseError: .*rlhf.floor_reward"):
        ask(Letters(), ["abc", "a" * 11], floor=None)
    with pytest.raises(RewardError, match=r"(?s)AssertionError.*rlhf.floor_reward"):
        ask(Letters(), ["abc", ""], floor=None)
    # A reward that has a number for an empty response is asked for it.
    assert ask(lambda prompts, completions: [1.0, 2.0], ["abc", ""], floor=None)["reward"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (OSError("no route"), "OSError: no route"),
        (KeyError("temperature"), "KeyError"),
        (UnscorableError("which?", []), r"cannot score places \[\]"),
        (UnscorableError("which?", [2]), r"cannot score places \[2\]"),
        (math.nan, "answered nan"),
        (None, "answered None"),
    ],
)
def test_no_other_fault_becomes_a_floor(fault: Any, says: str) -> None:
    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[Any]:
        if isinstance(fault, Exception):
            raise fault
        return [1.0, fault]

    for who in (ask, lambda judge, texts: ask_judge("mine", judge, ["p"] * 2, texts, [0, 1], floor=FLOOR)):
        with pytest.raises(RewardError, match=says) as caught:
            who(reward, ["a", "b"])
        assert "floor_reward" not in str(caught.value)


def test_a_judge_is_asked_about_empty_responses_and_may_refuse_some() -> None:
    def count(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        if long := [place for place, text in enumerate(completions) if len(text) > 3]:
            raise UnscorableError("too long", long)
        return [float(len(text)) for text in completions]

    assert ask_judge("mine", count, ["p"] * 3, ["", "abcd", "ab"], [0, 1, 2], floor=FLOOR).tolist() == [0.0, FLOOR, 2.0]
    with pytest.raises(RewardError, match=r"judge 'mine' failed .*rlhf.floor_reward"):
        ask_judge("mine", count, ["p"] * 3, ["", "abcd", "ab"], [0, 1, 2])


class Told(Letters):
    """A reward with a part of this name."""

    def __init__(self, name: str, value: Any = 1) -> None:
        super().__init__()
        self.name, self.value = name, value

    def explain(self, prompts: Sequence[Any], completions: Sequence[str]) -> pd.DataFrame:
        return super().explain(prompts, completions)[["reward"]].assign(**{self.name: self.value})


def test_the_parts_are_whatever_the_reward_tells() -> None:
    table = ask(Told("politeness", 2), ["abc", ""])
    assert list(table) == ["reward", "politeness", "floored"]
    assert table["politeness"].tolist()[0] == 2.0
    assert ask(Told("outside", [True, False]), ["abc", "ab"])["outside"].tolist() == [1.0, 0.0]
    for name in ("kl", "length", "two words"):
        with pytest.raises(RewardError, match=f"tells a part '{name}', a name that is taken"):
            ask(Told(name), ["abc"])
    with pytest.raises(RewardError, match="the reward's politeness answered 'very'"):
        ask(Told("politeness", "very"), ["abc"])


def test_a_judge_cannot_have_the_name_of_a_part() -> None:
    def judge(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return [7.0] * len(completions)

    for name, taken in (("mine", False), ("politeness", True)):
        asked: dict[str, Any] = {"judges": {name: judge}, "prompts": ["p"], "responses": ["abc"], "indices": [0]}
        if taken:
            with pytest.raises(RewardError, match="the judge 'politeness' has the name of a part"):
                ask_all(Told("politeness"), **asked, needs_spread=False)
        else:
            assert ask_all(Told("politeness"), **asked, needs_spread=False)["mine"].tolist() == [7.0]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def with_floor(policy: Path, **ppo: Any) -> RlhfParams:
    changes = {"total_episodes": 16, "num_epochs": 1, "evaluate_every": 2, "reward_uncertainty_penalty": 1.0, **ppo}
    return make_params(policy, **changes).model_copy(update={"floor_reward": FLOOR})


def strict(text: str) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_ppo_goes_on_and_counts_them(policy: Path, tmp_path: Path) -> None:
    params, reward = with_floor(policy), Letters(most=12)
    result = train_ppo(
        params, reward, PROMPTS, held_out=HELD_OUT, choose_on=CHOOSE_ON, judge=len_judge, run=Run(tmp_path)
    )
    lines = strict((tmp_path / "logs" / "ppo.jsonl").read_text(encoding="utf-8"))
    assert [line["floored"] for line in lines] == result.history["floored"].tolist()
    found = result.metrics()
    assert found["floored"]["training"] == round(sum(line["floored"] * 8 for line in lines)) > 0
    answers = strict((tmp_path / "logs" / "ppo_samples.jsonl").read_text(encoding="utf-8"))
    for row in (*answers, *result.judged.to_dict("records")):
        blank = not row["response"].strip() or len(row["response"]) > 12
        assert (row["reward"] == FLOOR) == blank == bool(row["floored"])
        assert math.isnan(row.get("spread", math.nan)) == blank
    judged = result.judged
    assert found["floored"]["before"] == judged.loc[judged["step"] == 0, "floored"].sum()
    # The parts' means are over those that have them.
    assert all(line["score"] <= 12 and line["score"] > line["reward"] for line in lines if 0 < line["floored"] < 1)
    assert "got the floor reward (`rlhf.floor_reward`)" in findings.ppo(found, simulated=False, trained_here=True)
    with pytest.raises(RewardError, match=r"rlhf\.floor_reward"):
        train_ppo(params.model_copy(update={"floor_reward": None}), Letters(1), PROMPTS, held_out=HELD_OUT)


def len_judge(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def test_dpo_never_chooses_one_and_the_comparison_counts_them(policy: Path) -> None:
    dpo = DPOParams(model_name=str(policy), batch_size=2, num_epochs=1, learning_rate=1e-4, near_duplicate=1.0)
    params = with_floor(policy).model_copy(
        update={"dpo": dpo, "comparison": ComparisonParams(best_of=[2], resamples=100)}
    )
    # Highest where it can be scored at all: were one that cannot chosen, the floor would not keep it out.
    generous = params.model_copy(update={"floor_reward": 1000.0})
    reward = Letters(most=25)
    result = train_dpo(generous, reward, PROMPTS, held_out=HELD_OUT, judge={"mine": len_judge})
    found = result.metrics()
    assert found["floored"]["training"] > 0
    chosen = result.pairs.table["chosen"]
    assert all(text.strip() and len(text) <= 25 for text in chosen)
    assert found["floored"]["before"] == (result.answers["realm_before"] == 1000.0).sum()
    assert "floor reward" in findings.dpo(found, simulated=False, trained_here=False)

    comparison = compare_policies(params, reward, HELD_OUT, starting_policy(params), {})
    compared = comparison.metrics()
    assert compared["floored"] == (comparison.answers.drop_duplicates(["row", "answer"])["realm"] == FLOOR).sum() > 0
    base = comparison.answers.query("policy == 'base'")
    assert compared["policies"]["base"]["score"] == pytest.approx(base.loc[~base["floored"], "realm"].mean())
    assert strict(json.dumps(compared))
    assert "got the floor reward" in findings.policies(compared, simulated=False, trained_here=False, pairs="on_policy")


def test_a_floored_response_is_rejected_at_most() -> None:
    settings: dict[str, Any] = {"min_margin": 0.0, "near_duplicate": 1.0}
    texts, ended = ["one", "two", "three"], [True, True, True]
    for selection in ("best_vs_worst", "all_above_margin"):
        pairs, _ = choose_pairs(
            texts, [9.0, 1.0, 0.0], ended, selection=selection, floored=[True, False, False], **settings
        )
        assert pairs == [(1, 2)]
    pairs, _ = choose_pairs(
        texts, [-9.0, 1.0, 0.0], ended, selection="best_vs_worst", floored=[True, False, False], **settings
    )
    assert pairs == [(1, 0)]
    none = choose_pairs(
        texts[:2], [0.0, 1.0], [True, True], selection="best_vs_worst", floored=[True, True], **settings
    )
    assert none == ([], "no sample that ended could be scored")
