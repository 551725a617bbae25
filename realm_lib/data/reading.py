"""Files of preference pairs in any form, read into the columns of SHP; what cannot be used is named by its reason."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.config.base import resolve_path
from realm_lib.config.data import MAX_UNUSABLE_SHARE
from realm_lib.data.chats import PairsError
from realm_lib.data.forms import read_form
from realm_lib.data.forms.form import PART_OF_LIFE, post_of
from realm_lib.data.forms.shp import TEXTS

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_NAMED = 5  # rows of each fault that are named


def local_files(where: str) -> list[Path]:
    """The files of pairs at ``where``, a file or a folder; raises :class:`PairsError` where there are none."""
    path = resolve_path(where)
    if not path.exists():
        raise PairsError(f"data.path: {path} does not exist (relative paths start at the project's root)")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.name.endswith(SUFFIXES)]
    if not files:
        raise PairsError(f"data.path: {path} holds no {', '.join(SUFFIXES)} file")
    return files


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
            raise PairsError(f"{file}: no column {subset_column!r}; it has: {', '.join(map(str, frame.columns[:-2]))}")
        if subset_column is not None:
            frame = frame.assign(domain=frame[subset_column])
        frames.append(normalised(frame, str(file), max_unusable_share))
    return pd.concat(frames, ignore_index=True)


def read_table(file: Path) -> pd.DataFrame:
    """The rows of a .jsonl, .jsonl.gz or .parquet file as they are, with the file's name and row in _file and _row.

    Raises :class:`PairsError` naming the file and the row that cannot be read.
    """
    if file.suffix == ".parquet":
        try:
            frame = pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise PairsError(f"{file}: cannot be read as parquet: {error}") from error
    else:
        frame = pd.DataFrame(list(_json_rows(file)))
    return frame.assign(_file=file.name, _row=np.arange(1, len(frame) + 1))


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if file.suffix == ".gz" else open
    number = 0
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise PairsError(f"{file} row {number}: expected an object, found {type(row).__name__}")
                yield row
    except json.JSONDecodeError as error:
        raise PairsError(f"{file} row {number}: not JSON: {error.msg} at character {error.pos}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PairsError(f"{file} after row {number}: cannot be read: {error}") from error


def normalised(frame: pd.DataFrame, source: str, max_unusable_share: float = MAX_UNUSABLE_SHARE) -> pd.DataFrame:
    """The rows of one file as pairs in SHP's columns, those that are none too, in the file's order.

    ``_file`` and ``_row`` say where a pair comes from (several pairs may come from one row), ``_reason`` why it cannot
    be used: None for one that can, a reason of few for one that cannot, whose texts may be empty.

    Raises :class:`PairsError` naming ``source`` for columns that are of no form of :mod:`realm_lib.data.forms`, and,
    with all reasons, where more than ``max_unusable_share`` of the pairs cannot be used: ties and responses with none
    to compare them with aside, which say nothing against a file.
    """
    if "_reason" not in frame:
        frame = frame.assign(_reason=None)
    unread = frame["_reason"].notna()
    parts = [read_form(frame[~unread].drop(columns="_reason"), source)] if not unread.all() or frame.empty else []
    if unread.any():
        empty = dict.fromkeys(TEXTS, "") | {"post_id": None, "domain": "all", "labels": 0}
        parts.append(frame.loc[unread, ["_file", "_row", "_reason"]].assign(**empty))
    pairs = pd.concat(parts, ignore_index=True).sort_values("_row", kind="stable", ignore_index=True)
    _refuse_mostly_unusable(pairs, source, max_unusable_share)
    if {"score_A", "score_B"} <= set(pairs.columns) and "score_ratio" not in pairs:
        votes = pairs[["score_A", "score_B"]]
        pairs["score_ratio"] = votes.max(axis=1) / votes.min(axis=1)
    return _with_ids(pairs)


def _with_ids(pairs: pd.DataFrame) -> pd.DataFrame:
    """An id made of the text for a post without one; a row that is no pair is a post of its own."""
    used, texts = pairs["_reason"].isna(), pairs["history"]
    places = pairs["_file"].astype(str) + pairs["_row"].astype(str)
    made = [post_of(text) for text in texts.where(used | (texts != ""), places)]
    return pairs.assign(post_id=pairs["post_id"].where(pairs["post_id"].notna(), pd.Series(made, pairs.index)))


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
    first = rows[["_file", "_row"]].head(_NAMED).itertuples(index=False)
    return {"pairs": len(rows), "first": [f"{file} row {row}" for file, row in first]}
