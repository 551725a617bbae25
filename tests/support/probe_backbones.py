"""A language model of five random layers in a folder, and pairs that its hidden states can tell apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import LlamaForCausalLM


def save_backbone(folder: Path, tokenizer: Any, config: Any) -> Path:
    """A causal model of the tests' tiny Llama's shape with five layers."""
    torch.manual_seed(3)
    deeper = type(config).from_dict(config.to_dict() | {"num_hidden_layers": 5, "initializer_range": 0.2})
    LlamaForCausalLM(deeper).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def polite_pairs(count: int, seed: int) -> pd.DataFrame:
    """Pairs of which the chosen response says thanks and the other shouts, a post for every two."""
    rng = np.random.default_rng(seed)
    words = ["bread", "yeast", "oven", "water", "flour", "salt", "dough", "rest"]

    def some(least: int) -> str:
        return " ".join(rng.choice(words, size=rng.integers(least, least + 6)))

    rows = []
    for number in range(count):
        kind, rude = f"thanks, {some(3)} please", f"NO! {some(3)} WRONG"
        first = bool(rng.integers(2))
        rows.append(
            {
                "history": f"question {number // 2}: {some(2)}?" if number % 2 == 0 else rows[-1]["history"],
                "human_ref_A": kind if first else rude,
                "human_ref_B": rude if first else kind,
                "labels": int(first),
            }
        )
    return pd.DataFrame(rows)
