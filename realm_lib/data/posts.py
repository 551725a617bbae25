"""Which pairs are of one post: those whose text is the same, whatever ids a file gives."""

import hashlib
from typing import Any

import pandas as pd

from realm_lib.data.cells import id_text
from realm_lib.data.chats import PairsError, Prompt, prompt_key
from realm_lib.data.reading import counted_rows


def post_key(prompt: Prompt) -> str:
    """16 hexadecimal digits (of SHA-256) that are the same for equal prompts, by :func:`prompt_key`, and for no others.

    Raises :class:`PairsError` as :func:`realm_lib.data.chats.as_messages` does.
    """
    return hashlib.sha256(prompt_key(prompt).encode()).hexdigest()[:16]


def with_post_keys(pairs: pd.DataFrame) -> pd.DataFrame:
    """``pairs`` whose ``post_id`` is their post's key; the id that was given, where one was, is in ``given_post_id``.

    A row that is no pair is a post of its own, so that each split has its part of them to count.
    ``_another_id`` marks the rows that give their text another id than the first row of that text does,
    ``_another_text`` those that give their id another text. A row whose history cannot be a prompt gets a ``_reason``.
    """
    reasons = pairs["_reason"] if "_reason" in pairs else pd.Series(None, index=pairs.index, dtype=object)
    usable = pairs.loc[reasons.isna(), "history"]
    found = {text: _key_or_reason(text) for text in usable.unique()}
    keys = usable.map(lambda text: found[text][0]).reindex(pairs.index)
    keys = keys.where(keys.notna(), pairs["_file"].astype(str) + " " + pairs["_row"].astype(str))
    reasons = reasons.astype(object).where(reasons.notna(), usable.map(lambda text: found[text][1]))
    pairs = pairs.assign(_reason=reasons)
    if "post_id" not in pairs:
        return pairs.assign(post_id=keys)
    given = pd.Series([id_text(value) for value in pairs["post_id"]], pairs.index, dtype=object)
    if given.isna().all():
        return pairs.assign(post_id=keys)
    counted = given.where(reasons.isna(), None)
    return pairs.assign(
        post_id=keys,
        given_post_id=given,
        _another_id=counted.notna() & (counted != counted.groupby(keys).transform("first")),
        _another_text=counted.notna() & (keys != keys.groupby(counted).transform("first")),
    )


def given_ids(pairs: pd.DataFrame) -> dict[str, Any] | None:
    """How far the ids that were given are those of the posts; None where none were given.

    ``several_ids``: how many ``posts`` have more than one id, and the ``pairs`` that give another one, with the
    ``first`` of their rows. ``several_texts``: likewise how many ``ids`` stand for more than one post.
    """
    if "given_post_id" not in pairs:
        return None
    another_id, another_text = pairs[pairs["_another_id"]], pairs[pairs["_another_text"]]
    return {
        "several_ids": {"posts": int(another_id["post_id"].nunique()), **counted_rows(another_id)},
        "several_texts": {"ids": int(another_text["given_post_id"].nunique()), **counted_rows(another_text)},
    }


def _key_or_reason(text: Any) -> tuple[str | None, str | None]:
    try:
        return post_key(text), None
    except PairsError as error:
        return None, str(error)
