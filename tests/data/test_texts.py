"""What a reader sees of a text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.texts import folded, is_empty, visible


@pytest.mark.parametrize(
    "text",
    ["", " \n\t", "\u00a0\u2003\u3000", "\u200b", "\ufeff \u2060\u00ad", "\u200e\u202e", "\ufffd \ufffd", "\x00\x07",
     "\u2800", "\ufe0f\u200d", "[deleted]", " [Removed]\n", "[DELETED]\u200b", "[deleted by user]",
     "[ Removed by Reddit ]", "[removed by moderator]",
     "[ Removed by Reddit on account of violating the [content policy](/help). ]"],
)  # fmt: skip
def test_a_text_that_says_nothing_is_empty(text: str) -> None:
    assert is_empty(text)


@pytest.mark.parametrize(
    "text",
    ["a", "0", ".", "?!", "👍", "❤\ufe0f", "茶", "x\ufffd", "deleted", "[deleted] the file", "It says [removed]", "[]",
     "[deleted items]", "nan", "None"],
)  # fmt: skip
def test_a_short_text_is_not_empty(text: str) -> None:
    assert not is_empty(text)


def test_what_nobody_sees_makes_no_difference_and_case_does() -> None:
    assert visible("\ufeffa\u200bb \u00a0\n c\u00ad") == "ab c"
    assert visible("e\u0301") == visible("\u00e9")
    assert visible("US") != visible("us")
    assert visible("x\u00b2") != visible("x2")
    assert folded("Straße\u200b  É") == folded("STRASSE e\u0301") == "strasse \u00e9"


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\u200b\ufeff\u00ad\u0301é ıİß\n")))
def test_visible_text_stays_as_it_is(text: str) -> None:
    seen = visible(text)
    assert visible(seen) == seen
    assert visible(unicodedata.normalize("NFD", text)) == seen
    assert visible(f"\u2060 {text}\n") == seen
    assert folded(text.replace("a", "A")) == folded(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="\u2800\ufffd[]"), min_size=1))
def test_letters_digits_and_signs_are_seen(text: str) -> None:
    assert is_empty(text) == (visible(text) == "")
