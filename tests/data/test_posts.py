"""The key of a post: that of its text."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.chats import prompt_key
from realm_lib.data.posts import post_key


@given(st.text(), st.text())
def test_posts_have_one_key_where_their_texts_are_the_same(first: str, second: str) -> None:
    first, second = f"a{first}", f"a{second}"
    assert re.fullmatch("[0-9a-f]{16}", post_key(first))
    assert (post_key(first) == post_key(second)) == (prompt_key(first) == prompt_key(second))
    assert post_key(first) == hashlib.sha256(prompt_key(first).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@pytest.mark.parametrize("other", ["Why does bread rise?", " why  DOES\nbread rise?\u00a0"])
def test_spaces_and_case_do_not_count_and_a_message_is_its_text(other: str) -> None:
    assert post_key([{"role": "user", "content": "Why does bread rise?"}]) == post_key(other)
    assert post_key("Why does bread rise") != post_key(other)
