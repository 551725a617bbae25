"""What teaches PPO's tokens: the whole reward, groups of answers to one prompt, and a critic that learns first."""
# ruff: noqa: ARG001, the signature of a reward is what is tested

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.rlhf.policies import load_policy
from realm_lib.rlhf.ppo.held_out import summary
from realm_lib.rlhf.ppo.rollout import Episode, learnable
from realm_lib.rlhf.ppo.trainer import PPOTrainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def trainer(folder: Path, reward: Any = letters, **changes: Any) -> PPOTrainer:
    params = make_params(folder, **changes)
    return PPOTrainer(params, load_policy(params.ppo, trainable=True), reward, PROMPTS, held_out=HELD_OUT)


def weights(ppo: PPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in ppo.models.policy_parameters().items()}


def episode(tokens: int, reward: float, *, ended: bool = True) -> Episode:
    log_probs = -np.ones(tokens)
    return Episode(
        0, [1], list(range(tokens)), "", ended, log_probs, log_probs, np.zeros(tokens), 0.0, {"reward": reward}
    )


def test_by_default_every_token_of_a_response_is_taught_alike(folder: Path) -> None:
    """The fault of lambda 0.95 beside values of 0: the first of 60 tokens got a twentieth of what the last one got."""
    episodes = [episode(60, 1.0), episode(40, -1.0)]
    data = learnable(episodes, np.array([1.0, -1.0]), 0.05, make_params(folder).ppo)
    for row, mask in zip(data.advantages, data.mask, strict=True):
        assert torch.allclose(row[mask], row[mask][0].expand(int(mask.sum())))
    assert float(data.advantages[0, 0]) > 0 > float(data.advantages[1, 0])


def test_a_prompt_is_answered_by_a_group_in_a_row(folder: Path) -> None:
    ppo = trainer(folder, samples_per_prompt=4)
    first = ppo.collect()
    ppo.state.step = 1
    second = ppo.collect()
    groups = [
        [episode.index for episode in rollout[start : start + 4]] for rollout in (first, second) for start in (0, 4)
    ]
    assert all(len(set(group)) == 1 for group in groups)
    assert len({group[0] for group in groups}) == 4, "no prompt twice before all had their turn"
    assert len({tuple(episode.response_ids) for episode in first}) > 4, "the answers of a group have their own numbers"


def test_a_group_is_compared_with_itself(folder: Path) -> None:
    """A prompt whose answers all earn much teaches no more than one whose answers all earn little."""
    ppo = make_params(folder, samples_per_prompt=2, whiten_rewards=False).ppo
    episodes = [episode(3, reward) for reward in (11.0, 9.0, 1.0, -1.0)]
    data = learnable(episodes, np.array([11.0, 9.0, 1.0, -1.0]), 0.0, ppo)
    assert torch.allclose(data.returns[:, 0], torch.tensor([2.0, -2.0, 2.0, -2.0], dtype=torch.float64))
    assert torch.allclose(data.advantages[:2], data.advantages[2:])


def test_the_critic_learns_before_the_policy_follows_it(folder: Path) -> None:
    """The rewards hang on the prompt alone, which its states tell: two rollouts teach the head a part of them."""

    def by_prompt(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return [3.0 * prompt.count("really") for prompt in prompts]

    ppo = trainer(
        folder, by_prompt, value_warmup=2, total_episodes=256, batch_size=64, minibatch_size=64, reward_scaling=False
    )
    before = weights(ppo)
    rows = []
    for _ in range(3):
        rows.append(ppo.update(ppo.collect()))
        ppo._record(rows[-1])
        if len(rows) == 2:
            assert all(torch.equal(value, before[name]) for name, value in weights(ppo).items())
    assert not all(torch.equal(value, before[name]) for name, value in weights(ppo).items())
    told = [row["explained_variance"] for row in rows]
    assert told[0] == pytest.approx(0.0, abs=1e-9)
    assert 0.2 < told[1] < told[2]
    assert [row["policy_loss"] == 0 for row in rows] == [True, True, False]


def test_the_warm_up_is_a_ridge_regression(folder: Path) -> None:
    """Against numpy's least squares on the states stacked with the ridge's own rows."""
    ppo = trainer(folder, value_warmup=1, reward_scaling=False)
    episodes = ppo.collect()
    data = learnable(episodes, ppo.learner.scores(episodes), ppo.learner.kl.coefficient, ppo.params)
    states = ppo.models.value_states([e.prompt_ids for e in episodes], [e.response_ids for e in episodes])
    x = np.column_stack([states.double().numpy(), np.ones(len(states))])
    y = data.returns[data.mask].numpy()
    width = x.shape[1] - 1
    ridge = np.diag(np.sqrt([*[(x[:, :-1] ** 2).sum(axis=0).mean()] * width, 1e-6 * len(x)]))
    expected = np.linalg.lstsq(np.vstack([x, ridge]), np.concatenate([y, np.zeros(width + 1)]), rcond=None)[0]
    ppo.update(episodes)
    head = ppo.models.value_head
    np.testing.assert_allclose(head.weight[0].detach().numpy(), expected[:-1], atol=1e-5)
    assert head.bias.item() == pytest.approx(expected[-1], abs=1e-4)


def test_the_critic_has_a_rate_of_its_own(folder: Path) -> None:
    ppo = trainer(folder, value_learning_rate=0.5, learning_rate=1e-3)
    row = ppo.update(ppo.collect())
    assert [group["lr"] for group in ppo.learner.optimiser.param_groups] == [1e-3, 0.5]
    assert row["learning_rate"] == 1e-3
    assert abs(ppo.models.value_head.bias.item()) > 0.1


def test_without_a_value_head_rewards_alone_teach(folder: Path) -> None:
    ppo = trainer(folder, value_model="none", samples_per_prompt=4)
    before = weights(ppo)
    row = ppo.update(ppo.collect())
    assert row["explained_variance"] == pytest.approx(0.0)
    assert not any(name.startswith("value") for name in ppo.learner.parameters)
    assert not all(torch.equal(value, before[name]) for name, value in weights(ppo).items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples_per_prompt": 3}, "batch_size 8 is not a multiple of samples_per_prompt 3"),
        ({"value_model": "none", "gae_lambda": 0.9}, "needs gae_lambda 1"),
        ({"value_warmup": 6}, "leaves the policy no rollout"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_params(folder, **changes)


def test_an_adaptive_coefficient_reacts_within_the_training(folder: Path) -> None:
    """A horizon as long as the training moves the coefficient by a fifth at most; a tenth of it, six times."""
    ppo = trainer(folder, kl_target=1.0, total_episodes=800)
    assert ppo.learner.kl.horizon == 80
    before = ppo.learner.kl.coefficient
    for _ in range(100):
        ppo.learner.kl.update(9.0, 8)
    assert ppo.learner.kl.coefficient > 6 * before
    assert trainer(folder, kl_target=1.0, kl_horizon=7).learner.kl.horizon == 7


def test_a_policy_that_does_not_end_is_not_chosen_for_its_reward(folder: Path) -> None:
    params = make_params(folder, missing_eos_penalty=0.5).ppo
    rows = [
        summary(step, [episode(3, 1.0), episode(3, 1.0, ended=ended)], params)
        for step, ended in ((0, True), (1, False))
    ]
    assert [row["objective"] for row in rows] == [1.0, 0.75]
    assert [row["reward"] for row in rows] == [1.0, 1.0]
