"""``realm predict``: responses from options or from lines of JSON, their rewards as JSON objects."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, BinaryIO

from realm_lib.data.chats import PairsError, Prompt, as_response, asked_text
from realm_lib.data.rows import Row, json_lines
from realm_lib.data.tables import read_rows
from realm_lib.features.reading import texts_read
from realm_lib.features.signals import SimilaritySignal
from realm_lib.features.store import text_key
from realm_lib.models.embedders import Reading
from realm_lib.reward.explanations import Explanation, explain_each
from realm_lib.reward.realm_reward import RealmReward

WITHIN = 0.05
"""Seconds in which what comes on standard input is answered together."""

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
        for row in json_lines(_standard_input()) if source == "-" else read_rows(Path(source)):
            yield _question(row, f"{name} {unit}")
    except PairsError as error:
        raise PredictionError(str(error)) from error
    if row is None:
        raise PredictionError(f"{name}: holds no rows")


def _standard_input() -> BinaryIO:
    """Its bytes, taken out of ``sys.stdin``: Python closes that as it ends, and fails while a thread reads from it."""
    stream: Any = sys.stdin
    if stream is None:
        raise PredictionError("standard input: is closed")
    taken: BinaryIO = stream.detach()
    return taken


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


def predict(
    reward: RealmReward, questions: Iterable[Question], *, within: float | None = None
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Each question with the fields of :class:`Explanation` and ``models``, in order, some lines at a time.

    With ``within``, for questions that somebody writes who may wait for an answer before the next, what has come so
    many seconds after the first that waits is answered; without, as many as go together are waited for.
    Raises :class:`PredictionError` naming the place of the first response that has no reward, after all before it.
    """
    models = reward.models
    for batch, fault in _filled(questions) if within is None else _arriving(questions, within):
        outcomes = explain_each(reward, [q.prompt for q in batch], [q.response for q in batch])
        for question, outcome in zip(batch, outcomes, strict=True):
            if not isinstance(outcome, Explanation):
                raise PredictionError(_about_line(question.place, str(outcome))) from outcome
            yield question, {**outcome.to_dict(), "models": models}
        if fault is not None:
            raise fault


_Some = tuple[list[Question], Exception | None]
"""Questions, and the error that ended them: what stands before a broken line is still answered."""


def _filled(asked: Iterable[Question]) -> Iterator[_Some]:
    """As many as go together, to the last of which all are waited for."""
    questions = iter(asked)
    while True:
        batch: list[Question] = []
        try:
            for question in islice(questions, _LINES_AT_ONCE):
                batch.append(question)
        except PredictionError as error:
            yield batch, error
            return
        if not batch:
            return
        yield batch, None


def _arriving(asked: Iterable[Question], within: float) -> Iterator[_Some]:
    """What comes within some seconds of the first. Another thread reads, since a read cannot be given up."""
    came: Queue[Question | Exception | None] = Queue(_LINES_AT_ONCE)

    def read() -> None:
        try:
            for question in asked:
                came.put(question)
            came.put(None)
        except Exception as error:
            came.put(error)  # raised where the questions are answered, after those before it

    Thread(target=read, daemon=True).start()
    last = _next(came)
    while isinstance(last, Question):
        batch = [last]
        until = time.monotonic() + within
        with suppress(Empty):
            while len(batch) < _LINES_AT_ONCE:
                last = came.get(timeout=max(0.0, until - time.monotonic()))
                if not isinstance(last, Question):
                    break
                batch.append(last)
        fault = last if isinstance(last, Exception) else None
        yield batch, fault
        last = _next(came) if isinstance(last, Question) else None
    if last is not None:
        yield [], last


def _next(came: "Queue[Question | Exception | None]") -> Question | Exception | None:
    """What comes next, however long it takes; in short waits, for an interrupt right before a wait does not end it."""
    while True:
        with suppress(Empty):
            return came.get(timeout=1.0)


def _about_line(line: str, message: str) -> str:
    """``message`` about the only text that was asked for, naming its line instead of its number, 0."""
    if message.startswith("text 0"):
        return line + message.removeprefix("text 0")
    about = re.sub(r"^(signals\.\w+: )text 0 ", r"\1", message)
    return f"{line}: {about}"


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


class TextsRead:
    """How much the embedding models of a reward read of the texts that it was asked about; equal ones count once."""

    def __init__(self, reward: RealmReward) -> None:
        self._reward = reward
        self._embedders = {
            name: signal.embedder for name, signal in reward.features.items() if isinstance(signal, SimilaritySignal)
        }
        self._readings: dict[str, Reading] = {}
        self._known: set[bytes] = set()

    def of(self, answers: Iterable[tuple[Question, dict[str, Any]]]) -> Iterator[tuple[Question, dict[str, Any]]]:
        """The ``answers`` as they come, their texts counted."""
        for question, answer in answers:
            prompts = self._new("prompt", self._reward.read_prompt(question.prompt))
            responses = self._new("response", question.response)
            for name, embedder in self._embedders.items():
                if (reading := texts_read(prompts, responses, embedder)) is not None:
                    self._readings[name] = self._readings[name] + reading if name in self._readings else reading
            yield question, answer

    def _new(self, role: str, text: str) -> list[str]:
        """The text, unless it was counted before; its hash is kept, since a pipe may never end."""
        key = text_key(role, text)
        if key in self._known:
            return []
        self._known.add(key)
        return [text]

    def told(self) -> list[str]:
        """A line for each cosine whose model left something unread or does not know the language."""
        return [f"{name}: {reading}" for name, reading in self._readings.items() if reading.is_notable]


def told_outside(outside: Sequence[bool]) -> str:
    """How many of the responses lay outside the range of the training responses."""
    beyond, asked = sum(outside), len(outside)
    return (
        f"{beyond:,} of {asked:,} responses ({100 * beyond / asked:.1f} %) lay outside the range of the training "
        "responses: there a feature counts as if it were at the border"
    )
