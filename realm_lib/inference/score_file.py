"""Reward-model scores, and a run's signals, for a file of prompts and responses: ``realm score``.

A score is looked for in the run's feature store and put there when it is new, so an interrupted call goes on from
where it was, and what a notebook has scored is not scored again.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from realm_lib.config.base import resolve_path
from realm_lib.config.profile import Params, load_params
from realm_lib.data.cells import given
from realm_lib.data.chats import PairsError, Prompt, as_response, asked_text
from realm_lib.data.lengths import cut_prompt
from realm_lib.data.responses import split_prompt
from realm_lib.data.tables import PLACE, SCORES, SUFFIXES, is_table, read_table, storable, told
from realm_lib.data.texts import is_blank
from realm_lib.features.extraction import votes_renamed
from realm_lib.features.signals import ScoreSignal, Signal, SignalError, Stored, build_signal, naming
from realm_lib.features.store import FeatureStore
from realm_lib.models.reward_models import LongResponseError, build_scorer
from realm_lib.runs.files import atomic_path
from realm_lib.runs.memory import release_memory
from realm_lib.runs.run import Run, show_progress

FORMS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    ("prompt", "response"): {"response": "score"},
    ("chosen", "rejected"): {"chosen": "score_chosen", "rejected": "score_rejected"},
    ("history", "human_ref_A", "human_ref_B"): {"human_ref_A": "score_A", "human_ref_B": "score_B"},
}
"""The columns of a file, and the column of scores that each response gets."""


class ScoredFile(NamedTuple):
    """What :func:`score_file` did: rows and distinct texts of the file, texts that were scored now, seconds."""

    rows: int
    texts: int
    scored: int
    seconds: float


def score_file(run: str | Path, source: str | Path, target: str | Path) -> ScoredFile:
    """Score the texts of ``source`` with a run's reward model; ``target`` (.parquet) gets its rows and their scores.

    Each of the run's signals has columns of its own beside them, with its name in the place of ``score``.

    ``source``, a file that :func:`read_table` reads, has {prompt, response}, {prompt, chosen, rejected} (strings or
    chat messages; without prompt the dialogues must share it) or SHP's columns, whose votes (score_A and score_B there)
    become votes_A and votes_B; other columns are carried over. Prompts are cut as the run's own are.
    Each distinct text is scored once. ``target`` appears when everything is in it.

    Raises :class:`PairsError` naming every kind of row that cannot be used, MissingStepError or ParamsError for the
    run, and what the scorer raises; a response that is too long is named by its row.
    """
    start = time.monotonic()
    source, target = Path(source), Path(target)
    if target.suffix != ".parquet":
        raise PairsError(f"{target}: the output is a .parquet file")
    if not is_table(source):
        raise PairsError(f"{source}: not a {', '.join(SUFFIXES)} file, nor a folder that a `datasets.Dataset` is in")
    outputs = Run(run)
    params = load_params(outputs.path("params.yaml"))
    preprocessing = params.data.preprocessing
    if not source.exists():
        raise PairsError(f"{source}: no such file")
    table = read_table(source)
    if "human_ref_A" in table:
        table = votes_renamed(table)
    columns = _form(table, source, params.signals)
    rows = storable(table.drop(columns=list(PLACE)))
    texts = _texts(table, columns, source)
    texts["prompt"] = texts["prompt"].map(lambda prompt: cut_prompt(prompt, preprocessing.max_length))
    distinct = texts.drop_duplicates(["prompt", "response"], ignore_index=True)
    found = _features(params, outputs, source, distinct)
    values = distinct[["prompt", "response"]].assign(**{name: stored.values for name, stored in found.items()})
    scored = texts.merge(values, on=["prompt", "response"])
    for name in found:
        for column, target_column in columns.items():
            of_row = scored[scored["column"] == column].set_index("row")[name]
            rows[target_column.replace("score", name)] = table["_row"].map(of_row).astype(np.float32)
    rows.attrs[SCORES] = [column.replace("score", name) for name in found for column in columns.values()]
    with atomic_path(target) as temporary:
        rows.to_parquet(temporary, index=False)
    return ScoredFile(len(rows), len(distinct), found["score"].computed, time.monotonic() - start)


def _features(params: Params, run: Run, source: Path, distinct: pd.DataFrame) -> dict[str, Stored]:
    """The score and the signals of the ``distinct`` texts, one model after the other in memory."""
    preprocessing = params.data.preprocessing
    store = FeatureStore(resolve_path(preprocessing.cache_dir))
    prompts, responses = distinct["prompt"].tolist(), distinct["response"].tolist()
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
                    prompts, responses, store, preprocessing.batch_size, label if show_progress() else None
                )
        except (LongResponseError, SignalError) as error:
            if error.places:
                rows = ", ".join(str(row) for row in distinct.iloc[error.places[:5]]["row"])
                error.args = (f"{source} row {rows}: {error}",)
            raise
    return found


def _form(table: pd.DataFrame, source: Path, signals: Iterable[str]) -> Mapping[str, str]:
    for needed, columns in FORMS.items():
        if set(needed) <= set(table.columns):
            added = {column.replace("score", name) for column in columns.values() for name in ("score", *signals)}
            if taken := sorted(added & set(table.columns)):
                raise PairsError(f"{source}: has a column {taken[0]} already, where the scores would go: rename it")
            return columns
    forms = "; or ".join(", ".join(needed) for needed in FORMS)
    raise PairsError(f"{source}: has the columns {', '.join(table.columns.drop(list(PLACE)))}; needed are {forms}")


def _texts(table: pd.DataFrame, columns: Mapping[str, str], source: Path) -> pd.DataFrame:
    """One row a response: row, column, prompt, response."""
    texts = []
    reasons: list[str | None] = []
    for record in table.to_dict("records"):
        reason = record["_reason"]
        if reason is None:
            try:
                prompt, responses = _row_texts(record, list(columns))
                texts += [(record["_row"], name, prompt, text) for name, text in zip(columns, responses, strict=True)]
            except PairsError as error:
                reason = str(error).partition(", got ")[0]  # what this row holds is no part of the reason
        reasons.append(reason)
    if any(reasons):
        raise PairsError(f"{source} {told(table.assign(_reason=pd.Series(reasons, dtype=object)))}")
    return pd.DataFrame(texts, columns=["row", "column", "prompt", "response"], dtype=object)


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
