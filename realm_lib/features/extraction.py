"""Preference pairs to features: a number of each kind for every response, computed once."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from realm_lib.config.signals import SignalsParams
from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import distinct_texts, places_of_texts, posts_with, sides_of
from realm_lib.features.identities import Identities, identities_of
from realm_lib.features.reading import LongTextError, refuse_long
from realm_lib.features.scores import score_texts
from realm_lib.features.signals import ScoreSignal, Signal, SignalError, SimilaritySignal, Stored, build_signal, naming
from realm_lib.features.similarity import quote_embeddings, stored_similarities
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import Embedder, Reading
from realm_lib.models.reward_models import LongResponseError, Scorer, ScoreReading
from realm_lib.runs.memory import release_memory

FEATURE_COLUMNS = ("score_A", "score_B", "similarity_A", "similarity_B")
VOTES = {"score_A": "votes_A", "score_B": "votes_B"}
"""What SHP calls a score, and its name where a score is a model's."""


@dataclass(frozen=True)
class FeatureCounts:
    """What an extraction took: the fields of metrics/features.json."""

    pairs: int
    unique_responses: int
    scored: int
    cache_hits: int
    tokens_scored: int
    """Of the responses scored now."""
    tokens_naive: int
    """What scoring every response of every pair would read."""
    seconds: float

    def to_dict(self) -> dict[str, int | float]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FeatureCost:
    """What one feature takes; None where there is nothing to count."""

    computed: int
    """Numbers computed now; of a cosine the texts that were embedded."""
    cache_hits: int
    """The others, which were in the store."""
    tokens: int | None
    """Of all distinct texts, whether they were in the store or not: what the feature takes from nothing."""
    seconds: float
    """For what was computed now."""
    cost: float | None
    """US dollars for all distinct texts, estimated, of an embedder that is paid."""

    def __add__(self, other: "FeatureCost") -> "FeatureCost":
        return FeatureCost(
            self.computed + other.computed,
            self.cache_hits + other.cache_hits,
            None if self.tokens is None or other.tokens is None else self.tokens + other.tokens,
            round(self.seconds + other.seconds, 2),
            None if self.cost is None or other.cost is None else self.cost + other.cost,
        )


@dataclass(frozen=True)
class Extraction:
    """Pairs with their features, one row a pair, and what it took: in all, and each feature by its name."""

    table: pd.DataFrame
    counts: FeatureCounts
    costs: Mapping[str, FeatureCost]
    identities: Identities = field(default_factory=dict)
    """Of the model that made each feature."""
    readings: Mapping[str, Reading | ScoreReading] = field(default_factory=dict)
    """How much of the texts the models read, by the name of their feature."""


def extract_features(
    pairs: pd.DataFrame,
    scorer: Scorer,
    embedder: Embedder,
    store: FeatureStore,
    *,
    signals: Mapping[str, Signal] | None = None,
    batch_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """``pairs`` with their features beside their own columns; see :func:`extract` and :func:`add_signal`.

    These are score_A, score_B, similarity_A, similarity_B, and NAME_A, NAME_B of each of the ``signals``.
    """
    extraction = extract(pairs, scorer, embedder, store, batch_size=batch_size, progress=progress)
    for name, signal in (signals or {}).items():
        extraction = add_signal(extraction, name, signal, store, batch_size=batch_size, progress=progress)
    return extraction.table


def extract(
    pairs: pd.DataFrame,
    scorer: Scorer,
    embedder: Embedder,
    store: FeatureStore,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> Extraction:
    """The score and the similarity of every response of ``pairs``, and what they took.

    Every distinct (prompt, response) is scored once and every distinct text embedded once, however many pairs hold
    it, and each ``batch_size`` of them is committed to ``store`` before the next is computed: an interrupted call goes
    on from there. SHP's votes, which it calls score_A and score_B, become votes_A and votes_B.

    With an embedder that is paid, what the run takes is printed first, and refused when it is over the budget; and the
    columns of :func:`stored_similarities` are added, for notebook 03 to compare.
    Raises what the scorer and the embedder raise; a failed text is never a feature.
    """
    start = time.monotonic()
    if (quote := quote_embeddings([pairs], embedder, store)) and quote.texts:
        tqdm.write(f"embedding: {quote}")
    texts = distinct_texts(pairs)
    prompts, responses = sides_of(texts)
    label = "scoring" if progress else None
    with _naming_posts(texts, pairs):
        refuse_long(prompts, responses, embedder)
        scores = score_texts(scorer, prompts, responses, store, batch_size=batch_size, label=label)
    scored = time.monotonic()
    label = "embedding" if progress else None
    similarity = SimilaritySignal(embedder)
    found = similarity.stored(prompts, responses, store, batch_size, label)
    costs = {
        "score": _cost(of_scores := Stored.of(scores), scored - start),
        "similarity": _cost(found, time.monotonic() - scored),
    }
    places = places_of_texts(pairs)
    table = _with_columns(votes_renamed(pairs), places, {"score": scores.values, "similarity": found.values})
    for name, (a, b) in stored_similarities(pairs, embedder, store).items():
        table[f"similarity_A under {name}"], table[f"similarity_B under {name}"] = a, b
    times_used = np.bincount(np.concatenate(places), minlength=len(texts))
    counts = FeatureCounts(
        pairs=len(pairs),
        unique_responses=len(texts),
        scored=len(scores.computed),
        cache_hits=len(texts) - len(scores.computed),
        tokens_scored=int(scores.tokens[scores.computed].sum()),
        tokens_naive=int((scores.tokens * times_used).sum()),
        seconds=round(time.monotonic() - start, 2),
    )
    identities = identities_of({"score": ScoreSignal(scorer), "similarity": similarity})
    return Extraction(
        table, counts, costs, identities, {**_readings("score", of_scores), **_readings("similarity", found)}
    )


def add_signal(
    extraction: Extraction,
    name: str,
    signal: Signal,
    store: FeatureStore,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> Extraction:
    """``extraction`` with the columns NAME_A and NAME_B of a signal, computed and kept as the first two features are.

    Raises :class:`PairsError` where the pairs have such a column, and what the signal raises, naming it.
    """
    start = time.monotonic()
    _refuse_taken(extraction.table, name)
    texts = distinct_texts(extraction.table)
    prompts, responses = sides_of(texts)
    with naming(name), _naming_posts(texts, extraction.table):
        found = signal.stored(prompts, responses, store, batch_size, name if progress else None)
    seconds = time.monotonic() - start
    return Extraction(
        _with_columns(extraction.table, places_of_texts(extraction.table), {name: found.values}),
        replace(extraction.counts, seconds=round(extraction.counts.seconds + seconds, 2)),
        {**extraction.costs, name: _cost(found, seconds)},
        {**extraction.identities, **identities_of({name: signal})},
        {**extraction.readings, **_readings(name, found)},
    )


def add_signals(
    features: Mapping[str, Extraction],
    signals: SignalsParams,
    store: FeatureStore,
    run_folder: Path | None = None,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> dict[str, Extraction]:
    """The signals of a profile added to each split, by :func:`add_signal`: one model at a time is in memory.

    With an embedder that is paid, what all splits take is printed, and refused when it is over its budget, before any
    is embedded. Raises what :func:`build_signal` raises too.
    """
    features = dict(features)
    for name in signals:
        for extraction in features.values():
            _refuse_taken(extraction.table, name)
    for name, params in signals.items():
        release_memory()
        signal = build_signal(name, params, run_folder)
        if isinstance(signal, SimilaritySignal):
            with naming(name):
                tables = [extraction.table for extraction in features.values()]
                if (quote := quote_embeddings(tables, signal.embedder, store)) and quote.texts:
                    tqdm.write(f"{name}: {quote}")
        for split, extraction in features.items():
            features[split] = add_signal(extraction, name, signal, store, batch_size=batch_size, progress=progress)
        del signal
    return features


def total_costs(extractions: Iterable[Extraction]) -> dict[str, dict[str, int | float | None]]:
    """What each feature takes in all splits, for JSON: computed, cache_hits, tokens, seconds, cost."""
    totals: dict[str, FeatureCost] = {}
    for extraction in extractions:
        for name, cost in extraction.costs.items():
            totals[name] = totals[name] + cost if name in totals else cost
    return {name: asdict(cost) for name, cost in totals.items()}


def total_readings(extractions: Mapping[str, Extraction]) -> dict[str, dict[str, Any]]:
    """How much the model of each feature reads, for JSON: the fields of :class:`Reading`, or of :class:`ScoreReading`,
    over all splits, and of each split under ``splits``. A text of two splits counts in both.
    """
    totals: dict[str, Any] = {}
    splits: dict[str, dict[str, Any]] = {}
    for split, extraction in extractions.items():
        for name, reading in extraction.readings.items():
            totals[name] = totals[name] + reading if name in totals else reading
            splits.setdefault(name, {})[split] = asdict(reading)
    return {name: {**asdict(total), "splits": splits[name]} for name, total in totals.items()}


def votes_renamed(pairs: pd.DataFrame) -> pd.DataFrame:
    """``pairs`` with SHP's votes, score_A and score_B there, as votes_A and votes_B: here a score is a model's."""
    return pairs.rename(columns=VOTES)


def _readings(name: str, found: Stored) -> dict[str, Reading | ScoreReading]:
    return {} if found.reading is None else {name: found.reading}


def _cost(found: Stored, seconds: float) -> FeatureCost:
    return FeatureCost(found.computed, found.cache_hits, found.tokens, round(seconds, 2), found.cost)


def _refuse_taken(table: pd.DataFrame, name: str) -> None:
    if taken := sorted({f"{name}_A", f"{name}_B"} & set(table.columns)):
        raise PairsError(f"signals.{name}: the pairs have a column {taken[0]} already: give the signal another name")


def _with_columns(
    table: pd.DataFrame, places: tuple[NDArray[np.int64], NDArray[np.int64]], values: Mapping[str, NDArray[Any]]
) -> pd.DataFrame:
    """``table`` with NAME_A and NAME_B for the ``values`` by NAME of its distinct texts, whose ``places`` are A's and
    B's (:func:`places_of_texts`)."""
    columns = {f"{name}_{side}": own[at] for side, at in zip("AB", places, strict=True) for name, own in values.items()}
    return table.reset_index(drop=True).assign(**columns)


@contextmanager
def _naming_posts(texts: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[None]:
    """Errors about some of the distinct ``texts`` say which posts of ``pairs`` they are of."""
    try:
        yield
    except (LongResponseError, LongTextError, SignalError) as error:
        if error.places:
            posts = posts_with(texts.iloc[error.places], pairs)
            error.args = (f"{error} (post_id {', '.join(posts[:5])})",)
        raise
