"""Bodies that say that they are JSON, as RFC 8259 has it, and no more values in one than a server can hold."""

import email.message
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

_DIGITS = 400
"""Of the longest integer; to read one takes the square of them, and no form has any but what it passes over."""


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body(), self.app.state.limits.values)


class StrictRoute(APIRoute):
    """A route whose body is read by :func:`parse_json`, under the limits of the application's state."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's, for such a request; 422 for a body of another type, which it would take for a text."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            if self.body_field and not _says_json(request.headers.get("content-type", "")):
                raise HTTPException(422, "the body must say that it is JSON: send Content-Type: application/json")
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _says_json(content_type: str) -> bool:
    """Whether FastAPI reads a body of this type as JSON: application/json, or application/...+json."""
    message = email.message.Message()
    message["content-type"] = content_type
    kind, _, subtype = message.get_content_type().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def parse_json(body: bytes, most: int) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no key twice, not nested without end, and ``most`` values at most.

    Raises HTTPException, 422 for too many values and 400 for anything else, naming the place and nothing of the text.
    """
    if _has_more_values(body, most):
        raise HTTPException(422, f"the body's JSON is over the limit of {most} values; lists and objects count twice")
    try:
        text = body.decode("utf-8-sig")
        return json.loads(
            text, parse_int=_short_integer, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repetition
        )
    except UnicodeDecodeError as error:
        raise HTTPException(400, f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise HTTPException(400, "the body's JSON is nested too deeply") from None
    except ValueError:
        raise HTTPException(400, "the body is not JSON: a number has too many digits") from None


def _has_more_values(body: bytes, most: int) -> bool:
    """Whether parsing could make more than ``most`` values, keys among them: seen in the bytes, before it makes any.

    Before each value but the first stands one of four characters. Only where these are too many in all is it worth a
    look which of them stand within strings. The parser gets as far as the first fault, and so far the count is right.
    """
    if _separators(body) < most:
        return False
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    return bare.count(b'"') > 2 * most or _separators(b"".join(bare.split(b'"')[::2])) >= most


def _separators(body: bytes) -> int:
    return sum(body.count(character) for character in (b",", b":", b"[", b"{"))


def _short_integer(digits: str) -> int:
    """What Python's parser makes of one, with fewer digits than it takes."""
    if len(digits) > _DIGITS:
        raise ValueError
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    """NaN or an infinity, which Python's parser takes and JSON does not have."""
    raise HTTPException(400, f"the body is not JSON: {name} is not a number of JSON")


def _refuse_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Two equal keys, of which Python's parser takes the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise HTTPException(400, "the body's JSON has an object with a key that stands twice")
    return found
