"""Rows of texts, a line or a record each, as JSON and CSV hold them: read by one rule, or refused with a reason.

Texts are UTF-8, with or without a byte order mark, or UTF-16 and UTF-32 with one. Only "\\n" ends a line, and a row
keeps the number of its line. What cannot be read is a row with a reason, never a guess: of equal keys none is taken.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from realm_lib.data.chats import is_unicode

_MARKS = {  # UTF-16's mark begins UTF-32's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DIGITS = 300
"""Of a whole number: fewer than floats hold, and than Python reads."""
_DEEPEST = 100
"""Levels of lists and objects: trees of answers have some ten; Python and Arrow fail at some hundreds."""
_TOO_DEEP = ("nested too deep", f"not JSON that can be read: nested more than {_DEEPEST} levels deep")


class Row(NamedTuple):
    """A row of a file, or why it cannot be read."""

    number: int
    """Its line, from 1; in an array, in Parquet and in a folder of ``datasets`` its place."""
    values: dict[str, Any]
    """By column, as plain Python values, None where there is none; {} for a row that cannot be read."""
    reason: str | None = None
    """One of few, to be counted by: as ``not JSON``."""
    fault: str = ""
    """The reason with what is to be said of this row alone."""


def json_lines(file: BinaryIO) -> Iterator[Row]:
    """An object a line of a file or a pipe, as they are needed; blank lines are none."""
    return _json_lines(_lines(file))


def _json_lines(lines: Iterable[bytes]) -> Iterator[Row]:
    return (_json_row(number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _json_row(number: int, line: bytes) -> Row:
    try:
        return _checked(number, _DECODER.decode(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return Row(number, {}, "not UTF-8", f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return Row(number, {}, "not JSON", f"not JSON: {error.msg} at character {error.pos}")
    except RecursionError:
        return Row(number, {}, *_TOO_DEEP)


def json_file(file: BinaryIO) -> Iterator[Row]:
    """An array of objects, or an object a line."""
    content = b"".join(_lines(file))
    if content.lstrip().startswith(b"["):
        values = enumerate(_DECODER.decode(content.decode()), start=1)
        return (_checked(number, value) for number, value in values)
    return _json_lines(io.BytesIO(content))


def csv_rows(file: BinaryIO) -> Iterator[Row]:
    """Rows of text under a header; an empty field is missing, since CSV has no other way to say it."""
    csv.field_size_limit(2**31 - 1)  # of the whole process; 128 KiB else, and a dialogue can be longer
    reader = csv.reader((line.decode("utf-8", "surrogateescape") for line in _lines(file)), strict=True)
    header: list[str] = []
    end = 0
    for fields in reader:
        number, end = end + 1, reader.line_num  # a quoted field may hold line ends
        if len(fields) < 2 and not "".join(fields).strip():
            continue
        if not header:
            header = fields
            if not all(map(is_unicode, header)):
                raise csv.Error("the header is not UTF-8")
            if twice := [name for name in header if header.count(name) > 1]:
                raise csv.Error(f"two columns have the name {twice[0]!r}")
        elif len(fields) != len(header):
            fault = f"{len(fields)} fields, where the header has {len(header)}"
            yield Row(number, {}, "not as many fields as the header", fault)
        elif broken := [name for name, field in zip(header, fields, strict=True) if not is_unicode(field)]:
            yield Row(number, {}, "not UTF-8", f"{broken[0]} is not UTF-8")
        else:
            yield Row(number, {name: field or None for name, field in zip(header, fields, strict=True)})


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines in UTF-8, without a byte order mark."""
    first = file.readline()
    wide = next((encoding for mark, encoding in _MARKS.items() if first.startswith(mark)), None)
    if wide is None:
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from file
    else:
        text = (first + file.read()).decode(wide, "surrogatepass")
        yield from (line.encode("utf-8", "surrogatepass") for line in io.StringIO(text, newline="\n"))


class _Repeated(dict[str, Any]):
    """A JSON object in which a key stands twice."""


_LONG = object()  # what stands for a number of more than _DIGITS digits


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(found)


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _DIGITS else _LONG


def _constant(name: str) -> float | None:
    """NaN is what Python writes for a missing number."""
    return None if name == "NaN" else float(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def _checked(number: int, value: Any) -> Row:
    """The row, or what is wrong with it, in columns too that its reader does not ask for: another's may."""
    if not isinstance(value, dict):
        return Row(number, {}, "not an object", f"expected an object, found {type(value).__name__}")
    if fault := _fault("the names of its columns", value):
        return Row(number, {}, *fault)
    level = list(value.items())
    for _ in range(_DEEPEST):
        for column, part in level:
            if fault := _fault(column, part):
                return Row(number, {}, *fault)
        level = [(column, inner) for column, part in level for inner in _inner(part)]
        if not level:
            return Row(number, value)
    return Row(number, {}, *_TOO_DEEP)


def _inner(part: Any) -> Iterable[Any]:
    return part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ()


def _fault(column: str, part: Any) -> tuple[str, str] | None:
    """A row's reason and fault, for this part of a column, what is within it aside."""
    if isinstance(part, _Repeated):
        return "duplicate keys", f"duplicate keys in {column}: none of their values is taken"
    if part is _LONG:
        return "a number with too many digits", f"a number with too many digits in {column}"
    texts = part if isinstance(part, Mapping) else [part]
    if any(isinstance(text, str) and not is_unicode(text) for text in texts):
        return f"not Unicode text in {column:.40}", f"holds a lone surrogate in {column}, which is not Unicode text"
    return None
