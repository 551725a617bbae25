"""Dropout that is off in training mode, of layers and of functions, whatever a model calls it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.dpo_run import make_params
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_policy

from realm_lib.config.rlhf import LoraParams
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.rlhf.policies import load_policy, switch_off_dropout

pytestmark = pytest.mark.slow

SIZE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {"intermediate_size": 24, "max_position_embeddings": 32, "num_key_value_heads": 1}
MODELS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SIZE, **WIDE, attention_dropout=0.5),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5
    ),
    "opt": lambda: transformers.OPTConfig(
        **SIZE, ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=32, dropout=0.5, layerdrop=0.5
    ),
    "mixtral": lambda: transformers.MixtralConfig(
        **SIZE, **WIDE, num_local_experts=2, num_experts_per_tok=1, router_jitter_noise=0.5
    ),
    "falcon": lambda: transformers.FalconConfig(**SIZE, hidden_dropout=0.5, attention_dropout=0.5),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_passes_in_training_mode_are_those_of_evaluation_mode(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name](), attn_implementation=attention)
    ids = torch.randint(3, 40, (4, 12))

    def answer() -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return logits

    wanted = model.eval() and answer()
    model.train()
    assert not torch.equal(answer(), answer()), "there is noise to switch off"
    switch_off_dropout(model)
    assert model.training
    torch.testing.assert_close(answer(), wanted)
    assert torch.equal(answer(), answer())


@pytest.mark.parametrize("lora", [None, LoraParams(r=4, alpha=8.0)])
def test_a_dpo_of_a_policy_with_dropout_starts_at_a_margin_of_0(tmp_path: Path, lora: LoraParams | None) -> None:
    folder = make_policy(tmp_path / "policy", attention_dropout=0.5)
    params = make_params(folder, num_epochs=1, evaluate_every=1, lora=lora)
    assert params.dpo is not None
    policy = load_policy(params.dpo, trainable=True)
    policy.model.train()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    assert torch.equal(policy.model(input_ids=ids).logits, policy.model(input_ids=ids).logits)
    history = train_dpo(params, letters, PROMPTS, held_out=HELD_OUT).history
    assert history.loc[history["step"] == 0, "margin"].tolist() == [0.0]
    first = history[(history["step"] == 1) & (history["split"] == "training")].iloc[0]
    assert abs(first["margin"]) < 1e-6, "policy and reference see the same numbers in the first batch"
