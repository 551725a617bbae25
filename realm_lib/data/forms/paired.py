"""Forms of two responses a row: one chosen and one rejected, or two with a judgement."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from realm_lib.data.cells import given, listed, number, objects, text
from realm_lib.data.chats import PairsError, as_messages, as_text
from realm_lib.data.forms.form import NO_PREFERENCE, Pair, Row, chosen_over, plain_prompt
from realm_lib.data.responses import split_prompt, turns_of

PROMPTS = ("prompt", "instruction", "question", "query", "conversations", "input", "history")
"""What the prompt of chosen and rejected responses is called; of several the first that is not empty."""
_RATINGS = (
    ("chosen_score", "rejected_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_avg_rating", "rejected_avg_rating"),
)
_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"} | {
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MESSAGES = re.compile(r"""\s*[\[{][\s{]*["'](role|content|from|value)["']""")
_HELPSTEER_TURN = re.compile(r"(?:^|\n)<extra_id_1>(User|Assistant)\n")


def chosen_and_rejected(row: Row) -> Iterator[Pair]:
    """Texts, messages, HH-RLHF's transcripts or ShareGPT's turns, with or without a prompt of their own."""
    sides = [_as_messages(_cell(row, column)) for column in ("chosen", "rejected")]
    prompt, chosen, rejected = split_prompt(_prompt(row), *sides)
    yield chosen_over(_with_system(row, prompt), chosen, rejected, _ratings(row))


def better_and_worse(prompt: str, better: str, worse: str) -> Callable[[Row], Iterator[Pair]]:
    """The reader of three columns of plain texts."""

    def read(row: Row) -> Iterator[Pair]:
        texts = plain_prompt(given(row, prompt)), text(given(row, better)), text(given(row, worse))
        yield chosen_over(*texts, _ratings(row))

    return read


def two_responses(
    prompt: Callable[[Row], str], first: str, second: str, preference: Callable[[Row], int | None]
) -> Callable[[Row], Iterator[Pair]]:
    """The reader of two columns of plain texts, and of a ``preference`` as :attr:`Pair.label` has it."""

    def read(row: Row) -> Iterator[Pair]:
        yield Pair(prompt(row), text(given(row, first)), text(given(row, second)), preference(row))

    return read


def coded(column: str, labels: Mapping[int | float, int | None]) -> Callable[[Row], int | None]:
    """A preference that is a number, by what the numbers mean."""

    def preference(row: Row) -> int | None:
        value = number(given(row, column))
        if value is None or value not in labels:
            raise PairsError(NO_PREFERENCE)
        return labels[value]

    return preference


def prompt_of(column: str) -> Callable[[Row], str]:
    """The prompt in a column of plain texts."""
    return lambda row: plain_prompt(given(row, column))


def messages_of(column: str) -> Callable[[Row], str]:
    """The prompt in a column of messages."""
    return lambda row: as_text(turns_of(listed(row, column)))


def instruction_of(row: Row) -> str:
    """Alpaca's prompt: the instruction, and the input under it where there is one."""
    parts = [text(given(row, column)) for column in ("instruction", "input")]
    return plain_prompt("\n".join(part for part in parts if part))


def helpsteer2_prompt(row: Row) -> str:
    """HelpSteer2's prompt: later turns stand under lines of ``<extra_id_1>User`` and ``<extra_id_1>Assistant``."""
    whole = text(given(row, "prompt"))
    first, *rest = _HELPSTEER_TURN.split(whole)
    turns = [{"role": "user", "content": first}] if first or not rest else []
    turns += [{"role": role.lower(), "content": said} for role, said in zip(rest[::2], rest[1::2], strict=True)]
    return as_text(turns)


def arena(row: Row) -> Iterator[Pair]:
    """Chatbot Arena's and MT-bench's two conversations; what is judged are their first ``turn`` turns.

    A judgement of several turns on each side is none of two responses to one prompt.
    """
    judged = number(given(row, "turn"))
    sides = [turns_of(listed(row, f"conversation_{side}")) for side in "ab"]
    if judged is not None and judged >= 1:
        sides = [side[: _end_of_turn(side, int(judged))] for side in sides]
    prompt, a, b = split_prompt(None, *sides)
    yield Pair(prompt, a, b, _winner(row))


def arena_lists(row: Row) -> Iterator[Pair]:
    """The form of the Arena's competition at Kaggle: lists of what the user and each model said, turn by turn."""
    prompts = listed(row, "prompt")
    sides = []
    for side in "ab":
        said = listed(row, f"response_{side}")
        if len(said) != len(prompts):
            raise PairsError("not as many responses as prompts")
        told = zip(prompts, said, strict=True)
        sides.append([turn for user, model in told for turn in _exchange(text(user), text(model))])
    prompt, a, b = split_prompt(None, *sides)
    won = [number(given(row, f"winner_model_{side}")) for side in "ab"]
    if won not in ([1, 0], [0, 1], [0, 0]):
        raise PairsError(NO_PREFERENCE)
    yield Pair(prompt, a, b, None if won == [0, 0] else int(won == [1, 0]))


def webgpt(row: Row) -> Iterator[Pair]:
    """WebGPT's comparisons: a response is preferred when its score is positive, 0 is a tie."""
    question = given(row, "question")
    prompt = plain_prompt(question.get("full_text") if isinstance(question, Mapping) else question)
    scores = [number(given(row, f"score_{side}")) for side in "01"]
    if scores[0] is None or scores[1] is None:
        raise PairsError(NO_PREFERENCE)
    label = None if scores[0] == scores[1] else int(scores[0] > scores[1])
    yield Pair(prompt, text(given(row, "answer_0")), text(given(row, "answer_1")), label)


def summaries(row: Row) -> Iterator[Pair]:
    """Comparisons of summaries, the prompt as their authors wrote it for their models (arXiv 2009.01325)."""
    info, two = given(row, "info"), objects(row, "summaries")
    if not isinstance(info, Mapping) or len(two) != 2:
        raise PairsError("not a post and two summaries")
    article, title = text(info.get("article")), text(info.get("title"))
    told = {"SUBREDDIT": text(info.get("subreddit")), "TITLE": title, "POST": text(info.get("post"))}
    told["SUBREDDIT"] = told["SUBREDDIT"] and f"r/{told['SUBREDDIT']}"
    parts = [f"{name}: {said}" for name, said in told.items() if said] if told["POST"] else [f"Article:\n\n{article}"]
    if not told["POST"] and not article:
        raise PairsError("not a post and two summaries")
    a, b = (text(summary.get("text")) for summary in two)
    label = coded("choice", {0: 1, 1: 0})(row)
    yield Pair(plain_prompt("\n\n".join([*parts, "TL;DR:"])), a, b, label, post_id=info.get("id"))


def _prompt(row: Row) -> Any:
    """The prompt of chosen and rejected, in any of its names; None where there is none."""
    values = {column: _cell(row, column) for column in PROMPTS}
    earlier = values.pop("history") if isinstance(values["history"], list) else []
    found = next((column for column, value in values.items() if value not in (None, "", [])), None)
    if found is None:
        return None if all(value is None for value in values.values()) else ""
    prompt = _as_messages(values[found])
    if found == "instruction" and isinstance(prompt, str) and isinstance(values["input"], str) and values["input"]:
        prompt = f"{prompt}\n{values['input']}"  # Alpaca's, as LLaMA-Factory joins them
    if not earlier:
        return prompt
    if not all(isinstance(turn, list) and len(turn) == 2 for turn in earlier):
        raise PairsError("history is not a list of questions and answers")
    told = [turn for user, model in earlier for turn in _exchange(text(user), text(model))]
    return [*told, *turns_of(prompt)]


def _with_system(row: Row, prompt: str) -> str:
    system = text(given(row, "system"))
    turns = as_messages(prompt)
    if not system or turns[0]["role"] == "system":
        return prompt
    return as_text([{"role": "system", "content": system}, *turns])


def _cell(row: Row, column: str) -> Any:
    """The value of a column; in a CSV, which has no other way to hold them, messages are JSON."""
    value = given(row, column)
    if not str(row["_file"]).endswith((".csv", ".csv.gz")) or not isinstance(value, str) or not _MESSAGES.match(value):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise PairsError("messages that are not JSON") from None


def _as_messages(value: Any) -> Any:
    """ShareGPT's turns ({"from", "value"}) as messages; anything else as it is."""
    if isinstance(value, list):
        return [_as_messages(part) for part in value]
    if isinstance(value, Mapping) and {"from", "value"} <= set(value):
        return {"role": _SHAREGPT.get(str(value["from"]), value["from"]), "content": value["value"]}
    return value


def _ratings(row: Row) -> tuple[float | None, float | None]:
    for names in _RATINGS:
        values = [given(row, name) for name in names]
        if None not in values:
            numbers = [number(value) for value in values]
            if None in numbers:
                raise PairsError("ratings are not numbers")
            return numbers[0], numbers[1]
    return None, None


def _exchange(user: str, model: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": model}]


def _end_of_turn(turns: list[dict[str, str]], number: int) -> int:
    """Where the answer to the user's turn of this number ends."""
    answers = [place for place, turn in enumerate(turns, start=1) if turn["role"] == "assistant"]
    return answers[number - 1] if number <= len(answers) else len(turns)


def _winner(row: Row) -> int | None:
    winner = given(row, "winner")
    if winner not in ("model_a", "model_b", "tie", "tie (bothbad)", "both_bad"):
        raise PairsError(NO_PREFERENCE)
    return {"model_a": 1, "model_b": 0}.get(winner)
