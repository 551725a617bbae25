"""Dialogues as chat messages, and as the one text under which a table, a key or a request holds them.

A single user message is its text. Several turns are one text in the form that HH-RLHF made common, if it reads back as
the same turns; else, where somebody quotes such headings, a JSON text sequence (RFC 7464). So a turn's content is never
searched for turns, and :func:`as_messages` of :func:`as_text` is what it was.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from realm_lib.data.texts import folded, is_blank

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""A prompt as text, or as chat messages ({"role", "content"})."""


class PairsError(ValueError):
    """Preference pairs that cannot be used; the message names the file, the row or the column."""


_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System): ?")
_HEADING = {"user": "Human", "assistant": "Assistant", "system": "System"}
_ROLE = {heading: role for role, heading in _HEADING.items()}
_RECORD = "\x1e"  # RFC 7464 puts this separator before each JSON text


def as_turns(dialogue: Prompt) -> list[dict[str, str]]:
    """The turns of a dialogue: its messages, or those of a text in one of the forms that the module names.

    Any other text is one user message; a content in parts, {"type": "text", "text"} each, is their texts joined.
    Raises :class:`PairsError` for messages without role and text content, and for text that is not Unicode's.
    """
    if isinstance(dialogue, str):
        return _turns_of_text(_unicode(dialogue))
    turns = []
    for message in dialogue:
        if not isinstance(message, Mapping):
            raise PairsError(f"a message is an object with role and content, got {message!r:.60}")
        role, content = message.get("role"), _content(message.get("content"))
        if not isinstance(role, str) or role not in _HEADING or not isinstance(content, str):
            raise PairsError(
                f"a message needs a role ({', '.join(_HEADING)}) and text content, got {dict(message)!r:.200}"
            )
        turns.append({"role": role, "content": _unicode(content)})
    return turns


def _content(content: Any) -> Any:
    """The text of a content that has parts, all of them texts; any other content as it is."""
    parts = content if isinstance(content, list) and content else [None]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(parts) else content


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The turns of a prompt. An empty assistant turn at its end only opens the answer, and is left out.

    Raises :class:`PairsError` as :func:`as_turns` does, for a prompt without turns, and for one that ends in what the
    assistant has said: what answers it would be a second turn of the assistant's.
    """
    turns = as_turns(prompt)
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip():
        turns.pop()
    if not turns:
        raise PairsError("the prompt has no turn that a response could answer")
    if turns[-1]["role"] == "assistant":
        raise PairsError("the prompt ends in an assistant turn that is not empty: a response answers a user's turn")
    return turns


def as_text(prompt: Prompt) -> str:
    """The one text of a prompt: equal turns have equal texts, and the text reads back as the same turns.

    Raises :class:`PairsError` as :func:`as_messages` does.
    """
    if isinstance(prompt, str) and not prompt.startswith(("\n\n", _RECORD)):
        return _unicode(prompt)
    turns = as_messages(prompt)
    for text in ([turns[0]["content"]] if _one_of_user(turns) else []) + [_transcript(turns)]:
        if _turns_of_text(text) == turns:
            return text
    return _RECORD + json.dumps([[turn["role"], turn["content"]] for turn in turns], ensure_ascii=False)


def asked_text(prompt: Prompt) -> str:
    """:func:`as_text` of a prompt for whose responses somebody wants numbers.

    The one rule on empty texts in use: nothing answers a prompt whose last turn is blank, wherever it is given. An
    empty response is something a policy says, and has a reward like any other. Raises :class:`PairsError` as
    :func:`as_text` does, and for such a prompt.
    """
    text = as_text(prompt)
    if is_empty_prompt(text):
        raise PairsError("the prompt is empty: there is nothing in its last turn that a response could answer")
    return text


def is_empty_prompt(prompt: Prompt) -> bool:
    """Whether a prompt's last turn has no visible character. Raises what :func:`as_messages` does."""
    return is_blank(as_messages(prompt)[-1]["content"])


def readable(prompt: Prompt) -> str:
    """A prompt as people and embedding models read it: a single user message's content, or turns under headings."""
    turns = as_messages(prompt)
    return turns[0]["content"] if _one_of_user(turns) else _transcript(turns)


def as_response(completion: Prompt) -> str:
    """The text of a response: a string as it is, or what one assistant message says.

    Raises :class:`PairsError` for anything else: what somebody else says in it would be taken for the assistant's.
    """
    if isinstance(completion, str):
        return _unicode(completion)
    turns = as_turns(completion)
    if [turn["role"] for turn in turns] != ["assistant"]:
        roles = ", ".join(turn["role"] for turn in turns) or "none"
        raise PairsError(f"a response is text or one assistant message, got messages of: {roles}")
    return turns[0]["content"]


def asked_texts(
    prompts: Sequence[Prompt], completions: Sequence[Prompt], read_prompt: Callable[[Prompt], str] = asked_text
) -> list[tuple[str, str]]:
    """What a reward is asked about as texts: each prompt, by ``read_prompt``, with its completion.

    Raises ValueError when their numbers differ, and :class:`PairsError` with the place of what is no dialogue or text,
    and of an empty prompt.
    """
    if len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
    told = _each(read_prompt, prompts, "the prompt of completion")
    return list(zip(told, _each(as_response, completions, "completion"), strict=True))


def _each(read: Callable[[Prompt], str], dialogues: Sequence[Prompt], name: str) -> list[str]:
    texts = []
    for place, dialogue in enumerate(dialogues):
        try:
            texts.append(read(dialogue))
        except PairsError as error:
            raise PairsError(f"{name} {place}: {error}") from None
    return texts


def prompt_key(prompt: Prompt) -> str:
    """What makes two prompts the same: the same turns, whatever their case, white space and invisible characters.

    The one rule by which a held-out prompt is kept out of training. Raises :class:`PairsError` as :func:`as_messages`
    does.
    """
    turns = as_messages(prompt)
    if _one_of_user(turns):
        return folded(turns[0]["content"])
    # Folded contents hold no line break: no content can look like a turn of its own.
    return "".join(f"\n{turn['role']}: {folded(turn['content'])}" for turn in turns)


def is_unicode(text: str) -> bool:
    """Whether ``text`` is text: no half of a surrogate pair, which JSON's escapes can write, stands alone in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unicode(text: str) -> str:
    if not is_unicode(text):
        raise PairsError("holds a lone surrogate, which is not Unicode text")
    return text


def _turns_of_text(text: str) -> list[dict[str, str]]:
    if text.startswith(_RECORD) and (recorded := _recorded(text)):
        return recorded
    starts = list(_TURN.finditer(text)) if text.startswith("\n\n") else []
    if not starts or starts[0].start() != 0:
        return [{"role": "user", "content": text}]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [
        {"role": _ROLE[match.group(1)], "content": text[match.end() : end]}
        for match, end in zip(starts, ends, strict=True)
    ]


def _recorded(text: str) -> list[dict[str, str]] | None:
    """The turns that :func:`as_text` wrote as JSON; None for a text that only begins like it."""
    try:
        found = json.loads(text.removeprefix(_RECORD))
    except (ValueError, RecursionError):
        return None
    pairs = found if isinstance(found, list) else []
    if not pairs or any(not isinstance(turn, list) or len(turn) != 2 for turn in pairs):
        return None
    if any(role not in _ROLE.values() or not isinstance(content, str) for role, content in pairs):
        return None
    return [{"role": role, "content": content} for role, content in pairs]


def _transcript(turns: Sequence[Message]) -> str:
    return "".join(f"\n\n{_HEADING[turn['role']]}: {turn['content']}" for turn in turns)


def _one_of_user(turns: Sequence[Message]) -> bool:
    return len(turns) == 1 and turns[0]["role"] == "user"
