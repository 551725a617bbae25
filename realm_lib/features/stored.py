"""What the feature store holds of a run's texts, read beside whoever writes it: nothing is opened for writing."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import Params
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.signals import EmbeddingSignal, RewardModelSignal
from realm_lib.data.chats import readable
from realm_lib.features.store import FeatureStoreError, text_key
from realm_lib.models.embedders import HostedEmbedder, Quote, build_embedder, by_role

_OF_SCORERS = ("backend", "quantization", "dtype", "max_length")
"""Keys of an identity that are known before weights are read; a service's has some of them only."""


@dataclass(frozen=True)
class StoredTexts:
    """How many of the texts of a feature are in the store."""

    feature: str
    model: str
    texts: int
    stored: int
    left: Quote | None = None
    """What a service that is paid still takes; None where none is asked."""

    @property
    def to_do(self) -> int:
        """Texts that the store lacks."""
        return self.texts - self.stored


def stored_texts(params: Params, texts: pd.DataFrame, folder: Path) -> list[StoredTexts]:
    """The score, the similarity and the signals that a model makes, for ``texts`` (columns prompt, response).

    The weights' version is not looked at: of several tables of one model the newest counts. Raises
    :class:`FeatureStoreError` for a store that cannot be read.
    """
    found = [_of_scores("score", params.reward_model, texts, folder)]
    found.append(_of_vectors("similarity", params.embedding, texts, folder))
    for name, signal in params.signals.items():
        if isinstance(signal, RewardModelSignal):
            found.append(_of_scores(name, signal.reward_model, texts, folder))
        elif isinstance(signal, EmbeddingSignal):
            found.append(_of_vectors(name, signal.embedding, texts, folder))
    return found


def _of_scores(name: str, params: RewardModelParams, texts: pd.DataFrame, folder: Path) -> StoredTexts:
    alike = {"model": params.model_id} | {key: getattr(params, key) for key in _OF_SCORERS}
    keys = _keys(folder, "score", alike)
    asked = zip(texts["prompt"], texts["response"], strict=True)
    return StoredTexts(name, params.model_id, len(texts), sum(text_key(*each) in keys for each in asked) if keys else 0)


def _of_vectors(name: str, params: EmbeddingParams, texts: pd.DataFrame, folder: Path) -> StoredTexts:
    prompts = list(dict.fromkeys(map(readable, texts["prompt"])))
    responses = list(dict.fromkeys(texts["response"]))
    if params.backend == "sentence_transformers":
        keys = _keys(folder, "embedding", {"model": params.model_id, "dimensions": params.dimensions})
        distinct = dict.fromkeys([*prompts, *responses])
        stored = sum(text_key(text) in keys for text in distinct) if keys else 0
        return StoredTexts(name, params.model_id, len(distinct), stored)
    of_prompts, of_responses = by_role(build_embedder(params))
    sides = {id(of_prompts): (of_prompts, prompts)}
    one = of_prompts is of_responses
    sides[id(of_responses)] = of_responses, list(dict.fromkeys([*prompts, *responses])) if one else responses
    total, left = 0, Quote(texts=0, tokens=0, cost=0.0, cut=0)
    for embedder, asked in sides.values():
        assert isinstance(embedder, HostedEmbedder)
        keys = _keys(folder, "embedding", embedder.identity)
        left += embedder.quote([text for text in asked if text_key(text) not in keys])
        total += len(asked)
    return StoredTexts(name, params.model_id, total, total - left.texts, left)


def _keys(folder: Path, kind: str, alike: Mapping[str, Any]) -> set[bytes]:
    """The keys in the newest table of ``kind`` whose identity says what ``alike`` says, of what both say."""
    tables = sorted(folder.glob(f"{kind}-*.sqlite"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in tables:
        identity = json.loads(_first(path, "SELECT text FROM identity") or "{}")
        if identity and all(identity[key] == value for key, value in alike.items() if key in identity):
            return set(_column(path, "SELECT key FROM entries"))
    return set()


def _first(path: Path, query: str) -> Any:
    return next(iter(_column(path, query)), None)


def _column(path: Path, query: str) -> Iterable[Any]:
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            return [value for (value,) in connection.execute(query)]
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # it is being made
            return []
        raise FeatureStoreError(f"{path}: the feature store cannot be read: {error}") from error
    except sqlite3.Error as error:
        raise FeatureStoreError(
            f"{path}: the feature store cannot be read: {error}. Delete the file: its values are computed again"
        ) from error
