"""What a chat template makes of what is said: what it leaves out, and where in its text each turn's content lies.

Looked at from outside, by rendering letters that nobody writes: templates are programs, and each family does something
of its own. Mistral's puts a system turn into the last user turn, Qwen3's and DeepSeek-R1's leave out what was thought
in earlier answers, Gemma's fails on a system turn.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from realm_lib.data.chats import Message
from realm_lib.models.chat_tokens import PRIVATE_USE, ChatTokensError, render

_CLOSE = "</think>"
_LETTERS = [chr(code) for code in PRIVATE_USE[:6]]


class Kept(NamedTuple):
    """What a chat template keeps of a chat."""

    system: bool
    """System turns; also where it fails on them, which each such chat is told."""
    earlier: bool
    """The turns before the last question."""
    thoughts: bool
    """What a response says up to its last ``</think>``."""

    def lost(self, chat: Sequence[Message], name: str) -> str | None:
        """In words, which turns of ``chat`` the template of the model ``name`` would leave out; None where none."""
        if not self.system and any(turn["role"] == "system" for turn in chat):
            return (
                f"the chat template of {name} leaves out system turns: put that turn's text into the first user turn, "
                "or leave the text out"
            )
        if not self.earlier and sum(turn["role"] == "user" for turn in chat) > 1:
            return f"the chat template of {name} leaves out all but the last question: leave the text out"
        return None


def what_is_kept(tokenizer: Any) -> Kept:
    """What the tokenizer's chat template keeps, by rendering chats of one and of two questions."""
    system, first, earlier, thought, question, answer = _LETTERS
    short = [_turn("user", question), _turn("assistant", answer)]
    long = _tried(tokenizer, [_turn("user", first), _turn("assistant", earlier), *short])
    told = _tried(tokenizer, [_turn("system", system), *short])
    thinking = _tried(tokenizer, [short[0], _turn("assistant", f"<think>{thought}{_CLOSE}{answer}")])
    return Kept(
        system=told is None or system in told,
        earlier=long is None or (first in long and earlier in long),
        thoughts=thinking is None or thought in thinking,
    )


def scoring_fault(tokenizer: Any) -> str | None:
    """In words, why no response can be scored by the tokenizer's chat template; None where it can.

    It fails on a question with its answer, does not write both once and in this order, or opens another answer behind.
    """
    first, earlier, question, answer = _LETTERS[:4]
    name = f"the chat template of {tokenizer.name_or_path}"
    short = [_turn("user", question), _turn("assistant", answer)]
    try:
        text = render(tokenizer, short)
    except ChatTokensError as error:
        return str(error)
    if text.count(question) != 1 or text.count(answer) != 1 or text.index(question) > text.index(answer):
        return f"{name} does not write a question and then its answer once each"
    long = _tried(tokenizer, [_turn("user", first), _turn("assistant", earlier), *short])
    if long is not None and all(long.count(letter) == 1 for letter in (earlier, question, answer)):
        _, before_question, before_answer, behind = map(str.strip, re.split(f"[{earlier}{question}{answer}]", long))
        if behind and behind == before_answer != before_question:
            return f"{name} opens another answer behind the one to score"
    return None


def content_places(tokenizer: Any, turns: Sequence[Message], text: str) -> list[tuple[int, int]] | None:
    """Start and end of each turn's content in ``text``, which the tokenizer's template wrote for these ``turns``.

    White space around a content is not counted in. Of a turn that thought, it is what follows the last ``</think>``
    where the template writes thoughts otherwise or leaves them out. None where the template rewrites what a turn says.
    """
    for thoughts in (False, True):
        heads = [_thought(turn) if thoughts else "" for turn in turns]
        places = _places(tokenizer, turns, heads, text)
        if places is not None:
            return places
    return None


def _places(tokenizer: Any, turns: Sequence[Message], heads: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    """By the same chat with a letter in place of each content behind its head: what stands around it is the same."""
    said = [turn["content"][len(head) :] for turn, head in zip(turns, heads, strict=True)]
    taken = set(text)
    free = (letter for letter in map(chr, PRIVATE_USE) if letter not in taken)
    letters = {next(free): number for number, content in enumerate(said) if content.strip()}
    marked = [dict(turn) for turn in turns]
    for letter, number in letters.items():
        marked[number]["content"] = heads[number] + letter
    frame = _tried(tokenizer, marked)
    if frame is None:
        return None
    first, *rest = re.split(f"([{''.join(letters)}])", frame) if letters else [frame]
    if sorted(rest[::2]) != sorted(letters) or not text.startswith(first):
        return None
    places = [(0, 0)] * len(turns)
    position = len(first)
    for letter, following in zip(rest[::2], rest[1::2], strict=True):
        content = said[letters[letter]]
        forms = (content, content.strip(), content.lstrip(), content.rstrip())
        form = next((each for each in forms if text.startswith(each + following, position)), None)
        if form is None:
            return None
        start = position + len(form) - len(form.lstrip())
        places[letters[letter]] = (start, start + len(form.strip()))
        position += len(form) + len(following)
    return places if position == len(text) else None


def _thought(turn: Message) -> str:
    """What an assistant's turn says up to its last ``</think>``, that included."""
    before, close, _ = turn["content"].rpartition(_CLOSE)
    return before + close if turn["role"] == "assistant" else ""


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _tried(tokenizer: Any, chat: Sequence[Message]) -> str | None:
    """The chat's text; None where the template fails on it."""
    try:
        return render(tokenizer, chat)
    except ChatTokensError:
        return None
