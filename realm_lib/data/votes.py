"""What else a pair says of its two responses, votes or ratings: whether they bear the label out, and by what factor."""

import numpy as np
import pandas as pd

from realm_lib.data.chats import PairsError

MEASURES = {"votes": "score", "ratings": "rating"}
"""What the numbers of a pair are called, and their columns without _A and _B. A ratio is one of votes."""
_FEW = 3  # labels against the numbers that may be slips, whatever their share


def against_label(pairs: pd.DataFrame, measure: str) -> "pd.Series[bool]":
    """The pairs whose less preferred response has more of a measure of :data:`MEASURES`.

    Raises :class:`PairsError` where most pairs are so: then the label means something else.
    """
    difference = _difference(pairs, measure)
    against = ((difference > 0) & (pairs["labels"] == 0)) | ((difference < 0) & (pairs["labels"] == 1))
    count, decided = int(against.sum()), int((difference != 0).sum() - difference.isna().sum())
    if count >= _FEW and count > decided / 2:
        column = MEASURES[measure]
        raise PairsError(
            f"{pairs['_file'].iloc[0]}: {count / decided:.0%} of the labels contradict the {measure}; "
            f"labels = 1 must mean that A is preferred ({column}_A > {column}_B)"
        )
    return against


def equal_numbers(pairs: pd.DataFrame, measure: str) -> "pd.Series[bool]":
    """The pairs whose responses have as much of a measure: it bears no label out. SHP has no such pair."""
    return _difference(pairs, measure) == 0


def _difference(pairs: pd.DataFrame, measure: str) -> "pd.Series[float]":
    """A's minus B's; NaN where one is missing."""
    columns = [f"{MEASURES[measure]}_{side}" for side in "AB"]
    if not set(columns) <= set(pairs.columns):
        return pd.Series(np.nan, index=pairs.index)
    a, b = (pairs[column].astype(float) for column in columns)
    return a - b


def vote_ratios(pairs: pd.DataFrame) -> "pd.Series[float] | None":
    """Votes of the one response over those of the other, at least 1, as SHP's ``score_ratio``; None without any.

    Votes at or below zero have no ratio. Where one response alone has more, the pair's own ``score_ratio`` holds if it
    is at least 1 (its author may have counted from one), else it is infinite: more than any factor. Where neither has,
    it is NaN. Where votes are missing the pair's own holds.
    """
    own = pairs["score_ratio"].astype(float) if "score_ratio" in pairs else None
    if not {"score_A", "score_B"} <= set(pairs.columns):
        return own
    own = pd.Series(np.nan, index=pairs.index) if own is None else own
    votes = pairs[["score_A", "score_B"]].astype(float)
    less, more = votes.min(axis=1), votes.max(axis=1)
    ratio = (more / less).where(less > 0, own.where(own >= 1, np.inf)).where(more > 0)
    return ratio.where(votes.notna().all(axis=1), own)


def other_ratios(pairs: pd.DataFrame, ratios: "pd.Series[float]") -> "pd.Series[bool]":
    """The pairs whose own ``score_ratio`` is not that of their votes, to one in a hundred (it may be rounded)."""
    if "score_ratio" not in pairs:
        return pd.Series(False, index=pairs.index)
    given = pairs["score_ratio"].astype(float)
    return given.notna() & ~np.isclose(given, ratios, rtol=0.01, atol=0)
