"""GGUF files: weights, tokenizer and configuration exactly as they were before, or a refusal."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from huggingface_hub import constants
from support.gguf_files import write_gguf
from support.small_scorers import scorer_of
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from realm_lib.config.rlhf import LoraParams, PolicyParams
from realm_lib.models.gguf import find_gguf, gguf_config, gguf_tokenizer, load_gguf
from realm_lib.models.gguf_header import GGUFError
from realm_lib.models.reward_models import ScorerError
from realm_lib.rlhf.policies import PolicyError, encode_prompts, load_policy, sample, save_policy
from realm_lib.runs.weights import folder_digest

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 128}),
}


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is converted is kept in a folder of the test's own."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("home")))


def model_of(kind: str, tokenizer: Any) -> Any:
    config_class, model_class, more = KINDS[kind]
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        initializer_range=0.2,
        **more,
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 1:
                weights.add_(0.1 * torch.randn_like(weights))  # norms and biases, else all ones and zeros
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_the_same_to_the_last_bit(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of(kind, tiny_tokenizer)
    file = write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer)
    read, _ = load_gguf(file, AutoModelForCausalLM, gguf_config(file), dtype=torch.float32)
    assert type(read) is type(model)
    for name, weights in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], weights), name
    ids = torch.arange(3, 80)[None]
    with torch.inference_mode():
        assert torch.equal(read(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_what_transformers_makes_of_the_file(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of(kind, tiny_tokenizer)
    file = write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer)
    theirs = AutoConfig.from_pretrained(tmp_path, gguf_file=file.name).to_dict()
    theirs |= {"_name_or_path": ""}  # a place
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):  # which it leaves out
        theirs[token] = getattr(model.config, token)
    if "head_dim" in theirs:  # which it guesses
        theirs["head_dim"] = model.config.head_dim
    assert gguf_config(file).to_dict() == theirs


@pytest.mark.parametrize("quantised", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_quantised_weights_are_as_the_format_unpacks_them(quantised: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of("qwen2", tiny_tokenizer)
    file = write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, quantised)
    read, _ = load_gguf(file, AutoModelForCausalLM, gguf_config(file), dtype=torch.float32)
    for name, weights in model.state_dict().items():
        expected = weights.numpy()
        if expected.ndim > 1:
            kind = GGMLQuantizationType[quantised]
            expected = dequantize(quantize(expected, kind), kind)
            assert not np.array_equal(expected, weights.numpy())
        np.testing.assert_array_equal(read.state_dict()[name].numpy(), expected)


def test_the_tokenizer_is_the_same(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", model_of("llama", tiny_tokenizer), tiny_tokenizer)
    read = gguf_tokenizer(file)
    assert read.chat_template == tiny_tokenizer.chat_template
    assert (read.bos_token, read.eos_token, read.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")
    for text in ("Why?  Does it\n\n rise 1234 times, Zwölf 你好 🍞?", "<|user|>So<|eos|>", " <|nothing|> "):
        for options in ({}, {"split_special_tokens": True}):
            rows = [each(text, add_special_tokens=False, **options)["input_ids"] for each in (read, tiny_tokenizer)]
            assert rows[0] == rows[1]
    # A tokenizer beside the file is taken before it.
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    beside = gguf_tokenizer(write_gguf(file, model_of("llama", tiny_tokenizer), tiny_tokenizer, pre="llama-bpe"))
    assert beside.get_vocab() == tiny_tokenizer.get_vocab()
    assert beside.chat_template == tiny_tokenizer.chat_template


def test_a_policy_is_read_sampled_and_saved(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of("llama", tiny_tokenizer)
    (tmp_path / "plain").mkdir()
    model.save_pretrained(tmp_path / "plain")
    tiny_tokenizer.save_pretrained(tmp_path / "plain")
    (tmp_path / "gguf").mkdir()
    file = write_gguf(tmp_path / "gguf" / "model.gguf", model, tiny_tokenizer)

    def answers(source: Path) -> list[list[int]]:
        policy = load_policy(PolicyParams(model_name=str(source)))
        assert policy.end_ids == {tiny_tokenizer.eos_token_id}
        assert policy.context == 128
        ids = encode_prompts(policy.tokenizer, ["Why?", "Why does bread rise?"], 64).ids
        options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "seeds": [1, 2], "batch_size": 2}
        return [response.ids for response in sample(policy, ids, **options)]

    save_policy(load_policy(PolicyParams(model_name=str(file)), trainable=True), tmp_path / "saved")
    assert answers(file) == answers(file.parent) == answers(tmp_path / "plain") == answers(tmp_path / "saved")


@pytest.mark.slow
def test_an_adapter_finds_the_file_that_it_was_trained_on(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", model_of("llama", tiny_tokenizer), tiny_tokenizer, "Q8_0")
    params = PolicyParams(model_name=str(file), lora=LoraParams(r=2, alpha=4.0))
    policy = load_policy(params, trainable=True)
    with torch.no_grad():
        for name, weights in policy.model.named_parameters():
            if "lora_B" in name:
                weights.add_(0.5)
    save_policy(policy, tmp_path / "adapter")
    again = load_policy(PolicyParams(model_name=str(tmp_path / "adapter")))
    ids = torch.arange(3, 80)[None]
    with torch.inference_mode():
        assert torch.equal(again.model(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_four_bits_of_a_file_are_those_of_the_same_weights(tiny_tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantisation needs bitsandbytes")
    model = model_of("llama", tiny_tokenizer)
    model.save_pretrained(tmp_path / "plain")
    tiny_tokenizer.save_pretrained(tmp_path / "plain")
    (tmp_path / "gguf").mkdir()
    write_gguf(tmp_path / "gguf" / "model.gguf", model, tiny_tokenizer)
    ids = torch.arange(3, 80)[None]
    places = [tmp_path / name for name in ("plain", "gguf")]
    policies = [load_policy(PolicyParams(model_name=str(place), quantization="4bit")) for place in places]
    with torch.inference_mode():
        plain, read = (policy.model(input_ids=ids).logits for policy in policies)
        assert torch.equal(plain, read)
        assert not torch.equal(plain, model(input_ids=ids).logits)


def test_a_reward_read_from_a_causal_models_logits(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of("llama", tiny_tokenizer)
    model.save_pretrained(tmp_path / "plain")
    tiny_tokenizer.save_pretrained(tmp_path / "plain")
    (tmp_path / "gguf").mkdir()
    file = write_gguf(tmp_path / "gguf" / "model.gguf", model, tiny_tokenizer)
    plain, read = (scorer_of(place, "nemotron", max_length=128) for place in (tmp_path / "plain", file))
    texts = [["Why?", "Why does bread rise?"], ["So.", "Yeast."]]
    np.testing.assert_array_equal(plain.score(*texts), read.score(*texts))
    assert read.identity["weights"] == folder_digest(file)
    with pytest.raises(ScorerError, match=r"holds output\.weight .*take the model's safetensors"):
        scorer_of(file, "sequence_classification", max_length=128)
    # llama.cpp's own form of a reward model's head, which transformers does not read.
    head = {"cls.output.weight": np.ones((1, 64), dtype=np.float32)}
    ranking = write_gguf(tmp_path / "ranking.gguf", model, tiny_tokenizer, tensors=head)
    with pytest.raises(ScorerError, match=r"holds cls\.output\.weight .*take the model's safetensors"):
        scorer_of(ranking, "sequence_classification", max_length=128)
    with pytest.raises(PolicyError, match=r"holds cls\.output\.weight"):
        load_policy(PolicyParams(model_name=str(ranking)))


def test_a_file_among_several_is_named(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of("llama", tiny_tokenizer)
    first, second = (write_gguf(tmp_path / f"{kind}.gguf", model, tiny_tokenizer, kind) for kind in ("F16", "Q8_0"))
    with pytest.raises(PolicyError, match=r"holds several GGUF files \(F16\.gguf, Q8_0\.gguf\): name one, as .*F16"):
        load_policy(PolicyParams(model_name=str(tmp_path)))
    assert find_gguf(second) == second
    assert len({folder_digest(place) for place in (first, second, tmp_path)}) == 3
    before = folder_digest(first)
    second.write_bytes(b"GGUF")
    assert folder_digest(first) == before
    with pytest.raises(PolicyError, match=r"Q8_0\.gguf: cannot be read as GGUF"):
        load_policy(PolicyParams(model_name=str(second)))
    part = shutil.copy(first, tmp_path / "large-00002-of-00003.gguf")
    with pytest.raises(GGUFError, match=r"is one of 3 parts: join them"):
        find_gguf(Path(part))
    model.save_pretrained(tmp_path)
    assert find_gguf(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"more": {"llama.rope.scaling.type": "yarn"}}, "says llama.rope.scaling.type, which is not read"),
        ({"more": {"llama.attention.sliding_window": 32}}, "says llama.attention.sliding_window"),
        ({"tensors": {"rope_freqs.weight": np.ones(8, dtype=np.float32)}}, "says rope_freqs.weight"),
        ({"pre": "llama-bpe"}, "its tokenizer (gpt2, llama-bpe) is not rebuilt exactly"),
        ({"tensors": {"blk.0.attn_q.bias": np.ones(64, dtype=np.float32)}}, "holds blk.0.attn_q.bias (1 such)"),
    ],
)
def test_what_would_be_left_out_is_refused(
    changes: dict[str, Any], says: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "model.gguf", model_of("llama", tiny_tokenizer), tiny_tokenizer, **changes)
    with pytest.raises(PolicyError) as caught:
        load_policy(PolicyParams(model_name=str(file)))
    assert says in str(caught.value)


def test_a_configuration_beside_the_file_says_what_it_does_not(tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = model_of("llama", tiny_tokenizer)
    scaled = LlamaForCausalLM(
        LlamaConfig.from_dict(
            model.config.to_dict() | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}
        )
    ).eval()
    scaled.load_state_dict(model.state_dict())
    file = write_gguf(tmp_path / "model.gguf", scaled, tiny_tokenizer, more={"llama.rope.scaling.type": "linear"})
    scaled.config.save_pretrained(tmp_path)
    policy = load_policy(PolicyParams(model_name=str(file)))
    ids = torch.arange(3, 80)[None]
    with torch.inference_mode():
        assert torch.equal(policy.model(input_ids=ids).logits, scaled(input_ids=ids).logits)


def test_another_architecture_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", model_of("llama", tiny_tokenizer), tiny_tokenizer)
    file.write_bytes(file.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0bloom"))
    with pytest.raises(
        PolicyError, match=r"its architecture bloom is not among those read exactly \(llama, qwen2, qwen3\)"
    ):
        load_policy(PolicyParams(model_name=str(file)))
