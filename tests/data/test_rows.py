"""Rows of lines: what is text is read as it stands, and what is not is a row with a reason."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.rows import Row, csv_rows, json_file, json_lines

GOOD = {"prompt": "Why?", "response": "So."}
TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(['"', ",", "\r", "\n", "\x85", "\u2028", "\0"]))
)
TABLES = st.lists(st.fixed_dictionaries({"prompt": TEXTS, "response": TEXTS}), min_size=1, max_size=5)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])


def lines(*texts: str | bytes) -> BinaryIO:
    return io.BytesIO(b"\n".join(text if isinstance(text, bytes) else text.encode() for text in texts))


def values(rows: Iterator[Row]) -> list[dict[str, Any]]:
    found = list(rows)
    assert not [row.fault for row in found if row.reason is not None]
    return [row.values for row in found]


@given(TABLES, ENCODINGS, st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n \r\n"]))
def test_lines_of_json_are_what_json_wrote(
    table: list[dict[str, str]], encoding: str, ascii_only: bool, end: str
) -> None:
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in table)
    assert values(json_lines(io.BytesIO(text.encode(encoding)))) == table
    assert values(json_file(io.BytesIO(text.encode(encoding)))) == table


@given(TABLES, ENCODINGS, st.sampled_from([None, 2]))
def test_an_array_is_what_json_wrote(table: list[dict[str, str]], encoding: str, indent: int | None) -> None:
    text = json.dumps(table, indent=indent, ensure_ascii=False)
    assert values(json_file(io.BytesIO(text.encode(encoding)))) == table


@given(TABLES, ENCODINGS, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]), st.sampled_from(["\n", "\r\n"]))
def test_csv_is_what_csv_wrote(table: list[dict[str, str]], encoding: str, quoting: Any, end: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, ["prompt", "response"], quoting=quoting, lineterminator=end)
    writer.writeheader()
    writer.writerows(table)
    wanted = [{name: text or None for name, text in row.items()} for row in table]
    assert values(csv_rows(io.BytesIO(file.getvalue().encode(encoding)))) == wanted


@pytest.mark.parametrize("text", ["007", "NA", "null", "None", "nan", "1e5", "TRUE", " x ", "1,5"])
def test_text_in_csv_that_looks_like_something_else_is_text(text: str) -> None:
    assert values(csv_rows(lines("prompt,response", f'Why?,"{text}"'))) == [{"prompt": "Why?", "response": text}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", ["a\r\nb", "a\rb", "a\x85b\u2028c", "\ufeffa", "a\0"])
def test_line_ends_within_a_text_of_csv_stay(text: str, encoding: str) -> None:
    table = io.BytesIO(f'prompt,response\r\n"{text}",b\r\n'.encode(encoding))
    assert values(csv_rows(table)) == [{"prompt": text, "response": "b"}]


def test_rows_keep_the_numbers_of_their_lines() -> None:
    good = json.dumps(GOOD)
    assert [row.number for row in json_lines(lines("", good, " \t\r", good, ""))] == [2, 4]
    table = lines("prompt,response", "", '"a\nb\nc",d', "e,f", "\r", "g,h")
    assert [row.number for row in csv_rows(table)] == [3, 6, 8]
    assert [row.number for row in json_file(lines("[", good, ",", good, "]"))] == [1, 2]


def test_a_line_is_read_before_the_next_one_is_there() -> None:
    """A pipe's end is not waited for."""

    class Pipe(io.BytesIO):
        def readline(self, _: int | None = -1, /) -> bytes:
            return json.dumps(GOOD).encode() + b"\n"

        def __next__(self) -> bytes:
            pytest.fail("the second line was asked for")

    assert next(json_lines(Pipe())).values == GOOD


DEEP = 100_000
FAULTS: list[tuple[str | bytes, str, str]] = [
    ("{", "not JSON", "not JSON: .* at character 2"),
    ('{"prompt": "a"} {"prompt": "b"}', "not JSON", "Extra data"),
    ('{"prompt": "a\0"}', "not JSON", "Invalid control character"),
    ("[1, 2]", "not an object", "expected an object, found list"),
    ("null", "not an object", "expected an object, found NoneType"),
    ('"text"', "not an object", "expected an object, found str"),
    (b'{"prompt": "\xff"}', "not UTF-8", "not UTF-8 at byte 12"),
    (b'{"prompt": "\xed\xa0\xbd"}', "not UTF-8", "not UTF-8 at byte 12"),  # a surrogate in bytes
    (r'{"prompt": "cake \ud83d"}', "not Unicode text in prompt", "a lone surrogate in prompt"),
    (r'{"prompt": "\udc80\ud83d"}', "not Unicode text in prompt", "a lone surrogate in prompt"),
    (r'{"prompt": [{"role": "user", "content": "\ud83d"}]}', "not Unicode text in prompt", "lone surrogate in prompt"),
    (r'{"prompt": [{"\ud83d": 1}]}', "not Unicode text in prompt", "lone surrogate in prompt"),
    (r'{"prompt": "a", "\ud83d": 1}', "not Unicode text in the names of its columns", "lone surrogate in the names"),
    ('{"prompt": "a", "response": "b", "prompt": "c"}', "duplicate keys", "in the names of its columns"),
    ('{"prompt": "a", "prompt": "a"}', "duplicate keys", "in the names of its columns"),
    ('{"prompt": [{"role": "user", "role": "system", "content": "x"}]}', "duplicate keys", "in prompt"),
    ('{"prompt": "a", "n": ' + "1" * 5000 + "}", "a number with too many digits", "in n"),
    ('{"prompt": "a", "n": [' + "1" * 400 + "]}", "a number with too many digits", "in n"),
    ("[" * DEEP, "nested too deep", "not JSON that can be read"),
    ('{"a":' * DEEP + "1" + "}" * DEEP, "nested too deep", "not JSON that can be read"),
    ('{"a":' + "[" * 200 + "]" * 200 + "}", "nested too deep", "not JSON that can be read"),
]


@pytest.mark.parametrize(("line", "reason", "fault"), FAULTS, ids=lambda value: repr(value)[:40])
def test_what_cannot_be_read_is_a_reason_and_the_rest_is_read(line: str | bytes, reason: str, fault: str) -> None:
    good = json.dumps(GOOD)
    before, row, after = json_lines(lines(good, line, good))
    assert before.values == after.values == GOOD
    assert (row.number, row.values, row.reason) == (2, {}, reason)
    assert re.search(fault, row.fault)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (r"\ud83c\udf82", "🎂"),
        (r"\u0000", "\0"),
        (r"a\r\nb", "a\r\nb"),
        (r"\u2028", "\u2028"),
        ("\u2028\x85", "\u2028\x85"),
        (r"\ufffe\uffff", "\ufffe\uffff"),
    ],
)
def test_odd_text_is_text(value: str, found: str) -> None:
    assert values(json_lines(lines(f'{{"prompt": "{value}"}}'))) == [{"prompt": found}]


def test_numbers_stay_what_they_are() -> None:
    (row,) = values(json_lines(lines('{"post_id": 0, "votes": 12345678901234567890, "x": NaN, "y": -Infinity}')))
    assert row == {"post_id": 0, "votes": 12345678901234567890, "x": None, "y": -float("inf")}
    assert isinstance(row["post_id"], int)


def test_trees_of_answers_are_not_too_deep() -> None:
    tree: dict[str, Any] = {"text": "end"}
    for _ in range(45):
        tree = {"text": "more", "replies": [tree]}
    assert values(json_lines(lines(json.dumps(tree)))) == [tree]


def test_rows_of_csv_that_cannot_be_read() -> None:
    table = lines("prompt,response", "a,b,c", "a", "a,b", b"caf\xe9,b")
    found = [(row.number, row.reason) for row in csv_rows(table)]
    fields = "not as many fields as the header"
    assert found == [(2, fields), (3, fields), (4, None), (5, "not UTF-8")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,prompt\na,b", "two columns have the name 'prompt'"),
        (b"caf\xe9,b\na,b", "the header is not UTF-8"),
        ('prompt,response\na,"b\n' + "c,d\n" * 50, "unexpected end of data"),
        ('prompt,response\n"a" b,c\n', "expected after"),
        ("prompt,response\ra,b", "new-line character"),
    ],
)
def test_csv_that_cannot_be_told_apart_is_refused(content: str | bytes, message: str) -> None:
    with pytest.raises(csv.Error, match=message):
        list(csv_rows(lines(content)))


def test_a_long_field_of_csv_is_read() -> None:
    text = "word " * 200_000
    assert values(csv_rows(lines("prompt,response", f"a,{text}"))) == [{"prompt": "a", "response": text}]


@pytest.mark.parametrize("read", [json_lines, json_file, csv_rows])
@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b"\xff\xfe"])
def test_nothing_is_no_row(read: Callable[[BinaryIO], Iterator[Row]], content: bytes) -> None:
    assert list(read(io.BytesIO(content))) == []
