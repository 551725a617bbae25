"""A post is what its text is, whatever the ids."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.chats import PairsError
from realm_lib.data.posts import given_ids, post_key, with_post_keys


def pairs(histories: list[str], ids: list[object] | None = None) -> pd.DataFrame:
    rows = pd.DataFrame({"history": histories, "_file": "a", "_row": range(1, len(histories) + 1)})
    return rows if ids is None else rows.assign(post_id=pd.Series(ids, dtype=object))


def test_a_key_is_16_digits_and_the_same_for_equal_prompts_of_any_form() -> None:
    # printf 'why me?' | sha256sum
    assert post_key("Why  me?") == "e68875012f60d08e"
    assert post_key([{"role": "user", "content": "why me?"}]) == post_key("\n\nHuman: WHY me?\n\nAssistant:")
    assert post_key("why me?") == post_key("why\u200b me?\ufeff")
    assert post_key("why me?") != post_key("why me")
    with pytest.raises(PairsError, match="ends in an assistant turn"):
        post_key("\n\nHuman: Why?\n\nAssistant: So.")


def test_ids_that_are_the_posts_are_kept_beside_the_keys() -> None:
    found = with_post_keys(pairs(["One?", "Two?", "one? "], ["p", "q", "p"]))
    assert list(found["post_id"]) == [post_key("one?"), post_key("two?"), post_key("one?")]
    assert list(found["given_post_id"]) == ["p", "q", "p"]
    nothing = {"pairs": 0, "first": []}
    assert given_ids(found) == {"several_ids": {"posts": 0, **nothing}, "several_texts": {"ids": 0, **nothing}}


@pytest.mark.parametrize("ids", [None, [None, None, None], [float("nan")] * 3, ["", " ", None]])
def test_a_missing_id_is_none(ids: list[object] | None) -> None:
    found = with_post_keys(pairs(["One?", "Two?", "one?"], ids))
    assert found["post_id"].nunique() == 2
    assert "given_post_id" not in found
    assert given_ids(found) is None


def test_several_ids_of_a_text_and_several_texts_of_an_id_are_counted_and_named() -> None:
    texts = ["One?", "one?", "ONE?", "Two?", "Three?", "Three? ", "Four?"]
    found = given_ids(with_post_keys(pairs(texts, [0, 1.0, 0, 2, 2, 2, None])))
    assert found == {
        "several_ids": {"posts": 1, "pairs": 1, "first": ["a row 2"]},
        "several_texts": {"ids": 1, "pairs": 2, "first": ["a row 5", "a row 6"]},
    }
    by_row = given_ids(with_post_keys(pairs(["One?"] * 9, list(range(9)))))
    assert by_row is not None
    assert by_row["several_ids"] == {"posts": 1, "pairs": 8, "first": [f"a row {n}" for n in range(2, 7)]}


def test_an_id_of_zero_is_one_and_whole_numbers_have_no_point() -> None:
    found = with_post_keys(pairs(["a", "b", "c", "d"], [0, 17.0, 1.5, ["x"]]))
    assert list(found["given_post_id"]) == ["0", "17", "1.5", "['x']"]


def test_a_row_that_cannot_be_used_has_no_say() -> None:
    texts: list[Any] = ["One?", "One?", "\n\nHuman: a\n\nAssistant: b", ["no text"]]
    rows = pairs(texts, ["p", "q", "p", "p"]).assign(_reason=[None, "tie", None, "not text"])
    found = with_post_keys(rows)
    assert found["_reason"].iloc[3] == "not text"
    assert pd.isna(found["_reason"].iloc[0])
    assert found["_reason"].iloc[1] == "tie"
    assert found["_reason"].iloc[2].startswith("the prompt ends in an assistant turn")
    ids = given_ids(found)
    assert ids is not None
    assert ids["several_ids"]["posts"] == ids["several_texts"]["ids"] == 0


@given(
    st.lists(st.tuples(st.sampled_from("abcAB"), st.sampled_from(["x", "y", 3, 3.0, None])), min_size=1, max_size=12)
)
def test_ids_are_counted_as_sets_count_them(rows: list[tuple[str, object]]) -> None:
    texts, ids = zip(*rows, strict=True)
    found = given_ids(with_post_keys(pairs(list(texts), list(ids))))
    known = {(text.lower(), str(name).removesuffix(".0")) for text, name in rows if name is not None}
    if not known:
        assert found is None
        return
    assert found is not None
    of_text, of_id = ([sum(pair[side] == key for pair in known) for key in {pair[side] for pair in known}]
                      for side in (0, 1))  # fmt: skip
    assert found["several_ids"]["posts"] == sum(count > 1 for count in of_text)
    assert found["several_texts"]["ids"] == sum(count > 1 for count in of_id)
