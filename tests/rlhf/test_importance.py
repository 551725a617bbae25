"""Importance ratios between sampler and policy: their numbers, their cap, and what they do to the gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.config.rollouts import RolloutParams
from realm_lib.rlhf.policies import load_policy
from realm_lib.rlhf.ppo.importance import describe_sampler, importance_weights, sampler_warnings
from realm_lib.rlhf.ppo.rollout import Episode
from realm_lib.rlhf.ppo.trainer import PPOTrainer


def episode(own: list[float], told: list[float] | None) -> Episode:
    sampled = None if told is None else np.array(told)
    zeros = np.zeros(len(own))
    return Episode(0, [1], [2] * len(own), "", True, np.array(own), zeros, zeros, 0.0, sampler_log_probs=sampled)


TWO = [episode(np.log([0.5, 0.2]).tolist(), np.log([0.25, 0.4]).tolist()), episode([-1.0], [-4.0])]


def test_the_ratio_is_the_policys_probability_over_the_samplers_and_is_capped() -> None:
    weights = importance_weights(TWO, RolloutParams(importance_cap=1.5))
    assert weights is not None
    assert [row.tolist() for row in weights] == [pytest.approx([1.5, 0.5]), [1.5]]
    whole = importance_weights(TWO, RolloutParams(importance_cap=30.0, importance_level="sequence"))
    assert whole is not None
    assert [row.tolist() for row in whole] == [pytest.approx([1.0, 1.0]), [pytest.approx(np.exp(3.0))]]
    assert importance_weights(TWO, RolloutParams(importance_cap=None)) is None
    assert importance_weights([episode([-1.0], None)], RolloutParams()) is None


def test_what_is_said_of_a_rollout() -> None:
    told = describe_sampler(TWO, RolloutParams(importance_cap=1.5))
    ratios = np.array([2.0, 0.5, np.exp(3.0)])
    assert told["importance_mean"] == pytest.approx(ratios.mean())
    assert told["importance_max"] == pytest.approx(ratios.max())
    assert told["importance_truncated"] == pytest.approx(2 / 3)
    assert told["sampler_kl"] == pytest.approx((ratios - 1 - np.log(ratios)).mean())
    assert "the sampler is not the policy: 5.5 nats a token" in sampler_warnings(told)[0]
    assert sampler_warnings(told | {"sampler_kl": 0.01}) == sampler_warnings({}) == []
    assert describe_sampler([episode([-1.0], None)], RolloutParams()) == {}


def test_the_estimate_of_the_kl_is_right_on_samples_of_the_sampler() -> None:
    sampler, policy = np.array([0.7, 0.2, 0.1]), np.array([0.6, 0.3, 0.1])
    tokens = np.random.default_rng(0).choice(3, size=200_000, p=sampler)
    one = episode(np.log(policy)[tokens].tolist(), np.log(sampler)[tokens].tolist())
    exact = float((sampler * np.log(sampler / policy)).sum())
    told = describe_sampler([one], RolloutParams())
    assert told["sampler_kl"] == pytest.approx(exact, rel=0.02)
    assert told["importance_mean"] == pytest.approx(1.0, abs=0.005), "an importance ratio is 1 in the mean"


@pytest.mark.slow
def test_tokens_that_the_sampler_overrated_teach_the_policy_less_and_the_value_head_the_same(tmp_path: Path) -> None:
    folder = make_policy(tmp_path)
    told, gradients = [], []
    for shift in (0.0, np.log(2.0), -np.log(9.0)):
        params = make_params(folder, num_epochs=1, minibatch_size=8, max_grad_norm=1e9)  # one step, nothing scaled
        ppo = PPOTrainer(params, load_policy(params.ppo, trainable=True), letters, PROMPTS, held_out=HELD_OUT)
        episodes = ppo.collect()
        for one in episodes:
            one.sampler_log_probs = one.log_probs + shift
        seen: dict[str, torch.Tensor] = {}

        def keep(*_: Any, ppo: PPOTrainer = ppo, seen: dict[str, torch.Tensor] = seen) -> None:
            seen |= {
                name: value.grad.clone() for name, value in ppo.learner.parameters.items() if value.grad is not None
            }

        ppo.learner.optimiser.register_step_pre_hook(keep)
        told.append(ppo.update(episodes))
        gradients.append(seen)
    assert [row["importance_max"] for row in told] == pytest.approx([1.0, 0.5, 9.0])
    assert [row["importance_truncated"] for row in told] == [0.0, 0.0, 1.0]
    for seen, weight in zip(gradients[1:], (0.5, 2.0), strict=True):
        for name, gradient in gradients[0].items():
            # The head starts at zero: at its first step nothing of the value loss reaches the policy.
            expected = gradient * (weight if name.startswith("policy.") else 1.0)
            torch.testing.assert_close(seen[name], expected, rtol=1e-4, atol=1e-7)
    assert float(gradients[0]["value_head.weight"].norm()) > 0
