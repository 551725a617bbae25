"""Preference pairs to features: a reward-model score and a prompt-response cosine for every response, once each."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from realm_lib.data.pairs import all_texts, distinct_texts
from realm_lib.features.filling import fill, fill_from_stream
from realm_lib.features.similarity import quote_embeddings, similarities, stored_similarities
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.embedders import Embedder
from realm_lib.models.reward_models import HostedScorer, LongResponseError, Scorer

FEATURE_COLUMNS = ("score_A", "score_B", "similarity_A", "similarity_B")


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
class Extraction:
    """Pairs with their features, one row a pair, and what it took."""

    table: pd.DataFrame
    counts: FeatureCounts


def extract_features(
    pairs: pd.DataFrame,
    scorer: Scorer,
    embedder: Embedder,
    store: FeatureStore,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """``pairs`` with the columns score_A, score_B, similarity_A, similarity_B beside their own; see :func:`extract`."""
    return extract(pairs, scorer, embedder, store, batch_size=batch_size, progress=progress).table


def extract(
    pairs: pd.DataFrame,
    scorer: Scorer,
    embedder: Embedder,
    store: FeatureStore,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> Extraction:
    """The features of ``pairs`` and what they took.

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
    prompts, responses = texts["prompt"].tolist(), texts["response"].tolist()
    try:
        scores = score_texts(scorer, prompts, responses, store, batch_size=batch_size, progress=progress)
    except LongResponseError as error:
        long = texts.iloc[error.places]["response"]
        posts = pairs.loc[pairs["human_ref_A"].isin(long) | pairs["human_ref_B"].isin(long), "post_id"].unique()
        message = f"{error} (post_id {', '.join(map(str, posts[:5]))})"
        raise LongResponseError(message, error.tokens, error.limit) from None
    texts["score"] = scores.values
    texts["similarity"] = similarities(prompts, responses, embedder, store, batch_size, progress)

    table = votes_renamed(pairs)
    for side in "AB":
        values = texts.set_axis(["history", f"human_ref_{side}", f"score_{side}", f"similarity_{side}"], axis=1)
        table = table.merge(values, on=["history", f"human_ref_{side}"], how="left", validate="many_to_one")
    for name, (a, b) in stored_similarities(pairs, embedder, store).items():
        table[f"similarity_A under {name}"], table[f"similarity_B under {name}"] = a, b
    times_used = all_texts(pairs).value_counts().reindex(pd.MultiIndex.from_frame(texts[["prompt", "response"]]))
    counts = FeatureCounts(
        pairs=len(pairs),
        unique_responses=len(texts),
        scored=len(scores.computed),
        cache_hits=len(texts) - len(scores.computed),
        tokens_scored=int(scores.tokens[scores.computed].sum()),
        tokens_naive=int((scores.tokens * times_used.to_numpy()).sum()),
        seconds=round(time.monotonic() - start, 2),
    )
    return Extraction(table, counts)


def votes_renamed(pairs: pd.DataFrame) -> pd.DataFrame:
    """``pairs`` with SHP's votes, score_A and score_B there, as votes_A and votes_B: here a score is a model's."""
    return pairs.rename(columns={f"score_{side}": f"votes_{side}" for side in "AB"})


class Scores(NamedTuple):
    """Scores of some texts, float32 [n], the tokens of each, int64 [n], and the rows that were not in the store."""

    values: NDArray[np.float32]
    tokens: NDArray[np.int64]
    computed: list[int]


def score_texts(
    scorer: Scorer,
    prompts: Sequence[str],
    responses: Sequence[str],
    store: FeatureStore,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> Scores:
    """The score of each distinct (prompt, response), from ``store`` or computed and committed to it.

    Raises what the scorer raises, :class:`LongResponseError` before anything is scored.
    """
    tokens = scorer.count_tokens(prompts, responses)
    keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    order = _scoring_order(prompts, tokens)
    table = store.table("score", scorer.identity, 1)
    label = "scoring" if progress else None
    if isinstance(scorer, HostedScorer):
        hosted = scorer
        computed = fill_from_stream(
            table,
            keys,
            order,
            lambda rows: hosted.stream([prompts[n] for n in rows], [responses[n] for n in rows]),
            batch_size,
            label,
        )
    else:
        computed = fill(
            table,
            keys,
            lambda rows: scorer.score([prompts[n] for n in rows], [responses[n] for n in rows])[:, None],
            order=order,
            groups=prompts,
            sizes=tokens,
            batch_size=batch_size,
            label=label,
        )
    values = table.get(keys)[:, 0]
    table.close()
    return Scores(values, tokens, computed)


def _scoring_order(prompts: Sequence[str], tokens: NDArray[np.int64]) -> list[int]:
    """The rows in the order in which they are scored.

    Responses to one prompt go to the scorer together, which computes what they share once. Prompts of like length go
    together too, so that little is padded; the longest first, so that memory runs out at once if it does at all.
    """
    prompt_of, distinct = pd.factorize(np.array(prompts, dtype=object))
    longest = np.zeros(len(distinct), dtype=np.int64)
    np.maximum.at(longest, prompt_of, tokens)
    order: list[int] = np.lexsort((-tokens, prompt_of, -longest[prompt_of])).tolist()
    return order
