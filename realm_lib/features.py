"""Preference pairs to features: a reward-model score and a prompt-response cosine for every response, once each."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from realm_lib.embedders import Embedder, EmbedderError, HostedEmbedder, Quote, by_role, cosine
from realm_lib.feature_store import FeatureStore, FeatureTable, text_key
from realm_lib.preferences import distinct_texts
from realm_lib.scorers import Scorer

__all__ = ["FEATURE_COLUMNS", "extract_features", "quote_embeddings"]

FEATURE_COLUMNS = ("reward_A", "reward_B", "similarity_A", "similarity_B")
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

    With an embedder that is paid, what the run takes is printed first, and refused when it is over the budget.
    Raises what the scorer and the embedder raise; a failed text is never a feature.
    """
    start = time.monotonic()
    if (quote := quote_embeddings([pairs], embedder, store)) and quote.texts:
        tqdm.write(f"embedding: {quote}")
    texts = distinct_texts(pairs)
    prompts, responses = texts["prompt"].tolist(), texts["response"].tolist()
    keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]

    tokens = scorer.count_tokens(prompts, responses)
    scores = store.table("score", scorer.identity, 1)
    computed = _fill(
        scores,
        keys,
        lambda places: scorer.score([prompts[n] for n in places], [responses[n] for n in places])[:, None],
        order=np.argsort(-tokens, kind="stable"),
        batch_size=batch_size,
        label="scoring" if progress else None,
    )
    texts["reward"] = scores.get(keys)[:, 0]
    texts["similarity"] = _similarities(prompts, responses, embedder, store, batch_size, progress)

    features = pairs
    for side in "AB":
        values = texts.set_axis(["history", f"human_ref_{side}", f"reward_{side}", f"similarity_{side}"], axis=1)
        features = features.merge(values, on=["history", f"human_ref_{side}"], how="left", validate="many_to_one")
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


class _Side(NamedTuple):
    """Distinct texts, and the embedder and the table that they share."""

    texts: tuple[str, ...]
    embedder: Embedder
    table: FeatureTable

    def compute(self, places: Sequence[int]) -> NDArray[np.float32]:
        return self.embedder.embed([self.texts[n] for n in places])


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
        order = np.argsort([-len(text) for text in side.texts], kind="stable")
        label = "embedding" if progress else None
        keys = [text_key(text) for text in side.texts]
        if isinstance(side.embedder, HostedEmbedder):
            _fill_from_stream(side, keys, order, batch_size, label)
        else:
            _fill(side.table, keys, side.compute, order=order, batch_size=batch_size, label=label)
    chunks = []
    for start in range(0, len(prompts), _COSINES_AT_ONCE):
        some = slice(start, start + _COSINES_AT_ONCE)
        chunks.append(
            cosine(
                prompt_side.table.get([text_key(text) for text in prompts[some]]),
                response_side.table.get([text_key(text) for text in responses[some]]),
            )
        )
    return np.concatenate(chunks)


def _fill(
    table: FeatureTable,
    keys: Sequence[bytes],
    compute: Callable[[Sequence[int]], NDArray[np.float32]],
    *,
    order: NDArray[np.intp],
    batch_size: int,
    label: str | None,
) -> list[int]:
    """Compute and commit what ``table`` lacks, in ``order``; returns the places in ``keys`` that were computed."""
    missing = [int(place) for place in order if keys[place] not in table]
    computed: list[int] = []
    with tqdm(total=len(missing), desc=label, unit="text", disable=label is None, mininterval=1.0) as bar:
        for start in range(0, len(missing), batch_size):
            table.refresh()  # another process may have done some of them by now
            batch = [place for place in missing[start : start + batch_size] if keys[place] not in table]
            if batch:
                table.put([keys[place] for place in batch], compute(batch))
            computed += batch
            bar.update(len(missing[start : start + batch_size]))
    return computed


def _fill_from_stream(
    side: _Side, keys: Sequence[bytes], order: NDArray[np.intp], batch_size: int, label: str | None
) -> None:
    """Embed and commit what the table lacks, ``batch_size`` or so at a time, while more is being asked for.

    Whatever ends it, what has been answered is committed.
    """
    assert isinstance(side.embedder, HostedEmbedder)
    missing = [int(place) for place in order if keys[place] not in side.table]
    committed: list[int] = []
    found: list[int] = []
    vectors: list[NDArray[np.float32]] = []

    def commit() -> None:
        if found:
            side.table.put([keys[place] for place in found], np.concatenate(vectors))
        committed.extend(found)
        found.clear()
        vectors.clear()

    with tqdm(total=len(missing), desc=label, unit="text", disable=label is None, mininterval=1.0) as bar:
        try:
            with closing(side.embedder.stream([side.texts[place] for place in missing])) as answers:
                for places, some in answers:
                    found += [missing[place] for place in places]
                    vectors.append(some)
                    bar.update(len(places))
                    if len(found) >= batch_size:
                        commit()
        except EmbedderError as error:
            commit()
            raise EmbedderError(
                f"{error}\n{len(committed)} new vectors are in the feature store: once the cause is gone, run again, "
                "and only the rest is asked for"
            ) from None
        finally:
            commit()
