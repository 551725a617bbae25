"""Pairs that were judged more than once: what most annotators say holds, and how far they agree."""

import hashlib
import json
from typing import Any

import pandas as pd

from realm_lib.data.texts import visible


def with_pair_ids(pairs: pd.DataFrame) -> pd.DataFrame:
    """``pairs`` with ``pair_id``, the same for equal pairs whichever response is A, and ``_first``: its order's label.

    Two pairs are equal when their post is and a reader sees the same two responses (:func:`visible`). Unlike a
    post's, a response's case counts: people may have decided by it. ``_first`` says whether the response that comes
    first in the alphabet is preferred.
    """
    columns = pairs[["post_id", "human_ref_A", "human_ref_B"]].itertuples(index=False)
    ids, a_is_first = [], []
    for post, *responses in columns:  # one at a time: what is visible of all texts is as much as all texts
        a, b = map(visible, responses)
        ids.append(hashlib.sha256(json.dumps([post, *sorted((a, b))]).encode()).hexdigest()[:16])
        a_is_first.append(a <= b)
    first = pd.Series(a_is_first, index=pairs.index, dtype=bool)
    return pairs.assign(pair_id=ids, _first=first == (pairs["labels"] == 1))


def overruled(pairs: pd.DataFrame) -> "pd.Series[str]":
    """Why a row does not stand for its pair, missing where it does: each pair has one such row, a tied one none.

    ``pairs`` are :func:`with_pair_ids`'s. The order of rows decides nothing: of the majority's rows it is the first by
    their texts, and by the rest of the row.
    """
    judged = pairs.groupby("pair_id")["_first"]
    balance = 2 * judged.transform("sum") - judged.transform("size")
    of_majority = (balance > 0) == pairs["_first"]
    reasons = pd.Series(None, index=pairs.index, dtype=object)
    reasons[~of_majority] = "outvoted by other annotators"
    reasons[balance == 0] = "annotators tied"
    rows = pairs[reasons.isna() & pairs["pair_id"].duplicated(keep=False)]
    named = ["history", "human_ref_A", "human_ref_B", *(name for name in rows.columns if not name.startswith("_"))]
    order = pd.Series([repr(row) for row in rows[named].itertuples(index=False, name=None)], index=rows.index)
    ordered = rows.loc[order.sort_values(kind="stable").index, "pair_id"]
    reasons[ordered[ordered.duplicated()].index] = "repeated pair"
    return reasons


def agreement(pairs: pd.DataFrame) -> dict[str, Any] | None:
    """How far annotators agree on the pairs that were judged more than once; None where none was.

    ``pairs`` (judged more than once), ``judgements`` (of these), ``with_majority`` (share of the judgements that are
    the majority's; half of a tied pair's are) and ``alpha``: 1 - observed / expected disagreement, Krippendorff's
    alpha for nominal data with missing ratings (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability). The
    disagreement to expect is 1/2: which response is called first is arbitrary, so that neither is more likely (as in
    Bennett, Alpert and Goldstein 1954). 1 is full agreement, 0 that of coins. A row that was copied counts as a
    judgement: nothing tells the two apart.
    """
    judged = pairs.groupby("pair_id")["_first"].agg(["sum", "size"])
    first, size = (judged.loc[judged["size"] > 1, name].astype(int) for name in ("sum", "size"))
    if size.empty:
        return None
    other, judgements = size - first, int(size.sum())
    observed = float((2 * first * other / (size - 1)).sum()) / judgements
    return {
        "pairs": len(size),
        "judgements": judgements,
        "with_majority": float(first.where(first >= other, other).sum()) / judgements,
        "alpha": 1 - observed / 0.5,
    }
