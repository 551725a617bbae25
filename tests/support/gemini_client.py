"""What asks the Gemini server of these tests: parameters, texts, and features made from its vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.features.extraction import extract_features
from realm_lib.features.store import FeatureStore
from support.gemini_server import GeminiServer

KEY = "AIzaSyTheSecretKey0123456789"
DOCUMENT, QUESTION = "RETRIEVAL_DOCUMENT", "QUESTION_ANSWERING"


def params(server: GeminiServer | None, sdk: str = "google-generativeai", **changes: Any) -> EmbeddingParams:
    values = {
        "backend": "gemini",
        "model_id": "gemini-embedding-001",
        "sdk": sdk,
        "api_endpoint": server and server.url,
        "dimensions": 128,
        "task_type": DOCUMENT,
        "batch_size": None,
        "timeout": 5.0,
        "retry_wait": 0.02,
        "max_attempts": 4,
    }
    return EmbeddingParams(**{**values, **changes})


class SimilarityAlone:
    """A combiner whose reward is the similarity, and whose spread is the score."""

    features = ("score", "similarity")

    def outside(self, features: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.zeros(len(features), dtype=bool)

    def reward_and_spread(self, features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return features[:, 1], features[:, 0]


class LengthScorer:
    """A reward model as small as can be: longer is better."""

    identity: ClassVar = {"model": "length"}

    def score(self, prompts: Sequence[Any], responses: Sequence[str]) -> NDArray[np.float32]:
        assert len(prompts) == len(responses)
        return np.array([len(text) for text in responses], dtype=np.float32)

    def count_tokens(self, prompts: Sequence[Any], responses: Sequence[str]) -> NDArray[np.int64]:
        assert len(prompts) == len(responses)
        return np.array([len(text) for text in responses], dtype=np.int64)


def some_pairs(posts: int = 40) -> pd.DataFrame:
    """Texts: ``posts`` prompts and twice as many responses, all distinct."""
    rows = [(f"question {n}?", f"answer {n}", f"another answer {n}, longer") for n in range(posts)]
    return pd.DataFrame(rows, columns=["history", "human_ref_A", "human_ref_B"])


def all_texts(pairs: pd.DataFrame) -> list[str]:
    return [*pairs["history"], *pairs["human_ref_A"], *pairs["human_ref_B"]]


def extract(pairs: pd.DataFrame, embedder: Any, folder: Path, batch_size: int = 32) -> pd.DataFrame:
    return extract_features(
        pairs, LengthScorer(), embedder, FeatureStore(folder), batch_size=batch_size, progress=False
    )
