"""Where a prompt ends and a response begins, in the forms that people's files have."""

from typing import Any

import pytest

from realm_lib.data.chats import PairsError, as_messages
from realm_lib.data.responses import split_prompt


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    told = [] if system is None else [{"role": "system", "content": system}]
    return told + [
        {"role": "user" if number % 2 == 0 else "assistant", "content": content}
        for number, content in enumerate(contents)
    ]


YES, NO = [{"role": "assistant", "content": "Yes."}], [{"role": "assistant", "content": "No."}]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("Why?", "Yes.", "No."),
        ("Why?", YES, "No."),
        ("Why?", YES[0], NO[0]),
        ("Why?", turns("Why?", "Yes."), turns("Why?", "No.")),
        ("Why?", turns("Why? ", "Yes."), turns("\nWhy?", "No.")),
        ("Why?", [{**turn, "id": 7} for turn in turns("Why?", "Yes.")], turns("Why?", "No.")),
        ("Why?", turns("Why?", "Yes."), "No."),
        ("Why?", "Yes.", turns("Why?", "No.")),
        (None, turns("Why?", "Yes."), turns("Why?", "No.")),
        (turns("Why?"), turns("Why?", "Yes."), NO),
        (turns("Why?", ""), YES, NO),
        ("\n\nHuman: Why?\n\nAssistant:", "Yes.", "No."),
        ("\n\nHuman: Why?\n\nAssistant:", "\n\nAssistant: Yes.", "\n\nAssistant: No."),
        (None, "\n\nHuman: Why?\n\nAssistant: Yes.", "\n\nHuman: Why?\n\nAssistant: No."),
        ("Why?", "\n\nHuman: Why?\n\nAssistant: Yes.", "\n\nHuman: Why?\n\nAssistant: No."),
    ],
)
def test_a_prompt_that_the_responses_repeat_is_taken_off(prompt: Any, chosen: Any, rejected: Any) -> None:
    text, yes, no = split_prompt(prompt, chosen, rejected)
    assert (text.strip(), yes, no) == ("Why?", "Yes.", "No.")


@pytest.mark.parametrize("prompt", [None, "Is it?", "Why?", turns("Why?", "So.", "Is it?")])
def test_the_shared_turns_of_two_dialogues_are_the_prompt(prompt: Any) -> None:
    before = turns("Why?", "So.", "Is it?", system="Be brief.")
    text, yes, no = split_prompt(prompt, [*before, *YES], [*before, *NO])
    assert (as_messages(text), yes, no) == (before, "Yes.", "No.")


def test_a_system_turn_of_the_prompt_alone_is_kept() -> None:
    before = turns("Why?", system="Be brief.")
    text, yes, _ = split_prompt(before, turns("Why?", "Yes."), turns("Why?", "No."))
    assert (as_messages(text), yes) == (before, "Yes.")


def test_equal_responses_are_still_a_response_each() -> None:
    assert split_prompt(None, turns("Why?", "Yes."), turns("Why?", "Yes.")) == ("Why?", "Yes.", "Yes.")


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "why"),
    [
        ("How?", turns("Why?", "Yes."), turns("Why?", "No."), "repeats another prompt"),
        ("How?", turns("Why?", "Yes."), "No.", "repeats another prompt"),
        (None, "Yes.", "No.", "no prompt"),
        (None, turns("Why?", "Yes."), "No.", "no prompt"),
        (None, YES, NO, "no prompt"),
        (None, turns("Why?", "Yes.", "So?", "So."), turns("Why?", "No."), "one assistant turn"),
        (None, turns("Why?", "Yes."), turns("Why?", "No.", "But"), "one assistant turn"),
        ("Why?", turns("Yes."), turns("No."), "another prompt"),
        (turns("Why?", "So."), "Yes.", "No.", "ends in an assistant turn"),
        ("Why?", 3, "No.", "not text"),
        ("Why?", ["Yes."], NO, "a message without a role"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(prompt: Any, chosen: Any, rejected: Any, why: str) -> None:
    with pytest.raises(PairsError, match=why):
        split_prompt(prompt, chosen, rejected)
