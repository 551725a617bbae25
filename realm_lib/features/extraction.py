"""Preference pairs to features: a reward-model score and a prompt-response cosine for every response, once each."""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from realm_lib.data.pairs import distinct_texts
from realm_lib.features.filling import _fill, _fill_from_stream
from realm_lib.features.store import FeatureStore, FeatureTable, text_key
from realm_lib.models.embedders import Embedder, HostedEmbedder, Quote, by_role, cosine
from realm_lib.models.reward_models import HostedScorer, LongResponseError, Scorer

__all__ = [
    "FEATURE_COLUMNS",
    "Scores",
    "extract_features",
    "quote_embeddings",
    "score_texts",
    "stored_similarities",
]

FEATURE_COLUMNS = ("reward_A", "reward_B", "similarity_A", "similarity_B")
_RESPONSES = ("human_ref_A", "human_ref_B")
_COSINES_AT_ONCE = 8192  # bounds memory: two matrices of that many vectors


def extract_features(
    pairs: pd.DataFrame,
    scorer: Scorer,
    embedder: Embedder,
    store: FeatureStore,
    *,
    batch_size: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """``pairs`` with the columns reward_A, reward_B, similarity_A, similarity_B beside their own.

    Every distinct (prompt, response) is scored once and every distinct text embedded once, however many pairs hold
    it, and each ``batch_size`` of them is committed to ``store`` before the next is computed: an interrupted call goes
    on from there. ``attrs["counts"]`` has the fields of metrics/features.json.

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
        raise LongResponseError(
            f"{error} (post_id {', '.join(map(str, posts[:5]))})", error.tokens, error.limit
        ) from None
    computed, tokens = scores.computed, scores.tokens
    texts["reward"] = scores.values
    texts["similarity"] = _similarities(prompts, responses, embedder, store, batch_size, progress)

    features = pairs
    for side in "AB":
        values = texts.set_axis(["history", f"human_ref_{side}", f"reward_{side}", f"similarity_{side}"], axis=1)
        features = features.merge(values, on=["history", f"human_ref_{side}"], how="left", validate="many_to_one")
    for name, (a, b) in stored_similarities(pairs, embedder, store).items():
        features[f"similarity_A under {name}"], features[f"similarity_B under {name}"] = a, b
    times_used = pd.concat(
        [pairs[["history", f"human_ref_{side}"]].set_axis(["prompt", "response"], axis=1) for side in "AB"]
    ).value_counts()
    features.attrs = {
        **pairs.attrs,
        "counts": {
            "pairs": len(pairs),
            "unique_responses": len(texts),
            "scored": len(computed),
            "cache_hits": len(texts) - len(computed),
            "tokens_scored": int(tokens[computed].sum()),
            "tokens_naive": int((tokens * times_used.reindex(pd.MultiIndex.from_arrays([prompts, responses]))).sum()),
            "seconds": round(time.monotonic() - start, 2),
        },
    }
    return features


class Scores(NamedTuple):
    """Scores of some texts, float32 [n], the tokens of each, int64 [n], and the places that were not in the store."""

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

    The responses to one prompt go to the scorer together, which computes what they share once; prompts of a like
    length go together too. Raises what the scorer raises, :class:`LongResponseError` before anything is scored.
    """
    tokens = scorer.count_tokens(prompts, responses)
    keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    longest: dict[str, int] = {}
    for prompt, length in zip(prompts, tokens.tolist(), strict=True):
        longest[prompt] = max(longest.get(prompt, 0), length)
    first = {prompt: place for place, prompt in reversed(list(enumerate(prompts)))}
    order = sorted(
        range(len(keys)), key=lambda place: (-longest[prompts[place]], first[prompts[place]], -tokens[place])
    )
    table = store.table("score", scorer.identity, 1)
    label = "scoring" if progress else None
    if isinstance(scorer, HostedScorer):
        hosted = scorer
        computed = _fill_from_stream(
            table,
            keys,
            order,
            lambda places: _columns(hosted.stream([prompts[n] for n in places], [responses[n] for n in places])),
            batch_size,
            label,
        )
    else:
        computed = _fill(
            table,
            keys,
            lambda places: scorer.score([prompts[n] for n in places], [responses[n] for n in places])[:, None],
            order=order,
            groups=prompts,
            sizes=tokens,
            batch_size=batch_size,
            label=label,
        )
    values = table.get(keys)[:, 0]
    table.close()
    return Scores(values, tokens, computed)


def _columns(
    answers: Generator[tuple[list[int], NDArray[np.float32]]],
) -> Generator[tuple[list[int], NDArray[np.float32]]]:
    with closing(answers):
        for places, some in answers:
            yield places, some[:, None]


def quote_embeddings(frames: Iterable[pd.DataFrame], embedder: Embedder, store: FeatureStore) -> Quote | None:
    """What embedding the pairs of ``frames`` would still take, what is in ``store`` left out.

    None for an embedder that is not paid. Raises what its ``authorise`` raises: over the budget, or no key.
    """
    if not isinstance(embedder, HostedEmbedder):
        return None
    texts = pd.concat([distinct_texts(pairs) for pairs in frames])
    total = Quote(texts=0, tokens=0, cost=0.0, cut=0)
    for side in dict.fromkeys(_sides(texts["prompt"].tolist(), texts["response"].tolist(), embedder, store)):
        if isinstance(side.embedder, HostedEmbedder):
            total += side.embedder.quote([text for text in side.texts if text_key(text) not in side.table])
        side.table.close()
    embedder.authorise(total)
    return total


def stored_similarities(
    pairs: pd.DataFrame, embedder: Embedder, store: FeatureStore
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The cosines of A and of B, each [pairs], by the task types under which ``store`` holds every text of ``pairs``.

    A name is ``PROMPTS' TYPE, RESPONSES' TYPE``. Nothing is asked: what an earlier run embedded in another way is
    found. Empty for an embedder without task types, and where there is one way only, with nothing to compare.
    """
    if not isinstance(embedder, HostedEmbedder):
        return {}
    tables = {
        name: store.table("embedding", one.identity, one.dimensions)
        for name, one in embedder.by_task_type().items()
        if store.has_table("embedding", one.identity)
    }
    prompts, *responses = ([text_key(text) for text in pairs[name]] for name in ("history", *_RESPONSES))
    of_prompts = [name for name, table in tables.items() if all(key in table for key in prompts)]
    of_responses = [name for name, table in tables.items() if all(key in table for side in responses for key in side)]
    if len(of_prompts) * len(of_responses) < 2:
        return {}
    found = {}
    for asked in of_prompts:
        for answered in of_responses:
            a, b = (_cosines(tables[asked], prompts, tables[answered], side) for side in responses)
            found[f"{asked}, {answered}"] = a, b
    return found


class _Side(NamedTuple):
    """Distinct texts, and the embedder and the table that they share."""

    texts: tuple[str, ...]
    embedder: Embedder
    table: FeatureTable

    def compute(self, places: Sequence[int]) -> NDArray[np.float32]:
        return self.embedder.embed([self.texts[n] for n in places])

    def stream(self, places: Sequence[int]) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        assert isinstance(self.embedder, HostedEmbedder)
        return self.embedder.stream([self.texts[n] for n in places])


def _sides(
    prompts: Sequence[str], responses: Sequence[str], embedder: Embedder, store: FeatureStore
) -> tuple[_Side, _Side]:
    """Of prompts and of responses; the same one twice when the model treats both alike."""
    of_prompts, of_responses = by_role(embedder)
    if of_prompts is of_responses:
        table = store.table("embedding", embedder.identity, embedder.dimensions)
        both = _Side(tuple(dict.fromkeys([*prompts, *responses])), of_responses, table)
        return both, both
    first, second = (
        _Side(tuple(dict.fromkeys(texts)), side, store.table("embedding", side.identity, side.dimensions))
        for texts, side in ((prompts, of_prompts), (responses, of_responses))
    )
    return first, second


def _similarities(
    prompts: Sequence[str],
    responses: Sequence[str],
    embedder: Embedder,
    store: FeatureStore,
    batch_size: int,
    progress: bool,
) -> NDArray[np.float64]:
    prompt_side, response_side = _sides(prompts, responses, embedder, store)
    for side in dict.fromkeys((prompt_side, response_side)):
        order = sorted(range(len(side.texts)), key=lambda place: -len(side.texts[place]))
        label = "embedding" if progress else None
        keys = [text_key(text) for text in side.texts]
        if isinstance(side.embedder, HostedEmbedder):
            _fill_from_stream(side.table, keys, order, side.stream, batch_size, label)
        else:
            _fill(
                side.table,
                keys,
                side.compute,
                order=order,
                groups=side.texts,
                sizes=np.array([len(text) for text in side.texts]),
                batch_size=batch_size,
                label=label,
            )
    return _cosines(
        prompt_side.table,
        [text_key(text) for text in prompts],
        response_side.table,
        [text_key(text) for text in responses],
    )


def _cosines(
    of_prompts: FeatureTable, prompts: Sequence[bytes], of_responses: FeatureTable, responses: Sequence[bytes]
) -> NDArray[np.float64]:
    """Cosines [n] of the vectors under the keys ``prompts`` and ``responses``."""
    pieces = [slice(start, start + _COSINES_AT_ONCE) for start in range(0, len(prompts), _COSINES_AT_ONCE)]
    return np.concatenate([cosine(of_prompts.get(prompts[some]), of_responses.get(responses[some])) for some in pieces])
