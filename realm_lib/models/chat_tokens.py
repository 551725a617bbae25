"""Chats to tokens: the model's own template, one BOS, and contents that cannot write the template's special tokens.

A template marks turns by special tokens, and a tokenizer finds those wherever they stand in a text: a response that
quotes ``<|eot_id|>`` would end its own turn and could go on as the user, who is well pleased. Here only the template
writes special tokens; within what somebody said the same letters are letters.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from realm_lib.data.chats import Message

DATE = "26 Jul 2024"
"""Llama-3.1's template writes today's date into the chat unless told another; nothing must change overnight."""
_ASKS_FOR_TODAY = "strftime_now"
"""The function by which a template (Llama-3.2's, Mistral's, SmolLM3's, gpt-oss's) asks for the date by itself."""
PRIVATE_USE = range(0xF0000, 0xFFFFE)
"""Codes of letters that stand for something else while a chat is rendered."""
_PORTION = 100_000
"""Characters that are tokenized together."""


class ChatTokensError(ValueError):
    """A chat that has no tokens: ``number`` is its place among those given."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class ChatTokens(NamedTuple):
    """A chat's text as its template renders it, its token ids, and where each token lies in the text."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


def tokenize_chats(tokenizer: Any, chats: Sequence[Sequence[Message]], **switches: Any) -> list[ChatTokens]:
    """Each chat rendered by the tokenizer's template, to which ``switches`` are given, and tokenized.

    Raises the first :class:`ChatTokensError` of :func:`tokenize_each`.
    """
    told = []
    for row in tokenize_each(tokenizer, chats, **switches):
        if isinstance(row, ChatTokensError):
            raise row
        told.append(row)
    return told


def tokenize_each(
    tokenizer: Any, chats: Sequence[Sequence[Message]], **switches: Any
) -> Iterator[ChatTokens | ChatTokensError]:
    """As :func:`tokenize_chats`, and what is wrong with a chat in its place: a template that fails on it or writes BOS
    twice, a content with a special token that this tokenizer cannot read as letters.

    A portion at a time: tokens and their places take a hundred times the memory of the letters.
    """
    forged = _Forged(tokenizer)
    for numbers in portions([sum(len(turn["content"]) for turn in chat) for chat in chats]):
        hidden: dict[int, _Hidden] = {}
        faults: dict[int, ChatTokensError] = {}
        for number in numbers:
            try:
                chat, letters = forged.hidden(number, chats[number])
                hidden[number] = _Hidden(render(tokenizer, chat, number, **switches), letters)
            except ChatTokensError as error:
                faults[number] = error
        rows = _tokenized(tokenizer, [text for text, _ in hidden.values()])
        for number in numbers:
            try:
                yield faults[number] if number in faults else _told(forged, number, next(rows), hidden[number].letters)
            except ChatTokensError as error:
                yield error


class _Hidden(NamedTuple):
    """A chat as its template renders it, and what the letters stand for that hide special tokens."""

    text: str
    letters: dict[str, str]


def portions(sizes: Sequence[int]) -> Iterator[range]:
    """Places of neighbours whose ``sizes``, in characters, are tokenized together: one, or as many as stay small."""
    start = taken = 0
    for number, size in enumerate(sizes):
        if number > start and taken + size > _PORTION:
            yield range(start, number)
            start, taken = number, 0
        taken += size
    yield range(start, len(sizes))


def _tokenized(tokenizer: Any, texts: Sequence[str]) -> Iterator[ChatTokens]:
    if texts:
        rows = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        yield from map(ChatTokens, texts, rows["input_ids"], rows["offset_mapping"])


def _told(forged: "_Forged", number: int, row: ChatTokens, letters: dict[str, str]) -> ChatTokens:
    bos = forged.tokenizer.bos_token_id
    if bos is not None and row.ids[:2] == [bos, bos]:
        name = forged.tokenizer.name_or_path
        raise ChatTokensError(number, f"the chat template of {name} writes the BOS token twice")
    return forged.shown(number, row, letters) if letters else row


def letter_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that somebody wrote, special tokens within them as letters; none is added.

    Raises :class:`ChatTokensError` for a text with one that this tokenizer cannot read as letters.
    """
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    forged = _Forged(tokenizer)
    for number, row in enumerate(ids):
        if found := forged.ids.intersection(row):
            raise forged.refusal(number, tokenizer.convert_ids_to_tokens(min(found)))
    return ids


@cache
def dated(template: str) -> str:
    """``template`` with :data:`DATE` for the date that it asks for by itself; as it is where it does not ask.

    What it calls is put before it as a macro of the same name: transformers gives a template no functions but its own.
    The line break after the macro is no text (transformers trims blocks).
    """
    if _ASKS_FOR_TODAY not in template:
        return template
    day = datetime.strptime(DATE, "%d %b %Y")
    letters = [*"aAbBcdDefFgGhHIjmMnpSTuUVwWxXyYzZ", *("-" + letter for letter in "dmyHIMSj")]
    filters = "".join(f" | replace('%{letter}', {day.strftime('%' + letter)!r})" for letter in letters)
    part = f"{{{{ '' if loop.first else '%' }}}}{{{{ part{filters} }}}}"
    body = f"{{% for part in format.split('%%') %}}{part}{{% endfor %}}"
    return f"{{% macro {_ASKS_FOR_TODAY}(format) %}}{body}{{% endmacro %}}\n{template}"


def render(tokenizer: Any, chat: Sequence[Message], number: int = 0, **switches: Any) -> str:
    """The text of a chat by the tokenizer's template, to which ``switches`` are given; not for tokenizing as it is.

    Raises :class:`ChatTokensError` with ``number`` where the template fails.
    """
    try:
        template = dated(tokenizer.get_chat_template(switches.get("chat_template")))
        options = {**switches, "chat_template": template, "date_string": DATE}
        text: str = tokenizer.apply_chat_template(list(chat), tokenize=False, **options)
    except (TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(turn["role"] for turn in chat)
        raise ChatTokensError(
            number,
            f"the chat template of {tokenizer.name_or_path} fails: {type(error).__name__}: {error} "
            f"(roles of the turns: {roles}){_without_system(tokenizer, chat, switches)}",
        ) from error
    return text


def _without_system(tokenizer: Any, chat: Sequence[Message], switches: dict[str, Any]) -> str:
    """What to do about a chat on which a template fails, where its system turn is the reason (Gemma's take none)."""
    others = [turn for turn in chat if turn["role"] != "system"]
    if len(others) in (0, len(chat)):
        return ""
    try:
        render(tokenizer, others, **switches)
    except ChatTokensError:
        return ""
    return "; it takes no system turn: put that turn's text into the first user turn, or leave the text out"


class _Forged:
    """Special tokens in contents: hidden from the template and the tokenizer's search, then shown as letters.

    Special are also those by which the template marks turns, whatever the tokenizer calls them; where it does not call
    them special, a content with one is refused.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        named = set(tokenizer.all_special_ids)
        turns = _bare_turns(tokenizer) if any(map(_may_mark, added.values())) else ""
        special = {
            index: token
            for index, token in added.items()
            if token.special or index in named or (_may_mark(token) and token.content in turns)
        }
        self.ids = set(special) - {tokenizer.unk_token_id}  # an unknown letter is that of the text
        # A longer token may hold a shorter one.
        names = sorted((token.content for token in special.values() if token.content), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        normalizer = tokenizer.backend_tokenizer.normalizer
        searched = normalizer is not None and any(token.normalized for token in special.values())
        self._normalize = normalizer.normalize_str if searched else None

    def hidden(self, number: int, chat: Sequence[Message]) -> tuple[Sequence[Message], dict[str, str]]:
        """``chat`` with a letter of its own in place of each special token, and what each letter stands for."""
        found = {token for turn in chat for token in self._pattern.findall(turn["content"])}
        if found:
            taken = {letter for turn in chat for letter in turn["content"]}
            free = (chr(code) for code in PRIVATE_USE if chr(code) not in taken)
            letters = dict(zip(sorted(found), free, strict=False))
            chat = [
                {**turn, "content": self._pattern.sub(lambda match: letters[match[0]], turn["content"])}
                for turn in chat
            ]
        if self._normalize is not None:
            for turn in chat:
                if token := self._pattern.search(self._normalize(turn["content"])):
                    raise self.refusal(number, token[0])
        return chat, {letter: token for token, letter in letters.items()} if found else {}

    def shown(self, number: int, row: ChatTokens, letters: dict[str, str]) -> ChatTokens:
        """``row`` with the tokens for which its ``letters`` stand, letter by letter.

        Only stretches that hold one, between two special tokens, are tokenized again. That a stretch alone gives what
        the whole text gave is checked on its hidden form.
        """
        text, done = "", 0
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        standing = str.maketrans(letters)

        def add(part: str, part_ids: Sequence[int], part_offsets: Sequence[tuple[int, int]]) -> None:
            nonlocal text
            ids.extend(part_ids)
            offsets.extend((len(text) + start, len(text) + end) for start, end in part_offsets)
            text += part

        def add_stretch(start: int, end: int, until: int) -> None:
            nonlocal done
            part = row.text[done:until]
            part_ids, part_offsets = row.ids[start:end], [(a - done, b - done) for a, b in row.offsets[start:end]]
            done = until
            if not letters.keys().isdisjoint(part):
                if self._letters(part)[0] != part_ids:
                    raise self.refusal(number, letters[next(letter for letter in part if letter in letters)])
                part = part.translate(standing)
                part_ids, part_offsets = self._letters(part)
                if found := self.ids.intersection(part_ids):
                    raise self.refusal(number, self.tokenizer.convert_ids_to_tokens(min(found)))
            add(part, part_ids, part_offsets)

        last = 0
        for place, index in enumerate(row.ids):
            if index in self.ids:
                start, end = row.offsets[place]
                add_stretch(last, place, start)
                add(row.text[start:end], [index], [(0, end - start)])
                last, done = place + 1, end
        add_stretch(last, len(row.ids), len(row.text))
        return ChatTokens(text, ids, offsets)

    def _letters(self, part: str) -> tuple[list[int], list[tuple[int, int]]]:
        told = self.tokenizer(part, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return told["input_ids"], told["offset_mapping"]

    def refusal(self, number: int, token: str) -> ChatTokensError:
        return ChatTokensError(
            number,
            f"a turn says {token!r:.40}, which {self.tokenizer.name_or_path} can only read as its special token: "
            "leave the text out",
        )


def _may_mark(token: Any) -> bool:
    """Whether an added token that is not called special may yet mark turns, as DeepSeek's ``<｜User｜>`` does."""
    return not (token.special or token.content.isalnum() or token.content.isspace())


def _bare_turns(tokenizer: Any) -> str:
    """What the template writes around short turns; empty where it fails on them."""
    for roles in (("user", "assistant", "user"), ("user",)):
        try:
            return render(tokenizer, [{"role": role, "content": "x"} for role in roles])
        except ChatTokensError:
            continue
    return ""
