"""The cosine of prompt and response: each distinct text embedded once, at a cost that is known before."""

from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.data.pairs import distinct_texts
from realm_lib.features.filling import fill, fill_from_stream
from realm_lib.features.reading import as_read, refuse_long, texts_read
from realm_lib.features.store import FeatureStore, FeatureTable, text_key
from realm_lib.models.embedders import (
    Embedder,
    HostedEmbedder,
    Quote,
    Reading,
    by_role,
    cosine,
)

_RESPONSES = ("human_ref_A", "human_ref_B")
_COSINES_AT_ONCE = 8192  # bounds memory: two matrices of that many vectors


class Similarities(NamedTuple):
    """Cosines, float64 [n]; the distinct texts behind them, and how many of those were not in the store."""

    values: NDArray[np.float64]
    texts: int
    computed: int
    quote: Quote | None
    """What embedding all these texts takes; None for an embedder that is not paid."""
    reading: Reading | None
    """How much of them is read; None for an embedder that does not say."""


def similarities(
    prompts: Sequence[str],
    responses: Sequence[str],
    embedder: Embedder,
    store: FeatureStore,
    batch_size: int,
    label: str | None,
) -> Similarities:
    """The cosine of each prompt and its response, from ``store`` or computed and committed to it.

    ``label`` names the bar of progress; None shows none. Raises what :func:`refuse_long` raises, and the embedder.
    """
    refuse_long(prompts, responses, embedder)
    reading = texts_read(prompts, responses, embedder)
    prompts = as_read(prompts, embedder)
    prompt_side, response_side = _sides(prompts, responses, embedder, store)
    texts = computed = 0
    quote: Quote | None = None
    for side in dict.fromkeys((prompt_side, response_side)):
        order = sorted(range(len(side.texts)), key=lambda index: -len(side.texts[index]))
        texts += len(side.texts)
        keys = [text_key(text) for text in side.texts]
        if isinstance(side.embedder, HostedEmbedder):
            asked = side.embedder.quote(side.texts)
            quote = asked if quote is None else quote + asked
            computed += len(fill_from_stream(side.table, keys, order, side.stream, batch_size, label))
        else:
            done = fill(
                side.table,
                keys,
                side.compute,
                order=order,
                groups=side.texts,
                sizes=np.array([len(text) for text in side.texts]),
                unit="char",
                batch_size=batch_size,
                label=label,
            )
            computed += len(done)
    known = {text: text_key(text) for side in {prompt_side, response_side} for text in side.texts}
    prompt_keys, response_keys = ([known[text] for text in texts] for texts in (prompts, responses))
    values = _cosines(prompt_side.table, prompt_keys, response_side.table, response_keys)
    return Similarities(values, texts, computed, quote, reading)


def quote_embeddings(frames: Iterable[pd.DataFrame], embedder: Embedder, store: FeatureStore) -> Quote | None:
    """What embedding the pairs of ``frames`` would still take, what is in ``store`` left out.

    None for an embedder that is not paid. Raises what its ``authorise`` raises: over the budget, or no key.
    """
    if not isinstance(embedder, HostedEmbedder):
        return None
    texts = pd.concat([distinct_texts(pairs) for pairs in frames])
    total = Quote(texts=0, tokens=0, cost=0.0, cut=0)
    prompts = as_read(texts["prompt"].tolist(), embedder)
    for side in dict.fromkeys(_sides(prompts, texts["response"].tolist(), embedder, store)):
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
        name: store.table("embedding", typed.identity, typed.dimensions)
        for name, typed in embedder.by_task_type().items()
        if store.has_table("embedding", typed.identity)
    }
    prompts = [text_key(prompt) for prompt in as_read(pairs["history"].tolist(), embedder)]
    responses = [[text_key(text) for text in pairs[name]] for name in _RESPONSES]
    of_prompts = [name for name, table in tables.items() if all(key in table for key in prompts)]
    of_responses = [name for name, table in tables.items() if all(key in table for side in responses for key in side)]
    if len(of_prompts) * len(of_responses) < 2:
        return {}
    cosines = {}
    for asked in of_prompts:
        for answered in of_responses:
            a, b = (_cosines(tables[asked], prompts, tables[answered], side) for side in responses)
            cosines[f"{asked}, {answered}"] = a, b
    return cosines


class _Side(NamedTuple):
    """Distinct texts, and the embedder and the table that they share."""

    texts: tuple[str, ...]
    embedder: Embedder
    table: FeatureTable

    def compute(self, indices: Sequence[int]) -> NDArray[np.float32]:
        return self.embedder.embed([self.texts[index] for index in indices])

    def stream(self, indices: Sequence[int]) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        assert isinstance(self.embedder, HostedEmbedder)
        return self.embedder.stream([self.texts[index] for index in indices])


def _sides(
    prompts: Sequence[str], responses: Sequence[str], embedder: Embedder, store: FeatureStore
) -> tuple[_Side, _Side]:
    """Of prompts and of responses; the same one twice when the model treats both alike."""

    def side(texts: Sequence[str], own: Embedder) -> _Side:
        return _Side(tuple(dict.fromkeys(texts)), own, store.table("embedding", own.identity, own.dimensions))

    of_prompts, of_responses = by_role(embedder)
    if of_prompts is of_responses:
        both = side([*prompts, *responses], of_responses)
        return both, both
    return side(prompts, of_prompts), side(responses, of_responses)


def _cosines(
    of_prompts: FeatureTable, prompts: Sequence[bytes], of_responses: FeatureTable, responses: Sequence[bytes]
) -> NDArray[np.float64]:
    """Cosines [n] of the vectors under the keys ``prompts`` and ``responses``."""
    pieces = [slice(start, start + _COSINES_AT_ONCE) for start in range(0, len(prompts), _COSINES_AT_ONCE)]
    return np.concatenate([cosine(of_prompts.get(prompts[some]), of_responses.get(responses[some])) for some in pieces])
