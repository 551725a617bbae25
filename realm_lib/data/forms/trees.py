"""Open Assistant's trees of messages: people ranked the replies to one message, rank 0 the best.

What was deleted or written by a model is left out, and so is what was said below it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from realm_lib.data.cells import given, id_text, number, text
from realm_lib.data.chats import PairsError, as_text
from realm_lib.data.forms.form import ALONE, DELETED, SYNTHETIC, Found, Pair, Row, ranked

_ROLES = {"prompter": "user", "assistant": "assistant"}


class _Reply(NamedTuple):
    """A message that the assistant has said, the messages before it, the first one first, and where it stands."""

    message: Row
    before: tuple[Row, ...]
    row: Row


def message_rows(rows: Sequence[Row]) -> Found:
    """A message a row, under the one that ``parent_id`` names."""
    messages = {id_text(given(row, "message_id")): row for row in rows}
    replies = []
    for row in rows:
        if given(row, "role") == "prompter":
            continue
        try:
            replies.append(_Reply(row, _before(row, messages), row))
        except PairsError as error:
            yield row, str(error)
    yield from _pairs(replies)


def nested(rows: Sequence[Row]) -> Found:
    """A tree a row, in ``prompt``, each message with its ``replies``."""
    replies = []
    for row in rows:
        waiting: list[tuple[Any, tuple[Row, ...]]] = [(given(row, "prompt"), ())]
        while waiting:
            message, before = waiting.pop()
            if not isinstance(message, Mapping):
                yield row, "a message that is no object"
                continue
            if before and message.get("role") != "prompter":
                replies.append(_Reply(message, before, row))
            below = message.get("replies")
            waiting += [(reply, (*before, message)) for reply in reversed(below if isinstance(below, list) else [])]
    yield from _pairs(replies)


def _before(row: Row, messages: Mapping[str | None, Row]) -> tuple[Row, ...]:
    path: list[Row] = []
    parent = id_text(given(row, "parent_id"))
    while parent is not None:
        if parent not in messages or len(path) > len(messages):
            raise PairsError("the message that it replies to is not there")
        path.append(messages[parent])
        parent = id_text(given(messages[parent], "parent_id"))
    if not path:
        raise PairsError("no prompt")
    return tuple(reversed(path))


def _pairs(replies: Sequence[_Reply]) -> Found:
    """Each two ranked replies to one message, and the reasons of the replies that are in no pair."""
    siblings: dict[int, list[_Reply]] = defaultdict(list)
    for reply in replies:
        if reason := _left_out((*reply.before, reply.message)):
            yield reply.row, reason
        else:
            siblings[id(reply.before[-1])].append(reply)
    for same in siblings.values():
        rated = [reply for reply in same if _rank(reply) is not None]
        for reply in same:
            if len(rated) < 2 or _rank(reply) is None:
                yield reply.row, ALONE
        if len(rated) > 1:
            yield from _ranked(rated)


def _ranked(same: Sequence[_Reply]) -> Iterator[tuple[Row, Pair | str]]:
    row = same[0].row
    try:
        prompt = as_text([_turn(message) for message in same[0].before])
        answers = [(_turn(reply.message)["content"], -(_rank(reply) or 0)) for reply in same]
    except PairsError as error:
        yield row, str(error)
        return
    for pair in ranked(prompt, answers):
        yield row, pair if isinstance(pair, str) else pair._replace(post_id=given(same[0].before[-1], "message_id"))


def _rank(reply: _Reply) -> float | None:
    return number(given(reply.message, "rank"))


def _left_out(messages: Sequence[Row]) -> str | None:
    if any(_true(message, "deleted") for message in messages):
        return DELETED
    return SYNTHETIC if any(_true(message, "synthetic") for message in messages) else None


def _true(message: Row, column: str) -> bool:
    return str(given(message, column)).lower() in ("true", "1", "1.0")  # CSV writes words


def _turn(message: Row) -> dict[str, str]:
    role = str(given(message, "role"))
    if role not in _ROLES:
        raise PairsError("a message without a role (prompter, assistant) and text")
    return {"role": _ROLES[role], "content": text(given(message, "text"))}
