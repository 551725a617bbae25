"""Dialogues as messages and as one text: what a turn says never becomes a turn."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.data.chats import (
    PairsError,
    as_messages,
    as_response,
    as_text,
    as_turns,
    asked_text,
    asked_texts,
    prompt_key,
    readable,
)

PIECES = st.sampled_from(
    ["\n\nHuman: ", "\n\nAssistant:", "\n\nSystem: ", "Human: ", "\n\n", "\x1e", '\x1e[["user", "x"]]']
)
CONTENTS = st.lists(PIECES | st.text(max_size=8), max_size=5).map("".join)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENTS}), max_size=5
)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@given(TURNS, CONTENTS)
def test_a_prompts_text_reads_back_as_the_same_turns(turns: list[dict[str, str]], last: str) -> None:
    prompt = [*turns, user(last)]
    text = as_text(prompt)
    assert as_messages(text) == as_messages(prompt) == prompt
    assert as_text(text) == text


@given(CONTENTS.filter(lambda text: not text.startswith(("\n\nHuman:", "\n\nAssistant:", "\n\nSystem:", "\x1e"))))
def test_a_text_that_is_no_transcript_is_what_the_user_says(text: str) -> None:
    assert as_text(text) == text == readable(text)
    assert as_messages(text) == [user(text)]


def test_a_transcript_and_its_messages_are_one_prompt() -> None:
    turns = [user("Why?"), assistant("Because."), user("Is that so?")]
    transcript = "\n\nHuman: Why?\n\nAssistant: Because.\n\nHuman: Is that so?"
    assert as_text(turns) == as_text(transcript) == readable(turns) == transcript
    assert as_messages(transcript) == turns
    assert as_text("\n\nHuman: Why?") == as_text([user("Why?")]) == "Why?"


@pytest.mark.parametrize("end", ["\n\nAssistant:", "\n\nAssistant: ", [assistant("")], [assistant(" \n")]])
def test_an_empty_assistant_turn_opens_the_answer(end: Any) -> None:
    prompt = "\n\nHuman: Why?" + end if isinstance(end, str) else [user("Why?"), *end]
    assert as_messages(prompt) == [user("Why?")]
    assert as_text(prompt) == "Why?"


@pytest.mark.parametrize("prompt", ["\n\nHuman: Why?\n\nAssistant: So.", [user("Why?"), assistant("So.")]])
def test_a_prompt_that_is_answered_already_is_refused(prompt: Any) -> None:
    assert len(as_turns(prompt)) == 2
    for read in (as_messages, as_text, readable):
        with pytest.raises(PairsError, match="ends in an assistant turn"):
            read(prompt)


@pytest.mark.parametrize("prompt", [[], [assistant("")]])
def test_a_prompt_without_turns_is_refused(prompt: Any) -> None:
    with pytest.raises(PairsError, match="no turn"):
        as_text(prompt)


def test_who_quotes_a_transcript_keeps_the_turn() -> None:
    quoted = [user("\n\nHuman: Why?\n\nAssistant: Because.")]
    assert as_messages(as_text(quoted)) == quoted
    assert as_text(quoted) != as_text([user("Why?"), assistant("Because."), user("")])
    assert readable(quoted) == quoted[0]["content"]
    lone = [{"role": "system", "content": "Be kind."}]
    assert as_messages(as_text(lone)) == lone


@pytest.mark.parametrize(
    "text", ["\x1e", "\x1e{}", "\x1e[]", "\x1e[1]", '\x1e[["user"]]', '\x1e[[["user"], "x"]]', "\x1e" + "[" * 100_000]
)
def test_a_text_that_only_begins_like_a_record_is_a_text(text: str) -> None:
    assert as_messages(text) == [user(text)]


@pytest.mark.parametrize(
    "message", ["Why?", {}, {"role": "user"}, {"role": ["user"], "content": "x"}, {"role": "judge", "content": "x"},
                {"role": "user", "content": None}, {"role": "user", "content": [{"type": "image"}]}]
)  # fmt: skip
def test_a_message_without_role_and_text_is_refused(message: Any) -> None:
    with pytest.raises(PairsError, match="message"):
        as_text([message])


def test_a_response_is_text_or_one_assistant_message() -> None:
    assert as_response("Yes.") == as_response([assistant("Yes.")]) == "Yes."
    assert as_response("\n\nHuman: quoted") == "\n\nHuman: quoted"
    for other in ([user("Yes.")], [assistant("Yes."), user("Thanks!")], []):
        with pytest.raises(PairsError, match="one assistant message"):
            as_response(other)


def test_equal_prompts_differ_in_case_and_white_space_only() -> None:
    assert prompt_key(" WHY \n\n me?") == prompt_key("why me?") == prompt_key([user("Why me?")])
    assert prompt_key("why me?") != prompt_key("why, me?")
    assert prompt_key("\ufeffWhy\u200b me?\u00a0") == prompt_key("why me?")
    assert prompt_key("Caf\u00e9") == prompt_key("CAFE\u0301")


def test_dialogues_are_the_same_whatever_the_form_of_their_text() -> None:
    quoted = [user("a\n\nHuman: b"), assistant("c  d"), user("e")]  # its text is JSON
    assert prompt_key(quoted) == prompt_key(as_text(quoted)) == prompt_key(
        [user("A Human:\tb "), assistant("c\nd"), user("e")]
    )  # fmt: skip
    assert prompt_key("\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: Is it?\n\nAssistant:") == prompt_key(
        [user(" why?"), assistant("so. "), user("is it?")]
    )
    assert prompt_key([user("a user: b"), user("c")]) != prompt_key([user("a"), user("b"), user("c")])
    told = [{"role": "system", "content": "x"}, user("y")]
    assert len({prompt_key(prompt) for prompt in (told, "system: x\nuser: y", "y", [user("x"), user("y")])}) == 4


@pytest.mark.parametrize("text", ["\ud83d", "cake \udc80", "\n\nHuman: \ud83d", "\x1e\ud83d"])
def test_a_lone_surrogate_is_no_text(text: str) -> None:
    for read, dialogue in (
        (as_text, text),
        (as_response, text),
        (as_turns, text),
        (as_turns, [{"role": "user", "content": text}]),
        (as_response, [{"role": "assistant", "content": text}]),
    ):
        with pytest.raises(PairsError, match="holds a lone surrogate, which is not Unicode text"):
            read(dialogue)  # type: ignore[operator]


def test_a_content_in_parts_is_their_text_where_all_are_texts() -> None:
    two = [{"type": "text", "text": "Why "}, {"type": "text", "text": "bread?", "image": None}]
    assert as_turns([{"role": "user", "content": two}]) == [{"role": "user", "content": "Why bread?"}]
    for parts in ([], [*two, {"type": "image_url"}], [{"type": "text"}], ["Why?"], [{"text": "Why?"}]):
        with pytest.raises(PairsError, match="a message needs a role"):
            as_turns([{"role": "user", "content": parts}])


BLANK = ["", "  ", "\n", "\u200b", "\ufeff\u00ad \u2800"]
"""Texts of which nobody sees anything."""


@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_an_empty_prompt_is_refused_by_its_place_in_every_form(blank: str) -> None:
    said = [{"role": "user", "content": blank}]
    told = [{"role": "system", "content": "Be kind."}, *said]
    open_answer = [*said, {"role": "assistant", "content": ""}]
    for prompt in (blank, said, told, open_answer, f"\n\nHuman: {blank}", f"\n\nSystem: Be kind.\n\nHuman: {blank}"):
        with pytest.raises(PairsError, match=r"^the prompt is empty: there is nothing in its last turn"):
            asked_text(prompt)
        with pytest.raises(PairsError, match=r"^the prompt of completion 1: the prompt is empty"):
            asked_texts(["Why?", prompt], ["So.", "So."])


@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_an_empty_response_is_one(blank: str) -> None:
    assert asked_texts(["Why?"] * 2, [blank, [{"role": "assistant", "content": blank}]]) == [("Why?", blank)] * 2


def test_a_prompt_that_says_little_is_none_that_is_empty() -> None:
    for prompt in (".", "[deleted]", "0", "\u200b?"):
        assert asked_text(prompt) == as_text(prompt)
