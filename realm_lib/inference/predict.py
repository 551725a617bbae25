"""``realm predict``: responses from options or from lines of JSON, their rewards as JSON objects."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from realm_lib.data.chats import PairsError, as_response, as_text
from realm_lib.reward.explanations import Explanation, explain_each
from realm_lib.reward.realm_reward import RealmReward

_LINES_AT_ONCE = 64


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
    """The questions of ``--prompt`` and each ``--response``."""
    return [_checked(prompt, response, "--response", number) for number, response in enumerate(responses, start=1)]


def read_questions(source: str) -> Iterator[Question]:
    """The questions of a file, ``-`` for standard input: {"prompt", "response"} a line, as text or chat messages.

    Lines are read as they are needed; blank ones are skipped. Raises :class:`PredictionError` naming file and line.
    """
    name = "standard input" if source == "-" else source
    number = 0
    try:
        with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _question(line, f"{name} line", number)
    except OSError as error:
        where = f"{name} line {number + 1}" if number else name
        raise PredictionError(f"{where}: cannot be read: {error.strerror}") from error


def _question(line: bytes, source: str, number: int) -> Question:
    where = f"{source} {number}"
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise PredictionError(f"{where}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise PredictionError(f"{where}: not JSON: {error.msg} at character {error.pos}") from None
    except (RecursionError, ValueError) as error:
        raise PredictionError(f"{where}: not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise PredictionError(f"{where}: expected an object with prompt and response, found {type(row).__name__}")
    texts = []
    for key, read in (("prompt", as_text), ("response", as_response)):
        value = row.get(key)
        if not isinstance(value, (str, list)) or value == []:
            raise PredictionError(f"{where}: {key} must be text or a list of chat messages")
        try:
            texts.append(read(value))
        except PairsError as error:
            raise PredictionError(f"{where}: {key}: {error}") from None
    return _checked(texts[0], texts[1], source, number)


def _checked(prompt: str, response: str, source: str, number: int) -> Question:
    try:
        (prompt + response).encode()
    except UnicodeEncodeError:
        raise PredictionError(f"{source} {number}: holds a lone surrogate, which is not Unicode text") from None
    return Question(prompt, response, source, number)


def predict(reward: RealmReward, questions: Iterable[Question]) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Each question with reward, spread, score, similarity and ``models``, in order, some lines at a time.

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
    return line + message.removeprefix("text 0") if message.startswith("text 0") else f"{line}: {message}"


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
