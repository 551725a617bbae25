"""Near-duplicates: a share of all that two texts say, and the whole of it only for equals."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.rlhf.dpo.likeness import near_duplicates

TEXTS = st.lists(
    st.sampled_from(["a", "not", " ", "\n", "<", ">", "茶", "👍🏽", "_", "e\u0301"]) | st.text(max_size=3)
).map("".join)
OPPOSITES = [
    ("return a if a > b else b", "return a if a < b else b"),
    ("👍", "👎"),
    ("茶是安全的。", "茶不是安全的。"),
    ("It is safe to eat.", "It is not safe to eat."),
    ("yes", "Yes"),
    ("x = -1", "x = 1"),
    ("[a, b]", "(a, b)"),
    ("...", "?!"),
    ("the dog bit the cat", "the cat bit the dog"),
]


@pytest.mark.parametrize(("first", "second"), OPPOSITES)
def test_likeness_sees_every_character(first: str, second: str) -> None:
    assert not near_duplicates(first, second, 0.95)
    long = "The same answer at length. " * 40
    assert near_duplicates(long + first, long + second, 0.9)
    assert not near_duplicates(long + first, long + second, 1.0)
    assert near_duplicates(f"{first}\n{second}", f"  {first} \r\n\t{second}", 1.0)


@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.9, 1.0]))
def test_likeness_is_of_both_and_whole_only_for_equals(first: str, second: str, share: float) -> None:
    alike = near_duplicates(first, second, share)
    assert alike == near_duplicates(second, first, share)
    if share == 1:
        assert not alike or re.sub(r"\s", "", first) == re.sub(r"\s", "", second)
        assert near_duplicates(first, f" {first}\n", 1.0)
