"""Files of preference pairs in any form, read into the columns of SHP; a broken row is named."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.config.base import resolve_path
from realm_lib.data.chats import Message, PairsError, Prompt, as_messages, as_response, as_text, as_turns

REQUIRED = ("history", "human_ref_A", "human_ref_B", "labels")
TEXTS = ("history", "human_ref_A", "human_ref_B")
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


def read_files(path: str | Path, subset_column: str | None = None) -> pd.DataFrame:
    """The pairs of a file or of a folder's files in SHP's columns, with their file and row in _file and _row.

    ``subset_column`` becomes ``domain``; without it that is ``domain`` or ``subset``, where the file has one.
    Raises :class:`PairsError` for a missing file or column and for a broken row.
    """
    frames = []
    for file in local_files(str(path)):
        frame = read_table(file)
        if subset_column is not None and subset_column not in frame:
            raise PairsError(f"{file}: no column {subset_column!r}; it has: {', '.join(map(str, frame.columns[:-2]))}")
        column = subset_column or ("subset" if "domain" not in frame and "subset" in frame else None)
        if column is not None:
            frame = frame.assign(domain=frame[column].astype(str))
        frames.append(normalised(frame, str(file)))
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


def normalised(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """``frame`` in SHP's columns with checked types.

    Raises :class:`PairsError` naming ``source`` and the column, or the row.
    """
    if {"chosen", "rejected"} <= set(frame.columns):
        frame = pd.DataFrame([_from_chosen_rejected(row) for row in frame.to_dict("records")])
    missing = [column for column in REQUIRED if column not in frame]
    if missing:
        raise PairsError(
            f"{source}: missing column {', '.join(missing)}; needed are {', '.join(REQUIRED)} (SHP), "
            f"or chosen and rejected (with prompt)"
        )
    frame = frame.copy()
    if "domain" not in frame:
        frame["domain"] = "all"
    for column in TEXTS:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
        _refuse_rows(frame, ~frame[column].map(lambda text: isinstance(text, str)), f"{column} is not text")
    labels = pd.to_numeric(frame["labels"], errors="coerce")
    _refuse_rows(frame, ~labels.isin([0, 1]), "labels is neither 0 nor 1")
    frame["labels"] = labels.astype(int)
    for column in frame.columns.intersection(["score_A", "score_B", "score_ratio", "rating_A", "rating_B"]):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        _refuse_rows(frame, numbers.isna() & frame[column].notna(), f"{column} is not a number")
        frame[column] = numbers
    return frame


def counted_rows(rows: pd.DataFrame) -> dict[str, Any]:
    """How many ``pairs`` these rows are, and the ``first`` of them as "FILE row NUMBER"."""
    first = rows[["_file", "_row"]].head(_NAMED).itertuples(index=False)
    return {"pairs": len(rows), "first": [f"{file} row {row}" for file, row in first]}


def _refuse_rows(frame: pd.DataFrame, bad: "pd.Series[bool]", what: str) -> None:
    if bad.any():
        first = frame[bad].iloc[0]
        raise PairsError(f"{first['_file']} row {first['_row']}: {what} ({int(bad.sum())} such rows)")


def _from_chosen_rejected(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One {prompt, chosen, rejected} row in SHP's columns; which response becomes A is a bit of a hash."""
    where = f"{row['_file']} row {row['_row']}"
    try:
        prompt, chosen, rejected = split_prompt(given(row, "prompt"), row["chosen"], row["rejected"])
    except PairsError as error:
        raise PairsError(f"{where}: {error}") from None
    chosen_is_a = unit_hash("side", prompt, chosen, rejected) < 0.5
    return {
        "post_id": given(row, "post_id"),
        "domain": str(given(row, "domain") or given(row, "subset") or "all"),
        "_file": row["_file"],
        "_row": row["_row"],
        "history": prompt,
        "human_ref_A": chosen if chosen_is_a else rejected,
        "human_ref_B": rejected if chosen_is_a else chosen,
        "labels": int(chosen_is_a),
    }


def split_prompt(prompt: Any, chosen: Any, rejected: Any) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as texts, from texts and dialogues in any mixture.

    A side that is a dialogue (messages, or a text in HH-RLHF's form) repeats the prompt before its last turn: what two
    dialogues share is the prompt, by roles and by contents without the white space around them. A ``prompt`` that is
    given must be their beginning or their end, a system turn aside; None: there is none.

    Raises :class:`PairsError` where prompt and responses cannot be told apart so.
    """
    sides = [_side(side) for side in (chosen, rejected)]
    context = None if prompt is None else as_messages(_side(prompt))
    dialogues = [turns for turns in map(_dialogue, sides) if turns is not None]
    if not dialogues and context is not None:
        return as_text(context), _response(sides[0]), _response(sides[1])
    if context is None and len(dialogues) < 2:
        raise PairsError("no prompt, and chosen and rejected are not two dialogues that share one")
    shared = _shared(*dialogues) if len(dialogues) == 2 else dialogues[0][:-1]
    if context is not None and not _agree(context, shared):
        raise PairsError("chosen or rejected repeats another prompt than the one that is given")
    texts = [_response(side) if _dialogue(side) is None else _answer(as_turns(side), len(shared)) for side in sides]
    told = [] if any(turn["role"] == "system" for turn in shared) else context or []
    return as_text([*(turn for turn in told if turn["role"] == "system"), *shared]), texts[0], texts[1]


def _dialogue(side: Prompt) -> list[dict[str, str]] | None:
    """The turns of a side that is a dialogue; None for one that is a response alone."""
    turns = as_turns(side)
    alone = len(turns) == 1 and (isinstance(side, str) or turns[0]["role"] == "assistant")
    return None if alone else turns


def _response(side: Prompt) -> str:
    turns = as_turns(side)
    return as_response(turns if turns[0]["role"] == "assistant" else side)


def _shared(left: Sequence[Message], right: Sequence[Message]) -> list[Message]:
    """The turns with which both dialogues begin; the last turn of neither is among them."""
    turns = list(zip(left[:-1], right[:-1], strict=False))
    differ = (number for number, pair in enumerate(turns) if _bare(pair[0]) != _bare(pair[1]))
    return [turn for turn, _ in turns[: next(differ, len(turns))]]


def _agree(context: Sequence[Message], shared: Sequence[Message]) -> bool:
    """Whether a prompt that is given is the beginning or the end of the one that was found, a system turn aside."""
    given, found = ([_bare(turn) for turn in turns if turn["role"] != "system"] for turns in (context, shared))
    return given in (found[: len(given)], found[len(found) - len(given) :])


def _answer(turns: Sequence[Message], start: int) -> str:
    """What the assistant says after the prompt, in one turn."""
    if len(turns) != start + 1 or turns[-1]["role"] != "assistant":
        roles = ", ".join(turn["role"] for turn in turns[start:])
        raise PairsError(f"after what chosen and rejected share, a response is one assistant turn, got: {roles}")
    return str(turns[-1]["content"])


def _bare(turn: Message) -> tuple[str, str]:
    return turn["role"], turn["content"].strip()


def given(row: Mapping[Any, Any], column: str) -> Any:
    """The value of a column; None where it is missing, which pandas writes as NaN when other rows have it."""
    value = row.get(column)
    return None if isinstance(value, float) and np.isnan(value) else value


def _side(value: Any) -> Prompt:
    """Text or messages; parquet hands lists of messages over as arrays."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        value = [value]
    if value is None or isinstance(value, (str, list)):
        return value or ""
    raise PairsError(f"expected text or a list of messages, found {type(value).__name__}")


def unit_hash(*parts: str) -> float:
    """A number in [0, 1) fixed by ``parts``, the same in every process."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") / 2**64
