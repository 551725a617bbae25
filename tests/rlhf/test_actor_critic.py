"""The profile small fits the 8 GiB that it promises: its settings at its model's real shape, on PyTorch's meta device.

Counted are weights, what is kept for the backward pass, and everything made on the way, at the longest prompts and
responses that the profile lets in.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.live_memory import GIB, LiveMemory
from support.ppo_run import HELD_OUT, PROMPTS, letters
from support.ppo_run import make_policy as make_tiny_policy

from realm_lib.config.profile import load_params
from realm_lib.config.rlhf import PPOParams, RlhfParams
from realm_lib.rlhf.policies import Policy, backbone_of
from realm_lib.rlhf.policies.adapters import with_new_adapter
from realm_lib.rlhf.ppo import actor_critic
from realm_lib.rlhf.ppo.actor_critic import ActorCritic

pytestmark = pytest.mark.slow

CARD = 8 * GIB
BESIDE = 1.2 * GIB + 0.5 * GIB
"""The reward model (Skywork-Reward-V2-Qwen3-0.6B in bf16), and CUDA's context with its kernels' work space."""
ACTIVATIONS = 80 * 1024
"""Bytes that a token keeps in each layer without checkpointing, as others counted them; logits come on top."""
QWEN = {  # Qwen2.5-0.5B-Instruct
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32_768,
}


@pytest.fixture(scope="module")
def rlhf() -> RlhfParams:
    found = load_params("params/small.yaml").rlhf
    assert found is not None
    assert found.dpo is not None
    assert {found.ppo.model_name, found.dpo.model_name} == {"Qwen/Qwen2.5-0.5B-Instruct"}
    return found


@pytest.fixture(autouse=True)
def _no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_critic, "check_output_layer", lambda _: None)  # it compares numbers, which meta has not


def make_models(params: PPOParams) -> ActorCritic:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    usual = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, params.dtype))
    try:
        with torch.device("meta"):
            model = Qwen2ForCausalLM(Qwen2Config(**QWEN))
    finally:
        torch.set_default_dtype(usual)
    return ActorCritic(Policy(with_new_adapter(model, params, None).eval(), None), params)


def peak(models: ActorCritic, work: Callable[[], Any]) -> float:
    """Bytes at most during ``work``, the optimiser's two moments and the gradients included."""
    trained = sum(value.numel() * value.element_size() for value in models.trained_parameters().values())
    with LiveMemory(models.model, models.value_head) as memory:
        work()
    for value in models.trained_parameters().values():
        value.grad = None
    return memory.peak + 3 * trained


def rows_of(count: int, sampling: Any) -> tuple[list[list[int]], list[list[int]]]:
    return [[1] * sampling.max_prompt_tokens] * count, [[2] * sampling.max_new_tokens] * count


def update(models: ActorCritic, rows: int, rlhf: RlhfParams) -> Callable[[], None]:
    """One part of a minibatch, forward and back."""

    def work() -> None:
        with models.training():
            tokens = models.evaluate(*rows_of(rows, rlhf.sampling), 1.0, entropy=rlhf.ppo.entropy_bonus > 0)
            (tokens.log_probs.sum() + tokens.values.sum()).backward()  # type: ignore[no-untyped-call]

    return work


def test_an_update_fits(rlhf: RlhfParams) -> None:
    models = make_models(rlhf.ppo)
    part = rlhf.ppo.minibatch_size // rlhf.ppo.gradient_accumulation
    assert peak(models, update(models, part, rlhf)) + BESIDE < CARD


def test_a_pass_of_dpo_fits(rlhf: RlhfParams) -> None:
    """Both responses of a part's pairs; the blocks of logits are PPO's, TRL's are smaller."""
    assert rlhf.dpo is not None
    shared = {"lora": rlhf.dpo.lora, "gradient_checkpointing": rlhf.dpo.gradient_checkpointing}
    models = make_models(rlhf.ppo.model_copy(update=shared))
    rows = 2 * rlhf.dpo.batch_size // rlhf.dpo.gradient_accumulation
    assert peak(models, update(models, rows, rlhf)) + BESIDE < CARD


def test_a_rollout_fits(rlhf: RlhfParams) -> None:
    """Its passes, and sampling: a first pass as if over all tokens, which leaves the whole cache."""
    from transformers import DynamicCache

    models = make_models(rlhf.ppo)
    sampling = rlhf.sampling
    rows = rows_of(sampling.batch_size, sampling)

    def passes() -> None:
        with torch.no_grad():
            models.evaluate(*rows, 1.0)
            models.reference_log_probs(*rows, 1.0)

    def first_pass() -> None:
        shape = (sampling.batch_size, sampling.max_prompt_tokens + sampling.max_new_tokens)
        with torch.no_grad():
            models.model(
                input_ids=torch.ones(shape, dtype=torch.long, device="meta"),
                past_key_values=DynamicCache(config=models.model.config),
                use_cache=True,
                logits_to_keep=1,
            )

    assert peak(models, passes) + BESIDE < CARD
    assert peak(models, first_pass) + BESIDE < CARD


def test_without_checkpointing_it_would_not_fit(rlhf: RlhfParams) -> None:
    """Two sizes tell what a token keeps in a layer."""
    models = make_models(rlhf.ppo.model_copy(update={"gradient_checkpointing": False}))
    tokens = rlhf.sampling.max_prompt_tokens + rlhf.sampling.max_new_tokens
    two, four, eight = (peak(models, update(models, rows, rlhf)) for rows in (2, 4, 8))
    a_token = (four - two) / (2 * tokens * QWEN["num_hidden_layers"])
    assert ACTIVATIONS < a_token < 1.4 * ACTIVATIONS
    assert eight + BESIDE > 2 * CARD


def test_dpo_recomputes_activations_where_asked(tmp_path: Any) -> None:
    from support.dpo_run import make_params

    from realm_lib.rlhf.dpo import rounds, training

    folder = make_tiny_policy(tmp_path / "policy")
    calls = {}
    for flag in (False, True):
        params = make_params(folder, gradient_checkpointing=flag, num_epochs=1)
        pairs = training.make_pairs(params, letters, PROMPTS)
        seen: list[bool] = []
        original = rounds.fit

        def watched(policy: Any, *rest: Any, seen: list[bool] = seen, original: Any = original, **options: Any) -> Any:
            layer = backbone_of(policy.model).layers[0].self_attn
            layer.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
            return original(policy, *rest, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rounds, "fit", watched)
            training.train_dpo(params, letters, pairs, held_out=HELD_OUT)
        calls[flag] = sum(seen)
    assert calls[True] == 2 * calls[False], json.dumps(calls)
