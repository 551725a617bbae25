"""Memory that runs out: rows go through in smaller batches, and nothing but the batches' size changes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.config.rlhf import LoraParams, PolicyParams
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import (
    Policy,
    PolicyError,
    backbone_of,
    encode_prompts,
    load_policy,
    response_log_probs,
    sample,
)
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.runs.memory import MemoryShort, halving, within_memory

pytestmark = pytest.mark.slow

REFUSAL = "CUDA out of memory. Tried to allocate 20.00 GiB"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"), scale=0.25)


@pytest.fixture
def policy(folder: Path) -> Policy:
    return load_policy(PolicyParams(model_name=str(folder)))


@pytest.fixture
def prompts(policy: Policy) -> list[list[int]]:
    return encode_prompts(policy.tokenizer, PROMPTS[:8], 80).ids


@contextmanager
def room_for(model: Any, rows: int) -> Iterator[list[int]]:
    """A device with room for so many rows at once; the sizes that were tried."""
    tried: list[int] = []

    def check(_: Any, __: Any, options: dict[str, Any]) -> None:
        tried.append(len(options["input_ids"]))
        if tried[-1] > rows:
            raise torch.OutOfMemoryError(REFUSAL)

    handle = backbone_of(model).register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield tried
    finally:
        handle.remove()


# What a lack of memory is


def test_a_lack_of_memory_is_told_from_other_failures() -> None:
    def fail(error: Exception) -> Any:
        raise error

    assert within_memory(lambda: 3) == 3
    assert within_memory(lambda: fail(torch.OutOfMemoryError(REFUSAL))) is None
    says = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
    assert within_memory(lambda: fail(RuntimeError(says))) is None
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        within_memory(lambda: fail(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(ValueError, match="not enough memory"):
        within_memory(lambda: fail(ValueError("not enough memory")))


@pytest.mark.parametrize(("size", "room", "sizes"), [(8, 8, [8]), (8, 3, [8, 4, 2]), (7, 1, [7, 3, 1])])
def test_the_size_is_halved_until_it_fits(size: int, room: int, sizes: list[int]) -> None:
    tried: list[int] = []

    def work(rows: int) -> str:
        tried.append(rows)
        if rows > room:
            raise torch.OutOfMemoryError(REFUSAL)
        return "done"

    assert halving(size, work, "rows") == ("done", sizes[-1])
    assert tried == sizes
    room = 0
    with pytest.raises(MemoryShort, match="rows: one alone takes more memory than there is"):
        halving(size, work, "rows")


# Passes without gradient


def test_responses_are_the_same_in_the_batches_that_fit(
    policy: Policy, prompts: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "seeds": range(8), "batch_size": 8}
    whole = sample(policy, prompts, **options)
    with room_for(policy.model, 3) as tried, caplog.at_level(logging.WARNING):
        assert sample(policy, prompts, **options) == whole
    assert tried[:3] == [8, 4, 2]
    assert set(tried[3:]) <= {1, 2}
    assert "sampling: out of memory with 8 at once; going on with 4" in caplog.text
    with room_for(policy.model, 3) as tried:
        assert sample(policy, prompts, **options) == whole
    assert max(tried) == 2  # it has learned
    with room_for(policy.model, 0), pytest.raises(PolicyError, match=r"row \d with \d+ tokens alone takes more memory"):
        sample(policy, prompts, **options)


def test_log_probabilities_are_the_same_in_the_batches_that_fit(policy: Policy, prompts: list[list[int]]) -> None:
    answers = [list(range(5, 6 + n)) for n in range(8)]
    whole = response_log_probs(policy.model, prompts, answers, batch_size=8)
    with room_for(policy.model, 3) as tried:
        found = response_log_probs(policy.model, prompts, answers, batch_size=8)
    assert tried == [8, 4, 2, 2, 2, 2]
    for own, other in zip(found, whole, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


# PPO


def trainer(folder: Path, **changes: Any) -> PPOTrainer:
    params = make_params(folder, minibatch_size=8, **changes)
    torch.manual_seed(0)
    policy = load_policy(params.ppo, trainable=True)
    return PPOTrainer(params, policy, letters, PROMPTS, held_out=HELD_OUT)


def weights(ppo: PPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in ppo.models.trained_parameters().items()}


def test_a_rollout_is_the_same_in_the_batches_that_fit(folder: Path) -> None:
    usual, tight = trainer(folder), trainer(folder)
    whole = usual.collect()
    with room_for(tight.models.model, 3) as tried:
        found = tight.collect()
    assert max(tried) == 8
    assert tight.models.policy.fits == {"sampling": 2, "forward passes": 2}
    for own, other in zip(found, whole, strict=True):
        assert (own.index, own.response_ids, own.told) == (other.index, other.response_ids, other.told)
        np.testing.assert_allclose(own.log_probs, other.log_probs, atol=1e-5)
        np.testing.assert_allclose(own.reference_log_probs, other.reference_log_probs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("lora", [None, LoraParams(r=4, alpha=8.0)])
def test_an_update_is_the_same_in_the_parts_that_fit(folder: Path, lora: LoraParams | None, where: str) -> None:
    """Memory that runs out on the way back leaves gradients of the layers that had their turn: they count once."""
    usual, tight = trainer(folder, lora=lora), trainer(folder, lora=lora, gradient_accumulation=2)
    before = weights(usual)
    expected = usual.update(usual.collect())
    episodes, refused = tight.collect(), []

    def no_room(_: Any, gradients: tuple[torch.Tensor, ...]) -> None:
        if len(gradients[0]) > 1:
            refused.append(len(gradients[0]))
            raise torch.OutOfMemoryError(REFUSAL)

    if where == "backward":
        first_layer(tight).register_full_backward_pre_hook(no_room)
        found = tight.update(episodes)
    else:
        with room_for(tight.models.model, 1) as tried:
            found = tight.update(episodes)
        refused = [rows for rows in tried if rows > 1]
    assert refused == [4, 2]  # later minibatches begin with 1
    own, other = weights(tight), weights(usual)
    assert max(float((own[name] - other[name]).abs().max()) for name in own) < 2e-5
    assert max(float((own[name] - before[name]).abs().max()) for name in own) > 1e-3
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], abs=1e-4)
    assert found["policy_loss"] == pytest.approx(expected["policy_loss"], abs=1e-4)


def first_layer(ppo: PPOTrainer) -> Any:
    """Its gradients come last, those of the embeddings aside."""
    return backbone_of(ppo.models.model).layers[0]


def test_one_episode_that_does_not_fit_stops_training_with_a_way_out(folder: Path) -> None:
    ppo = trainer(folder)
    episodes = ppo.collect()
    says = r"update 1: .* alone takes more memory .* set rlhf.ppo.gradient_checkpointing"
    with room_for(ppo.models.model, 0), pytest.raises(PPOError, match=says):
        ppo.update(episodes)
