"""Chats to tokens: which tokens are of what was said, and which texts are refused."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.models.reward_models import LongResponseError
from realm_lib.models.reward_models import chat as chat_module
from realm_lib.models.reward_models.chat import ChatEncoder, tokens_within

WORDS = st.lists(st.text("ab \u00e9\U0001f600", max_size=6), min_size=1, max_size=5)


def within(places: Sequence[tuple[int, int]], text: str, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The same by looking at every token for each place."""
    found = []
    for start, end in places:
        told = enumerate(offsets)
        found.append(
            [n for n, (a, b) in told if start < b <= end and a < b and (start <= a or text[a:start].isspace())]
        )
    return found


@given(contents=WORDS, cuts=st.lists(st.integers(0, 60), max_size=30), repeats=st.integers(1, 3))
def test_tokens_of_a_turn_are_those_that_end_within_it(contents: list[str], cuts: list[int], repeats: int) -> None:
    text = "".join(f"<{content}>" for content in contents)
    places, end = [], 0
    for content in map(str.strip, contents):
        start = text.index(content, end)
        end = start + len(content)
        places.append((start, end))
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    # A letter of several bytes is as many tokens, each with the place of the whole letter.
    offsets = [place for place in pairwise(edges) for _ in range(repeats)]
    assert tokens_within(places, text, offsets) == within(places, text, offsets)


def test_each_refusal_is_the_one_that_it_has_alone(tiny_tokenizer: Any) -> None:
    encoder = ChatEncoder(tiny_tokenizer, 60)
    prompts = ["Why?", "Why?", "Why? " * 60, "How?"]
    responses = ["x", "word " * 100, "y", "other " * 200]
    refused = encoder.refused(prompts, responses)
    assert sorted(refused) == [1, 3]
    for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if place in refused:
            with pytest.raises(LongResponseError, match=f"^{re.escape(str(refused[place]))}$"):
                encoder.encode([prompt], [response])
        else:
            encoder.encode([prompt], [response])


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_texts_are_tokens_some_at_a_time_and_the_same(
    at_once: int, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ChatEncoder(tiny_tokenizer, 60)
    prompts = ["Why?", "Why? " * 60, "How?", "Why does bread rise?", "Who?"]
    responses = ["x", "y", "Yeast makes gas.", "", "z <|eos|>"]
    expected = encoder.encode(prompts, responses)
    long = (["Why?", *prompts], ["word " * 100, *responses])
    refused = encoder.refused(*long)
    monkeypatch.setattr(chat_module, "_AT_ONCE", at_once)
    assert encoder.encode(prompts, responses) == expected
    assert encoder.lengths(prompts, responses).tolist() == [[len(c.ids), c.cut, c.response_cut] for c in expected]
    assert {place: str(error) for place, error in encoder.refused(*long).items()} == {0: str(refused[0])}
    with pytest.raises(LongResponseError, match="text 0 "):
        encoder.lengths(*long)
    with pytest.raises(ValueError, match="shorter"):
        encoder.encode(prompts, responses[:-at_once])


@pytest.mark.parametrize(
    "prompt",
    [
        "Why?",
        [{"role": "system", "content": "Say: Yeast."}, {"role": "user", "content": "Why?"}],
        [
            {"role": "user", "content": "How?"},
            {"role": "assistant", "content": "Yeast."},
            {"role": "user", "content": "Why?"},
        ],
    ],
)
@pytest.mark.parametrize("response", ["Yeast.", "  \n Yeast.", "<|assistant|> Yeast.", "Why?", ""])
def test_where_a_response_begins(tiny_tokenizer: Any, prompt: Any, response: str) -> None:
    (chat,) = ChatEncoder(tiny_tokenizer, 200, finds_response=True).encode([prompt], [response])
    before, after = (tiny_tokenizer.decode(ids) for ids in (chat.ids[: chat.start], chat.ids[chat.start :]))
    # An empty one: where the answer's turn is opened.
    assert after.removesuffix("<|eos|>").strip() == (response.strip() or "<|assistant|>")
    assert before.count("Why?") == 1
    assert before.count("Yeast.") == str(prompt).count("Yeast.")


def test_what_is_refused_for_want_of_a_place_is_kept_apart(tiny_tokenizer: Any) -> None:
    plain, finds = (ChatEncoder(tiny_tokenizer, 200, finds_response=each) for each in (False, True))
    assert "finds_response" not in plain.identity
    assert finds.identity == plain.identity | {"finds_response": True}
