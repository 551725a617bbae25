"""Tiny models of real classes, hybrids with recurrent layers among them: no batch changes what they say."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from realm_lib.config.rlhf import PPOParams
from realm_lib.rlhf.policies import Policy, response_log_probs, sample
from realm_lib.rlhf.ppo.actor_critic import ActorCritic

pytestmark = pytest.mark.slow

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
WINDOW = {"head_dim": 8, "sliding_window": 8}
CLASSES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 8},
    "MistralForCausalLM": WINDOW,
    "Gemma2ForCausalLM": WINDOW | {"query_pre_attn_scalar": 8},
    "Gemma3ForCausalLM": WINDOW | {"query_pre_attn_scalar": 8},
    "GraniteForCausalLM": {"logits_scaling": 2.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "CohereForCausalLM": {"logit_scale": 0.5},
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "Qwen3NextForCausalLM": HEADS | EXPERTS | {"head_dim": 8},
    "Qwen3_5ForCausalLM": HEADS | {"head_dim": 8},
    "Lfm2ForCausalLM": {
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "FalconH1ForCausalLM": {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
    },
}
COUNT = 16
PROMPT_LENGTHS = (3, 21, 9, 14, 2, 30)


class Drawn:
    """A model of a class, prompts of unequal length, and the response to each that was drawn alone."""

    def __init__(self, name: str) -> None:
        import transformers

        cls = getattr(transformers, name)
        torch.manual_seed(0)
        model = cls(cls.config_class(**SHAPE | CLASSES[name])).eval()
        with torch.no_grad():
            for value in model.parameters():
                if value.ndim > 1:
                    value.normal_(std=0.25)  # far from uniform, so that every token counts
        model.generation_config.eos_token_id = list(range(2, SHAPE["vocab_size"], 8))  # responses end early
        tokenizer = SimpleNamespace(eos_token_id=2, decode=lambda ids, **_: " ".join(map(str, ids)))
        self.policy = Policy(model, tokenizer)
        chance = np.random.default_rng(1)
        self.prompts = [chance.integers(3, SHAPE["vocab_size"], length).tolist() for length in PROMPT_LENGTHS]
        self.alone = [self.draw([n], batch_size=1)[0] for n in range(len(self.prompts))]

    def draw(self, rows: Sequence[int], batch_size: int) -> list[list[int]]:
        prompts = [self.prompts[row] for row in rows]
        options = {"max_new_tokens": COUNT, "temperature": 1.0, "batch_size": batch_size}
        return [response.ids for response in sample(self.policy, prompts, seeds=list(rows), **options)]


@pytest.fixture(scope="module", params=CLASSES)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    return Drawn(request.param)


def step_by_step(model: Any, prompt: list[int], answer: list[int], temperature: float) -> list[float]:
    """Log-probability of each token when it was its turn, one row with a cache of its own."""
    from transformers import DynamicCache

    cache, ids, found = DynamicCache(config=model.config), torch.tensor([prompt]), []
    for token in answer:
        with torch.no_grad():
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1].double()
        found.append(float((logits / temperature).log_softmax(-1)[token]))
        ids = torch.tensor([[token]])
    return found


def test_a_batch_draws_what_each_row_draws_alone(drawn: Drawn) -> None:
    """Prompts of unequal length are padded on the left; rows end early and leave the batch."""
    rows, seen = range(len(drawn.prompts)), []
    handle = drawn.policy.model.register_forward_pre_hook(
        lambda _, __, options: seen.append(len(options["input_ids"])), with_kwargs=True
    )
    try:
        assert drawn.draw(rows, batch_size=6) == drawn.alone
    finally:
        handle.remove()
    assert len(set(seen)) > 1
    assert drawn.draw(rows, batch_size=4) == drawn.alone


def test_rows_of_one_prompt_are_read_once_and_draw_what_each_draws_alone(drawn: Drawn) -> None:
    """The first pass takes each prompt once, whatever layers keep it: keys, a window, a convolution, a state."""
    rows, read = [0, 3, 0, 5, 3, 0], []
    handle = drawn.policy.model.register_forward_pre_hook(
        lambda _, __, options: read.append(options["input_ids"].tolist()), with_kwargs=True
    )
    prompts = [drawn.prompts[row] for row in rows]
    options: dict[str, Any] = {"max_new_tokens": COUNT, "temperature": 1.0, "seeds": range(7, 7 + len(rows))}
    try:
        together = [response.ids for response in sample(drawn.policy, prompts, batch_size=len(rows), **options)]
    finally:
        handle.remove()
    longest = max(map(len, prompts))
    assert sorted(map(len, read[0])) == [longest] * 3
    assert sorted(line[-3:] for line in read[0]) == sorted(drawn.prompts[row][-3:] for row in (0, 3, 5))
    assert together == [response.ids for response in sample(drawn.policy, prompts, batch_size=1, **options)]


def test_log_probabilities_are_those_of_the_steps(drawn: Drawn) -> None:
    model = drawn.policy.model
    for batch_size in (1, 6):
        found = response_log_probs(model, drawn.prompts, drawn.alone, temperature=0.7, batch_size=batch_size)
        for prompt, answer, values in zip(drawn.prompts, drawn.alone, found, strict=True):
            np.testing.assert_allclose(values, step_by_step(model, prompt, answer, 0.7), atol=5e-4)


def test_policy_and_reference_are_one_before_an_update_and_two_after(drawn: Drawn) -> None:
    policy = Policy(copy.deepcopy(drawn.policy.model).requires_grad_(True), drawn.policy.tokenizer)
    models = ActorCritic(policy, PPOParams(model_name="made here", total_episodes=64, gradient_checkpointing=True))
    with models.training():
        told = models.evaluate(drawn.prompts, drawn.alone, 1.0)
        reference = models.reference_log_probs(drawn.prompts, drawn.alone, 1.0)
        torch.testing.assert_close(told.log_probs.detach(), reference, atol=5e-5, rtol=1e-4)
        assert told.entropies is not None
        assert float(told.entropies.min()) >= 0
        (told.log_probs.sum() + told.values.sum()).backward()
    gradients = [value.grad for value in models.trained_parameters().values() if value.grad is not None]
    assert all(bool(torch.isfinite(value).all()) for value in gradients)
    with torch.no_grad():
        for value in models.policy_parameters().values():
            if value.grad is not None:
                value.sub_(1e-3 * value.grad.sign())
    after = models.evaluate(drawn.prompts, drawn.alone, 1.0).log_probs.detach()
    assert float((after - reference).abs().max()) > 1e-3
    assert torch.equal(models.reference_log_probs(drawn.prompts, drawn.alone, 1.0), reference)
