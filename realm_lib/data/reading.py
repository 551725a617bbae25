"""Files of preference pairs in any form, read into the columns of SHP; what cannot be used is named by its reason."""

from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.config.data import MAX_UNUSABLE_SHARE
from realm_lib.data.chats import PairsError
from realm_lib.data.forms import read_form
from realm_lib.data.forms.form import PART_OF_LIFE
from realm_lib.data.forms.shp import TEXTS
from realm_lib.data.tables import NAMED_ROWS, PLACE, SCORES, local_files, read_table


def read_files(
    path: str | Path, subset_column: str | None = None, max_unusable_share: float = MAX_UNUSABLE_SHARE
) -> pd.DataFrame:
    """The pairs of a file or of a folder's files, each as :func:`normalised` has them.

    ``subset_column`` becomes ``domain``; without it that is ``domain`` or ``subset``, where the file has one.
    Raises :class:`PairsError` for a missing file and as :func:`normalised` does.
    """
    frames = []
    for file in local_files(str(path)):
        frame = read_table(file)
        if subset_column is not None and subset_column not in frame:
            named = ", ".join(frame.columns.drop(list(PLACE)))
            raise PairsError(f"{file}: no column {subset_column!r}; it has: {named}")
        if subset_column is not None:
            frame = frame.assign(domain=frame[subset_column])
        frames.append(normalised(frame, str(file), max_unusable_share))
    return pd.concat(frames, ignore_index=True)


def normalised(frame: pd.DataFrame, source: str, max_unusable_share: float = MAX_UNUSABLE_SHARE) -> pd.DataFrame:
    """The rows of one file as pairs in SHP's columns, those that are none too, in the file's order.

    ``_file`` and ``_row`` say where a pair comes from (several pairs may come from one row), ``_reason`` why it cannot
    be used: None for one that can, a reason of few for one that cannot, whose texts may be empty.

    Raises :class:`PairsError` naming ``source`` for columns that are of no form of :mod:`realm_lib.data.forms`, and,
    with all reasons, where more than ``max_unusable_share`` of the pairs cannot be used: ties and responses with none
    to compare them with aside, which say nothing against a file.
    """
    frame = frame.drop(columns=frame.attrs.get(SCORES, []), errors="ignore")  # attributes outlive a column
    if "_reason" not in frame:
        frame = frame.assign(_reason=None)
    unread = frame["_reason"].notna()
    parts = [read_form(frame[~unread].drop(columns="_reason"), source)] if not unread.all() or frame.empty else []
    if unread.any():
        empty = dict.fromkeys(TEXTS, "") | {"post_id": None, "domain": "all", "labels": 0}
        parts.append(frame.loc[unread, ["_file", "_row", "_reason"]].assign(**empty))
    pairs = pd.concat(parts, ignore_index=True).sort_values("_row", kind="stable", ignore_index=True)
    _refuse_mostly_unusable(pairs, source, max_unusable_share)
    return pairs


def _refuse_mostly_unusable(pairs: pd.DataFrame, source: str, most: float) -> None:
    bad = pairs[pairs["_reason"].notna() & ~pairs["_reason"].isin(PART_OF_LIFE)]
    if len(bad) <= most * len(pairs):
        return
    counts = {reason: counted_rows(bad[bad["_reason"] == reason]) for reason in bad["_reason"].unique()}
    reasons = [f"{reason}: {entry['pairs']} ({', '.join(entry['first'])})" for reason, entry in counts.items()]
    raise PairsError(
        f"{source}: {len(bad)} of {len(pairs)} pairs cannot be used, more than data.max_unusable_share "
        f"({most:g}) allows: {'; '.join(reasons)}"
    )


def counted_rows(rows: pd.DataFrame) -> dict[str, Any]:
    """How many ``pairs`` these rows are, and the ``first`` of them as "FILE row NUMBER"."""
    first = rows[["_file", "_row"]].head(NAMED_ROWS).itertuples(index=False)
    return {"pairs": len(rows), "first": [f"{file} row {row}" for file, row in first]}
