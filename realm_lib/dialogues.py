"""Dialogues as text and as chat messages.

A single user message is its text; several turns are one text in the form that HH-RLHF made common.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Message", "PairsError", "Prompt", "as_messages", "as_text"]

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""A prompt as text, or as chat messages ({"role", "content"})."""


class PairsError(ValueError):
    """Preference pairs that cannot be used; the message names the file, the row or the column."""


_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System): ?")
_HEADING = {"user": "Human", "assistant": "Assistant", "system": "System"}
_ROLE = {heading: role for role, heading in _HEADING.items()}


def as_text(prompt: Prompt) -> str:
    """One text for a prompt or completion: a string as it is, one message as its content, several as a transcript.

    Raises :class:`PairsError` for messages without role and text content.
    """
    if isinstance(prompt, str):
        return prompt
    turns = []
    for message in prompt:
        if not isinstance(message, Mapping):
            raise PairsError(f"a message is an object with role and content, got {message!r:.60}")
        role, content = message.get("role"), message.get("content")
        if role not in _HEADING or not isinstance(content, str):
            raise PairsError(f"a message needs a role ({', '.join(_HEADING)}) and text content, got {dict(message)!r}")
        turns.append((role, content))
    if len(turns) == 1:
        return turns[0][1]
    return "".join(f"\n\n{_HEADING[role]}: {content}" for role, content in turns)


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """Chat messages of a prompt: the turns of a transcript (see :func:`as_text`), otherwise one user message."""
    text = as_text(prompt)
    if not isinstance(prompt, str):
        return [{"role": message["role"], "content": message["content"]} for message in prompt]
    starts = list(_TURN.finditer(text))
    if not starts or starts[0].start() != 0 or not text.startswith("\n\n"):
        return [{"role": "user", "content": text}]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [
        {"role": _ROLE[match.group(1)], "content": text[match.end() : end]}
        for match, end in zip(starts, ends, strict=True)
    ]
