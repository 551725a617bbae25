"""What a configuration says before weights are read: how many tokens, and whose code."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.small_scorers import copied, scorer_of
from transformers import Gemma3Config, LlamaConfig, MistralConfig, Qwen2Config, T5Config, XLMRobertaConfig

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.rlhf import PolicyParams
from realm_lib.models.checkpoints import position_limit
from realm_lib.models.embedders import build_embedder
from realm_lib.models.embedders.vectors import EmbedderError
from realm_lib.models.reward_models import ScorerError
from realm_lib.rlhf.policies import PolicyError, load_policy

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (LlamaConfig(max_position_embeddings=131072, rope_parameters={**LLAMA3, "rope_theta": 5e5}), 131072),
        (LlamaConfig(max_position_embeddings=4096, rope_parameters={"rope_type": "linear", "factor": 4.0}), 16384),
        (
            Qwen2Config(
                max_position_embeddings=32768,
                rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            ),
            131072,
        ),
        (MistralConfig(max_position_embeddings=32768, sliding_window=4096), 32768),
        (Gemma3Config(text_config={"max_position_embeddings": 8192}), 8192),
        (XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (T5Config(), None),
    ],
    ids=lambda value: value.model_type if hasattr(value, "model_type") else str(value),
)
def test_how_many_tokens_have_positions(config: Any, limit: int | None) -> None:
    assert position_limit(config) == limit


def test_a_decoder_is_not_asked_to_read_beyond_its_positions(inform_folder: Path, tmp_path: Path) -> None:
    """Found out before its weights are read: there are none here."""
    folder = copied(inform_folder, tmp_path / "empty", max_position_embeddings=512)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ScorerError, match=r"reads 512 tokens at most; reward_model\.max_length is 513: lower it"):
        scorer_of(folder, max_length=513)
    with pytest.raises(ScorerError, match=r"cannot be loaded.*model\.safetensors"):
        scorer_of(folder, max_length=512)


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path(MARK).touch()
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose class lies in its folder, and a terminal at which everything is answered with yes."""
    names = dict.fromkeys(("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "own.OwnModel")
    folder = copied(
        inform_folder, tmp_path / "own", model_type="own", auto_map={"AutoConfig": "own.OwnConfig", **names}
    )
    (folder / "own.py").write_text(f"MARK = {str(tmp_path / 'ran')!r}{CODE}", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    return folder


BUILDS: dict[str, tuple[Callable[[str], Any], type[Exception]]] = {
    "inform": (lambda name: scorer_of(Path(name), max_length=128), ScorerError),
    "sequence_classification": (
        lambda name: scorer_of(Path(name), "sequence_classification", max_length=128),
        ScorerError,
    ),
    "policy": (lambda name: load_policy(PolicyParams(model_name=name)), PolicyError),
    "embedder": (
        lambda name: build_embedder(EmbeddingParams(backend="sentence_transformers", model_id=name)),
        EmbedderError,
    ),
}


@pytest.mark.parametrize("kind", BUILDS)
def test_no_code_of_a_models_repository_is_run(kind: str, own_code: Path, tmp_path: Path) -> None:
    build, error = BUILDS[kind]
    with pytest.raises(error, match=r"own: .*REALM runs no code from there: take a model of a class that transformers"):
        build(str(own_code))
    assert not (tmp_path / "ran").exists()
    assert sys.stdin.read().startswith("y")  # nobody was asked


def test_nor_the_code_of_a_tokenizer(own_code: Path, inform_folder: Path, tmp_path: Path) -> None:
    shutil.copy(inform_folder / "config.json", own_code / "config.json")
    path = own_code / "tokenizer_config.json"
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnModel", None]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    with pytest.raises(PolicyError, match="REALM runs no code from there"):
        load_policy(PolicyParams(model_name=str(own_code)))
    assert not (tmp_path / "ran").exists()
