"""Reward-model scores of texts: each distinct one computed once, and kept before the next are asked for."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.features.filling import fill, fill_from_stream
from realm_lib.features.lengths import text_lengths
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.reward_models import HostedScorer, ReadingScorer, Scorer, ScoreReading
from realm_lib.models.reward_models.encoding import EncodingScorer
from realm_lib.models.reward_models.reading import read_of


class Scores(NamedTuple):
    """Scores of some texts, float32 [n], the tokens of each, int64 [n], the rows that were not in the store, and how
    much of the texts was read, where the scorer knows."""

    values: NDArray[np.float32]
    tokens: NDArray[np.int64]
    computed: list[int]
    reading: ScoreReading | None = None


def score_texts(
    scorer: Scorer,
    prompts: Sequence[str],
    responses: Sequence[str],
    store: FeatureStore,
    *,
    batch_size: int = 256,
    label: str | None = "scoring",
) -> Scores:
    """The score of each distinct (prompt, response), from ``store`` or computed and committed to it.

    ``label`` names the bar of progress; None shows none.
    Raises what the scorer raises, :class:`LongResponseError` before anything is scored.
    """
    tokens, reading = _read(scorer, prompts, responses, store)
    keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    order = _scoring_order(prompts, tokens)
    table = store.table("score", scorer.identity, 1)
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
            unit="tok",
            batch_size=batch_size,
            label=label,
        )
    values = table.get(keys)[:, 0]
    table.close()
    return Scores(values, tokens, computed, reading)


def _read(
    scorer: Scorer, prompts: Sequence[str], responses: Sequence[str], store: FeatureStore
) -> tuple[NDArray[np.int64], ScoreReading | None]:
    """The tokens of each text, [n], and how much of the texts is read, where the scorer knows."""
    if isinstance(scorer, EncodingScorer):
        lengths, refused = text_lengths(scorer.encoder, prompts, responses, store)
        return scorer.read(prompts, responses) if refused else read_of(lengths)  # which raises, naming them all
    if isinstance(scorer, ReadingScorer):
        return scorer.read(prompts, responses)
    return scorer.count_tokens(prompts, responses), None


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
