"""What a GGUF file says before its weights, or why it is not read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gguf_files import write_gguf
from transformers import LlamaForCausalLM

from realm_lib.config.rlhf import PolicyParams
from realm_lib.models.gguf import gguf_config, gguf_tokenizer
from realm_lib.models.gguf_header import GGUFError, HeldTensor, read_header
from realm_lib.rlhf.policies import PolicyError, load_policy


@pytest.fixture
def file(tiny_config: Any, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "model.gguf", LlamaForCausalLM(tiny_config), tiny_tokenizer, "Q5_0")


def test_what_a_file_says(file: Path, tiny_tokenizer: Any) -> None:
    header = read_header(file)
    assert header.kind == "llama"
    assert header.about("block_count") == 2
    assert header.about("rope.scaling.type") is None
    assert header.metadata["tokenizer.ggml.tokens"] == len(tiny_tokenizer)
    assert header.tensors["blk.1.attn_k.weight"] == HeldTensor((32, 64), "Q5_0")
    assert header.tensors["blk.1.attn_norm.weight"] == HeldTensor((64,), "F32")
    assert header.lacks() is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda _: b"",
        lambda _: b"GGUF",
        lambda whole: b"PK\3\4" + whole[4:],
        lambda whole: whole[:4] + b"\1" + whole[5:],
        lambda whole: whole[:900],  # within the vocabulary
        lambda whole: whole[:-100],
        lambda whole: whole.replace(b"general.architecture", b"general.architexture"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_wherever_it_is_read(broken: Callable[[bytes], bytes], file: Path) -> None:
    file.write_bytes(broken(file.read_bytes()))
    for read in (read_header, gguf_config, gguf_tokenizer):
        with pytest.raises(GGUFError, match=r"model\.gguf: cannot be read as GGUF \(.+\): download it again"):
            read(file)
    with pytest.raises(PolicyError, match=r"model\.gguf: cannot be read as GGUF"):
        load_policy(PolicyParams(model_name=str(file)))


def test_a_file_that_lacks_what_its_model_is_built_by_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"llama.block_count", b"llama.block_kount"))
    with pytest.raises(GGUFError, match=r"does not say llama\.block_count: .* download it again"):
        gguf_config(file)
    file.write_bytes(whole.replace(b"llama.vocab_size", b"other.vocab_size").replace(b"ggml.tokens", b"ggml.tokenz"))
    with pytest.raises(GGUFError, match=r"holds no vocabulary: put the model's config\.json"):
        gguf_config(file)
    with pytest.raises(GGUFError, match=r"cannot be read as GGUF \('tokens'\)"):
        gguf_tokenizer(file)
