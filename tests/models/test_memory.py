"""What a model takes: the calculation for known models, the refusal, and that it comes before the weights are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_scorers import copied, scorer_of
from transformers import AutoModelForCausalLM, LlamaConfig

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification
from realm_lib.models.reward_models.memory import (
    MemoryEstimate,
    available_memory,
    check_memory,
    estimate_memory,
    weight_bytes,
)

GIB = 2**30
LLAMA_70B = {
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_labels": 1,
}


def test_inform_70b_takes_what_it_takes() -> None:
    """The sizes calculated by hand; the 18 GiB in 4 bit that go round would be two bits a weight."""
    with torch.device("meta"):
        model = INFORMForSequenceClassification(LlamaConfig(**LLAMA_70B))
    for quantization, double, gib in (
        (None, True, 129.6),
        ("8bit", True, 65.8),
        ("4bit", False, 37.9),
        ("4bit", True, 35.0),
    ):
        found = weight_bytes(model, "bfloat16", quantization, double=double) / GIB
        assert found == pytest.approx(gib, rel=0.03)


def test_inform_70b_in_4_bit_needs_a_card_of_40_gib_or_more() -> None:
    params = RewardModelParams(
        backend="inform", model_id="infly/INF-ORM-Llama3.1-70B", quantization="4bit", dtype="bfloat16"
    )
    estimate = estimate_memory(INFORMForSequenceClassification, LlamaConfig(**LLAMA_70B), params)
    assert 36 < estimate.total / GIB < 38
    with pytest.raises(ScorerError, match=r"GiB in all; the GPU memory has 24\.0 GiB free"):
        check_memory(estimate, params, (24.0 * GIB, "the GPU memory"))


@pytest.mark.parametrize("quantization", [None, "4bit", "8bit"])
def test_the_estimate_is_what_a_loaded_model_takes(inform_folder: Path, quantization: str | None) -> None:
    """Counted in the storage of a loaded model; at this size what does not scale with the weights shows, so 6 %."""
    if quantization:
        pytest.importorskip("bitsandbytes", reason="quantisation needs bitsandbytes")
    scorer = scorer_of(inform_folder, quantization=quantization)
    taken = 0
    for weights in scorer.model.parameters():
        taken += weights.numel() * weights.element_size()
        if state := getattr(weights, "quant_state", None):
            taken += state.absmax.numel() * state.absmax.element_size()
            if state.nested:
                taken += state.state2.absmax.numel() * state.state2.absmax.element_size()
        if (scale := getattr(weights, "SCB", None)) is not None:
            taken += scale.numel() * scale.element_size()
    estimate = estimate_memory(INFORMForSequenceClassification, scorer.model.config, scorer.params)
    assert estimate.weights == pytest.approx(taken, rel=0.06)


def test_tied_weights_count_once_and_auto_classes_are_known(tiny_config: Any) -> None:
    params = RewardModelParams(backend="nemotron", model_id="m")
    tied, untied = (
        estimate_memory(
            AutoModelForCausalLM, LlamaConfig(**tiny_config.to_dict() | {"tie_word_embeddings": tie}), params
        )
        for tie in (True, False)
    )
    assert untied.weights - tied.weights == pytest.approx(4 * tiny_config.vocab_size * tiny_config.hidden_size)


def test_the_refusal_says_what_is_needed_and_what_there_is() -> None:
    params = RewardModelParams(backend="inform", model_id="infly/INF-ORM-Llama3.1-70B", quantization="4bit")
    estimate = MemoryEstimate(params.model_id, "4bit", 35.0 * GIB, 2 * GIB)
    with pytest.raises(
        ScorerError,
        match=r"INF-ORM-Llama3.1-70B in 4bit takes about 35\.0 GiB for its weights and 2\.5 GiB to work in, "
        r"37\.5 GiB in all; the GPU memory has 24\.0 GiB free.*allow_oversize: true",
    ):
        check_memory(estimate, params, (24.0 * GIB, "the GPU memory"))
    check_memory(estimate, params, (38.0 * GIB, "the GPU memory"))
    check_memory(estimate, params.model_copy(update={"allow_oversize": True}), (24.0 * GIB, "the GPU memory"))


def test_more_tokens_in_a_batch_take_more(tiny_config: Any) -> None:
    few, many = (
        estimate_memory(
            INFORMForSequenceClassification,
            tiny_config,
            RewardModelParams(backend="inform", model_id="m", batch_tokens=tokens),
        )
        for tokens in (1000, 4000)
    )
    assert few.weights == many.weights
    assert many.working >= 4 * few.working


def test_what_is_too_large_is_refused_before_its_weights_are_read(inform_folder: Path, tmp_path: Path) -> None:
    folder = copied(inform_folder, tmp_path / "vast", vocab_size=10**11)
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ScorerError, match=r"vast in float32 takes about .* GiB for its weights"):
        scorer_of(folder)
    with pytest.raises(ScorerError, match="cannot be loaded"):
        scorer_of(folder, allow_oversize=True)


def test_this_machine_has_memory() -> None:
    free, place = available_memory(None)
    assert 0.05 * GIB < free < 10**5 * GIB
    assert place == "the main memory"
    assert json.dumps(available_memory("auto"))
