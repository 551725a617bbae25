"""Small models written as GGUF files, as llama.cpp's converter writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import quantize

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}


def write_gguf(
    file: Path,
    model: Any,
    tokenizer: Any,
    kind: str = "F32",
    pre: str = "gpt-2",
    more: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
) -> Path:
    """``model`` in ``file``, its matrices of type ``kind``; ``more`` are numbers or strings for the metadata."""
    config = model.config
    arch = config.model_type
    writer = GGUFWriter(file, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch == "llama":
        writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_vocab_size(config.vocab_size)
    write_tokenizer(writer, tokenizer, pre)
    for key, value in (more or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    names = get_tensor_name_map(ARCHITECTURES[arch], config.num_hidden_layers)
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weights.float().numpy()
        if arch == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        add_tensor(writer, str(names.get_name(name, (".weight", ".bias"))), values, kind)
    for name, values in (tensors or {}).items():
        add_tensor(writer, name, values, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_tensor(writer: GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if values.ndim < 2 or kind == "F32":
        writer.add_tensor(name, np.ascontiguousarray(values))
    else:
        quant = GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(np.ascontiguousarray(values), quant), raw_dtype=quant)


def write_tokenizer(writer: GGUFWriter, tokenizer: Any, pre: str) -> None:
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    added = tokenizer.added_tokens_decoder
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1 if n not in added else 3 if added[n].special else 4 for n in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
