"""How long a text is, in words of any script, and how a prompt that is too long is cut: one rule for all that reads it.

A word lies between two word boundaries of Unicode (UAX 29) and holds a letter, a digit or a symbol: Chinese and Thai
have them without spaces, code has them between its operators, an emoji is one.
"""

from collections.abc import Callable, Iterable

import numpy as np
import regex
from numpy.typing import NDArray

from realm_lib.data.chats import as_messages, as_text

_BEGINS = r"(?ws)\b(?=(?:.\B)*?[\p{L}\p{N}\p{So}\p{Extended_Pictographic}\u20e3])"  # _name is a word, ____ is none
_WORD_START = regex.compile(_BEGINS)
_WORD = regex.compile(rf"{_BEGINS}.+?\b")
_WORD_OR_SIGN = regex.compile(rf"{_WORD.pattern}|\S")
_LETTER = regex.compile(r"\X")


def word_count(text: str) -> int:
    """The number of words of ``text``."""
    return sum(1 for _ in _WORD_START.finditer(text))


def words_of(text: str) -> list[str]:
    """The words of ``text``, as they stand."""
    return _WORD.findall(text)


def words_and_signs(text: str) -> list[str]:
    """The words of ``text`` and, between them, each sign as one of its own: all of ``text`` but white space."""
    return _WORD_OR_SIGN.findall(text)


def letters_of(text: str) -> list[str]:
    """What a reader takes for the letters of ``text`` (grapheme clusters, UAX 29), white space and signs among them."""
    return _LETTER.findall(text)


def letter_count(text: str) -> int:
    """The number of letters of ``text``, as :func:`letters_of` has them."""
    return len(text) if text.isascii() and "\r" not in text else len(letters_of(text))


def counted(count: Callable[[str], int], texts: Iterable[str]) -> NDArray[np.int64]:
    """``count`` of each of ``texts``, [n]; equal texts are counted once."""
    texts = list(texts)
    known = {text: count(text) for text in set(texts)}
    return np.array([known[text] for text in texts], dtype=np.int64)


def cut_prompt(prompt: str, words: int) -> str:
    """``prompt`` (a text of :func:`as_text`) cut to ``words`` words; one that is short enough as it is.

    The oldest turns go first, a system turn stays; the last turn then loses its end, for a post opens with its title.
    """
    if len(prompt) <= words:
        return prompt
    turns = as_messages(prompt)
    if sum(word_count(turn["content"]) for turn in turns) <= words:
        return prompt
    told = [turn for turn in turns if turn["role"] == "system"]
    others = [turn for turn in turns if turn["role"] != "system"]
    room = max(1, words - sum(word_count(turn["content"]) for turn in told))
    kept: list[dict[str, str]] = []
    for turn in reversed(others):
        length = word_count(turn["content"])
        if kept and length > room:
            break
        kept.insert(0, turn if length <= room else {**turn, "content": _first_words(turn["content"], room)})
        room -= length
    while len(kept) > 1 and kept[0]["role"] == "assistant":
        kept.pop(0)  # what it answers is gone, and templates want a user to begin
    return as_text([*told, *kept])


def _first_words(text: str, words: int) -> str:
    starts = [match.start() for match in _WORD_START.finditer(text)]
    return text[: starts[words]].rstrip() if len(starts) > words else text
