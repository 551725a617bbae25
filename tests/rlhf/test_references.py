"""Rewards that are compared under their prompt: what each transform is, what it changes, and the start's references."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.ppo_run import HELD_OUT, PROMPTS, make_params, make_policy

from realm_lib.report.words import findings
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.policies import load_policy
from realm_lib.rlhf.ppo.estimators import leave_one_out, transformed
from realm_lib.rlhf.ppo.rollout import Episode, learnable
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.runs.run import Run

REWARDS = st.lists(st.floats(-20, 20), min_size=12, max_size=12)
GROUPS = st.sampled_from([2, 3, 4])


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(REWARDS, GROUPS)
def test_the_formulas_by_a_loop_over_prompts(rewards: list[float], group: int) -> None:
    centred, bounded = (transformed(tensor(rewards), kind, group, None).tolist() for kind in ("centred", "log_sigmoid"))
    for n, reward in enumerate(rewards):
        first = n - n % group
        own = rewards[first : first + group]
        assert centred[n] == pytest.approx(reward - np.mean(own), abs=1e-9)
        others = (sum(own) - reward) / (group - 1)
        assert bounded[n] == pytest.approx(-np.log1p(np.exp(others - reward)), rel=1e-6, abs=1e-9)
    references = np.arange(12.0)
    assert transformed(tensor(rewards), "none", group, tensor(references)).tolist() == rewards
    assert transformed(tensor(rewards), "centred", 1, tensor(references)).tolist() == (rewards - references).tolist()


@given(REWARDS, GROUPS, st.lists(st.floats(-50, 50), min_size=6, max_size=6))
def test_what_a_prompt_is_worth_is_gone_and_the_order_of_its_responses_stays(
    rewards: list[float], group: int, worth: list[float]
) -> None:
    moved = tensor(rewards) + tensor(worth[: 12 // group]).repeat_interleave(group)
    for kind in ("centred", "log_sigmoid"):
        earned, same = (transformed(values, kind, group, None) for values in (tensor(rewards), moved))
        assert torch.allclose(earned, same, atol=1e-9)
        by_prompt = zip(tensor(rewards).reshape(-1, group), earned.reshape(-1, group), strict=True)
        assert all(
            (values.argsort() == own.argsort()).all() or len(set(own.tolist())) < group for values, own in by_prompt
        )
    assert (earned <= 0).all(), "the log of a probability"


def episodes(rewards: Sequence[float], rng: np.random.Generator) -> list[Episode]:
    rows = []
    for n, reward in enumerate(rewards):
        tokens = int(rng.integers(2, 6))
        log_probs, reference, values = rng.normal(-2, 1, (3, tokens))
        told = {"reward": reward}
        rows.append(Episode(n // 4, [1], [2] * tokens, "", True, log_probs, reference, values, 0.0, told))
    return rows


@given(REWARDS, st.lists(st.sampled_from([0.0, -1.0]), min_size=12, max_size=12), st.integers(0, 99))
def test_centring_under_leave_one_out_gives_the_plain_rewards_advantages(
    rewards: list[float], penalties: list[float], seed: int
) -> None:
    """Also with the KL and with the penalty for a missing EOS, which is taken off after the transform."""
    params = make_params(Path("unused"), samples_per_prompt=4, batch_size=12, total_episodes=12, minibatch_size=12).ppo
    rows = episodes(rewards, np.random.default_rng(seed))
    plain, centred = (
        learnable(rows, transformed(tensor(rewards), kind, 4, None).numpy() + penalties, 0.05, params)
        for kind in ("none", "centred")
    )
    assert torch.allclose(plain.returns, centred.returns, atol=1e-9)
    assert torch.allclose(plain.advantages, centred.advantages, atol=1e-7)


def test_taking_off_the_others_mean_twice_counts_differences_too_much() -> None:
    rewards = tensor([1.0, 2.0, 6.0])
    once = leave_one_out(rewards, 3)
    assert torch.allclose(leave_one_out(transformed(rewards, "centred", 3, None), 3), once)
    assert torch.allclose(leave_one_out(once, 3), 1.5 * once)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reward_transform": "centred"}, "needs a reference: set samples_per_prompt above 1, or reference_samples"),
        ({"reference_samples": 4}, "reference_samples are for reward_transform centred or log_sigmoid"),
        (
            {"samples_per_prompt": 2, "reward_transform": "log_sigmoid", "reference_quantile": 0.85},
            "is one of reference",
        ),
        ({"reward_transform": "sigmoid"}, "none"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_params(Path("unused"), **changes)


# Whole trainings


class OfPrompts:
    """A reward of which much is the prompt's; it counts what it is asked and fails at one of the calls."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self.told: list[pd.DataFrame] = []
        self.fails_at = fails_at

    def explain(self, prompts: Sequence[str], completions: Sequence[str]) -> pd.DataFrame:
        self.asked.append(list(prompts))
        if len(self.asked) == self.fails_at:
            raise OSError("killed")
        own = np.array([sum(c in "aeiou" for c in text) / 10 for text in completions])
        whose = np.array([3.0 * (sum(map(ord, prompt)) % 7) for prompt in prompts])
        outside = [len(text) > 12 for text in completions]
        table = pd.DataFrame({"reward": own + whose, "politeness": own, "outside": outside, "spread": 0.5})
        self.told.append(table)
        return table


START = {"reward_transform": "log_sigmoid", "reference_samples": 3, "total_episodes": 24, "missing_eos_penalty": None}
SETS = {"held_out": HELD_OUT[:3], "choose_on": HELD_OUT[3:5]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [None, 0.85])
def test_the_start_answers_each_prompt_before_it_is_trained(folder: Path, quantile: float | None) -> None:
    params = make_params(folder, **START, reward_uncertainty_penalty=1.0, reference_quantile=quantile)
    reward = OfPrompts()
    ppo = PPOTrainer(params, load_policy(params.ppo, trainable=True), reward, PROMPTS, **SETS)
    rows = ppo.collect()
    asked = [prompt for call in reward.asked[:-1] for prompt in call]
    assert len(asked) == 3 * 23, "24 responses of training: all prompts, the first of them twice"
    assert all(asked[n] == asked[n + 1] == asked[n + 2] for n in range(0, 69, 3))
    worth = pd.concat(reward.told[:-1])["reward"].to_numpy().reshape(23, 3) - 0.5
    expected = dict(
        zip(asked[::3], np.quantile(worth, quantile, axis=1) if quantile else worth.mean(axis=1), strict=True)
    )
    assert [one.reference for one in rows] == pytest.approx([expected[PROMPTS[one.index]] for one in rows])
    before = dict(ppo.state.references)
    row = ppo.update(rows)
    assert row["transformed"] == pytest.approx(
        np.mean([-np.log1p(np.exp(-(one.told["reward"] - 0.5 - one.reference))) for one in rows])  # type: ignore[operator]
    )
    assert abs(row["transformed"] + np.log(2)) < 0.5 < row["reward"]
    ppo._record(row)
    ppo.collect()
    assert ppo.state.references == before, "drawn once"


@pytest.mark.slow
def test_killed_while_references_are_drawn_it_goes_on_from_them(folder: Path, tmp_path: Path) -> None:
    params = make_params(folder, **START, checkpoint_every=1)
    whole = train_ppo(params, OfPrompts(), PROMPTS, **SETS, run=Run(tmp_path / "whole"))
    run = Run(tmp_path / "killed")
    with pytest.raises(RewardError, match="killed"):
        train_ppo(params, OfPrompts(fails_at=8), PROMPTS, **SETS, run=run)
    reward = OfPrompts()
    resumed = train_ppo(params, reward, PROMPTS, **SETS, run=run)
    timed = [name for name in whole.history if "second" in name]
    pd.testing.assert_frame_equal(resumed.history.drop(columns=timed), whole.history.drop(columns=timed))
    pd.testing.assert_frame_equal(resumed.rollouts, whole.rollouts)
    references = [call for call in reward.asked if len(call) == 6]
    assert 0 < len(references) < 12 - 3, "what was drawn before the kill was not drawn again"


@pytest.mark.slow
def test_the_log_and_the_metrics_say_how_much_is_the_prompts_and_what_lies_outside(folder: Path) -> None:
    params = make_params(folder, samples_per_prompt=4, reward_transform="log_sigmoid", reward_scaling=False)
    result = train_ppo(params, OfPrompts(), PROMPTS, **SETS)
    assert result.parts == ("politeness",)
    assert list(result.rollouts) == ["step", "question", "none", "centred", "log_sigmoid"]
    assert len(result.rollouts) == 48
    assert result.rollouts.groupby(["step", "question"]).size().tolist() == [4] * 12
    assert result.rollouts.groupby("step")["none"].mean().tolist() == pytest.approx(result.history["reward"].tolist())
    np.testing.assert_allclose(
        result.rollouts.groupby("step")["log_sigmoid"].mean(), result.history["transformed"], atol=1e-12
    )
    found = result.metrics()
    between = found["between_prompts"]
    assert (between["prompts"], between["responses"]) == (12, 4)
    assert between["none"]["share"] > 0.9
    assert between["log_sigmoid"]["share"] < 0.5
    assert between["centred"]["share"] == 0
    after = result.judged[result.judged["step"] == result.best_step]
    assert found["outside"]["after"] == after["outside"].mean()
    assert found["outside"]["training"] == result.history["outside"].mean()
    assert "of the responses after training have a feature outside" in findings.ppo(
        found, simulated=False, trained_here=True
    )


@pytest.mark.slow
def test_one_response_a_prompt_tells_nothing_of_prompts(folder: Path) -> None:
    result = train_ppo(make_params(folder, total_episodes=8), OfPrompts(), PROMPTS, **SETS)
    assert list(result.rollouts) == ["step", "question", "none"]
    assert result.metrics()["between_prompts"] is None
    assert "cannot be told here" in findings.between_prompts(result.metrics(), "none")
