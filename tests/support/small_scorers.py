"""Small reward models in folders, and the scorers that read them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForSequenceClassification, Qwen2Config, Qwen2ForSequenceClassification

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.reward_models import build_scorer
from realm_lib.models.reward_models.transformer import TransformerScorer

Edit = Callable[[dict[str, torch.Tensor]], None]


def scorer_of(folder: Path, backend: str = "inform", **options: Any) -> TransformerScorer:
    scorer = build_scorer(RewardModelParams.model_validate({"backend": backend, "model_id": str(folder), **options}))
    assert isinstance(scorer, TransformerScorer)
    return scorer


def copied(folder: Path, to: Path, edit: Edit | None = None, **config: Any) -> Path:
    """A copy of a checkpoint with its weights edited in place and keys of its config replaced."""
    shutil.copytree(folder, to)
    if edit:
        weights = load_file(to / "model.safetensors")
        edit(weights)
        save_file(weights, to / "model.safetensors", {"format": "pt"})
    if config:
        (to / "config.json").write_text(json.dumps(json.loads((to / "config.json").read_text()) | config))
    return to


def retemplate(folder: Path, change: Callable[[str], str]) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = change(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    return folder


def stock_folder(folder: Path, tokenizer: Any, config: Any, architecture: str, pad_is_eos: bool) -> Path:
    torch.manual_seed(1)
    if architecture == "qwen2":
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        names += ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "num_labels", "initializer_range")
        model: Any = Qwen2ForSequenceClassification(Qwen2Config(**{name: getattr(config, name) for name in names}))
    else:
        model = LlamaForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pad_is_eos:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": tokenizer.eos_token_id}))
        saved = AutoTokenizer.from_pretrained(folder)
        saved.pad_token = saved.eos_token
        saved.save_pretrained(folder)
    return folder
