"""Posts that a model has seen, in training or when it was chosen: it is not judged by them.

A post is known by the key of its text. One that was cut is known by what is left of it and, in pairs that were read
from files, by the whole: there ``post_id`` is the key of the post as it was.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.data.chats import PairsError, Prompt
from realm_lib.data.posts import post_key

TrainedOn = Mapping[str, frozenset[str] | None]
"""By model: the keys of the posts that it was trained on or chosen by; None where nothing is known."""

_KEY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Seen:
    """Which of some posts, or of some pairs, the models have seen."""

    seen: NDArray[np.bool_]
    """Of each, whether any of the models has."""
    by_model: dict[str, int]
    """How many each model has seen; a model of which nothing is known is not among them."""

    def __str__(self) -> str:
        """The models that have seen any, as ``policy_ppo 3, combiner 5``."""
        return ", ".join(f"{model} {count:,}" for model, count in self.by_model.items() if count)

    def to_dict(self) -> dict[str, Any]:
        """The counts, for JSON: ``seen_in_training`` by any model, and ``seen_by`` each."""
        return {"seen_in_training": int(self.seen.sum()), "seen_by": self.by_model}


def keys_of(pairs: pd.DataFrame) -> frozenset[str]:
    """The keys of all posts of a table of pairs in SHP's columns."""
    given = pairs["post_id"].unique() if "post_id" in pairs else ()
    keys = {post for post in given if isinstance(post, str) and _KEY.fullmatch(post)}
    return frozenset(keys.union(map(post_key, pairs["history"].unique())))


def unseen_pairs(pairs: pd.DataFrame, trained_on: TrainedOn) -> tuple[pd.DataFrame, Seen]:
    """The ``pairs``, in SHP's columns, of posts that none of the models was trained on, and what is left out.

    Raises :class:`PairsError` where none is left.
    """
    found = _seen(_keys_by_row(pairs), trained_on)
    if found.seen.all():
        raise PairsError(f"the run has trained on every post ({found}): nothing is left to judge by")
    return pairs[~found.seen].reset_index(drop=True), found


def seen_prompts(prompts: Sequence[Prompt], trained_on: TrainedOn) -> Seen:
    """Which of the ``prompts`` the models were trained on."""
    return _seen([{post_key(prompt)} for prompt in prompts], trained_on)


def _keys_by_row(pairs: pd.DataFrame) -> list[set[str]]:
    keys = {text: post_key(text) for text in pairs["history"].unique()}
    ids = pairs["post_id"] if "post_id" in pairs else pairs["history"].map(keys)
    return [
        {keys[text], post} if isinstance(post, str) and _KEY.fullmatch(post) else {keys[text]}
        for text, post in zip(pairs["history"], ids, strict=True)
    ]


def _seen(posts: Sequence[Collection[str]], trained_on: TrainedOn) -> Seen:
    by_model = {
        model: np.array([not known.isdisjoint(keys) for keys in posts], dtype=bool)
        for model, known in trained_on.items()
        if known is not None
    }
    seen = np.zeros(len(posts), dtype=bool)
    for found in by_model.values():
        seen |= found
    return Seen(seen, {model: int(found.sum()) for model, found in by_model.items()})
