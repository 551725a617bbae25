"""A small Llama in float64: the function that transformers computes, and the same training on every processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from realm_lib.models.double_precision import double_llama, rounded

pytestmark = pytest.mark.slow

CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
    tie_word_embeddings=True,
    initializer_range=0.3,
)

TRAIN = """
import sys
import torch
from realm_lib.config.training import OfflineRewardModelParams
from realm_lib.data.pairs import load_pairs
from realm_lib.config.data import DataParams
from realm_lib.models.offline import train_reward_model
data = DataParams(source="simulator", splits={"train": 400, "validation": 10, "test": 10}, domains=["askvet"])
params = OfflineRewardModelParams(
    vocab_size=400, hidden_size=32, num_heads=2, max_length=512, learning_rate=1e-2, num_epochs=1
)
torch.set_num_threads(int(sys.argv[2]))
train_reward_model(load_pairs(data, "train").head(120), params, sys.argv[1], seed=5, progress=False)
"""


def test_it_computes_what_the_transformers_model_computes() -> None:
    torch.manual_seed(0)
    model = double_llama(lambda: LlamaForCausalLM(CONFIG))
    assert {weight.dtype for weight in model.parameters()} == {torch.float64}
    own = rounded(model, LlamaForCausalLM(CONFIG)).eval()
    assert {weight.dtype for weight in own.parameters()} == {torch.float32}
    ids = torch.randint(0, 50, (3, 40))
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0
    wanted, found = own(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits
    assert found.dtype == torch.float64
    assert (found - wanted)[mask == 1].abs().max() < 1e-4
    assert wanted.std() > 0.5, "logits that are all alike would agree whatever is computed"


def test_nothing_on_the_way_is_rounded_to_single_precision() -> None:
    """A change of 1e-12 in the weights would vanish in a float32 norm, or come out as one of 1e-7."""
    torch.manual_seed(0)
    model = double_llama(lambda: LlamaForCausalLM(CONFIG))
    ids = torch.randint(0, 50, (2, 30))
    before = model(ids).logits
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight *= 1 + 1e-12
    change = (model(ids).logits - before).abs().max()
    assert 1e-15 < change < 1e-10
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.timeout(600)
def test_processors_that_round_differently_train_the_same_model(tmp_path: Path) -> None:
    """Two sets of instructions and numbers of threads stand in for two machines; in float32 this differs by 1e-3."""
    weights = []
    for name, setting, threads in (("plain", {"ATEN_CPU_CAPABILITY": "default"}, "1"), ("own", {}, "2")):
        command = [sys.executable, "-c", TRAIN, str(tmp_path / name), threads]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **setting})
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(tensor.dtype == torch.float32 for tensor in weights[0].values())
    apart = max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0])
    assert apart < 1e-6
