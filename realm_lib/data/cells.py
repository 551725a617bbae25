"""The cells of a table of any form, as Python values."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.data.chats import PairsError, is_unicode

NOT_TEXT = "not text"
NOT_UNICODE = "not Unicode text"


def given(row: Mapping[Any, Any], column: str) -> Any:
    """The value of a column; None where it is missing, which pandas writes as NaN when other rows have it."""
    value = row.get(column)
    return None if _is_missing(value) else value


def id_text(value: Any) -> str | None:
    """An id as text; None without one. A whole number is the same as 7 and as 7.0, which a missing one makes of it."""
    if _is_missing(value):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip() or None


def plain(value: Any) -> Any:
    """``value`` with lists in place of the arrays as which Parquet hands them over, at every depth."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return value


def number(value: Any) -> float | None:
    """A finite number, also one that is written as text or is a truth value; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def text(value: Any) -> str:
    """A plain text, empty where it is missing. Raises :class:`PairsError` for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PairsError(NOT_TEXT)
    if not is_unicode(value):
        raise PairsError(NOT_UNICODE)
    return value


def listed(row: Mapping[str, Any], column: str) -> list[Any]:
    """The list in a column, or the one that its text is in JSON: CSV has no other way to hold it.

    Raises :class:`PairsError` for anything else.
    """
    value = given(row, column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list):
        raise PairsError(f"{column} is not a list")
    return value


def objects(row: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    """The objects in the list of a column. Raises :class:`PairsError` for anything else."""
    found = listed(row, column)
    if not all(isinstance(part, Mapping) for part in found):
        raise PairsError(f"{column} is not a list of objects")
    return found


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))
