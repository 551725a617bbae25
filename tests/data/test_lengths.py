"""Words of any script, and prompts cut by one rule."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.chats import as_messages, as_text
from realm_lib.data.lengths import counted, cut_prompt, letter_count, letters_of, word_count, words_and_signs, words_of

_TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(min_size=1)}), max_size=4
).map(lambda turns: [*turns, {"role": "user", "content": "one two three"}])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Put it in boiling water.", 5),
        ("it's well-done", 3),
        ("茶，放好。", 3),
        ("x=foo(bar)+baz", 4),
        ("return a if a<b", 5),
        ("👍👍", 2),
        ("👩‍👩‍👧", 1),
        ("🇩🇪🇫🇷", 2),
        ("สวัสดี", 4),
        ("हिन्दी में", 2),
        ("안녕하세요 세계", 2),
        ("مرحبا بالعالم", 2),
        ("ខ្មែរ", 3),
        ("1️⃣ #️⃣ 👍🏽 ❤️‍🔥", 4),
        ("↔‼", 2),
        ("e\u0301te\u0301", 1),
        ("می\u200cخواهم", 1),
        ("a\r\nb", 2),
        (r"\frac{a}{b} \le x_1", 5),
        ("https://a.org/b?c=1", 5),
        ("_private", 1),
        ("... ?! <<< ____ —", 0),
        ("\u200b\u200d", 0),
        ("3.14 1,000", 2),
        (" \n", 0),
        ("", 0),
    ],
)
def test_words_are_counted_in_any_script(text: str, words: int) -> None:
    assert word_count(text) == words == len(words_of(text))


@given(st.text())
def test_the_words_are_as_many_as_are_counted_and_stand_in_the_text(text: str) -> None:
    found = words_of(text)
    assert len(found) == word_count(text)
    assert all(word in text for word in found)


@given(st.text())
def test_words_and_signs_are_all_but_white_space(text: str) -> None:
    found = words_and_signs(text)
    assert "".join(found) == regex.sub(r"\s", "", text)
    assert [part for part in found if len(part) > 1 or word_count(part)] == words_of(text)


@pytest.mark.parametrize(
    ("text", "letters"),
    [("👨‍👩‍👧", 1), ("🇩🇪👍🏽", 2), ("e\u0301", 1), ("a\r\nb", 3), ("茶。", 2), ("สวัสดี", 4), ("", 0)],
)
def test_letters_are_counted_as_a_reader_sees_them(text: str, letters: int) -> None:
    assert letter_count(text) == letters == len(letters_of(text))


@given(st.lists(st.sampled_from(["a b", "茶。", "", "a\r\nb", "e\u0301"]) | st.text(max_size=4)))
def test_equal_texts_are_counted_once_each_in_its_place(texts: list[str]) -> None:
    asked: list[str] = []

    def count(text: str) -> int:
        asked.append(text)
        return letter_count(text)

    assert counted(count, texts).tolist() == [len(letters_of(text)) for text in texts]
    assert sorted(asked) == sorted(set(texts))


@given(st.text())
def test_letters_are_the_whole_text(text: str) -> None:
    assert "".join(letters_of(text)) == text


def test_a_post_loses_its_end() -> None:
    assert cut_prompt("A title\n\nand a body, of some words", 4) == "A title\n\nand a"
    assert cut_prompt("茶怎么做才好吃", 3) == "茶怎么"


def test_a_dialogue_loses_its_oldest_turns_and_keeps_its_system_turn() -> None:
    dialogue = "\n\nSystem: be kind\n\nHuman: a b c\n\nAssistant: d e\n\nHuman: f g h"
    assert cut_prompt(dialogue, 10) == dialogue
    assert cut_prompt(dialogue, 9) == cut_prompt(dialogue, 5) == "\n\nSystem: be kind\n\nHuman: f g h"
    assert cut_prompt(dialogue, 4) == "\n\nSystem: be kind\n\nHuman: f g"


@given(_TURNS, st.integers(1, 12))
def test_what_is_cut_is_short_enough_and_ends_as_it_did(turns: list[dict[str, str]], words: int) -> None:
    text = as_text(turns)
    cut = cut_prompt(text, words)
    contents = [turn["content"] for turn in as_messages(cut)]
    assert sum(map(word_count, contents)) <= words
    assert "one two three".startswith(contents[-1])
    assert cut_prompt(cut, words) == cut
