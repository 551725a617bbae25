"""How long a text is, in words of any script, and how a prompt that is too long is cut: one rule for all that reads it.

A word lies between two word boundaries of Unicode (UAX 29) and holds a letter, a digit or a symbol: Chinese and Thai
have them without spaces, code has them between its operators, an emoji is one.
"""

import regex

from realm_lib.data.chats import as_messages, as_text

_LETTERS = r"[\p{L}\p{N}\p{So}_]"
_WORD_START = regex.compile(rf"(?w)\b(?={_LETTERS})")
_WORD = regex.compile(rf"(?w)\b{_LETTERS}.*?\b", regex.DOTALL)
_LETTER = regex.compile(r"\X")


def word_count(text: str) -> int:
    """The number of words of ``text``."""
    return sum(1 for _ in _WORD_START.finditer(text))


def words_of(text: str) -> list[str]:
    """The words of ``text``, as they stand."""
    return [match.group() for match in _WORD.finditer(text)]


def letters_of(text: str) -> list[str]:
    """What a reader takes for the letters of ``text`` (grapheme clusters, UAX 29), white space and signs among them."""
    return [match.group() for match in _LETTER.finditer(text)]


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
