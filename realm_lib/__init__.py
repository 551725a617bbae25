"""REALM: a reward for RLHF that combines a reward model's score with prompt-response similarity.

Names are loaded on first use, so that ``import realm_lib`` costs nothing until a model is needed.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realm_lib.combiner import Combiner
    from realm_lib.embedders import build_embedder
    from realm_lib.evaluation import evaluate_rewards
    from realm_lib.features import extract_features
    from realm_lib.params import load_params
    from realm_lib.ppo import train_ppo
    from realm_lib.preferences import load_pairs
    from realm_lib.reward import RealmReward
    from realm_lib.scorers import build_scorer

__version__ = "0.1.0"

_HOME = {
    "Combiner": "combiner",
    "RealmReward": "reward",
    "build_embedder": "embedders",
    "build_scorer": "scorers",
    "evaluate_rewards": "evaluation",
    "extract_features": "features",
    "load_pairs": "preferences",
    "load_params": "params",
    "train_ppo": "ppo",
}

__all__ = [
    "Combiner",
    "RealmReward",
    "build_embedder",
    "build_scorer",
    "evaluate_rewards",
    "extract_features",
    "load_pairs",
    "load_params",
    "train_ppo",
]

# peft, which transformers loads, loads bitsandbytes; on some CPUs that warns of a package for faster 4-bit products.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'realm_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"realm_lib.{_HOME[name]}"), name)
