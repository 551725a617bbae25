"""PPO's formulas against plain float64 loops over ragged responses, padded on either side."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.ppo.estimators import (
    KLController,
    RunningScale,
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    generalised_advantages,
    leave_one_out,
    masked_mean,
    token_rewards,
    whiten,
)

Rows = list[list[float]]


def random_rows(rng: np.random.Generator, lengths: list[int]) -> Rows:
    return [rng.normal(size=length).tolist() for length in lengths]


def pad(rows: Rows, side: str, extra: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as a tensor, what is padding filled with a number that must not matter."""
    width = max(map(len, rows)) + extra
    values, mask = torch.full((len(rows), width), 7.0, dtype=torch.float64), torch.zeros(len(rows), width).bool()
    for place, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        values[place, where] = torch.tensor(row, dtype=torch.float64)
        mask[place, where] = True
    return values, mask


def unpad(values: torch.Tensor, mask: torch.Tensor) -> Rows:
    assert bool((values[~mask] == 0).all()), "padding must be 0"
    return [row[kept].tolist() for row, kept in zip(values, mask, strict=True)]


def slow_rewards(scores: list[float], own: Rows, reference: Rows, beta: float) -> Rows:
    found = []
    for score, a, b in zip(scores, own, reference, strict=True):
        row = [-beta * (x - y) for x, y in zip(a, b, strict=True)]
        row[-1] += score
        found.append(row)
    return found


def slow_advantages(rewards: Rows, values: Rows, gamma: float, lam: float) -> tuple[Rows, Rows]:
    """The definition as a sum: A_t = sum over l of (gamma lambda)^l d_{t+l}."""
    advantages, returns = [], []
    for r, v in zip(rewards, values, strict=True):
        after = [*v[1:], 0.0]
        errors = [r[t] + gamma * after[t] - v[t] for t in range(len(r))]
        row = [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, len(r))) for t in range(len(r))]
        advantages.append(row)
        returns.append([a + b for a, b in zip(row, v, strict=True)])
    return advantages, returns


def slow_whiten(rows: Rows, keep_mean: bool) -> Rows:
    flat = [x for row in rows for x in row]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in flat) / (len(flat) - 1) + 1e-8)
    return [[(x - mean) / deviation + (mean if keep_mean else 0) for x in row] for row in rows]


def assert_rows(found: Rows, expected: Rows) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5).filter(lambda rows: sum(rows) > 1),
    side=st.sampled_from(["left", "right"]),
    extra=st.integers(0, 3),
    gamma=st.sampled_from([1.0, 0.9]),
    lam=st.sampled_from([0.0, 0.95, 1.0]),
)
def test_rewards_advantages_returns_and_whitening_are_those_of_a_loop(
    seed: int, lengths: list[int], side: str, extra: int, gamma: float, lam: float
) -> None:
    rng = np.random.default_rng(seed)
    own, reference, values = (random_rows(rng, lengths) for _ in range(3))
    scores = rng.normal(size=len(lengths)).tolist()
    (own_t, mask), (reference_t, _), (values_t, _) = (pad(rows, side, extra) for rows in (own, reference, values))

    rewards = token_rewards(torch.tensor(scores), own_t, reference_t, mask, 0.3)
    slow = slow_rewards(torch.tensor(scores).tolist(), own, reference, 0.3)
    assert_rows(unpad(rewards, mask), slow)
    assert_rows(unpad(whiten(rewards, mask, keep_mean=True), mask), slow_whiten(slow, True))

    advantages, returns = generalised_advantages(rewards, values_t, mask, gamma, lam)
    slow_a, slow_r = slow_advantages(slow, values, gamma, lam)
    assert_rows(unpad(advantages, mask), slow_a)
    assert_rows(unpad(returns, mask), slow_r)
    assert_rows(unpad(whiten(advantages, mask), mask), slow_whiten(slow_a, False))
    flat = [x for row in slow_r for x in row]
    assert masked_mean(returns, mask).item() == pytest.approx(sum(flat) / len(flat))
    errors = [r - v for row, other in zip(slow_r, values, strict=True) for r, v in zip(row, other, strict=True)]
    assert explained_variance(values_t, returns, mask) == pytest.approx(1 - np.var(errors) / np.var(flat))


def test_with_lambda_one_and_gamma_one_the_return_is_what_is_still_to_come() -> None:
    rewards, mask = pad([[1.0, 2.0, 3.0], [5.0]], "right", 1)
    values, _ = pad([[9.0, -4.0, 2.0], [1.0]], "right", 1)
    _, returns = generalised_advantages(rewards * mask, values, mask, 1.0, 1.0)
    assert_rows(unpad(returns, mask), [[6.0, 5.0, 3.0], [5.0]])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), clip=st.sampled_from([0.1, 0.2]), value_clip=st.sampled_from([None, 0.2]))
def test_losses_and_kl_are_those_of_a_loop(seed: int, clip: float, value_clip: float | None) -> None:
    rng = np.random.default_rng(seed)
    new, old, advantages, values, old_values, returns = rng.normal(scale=0.5, size=(6, 12))
    tensors = [torch.from_numpy(array) for array in (new, old, advantages)]
    policy = clipped_policy_loss(*tensors, clip)
    value = clipped_value_loss(*(torch.from_numpy(array) for array in (values, old_values, returns)), value_clip)
    for t in range(12):
        ratio = math.exp(new[t] - old[t])
        gain = min(ratio * advantages[t], min(max(ratio, 1 - clip), 1 + clip) * advantages[t])
        assert policy[t].item() == pytest.approx(-gain, abs=1e-12)
        worst = (values[t] - returns[t]) ** 2
        if value_clip is not None:
            kept = old_values[t] + min(max(values[t] - old_values[t], -value_clip), value_clip)
            worst = max(worst, (kept - returns[t]) ** 2)
        assert value[t].item() == pytest.approx(worst / 2, abs=1e-12)
        assert approximate_kl(tensors[0], tensors[1])[t].item() == pytest.approx(ratio - 1 - (new[t] - old[t]))


def test_a_ratio_beyond_the_clip_range_has_no_gradient_where_it_would_gain() -> None:
    log_probs = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.1], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    clipped_policy_loss(log_probs, torch.zeros(5), advantages, 0.2).sum().backward()
    assert log_probs.grad is not None
    assert (log_probs.grad == 0).tolist() == [True, False, False, True, False]


def test_what_cannot_be_whitened_is_refused() -> None:
    with pytest.raises(PPOError, match="cannot whiten 1 tokens: raise batch_size"):
        whiten(torch.ones(1, 3), torch.tensor([[True, False, False]]))
    equal = whiten(torch.full((2, 3), 4.0), torch.ones(2, 3).bool())
    assert bool((equal == 0).all())


def test_returns_that_are_all_the_same_have_no_explained_variance() -> None:
    ones = torch.ones(2, 2)
    assert explained_variance(torch.rand(2, 2), ones, ones.bool()) is None


@pytest.mark.parametrize(("kl", "factor"), [(30.0, 1.02), (6.6, 1.01), (6.0, 1.0), (5.4, 0.99), (-3.0, 0.98)])
def test_the_coefficient_is_steered_towards_the_target(kl: float, factor: float) -> None:
    controller = KLController(0.1, target=6.0, horizon=1000)
    controller.update(kl, episodes=100)
    assert controller.coefficient == pytest.approx(0.1 * factor)
    fixed = KLController(0.1, target=None, horizon=1000)
    fixed.update(kl, 100)
    assert fixed.coefficient == 0.1


def test_the_running_scale_is_the_deviation_of_all_that_was_seen() -> None:
    batches: list[Any] = [np.random.default_rng(n).normal(loc=100 * n, size=3 + n) for n in range(4)]
    scale = RunningScale()
    assert scale.scale == 1.0
    for batch in batches:
        scale.update(torch.from_numpy(batch))
        scale = RunningScale.restored(vars(scale))
    assert scale.scale == pytest.approx(np.concatenate(batches).std())


@given(
    groups=st.integers(1, 5),
    size=st.integers(2, 6),
    seed=st.integers(0, 2**16),
    shift=st.floats(-1e3, 1e3),
)
@settings(max_examples=50, deadline=None)
def test_leave_one_out_compares_a_response_with_the_others_of_its_prompt(
    groups: int, size: int, seed: int, shift: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=(groups, size))
    expected = [[row[i] - np.mean([row[j] for j in range(size) if j != i]) for i in range(size)] for row in scores]
    found = leave_one_out(torch.from_numpy(scores.ravel()), size)
    np.testing.assert_allclose(found.numpy(), np.ravel(expected), atol=1e-12)
    worth_more = scores + shift * np.arange(groups)[:, None]
    np.testing.assert_allclose(leave_one_out(torch.from_numpy(worth_more.ravel()), size), found, atol=1e-8)


def test_a_response_without_others_keeps_its_score() -> None:
    scores = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(leave_one_out(scores, 1), scores)


@pytest.mark.parametrize(("gae_lambda", "first"), [(1.0, 1.0), (0.95, 0.95**43)])
def test_the_first_token_gets_what_lambda_leaves_of_the_reward(gae_lambda: float, first: float) -> None:
    rewards = torch.zeros(1, 44, dtype=torch.float64)
    rewards[0, -1] = 1.0
    mask = torch.ones(1, 44).bool()
    advantages, _ = generalised_advantages(rewards, torch.zeros_like(rewards), mask, 1.0, gae_lambda)
    assert float(advantages[0, 0]) == pytest.approx(first)
    assert float(advantages[0, -1]) == 1.0
