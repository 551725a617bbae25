"""``realm predict``: responses from options or from lines of JSON, their rewards as JSON objects."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from realm_lib.data.chats import PairsError, Prompt, as_response, asked_text
from realm_lib.data.rows import Row, json_lines
from realm_lib.data.tables import read_rows
from realm_lib.reward.explanations import Explanation, explain_each
from realm_lib.reward.realm_reward import RealmReward

_LINES_AT_ONCE = 64
_NOT_OF_LINES = (".json", ".json.gz", ".parquet")


class PredictionError(ValueError):
    """A line that holds no prompt and response, or a response that has no reward; the message says where."""


@dataclass(frozen=True)
class Question:
    """A response whose reward is asked for, and where it was given."""

    prompt: str
    response: str
    source: str
    """``pairs.jsonl line`` or ``--response``: with ``number`` the place that an error names."""
    number: int
    """Counted from 1."""

    @property
    def place(self) -> str:
        """As ``pairs.jsonl line 3``."""
        return f"{self.source} {self.number}"


def from_options(prompt: str, responses: Sequence[str]) -> list[Question]:
    """The questions of ``--prompt`` and each ``--response``. Raises :class:`PredictionError` naming the option."""
    told = _read(asked_text, prompt, "--prompt")
    numbered = enumerate(responses, start=1)
    return [Question(told, _read(as_response, text, f"--response {n}"), "--response", n) for n, text in numbered]


def read_questions(source: str) -> Iterator[Question]:
    """The questions of a file that :func:`read_rows` reads, ``-`` for lines of standard input.

    A row holds {"prompt", "response"}, as text or chat messages; lines are read as they are needed.
    Raises :class:`PredictionError` naming file and line, and for a file without a row.
    """
    name = "standard input" if source == "-" else source
    unit = "row" if source.lower().endswith(_NOT_OF_LINES) or Path(source).is_dir() else "line"
    row = None
    try:
        for row in json_lines(sys.stdin.buffer) if source == "-" else read_rows(Path(source)):
            yield _question(row, f"{name} {unit}")
    except PairsError as error:
        raise PredictionError(str(error)) from error
    if row is None:
        raise PredictionError(f"{name}: holds no rows")


def _question(row: Row, source: str) -> Question:
    where = f"{source} {row.number}"
    if row.reason is not None:
        raise PredictionError(f"{where}: {row.fault}")
    texts = []
    for key, read in (("prompt", asked_text), ("response", as_response)):
        value = row.values.get(key)
        if not isinstance(value, (str, list)) or value == []:
            raise PredictionError(f"{where}: {key} must be text or a list of chat messages")
        texts.append(_read(read, value, f"{where}: {key}"))
    return Question(texts[0], texts[1], source, row.number)


def _read(read: Callable[[Prompt], str], value: Prompt, place: str) -> str:
    try:
        return read(value)
    except PairsError as error:
        raise PredictionError(f"{place}: {error}") from None


def predict(reward: RealmReward, questions: Iterable[Question]) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Each question with the fields of :class:`Explanation` and ``models``, in order, some lines at a time.

    Raises :class:`PredictionError` naming the place of the first response that has no reward, after all before it.
    """
    models = reward.models
    asked = iter(questions)
    while some := _next(asked):
        batch, fault = some
        outcomes = explain_each(reward, [q.prompt for q in batch], [q.response for q in batch])
        for question, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, Explanation):
                raise PredictionError(_about_line(question.place, str(outcome))) from outcome
            yield question, {**outcome.to_dict(), "models": models}
        if fault is not None:
            raise fault


def _about_line(line: str, message: str) -> str:
    """``message`` about the only text that was asked for, naming its line instead of its number, 0."""
    if message.startswith("text 0"):
        return line + message.removeprefix("text 0")
    about = re.sub(r"^(signals\.\w+: )text 0 ", r"\1", message)
    return f"{line}: {about}"


def _next(asked: Iterator[Question]) -> tuple[list[Question], PredictionError | None] | None:
    """Some questions, and the error that ended them: what stands before a broken line is still answered."""
    batch: list[Question] = []
    try:
        for question in islice(asked, _LINES_AT_ONCE):
            batch.append(question)
    except PredictionError as error:
        return batch, error
    return (batch, None) if batch else None


def rank(answers: Iterable[tuple[Question, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The responses to each prompt, best first, with ``rank`` (1 is best, equal rewards share one) and ``number``.

    Rewards compare within one prompt only, so each prompt has its own ranking; prompts stay in their order.
    """
    by_prompt: dict[str, list[tuple[Question, dict[str, Any]]]] = {}
    for question, answer in answers:
        by_prompt.setdefault(question.prompt, []).append((question, answer))
    ranked = []
    for group in by_prompt.values():
        rewards = [answer["reward"] for _, answer in group]
        for question, answer in sorted(group, key=lambda entry: -entry[1]["reward"]):
            better = sum(other > answer["reward"] for other in rewards)
            ranked.append({"rank": 1 + better, "number": question.number, **answer})
    return ranked


def told_outside(outside: Sequence[bool]) -> str:
    """How many of the responses lay outside the range of the training responses."""
    beyond, asked = sum(outside), len(outside)
    return (
        f"{beyond:,} of {asked:,} responses ({100 * beyond / asked:.1f} %) lay outside the range of the training "
        "responses: there a feature counts as if it were at the border"
    )
