"""Where a prompt ends and its responses begin, in texts and dialogues of which some repeat the prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from realm_lib.data.cells import NOT_TEXT, NOT_UNICODE, plain
from realm_lib.data.chats import Message, PairsError, Prompt, as_messages, as_text, as_turns, is_unicode


def split_prompt(prompt: Any, chosen: Any, rejected: Any) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as texts, from texts and dialogues in any mixture.

    A side that is a dialogue (messages, or a text in HH-RLHF's form) repeats the prompt before its last turn: what two
    dialogues share is the prompt, by roles and by contents without the white space around them. A ``prompt`` that is
    given must be their beginning or their end, a system turn aside; None, or no text beside dialogues: there is none.

    Raises :class:`PairsError` where prompt and responses cannot be told apart so; its texts are few and say nothing of
    what stands there, so that rows can be counted by them.
    """
    sides = [_side(side) for side in (chosen, rejected)]
    dialogues = [turns for turns in map(_dialogue, sides) if turns is not None]
    blank = prompt is None or (bool(dialogues) and isinstance(prompt, str) and not prompt.strip())
    context = None if blank else as_messages(turns_of(_side(prompt)))
    if not dialogues and context is not None:
        return as_text(context), _response(sides[0]), _response(sides[1])
    if context is None and len(dialogues) < 2:
        raise PairsError("no prompt")
    shared = _shared(*dialogues) if len(dialogues) == 2 else dialogues[0][:-1]
    if context is not None and not _agree(context, shared):
        raise PairsError("chosen or rejected repeats another prompt")
    texts = [_response(side) if _dialogue(side) is None else _answer(turns_of(side), len(shared)) for side in sides]
    told = [] if any(turn["role"] == "system" for turn in shared) else context or []
    return as_text([*(turn for turn in told if turn["role"] == "system"), *shared]), texts[0], texts[1]


def _side(value: Any) -> Prompt:
    """Text or messages."""
    value = plain(value)
    if isinstance(value, Mapping):
        value = [value]
    if value is None or isinstance(value, (str, list)):
        return value or ""
    raise PairsError(NOT_TEXT)


def _dialogue(side: Prompt) -> list[dict[str, str]] | None:
    """The turns of a side that is a dialogue; None for one that is a response alone."""
    turns = turns_of(side)
    alone = len(turns) == 1 and (isinstance(side, str) or turns[0]["role"] == "assistant")
    return None if alone else turns


def _response(side: Prompt) -> str:
    """What a side says that is no dialogue."""
    (turn,) = turns_of(side)
    return turn["content"] if turn["role"] == "assistant" else str(side)


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
        raise PairsError("a response is not one assistant turn")
    return str(turns[-1]["content"])


def _bare(turn: Message) -> tuple[str, str]:
    return turn["role"], turn["content"].strip()


def turns_of(dialogue: Prompt) -> list[dict[str, str]]:
    """The turns of a dialogue. Raises :class:`PairsError` for other messages, without a word of what they hold."""
    messages = [{"content": dialogue}] if isinstance(dialogue, str) else dialogue
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    if not all(is_unicode(content) for content in contents if isinstance(content, str)):
        raise PairsError(NOT_UNICODE)
    try:
        return as_turns(dialogue)
    except PairsError:
        raise PairsError("a message without a role (user, assistant, system) and text content") from None
