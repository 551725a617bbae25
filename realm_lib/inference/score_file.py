"""Reward-model scores, and a run's signals, for a file of prompts and responses: ``realm score``.

A score is looked for in the run's feature store and put there when it is new, so an interrupted call goes on from
where it was, and what a notebook has scored is not scored again.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.base import resolve_path
from realm_lib.config.profile import Params, load_params
from realm_lib.data.cells import given
from realm_lib.data.chats import PairsError, Prompt, as_response, asked_text
from realm_lib.data.columns import refuse_unwritable
from realm_lib.data.lengths import cut_prompt
from realm_lib.data.responses import split_prompt
from realm_lib.data.rows import Row
from realm_lib.data.tables import SUFFIXES, arrow_rows, is_table, read_exactly, renamed, told, with_scores
from realm_lib.data.texts import is_blank
from realm_lib.features.extraction import VOTES
from realm_lib.features.reading import LongTextError
from realm_lib.features.signals import ScoreSignal, Signal, SignalError, Stored, build_signal, naming
from realm_lib.features.store import FeatureStore
from realm_lib.models.reward_models import LongResponseError, build_scorer
from realm_lib.runs.files import atomic_path
from realm_lib.runs.memory import release_memory
from realm_lib.runs.run import Run, show_progress

if TYPE_CHECKING:
    import pyarrow as pa

FORMS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("prompt", "response"): {"response": "score"},
    ("chosen", "rejected"): {"chosen": "score_chosen", "rejected": "score_rejected"},
    ("history", "human_ref_A", "human_ref_B"): {"human_ref_A": "score_A", "human_ref_B": "score_B"},
}
"""The columns of a file, and the column of scores that each response gets."""
_READ = {"prompt"}.union(*FORMS)


class ScoredFile(NamedTuple):
    """What :func:`score_file` did: rows and distinct texts of the file, texts that were scored now, seconds."""

    rows: int
    texts: int
    scored: int
    seconds: float


class _Texts(NamedTuple):
    """The distinct texts of a file, n of them."""

    prompts: list[str]
    responses: list[str]
    rows: list[int]
    """The first row of each."""
    places: Mapping[str, NDArray[np.int64]]
    """By column, which of the n each row of the file has there."""


def score_file(run: str | Path, source: str | Path, target: str | Path) -> ScoredFile:
    """Score the texts of ``source`` with a run's reward model; ``target`` (.parquet) gets its rows and their scores.

    Each of the run's signals has columns of its own beside them, with its name in the place of ``score``.

    ``source``, a file that :func:`read_exactly` reads, has {prompt, response}, {prompt, chosen, rejected} (strings or
    chat messages; without prompt the dialogues must share it) or SHP's columns, whose votes (score_A and score_B there)
    become votes_A and votes_B; all columns are carried over as that function has them. Prompts are cut as the run's own
    are. Each distinct text is scored once. ``target`` appears when everything is in it.

    Raises :class:`PairsError` naming every kind of row that cannot be used, a column that Parquet does not hold, and a
    ``target`` that cannot be written or is (in) the ``source``, all before anything is scored; MissingStepError or
    ParamsError for the run, and what the scorer raises; a response that is too long is named by its row.
    """
    start = time.monotonic()
    source, target = Path(source), Path(target)
    if target.suffix != ".parquet":
        raise PairsError(f"{target}: the output is a .parquet file")
    if not is_table(source):
        raise PairsError(f"{source}: not a {', '.join(SUFFIXES)} file, nor a folder that a `datasets.Dataset` is in")
    outputs = Run.existing(run)
    params = load_params(outputs.path("params.yaml"))
    if not source.exists():
        raise PairsError(f"{source}: no such file")
    _try_place(source, target)
    table, rows = read_exactly(source)
    table = _votes_renamed(table)
    columns = _form(table.column_names, source, params.signals)
    refuse_unwritable(table.schema, source)
    of_texts = table.select([name for name in table.column_names if name in _READ])
    read = arrow_rows(of_texts, source) if rows is None else rows
    texts = _texts(read, columns, source, params.data.preprocessing.max_length)
    del rows, read
    _try_place(source, target, table)
    found = _features(params, outputs, source, texts)
    scores = {
        column.replace("score", name): stored.values[texts.places[side]].astype(np.float32)
        for name, stored in found.items()
        for side, column in columns.items()
    }
    try:
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            _write(with_scores(table, scores), file)
    except OSError as error:
        raise PairsError(
            f"{_unwritten(target, error)}. The scores are in the run's store: the next call finds them there"
        ) from error
    return ScoredFile(table.num_rows, len(texts.rows), found["score"].computed, time.monotonic() - start)


def _try_place(source: Path, target: Path, table: "pa.Table | None" = None) -> None:
    """Whether a file, or this ``table``, can be written beside ``target`` and take its place."""
    try:
        if target.is_dir():
            raise PairsError(f"{target}: a folder has this name: give the output another")
        if target.exists() and target.samefile(source):
            raise PairsError(f"{target}: the output is the input, which would be lost: give it another name")
        if source.is_dir() and Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
            raise PairsError(f"{target}: the output lies in the input's folder: put it elsewhere")
        target.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix) as file:
            if table is not None:
                _write(table, file)
    except OSError as error:
        raise PairsError(_unwritten(target, error)) from error


def _write(table: "pa.Table", file: Any) -> None:
    """Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.write_table(table, file)
    except pa.ArrowException as error:
        raise OSError(str(error)) from error


def _unwritten(target: Path, error: OSError) -> str:
    return f"{target}: cannot be written: {error.strerror or error}"


def _features(params: Params, run: Run, source: Path, texts: _Texts) -> dict[str, Stored]:
    """The score and the signals of the ``texts``, one model after the other in memory."""
    preprocessing = params.data.preprocessing
    store = FeatureStore(resolve_path(preprocessing.cache_dir))
    found: dict[str, Stored] = {}
    builders: dict[str, Callable[[], Signal]] = {
        "score": lambda: ScoreSignal(build_scorer(params.reward_model, run.folder)),
        **{name: partial(build_signal, name, section, run.folder) for name, section in params.signals.items()},
    }
    for name, build in builders.items():
        release_memory()
        label = name if name in params.signals else "scoring"
        try:
            with naming(name) if name in params.signals else nullcontext():
                found[name] = build().stored(
                    texts.prompts, texts.responses, store, preprocessing.batch_size, label if show_progress() else None
                )
        except (LongResponseError, LongTextError, SignalError) as error:
            if error.places:
                rows = ", ".join(str(texts.rows[place]) for place in error.places[:5])
                error.args = (f"{source} row {rows}: {error}",)
            raise
    return found


def _votes_renamed(table: "pa.Table") -> "pa.Table":
    """SHP's table with votes under their name, unless it has been given scores already."""
    names = table.column_names
    if "human_ref_A" not in names or set(VOTES.values()) & set(names):
        return table
    return renamed(table, VOTES)


def _form(names: Sequence[str], source: Path, signals: Iterable[str]) -> Mapping[str, str]:
    for needed, columns in FORMS.items():
        if set(needed) <= set(names):
            added = {column.replace("score", name) for column in columns.values() for name in ("score", *signals)}
            if taken := sorted(added & set(names)):
                raise PairsError(f"{source}: has a column {taken[0]} already, where the scores would go: rename it")
            return columns
    forms = "; or ".join(", ".join(needed) for needed in FORMS)
    raise PairsError(f"{source}: has the columns {', '.join(names)}; needed are {forms}")


def _texts(rows: Iterable[Row], columns: Mapping[str, str], source: Path, words: int) -> _Texts:
    """The texts of the rows, prompts cut to ``words``."""
    distinct: dict[tuple[str, str], int] = {}
    first: list[int] = []
    places: dict[str, list[int]] = {column: [] for column in columns}
    unusable: list[tuple[int, str]] = []
    for number, values, reason, _ in rows:
        try:
            if reason is not None:
                raise PairsError(reason)
            prompt, responses = _row_texts(values, list(columns))
        except PairsError as error:
            unusable.append((number, str(error).partition(", got ")[0]))  # what this row holds is no part of the reason
            continue
        prompt = cut_prompt(prompt, words)
        for column, response in zip(columns, responses, strict=True):
            place = distinct.setdefault((prompt, response), len(distinct))
            places[column].append(place)
            if place == len(first):
                first.append(number)
    if unusable:
        raise PairsError(f"{source} {told(pd.DataFrame(unusable, columns=['_row', '_reason']))}")
    prompts, responses = map(list, zip(*distinct, strict=True))
    return _Texts(prompts, responses, first, {name: np.array(found, np.int64) for name, found in places.items()})


def _row_texts(record: Mapping[Any, Any], columns: list[str]) -> tuple[str, list[str]]:
    if columns == ["chosen", "rejected"]:
        found, *responses = split_prompt(given(record, "prompt"), *(_present(record, name) for name in columns))
        prompt = asked_text(found)
    else:
        prompt = asked_text(_dialogue(record, "history" if "human_ref_A" in columns else "prompt"))
        responses = [as_response(_dialogue(record, column)) for column in columns]
    for column, response in zip(columns, responses, strict=True):
        if is_blank(response):
            raise PairsError(f"{column} is empty")
    return prompt, responses


def _dialogue(record: Mapping[Any, Any], column: str) -> Prompt:
    value = _present(record, column)
    if not isinstance(value, (str, list)):
        raise PairsError(f"{column} is neither text nor a list of messages, but {type(value).__name__}")
    return value


def _present(record: Mapping[Any, Any], column: str) -> Any:
    value = given(record, column)
    if value is None:
        raise PairsError(f"{column} is missing")
    return value
