"""The columns of SHP (stanfordnlp/SHP), into which every other form is read."""

from typing import Any

import pandas as pd

from realm_lib.data.cells import NOT_TEXT, NOT_UNICODE, id_text, number
from realm_lib.data.chats import PairsError, as_text, is_unicode
from realm_lib.data.forms.form import NO_LABEL, TIE

TEXTS = ("history", "human_ref_A", "human_ref_B")
REQUIRED = (*TEXTS, "labels")
_NUMBERS = ("score_A", "score_B", "score_ratio", "rating_A", "rating_B", "gold_A", "gold_B")
"""What is calculated with."""
_LABELS = {"a": 1, "b": 0, "true": 1, "false": 0, "tie": None}


def read_shp(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with checked types and the reasons of rows that cannot be used. Other columns stay."""
    if {"votes_A", "votes_B"} <= set(frame.columns):  # `realm score` has put its scores where votes were
        frame = frame.drop(columns=["score_A", "score_B"], errors="ignore")
        frame = frame.rename(columns={"votes_A": "score_A", "votes_B": "score_B"})
    domain = frame["domain"] if "domain" in frame else frame.get("subset", pd.Series(None, frame.index, dtype=object))
    frame = frame.assign(domain=domain.astype(object).where(domain.notna() & (domain != ""), "all").astype(str))
    reasons = pd.Series(None, index=frame.index, dtype=object)

    def unusable(bad: "pd.Series[bool]", reason: str) -> None:
        reasons[bad & reasons.isna()] = reason

    for column in TEXTS:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
        for holds, reason in ((lambda value: isinstance(value, str), NOT_TEXT), (is_unicode, NOT_UNICODE)):
            right = frame[column].map(holds).astype(bool)
            unusable(~right, reason)
            frame[column] = frame[column].where(right, "")
    for history in frame["history"][frame["history"].str.startswith(("\n\n", "\x1e"))].unique():
        if (no_prompt := _not_a_prompt(history)) is not None:
            unusable(frame["history"] == history, no_prompt)
    labels = [_label(value) for value in frame["labels"]]
    unusable(pd.Series([label == NO_LABEL for label in labels], frame.index), NO_LABEL)
    unusable(pd.Series([label is None for label in labels], frame.index), TIE)
    frame["labels"] = [label if isinstance(label, int) else 0 for label in labels]
    for column in frame.columns.intersection(list(_NUMBERS)):
        numbers = pd.Series([number(value) for value in frame[column]], frame.index, dtype=float)
        unusable(numbers.isna() & frame[column].notna(), f"{column} is not a number")
        frame[column] = numbers
    frame["post_id"] = [id_text(value) for value in frame["post_id"]] if "post_id" in frame else None
    return frame.infer_objects().assign(_reason=reasons)


def _label(value: Any) -> int | str | None:
    """1, 0, None for a tie, or why it is none of them."""
    if isinstance(value, str) and value.strip().lower() in _LABELS:
        return _LABELS[value.strip().lower()]
    found = number(value)
    return {1.0: 1, 0.0: 0, 0.5: None}[found] if found in (1.0, 0.0, 0.5) else NO_LABEL


def _not_a_prompt(history: str) -> str | None:
    try:
        as_text(history)
    except PairsError as error:
        return str(error)
    return None
