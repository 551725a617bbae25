"""Policies: loaded whole or refused, prompts encoded once, samples and log-probabilities that no batch changes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.ppo_run import make_policy

from realm_lib.config.rlhf import LoraParams, PolicyParams
from realm_lib.rlhf.policies import (
    Policy,
    PolicyError,
    encode_prompts,
    load_policy,
    response_log_probs,
    sample,
    sequence_kl,
)
from realm_lib.runs.run import MissingStepError

TEXTS = ["Why?", "Why does bread rise?", "Yeast? " * 9, "bread", "Does gluten hold the gas, and for how long?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Larger weights than usual: the distributions are far from uniform and depend on every token.
    return make_policy(tmp_path_factory.mktemp("policy"), scale=0.25)


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return load_policy(PolicyParams(model_name=str(folder)))


@pytest.fixture(scope="module")
def prompts(policy: Policy) -> list[list[int]]:
    return encode_prompts(policy.tokenizer, TEXTS, 80).ids


def drawn(policy: Policy, prompts: list[list[int]], **changes: Any) -> Any:
    options = {"max_new_tokens": 24, "temperature": 1.0, "seeds": list(range(len(prompts))), "batch_size": 8}
    return sample(policy, prompts, **{**options, **changes})


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def change_tokenizer(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


# Loading


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(PolicyError) as caught:
        load_policy(PolicyParams(model_name=str(folder), **options))
    return str(caught.value)


def test_a_tokenizer_that_lacks_something_is_refused(folder: Path, tmp_path: Path) -> None:
    bare = copy_of(folder, tmp_path / "bare")
    for path in bare.glob("tokenizer*"):
        path.unlink()
    assert "holds no tokenizer" in refusal(bare)
    untemplated = copy_of(folder, tmp_path / "untemplated")
    (untemplated / "chat_template.jinja").unlink()
    assert "no chat template" in refusal(untemplated)
    endless = copy_of(folder, tmp_path / "endless")
    change_tokenizer(endless, eos_token=None)
    assert "no EOS token: responses would never end" in refusal(endless)


def test_a_pad_token_is_named_where_the_tokenizer_has_none(folder: Path, tmp_path: Path) -> None:
    unpadded = copy_of(folder, tmp_path / "unpadded")
    change_tokenizer(unpadded, pad_token=None)
    assert "no pad token: set pad_token" in refusal(unpadded)
    assert "'<|no|>' is not in the tokenizer's vocabulary" in refusal(unpadded, pad_token="<|no|>")
    policy = load_policy(PolicyParams(model_name=str(unpadded), pad_token="<|eos|>"))
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id


def test_weights_that_do_not_fill_the_model_exactly_are_refused(folder: Path, tmp_path: Path) -> None:
    for name, change, says in (
        ("less", lambda tensors: tensors.pop("lm_head.weight"), "missing keys in the checkpoint (lm_head.weight)"),
        ("more", lambda tensors: tensors.update({"score.weight": torch.ones(1)}), "unexpected keys"),
    ):
        broken = copy_of(folder, tmp_path / name)
        tensors = load_file(broken / "model.safetensors")
        change(tensors)
        save_file(tensors, broken / "model.safetensors", {"format": "pt"})
        assert says in refusal(broken)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingStepError, match="00_offline_models"):
        load_policy(PolicyParams(model_name="run:models/policy_sft"), tmp_path)
    (tmp_path / "empty").mkdir()
    assert "holds no tokenizer" in refusal(tmp_path / "empty")


def test_gradients_pass_through_four_bit_layers_that_have_answered_before(tmp_path: Path) -> None:
    """As through a model in float32 whose weights are what the four bits stand for."""
    functional = pytest.importorskip("bitsandbytes.functional", reason="4 bit needs bitsandbytes")
    folder = make_policy(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    gradients = []
    dequantised: dict[str, torch.Tensor] = {}
    for quantization in ("4bit", None):
        params = PolicyParams(model_name=str(folder), quantization=quantization, lora=LoraParams(r=2, alpha=4.0))
        torch.manual_seed(0)
        policy = load_policy(params, trainable=True)
        for name, value in policy.model.named_parameters():
            if hasattr(value, "quant_state"):
                dequantised[name] = functional.dequantize_4bit(value.data, value.quant_state)
            elif quantization is None and name in dequantised:
                value.data.copy_(dequantised[name])
        ids = torch.arange(5, 25)[None]
        with torch.no_grad():
            policy.model(ids)
        policy.model(ids, labels=ids).loss.backward()
        gradients.append({n: v.grad for n, v in policy.model.named_parameters() if v.grad is not None})
    assert len(dequantised) == 14
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], value, atol=1e-5, rtol=1e-3)
    assert any(float(value.abs().max()) > 1e-3 for name, value in gradients[1].items() if "layers.0" in name)


# Prompts


def test_prompts_are_chats_that_wait_for_the_assistant(policy: Policy) -> None:
    encoded = encode_prompts(policy.tokenizer, ["Why?", [{"role": "user", "content": "Why?"}]], 20)
    text = policy.tokenizer.decode(encoded.ids[0])
    assert text == "<|bos|><|user|>Why?<|assistant|>"
    assert encoded.ids[0] == encoded.ids[1]
    assert (encoded.kept, encoded.dropped, encoded.reason) == ([0, 1], 0, "")


def test_long_prompts_are_left_out_and_counted_and_empty_ones_are_named(policy: Policy) -> None:
    encoded = encode_prompts(policy.tokenizer, TEXTS, 12)
    assert encoded.kept == [n for n, ids in enumerate(encode_prompts(policy.tokenizer, TEXTS, 80).ids) if len(ids) < 13]
    assert 0 < encoded.dropped == len(TEXTS) - len(encoded.kept)
    assert encoded.reason.startswith(f"{encoded.dropped} of 5 prompts left out: longer than max_prompt_tokens 12")
    with pytest.raises(PolicyError, match="5 of 5 prompts left out"):
        encode_prompts(policy.tokenizer, TEXTS, 3)
    with pytest.raises(PolicyError, match="prompt 1 is empty"):
        encode_prompts(policy.tokenizer, ["Why?", " \n"], 80)


def test_a_template_that_writes_bos_twice_is_refused(folder: Path, tmp_path: Path) -> None:
    twice = copy_of(folder, tmp_path / "twice")
    template = twice / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text(encoding="utf-8"), encoding="utf-8")
    policy = load_policy(PolicyParams(model_name=str(twice)))
    with pytest.raises(PolicyError, match="BOS token twice"):
        encode_prompts(policy.tokenizer, ["Why?"], 80)


# Sampling


def slow_sample(policy: Policy, prompt: list[int], seed: int, count: int, temperature: float) -> list[int]:
    """One row, no cache, no padding, numpy."""
    uniforms = np.random.Generator(np.random.Philox(seed)).random(count)
    ids: list[int] = []
    for uniform in uniforms:
        with torch.no_grad():
            logits = policy.model(torch.tensor([prompt + ids])).logits[0, -1].double().numpy() / temperature
        weights = np.exp(logits - logits.max())
        ids.append(int(np.searchsorted(np.cumsum(weights / weights.sum()), uniform, side="right")))
        if ids[-1] == policy.tokenizer.eos_token_id:
            break
    return ids


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_sample_is_that_of_a_plain_loop_whatever_else_is_in_the_batch(
    policy: Policy, prompts: list[list[int]], temperature: float
) -> None:
    seeds = [7, 8, 9, 10, 11]
    found = drawn(policy, prompts, seeds=seeds, temperature=temperature)
    assert len({len(response.ids) for response in found}) > 2
    assert any(response.ended for response in found)
    for batch_size in (1, 2):
        assert drawn(policy, prompts, seeds=seeds, temperature=temperature, batch_size=batch_size) == found
    turned = drawn(policy, prompts[::-1], seeds=seeds[::-1], temperature=temperature)
    assert turned[::-1] == found
    for prompt, seed, response in zip(prompts, seeds, found, strict=True):
        assert response.ids == slow_sample(policy, prompt, seed, 24, temperature)
        assert response.ended == (response.ids[-1] == policy.tokenizer.eos_token_id)
        assert "<|eos|>" not in response.text


def test_samples_follow_the_models_distribution(policy: Policy, prompts: list[list[int]]) -> None:
    count = 4000
    found = drawn(policy, [prompts[1]] * count, seeds=list(range(count)), max_new_tokens=1, batch_size=1000)
    seen = np.bincount([response.ids[0] for response in found], minlength=policy.model.config.vocab_size)
    with torch.no_grad():
        expected = policy.model(torch.tensor([prompts[1]])).logits[0, -1].softmax(-1).double().numpy() * count
    common = expected >= 5
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    assert statistic < common.sum() + 5 * np.sqrt(2 * common.sum())  # chi-squared, about five standard deviations


def test_greedy_takes_the_likeliest_token_and_a_longer_sample_begins_with_the_shorter(
    policy: Policy, prompts: list[list[int]]
) -> None:
    greedy = drawn(policy, prompts, temperature=0.0, max_new_tokens=5)
    assert greedy == drawn(policy, prompts, temperature=0.0, max_new_tokens=5, seeds=[99] * 5)
    with torch.no_grad():
        assert greedy[0].ids[0] == int(policy.model(torch.tensor([prompts[0]])).logits[0, -1].argmax())
    long, short = drawn(policy, prompts), drawn(policy, prompts, max_new_tokens=6)
    assert [response.ids[:6] for response in long] == [response.ids for response in short]


def test_a_pad_token_that_is_the_eos_changes_nothing(folder: Path, policy: Policy, prompts: list[list[int]]) -> None:
    same = load_policy(PolicyParams(model_name=str(folder), pad_token="<|eos|>"))
    assert drawn(same, prompts) == drawn(policy, prompts)


def test_what_cannot_be_sampled_is_refused(policy: Policy, prompts: list[list[int]]) -> None:
    for options, says in (
        ({"seeds": [1]}, "5 prompts but 1 seeds"),
        ({"max_new_tokens": 120}, "context of 128"),
    ):
        with pytest.raises(PolicyError, match=says):
            drawn(policy, prompts, **options)
    with pytest.raises(PolicyError, match="prompt 1 has no tokens"):
        drawn(policy, [prompts[0], []])


# Log-probabilities


def test_log_probabilities_are_those_of_a_pass_over_one_row(policy: Policy, prompts: list[list[int]]) -> None:
    answers = [response.ids for response in drawn(policy, prompts)]
    for batch_size in (1, 2, 8):
        found = response_log_probs(policy.model, prompts, answers, temperature=0.7, batch_size=batch_size)
        for prompt, answer, values in zip(prompts, answers, found, strict=True):
            with torch.no_grad():
                logits = policy.model(torch.tensor([prompt + answer])).logits[0].double() / 0.7
            expected = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt) + len(answer) - 1), answer]
            np.testing.assert_allclose(values, expected, atol=1e-4)
    with pytest.raises(PolicyError, match="row 1: prompt and response need a token each"):
        response_log_probs(policy.model, prompts[:2], [[5], []])


def test_the_estimates_of_the_kl_meet_its_true_value() -> None:
    rng = np.random.default_rng(0)
    own, other = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    true = 4 * float((own * np.log(own / other)).sum())  # four independent tokens a response
    tokens = rng.choice(3, size=(4000, 4), p=own)
    found = sequence_kl(list(np.log(own)[tokens]), list(np.log(other)[tokens]))
    assert abs(found.k1 - true) < 4 * found.k1_error
    assert found.k3 == pytest.approx(true, abs=4 * found.k1_error)
    assert found.k3 >= 0
    one = sequence_kl([np.array([-2.0])], [np.array([-1.0])])
    assert (one.k1, one.k1_error) == (-1.0, 0.0)
    assert one.k3 == pytest.approx(np.e - 1 - 1)
    with pytest.raises(PolicyError, match="1 responses under the policy, 0"):
        sequence_kl([np.zeros(1)], [])


def test_a_model_whose_limits_are_its_text_part_s_keeps_its_context() -> None:
    """As multimodal models have them: no max_position_embeddings of their own."""
    from transformers import Qwen3_5Config

    config = Qwen3_5Config(text_config={"max_position_embeddings": 96, "num_hidden_layers": 4})
    assert not hasattr(config, "max_position_embeddings")
    assert Policy(SimpleNamespace(config=config), None).context == 96
