"""Chat templates of several families: what they keep of a chat, where its contents lie, and what is cut of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.template_families import FAMILIES, family_tokenizer

from realm_lib.models.chat_templates import Kept, content_places, scoring_fault, what_is_kept
from realm_lib.models.chat_tokens import DATE, ChatTokensError, render, tokenize_chats
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import ChatEncoder
from realm_lib.rlhf.policies import PolicyError, encode_prompts

TOKENIZERS = {name: family_tokenizer(name) for name in FAMILIES}
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "user"},  # also a word of the templates
    {"role": "assistant", "content": "<think>Gas or heat?</think>\n\nYeast makes gas."},
    {"role": "user", "content": "And why does the crust turn brown, while the crumb does not?"},
]
ANSWER = "Heat browns it, and the crumb stays below a hundred degrees."


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_template_keeps(name: str) -> None:
    assert scoring_fault(TOKENIZERS[name]) is None
    assert what_is_kept(TOKENIZERS[name]) == Kept(system=True, earlier=True, thoughts=name != "deepseek-r1")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("system", [False, True])
def test_contents_are_found_where_the_template_puts_them(name: str, system: bool) -> None:
    tokenizer = TOKENIZERS[name]
    chat = [*([SYSTEM] if system else []), *TURNS, {"role": "assistant", "content": f"<think>Hm.</think>{ANSWER}"}]
    if name == "gemma" and system:
        with pytest.raises(
            ChatTokensError, match=r"no system role .*it takes no system turn: put that turn's text into"
        ):
            render(tokenizer, chat)
        return
    text = render(tokenizer, chat)
    places = content_places(tokenizer, chat, text)
    assert places is not None
    found = [text[start:end] for start, end in places]
    plain = name in ("mistral-v3", "gemma", "llama-3.2")  # they know nothing of thoughts
    thoughts = [TURNS[1]["content"], chat[-1]["content"]] if plain else ["Yeast makes gas.", ANSWER]
    assert found == [*([SYSTEM["content"]] if system else []), "user", thoughts[0], TURNS[2]["content"], thoughts[1]]
    assert text[places[-4][0] - 5 : places[-4][0]] != "start"  # the turn itself, not its heading


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("thinks", [False, True])
def test_a_chat_is_cut_within_what_was_said(name: str, thinks: bool) -> None:
    """First the prompt's oldest turns, then its end, then the response's end: all else is as the template wrote it."""
    tokenizer = TOKENIZERS[name]
    response = f"<think>Hm.</think>{ANSWER}" if thinks else ANSWER
    prompt = TURNS if name == "gemma" else [SYSTEM, *TURNS]
    chat = [*prompt, {"role": "assistant", "content": response}]
    (row,) = tokenize_chats(tokenizer, [chat])
    places = content_places(tokenizer, chat, row.text)
    assert places is not None
    parts, end = [], 0  # what stands before, between and behind that which may be cut
    for start, stop in sorted(place for turn, place in zip(chat, places, strict=True) if turn["role"] != "system"):
        parts.append(row.text[end:start])
        end = stop
    before, behind = "".join(parts), row.text[end:]
    least = len(tokenizer(before + behind, add_special_tokens=False)["input_ids"])
    for length in range(least + 8, len(row.ids) + 1, 7):
        [cut] = ChatEncoder(tokenizer, length, "cut").encode([prompt], [response])
        assert len(cut.ids) == length
        assert cut.cut + cut.response_cut == len(row.ids) - length
    text = tokenizer.decode(ChatEncoder(tokenizer, least + 8, "cut").encode([prompt], [response])[0].ids)
    assert text.startswith(before.rstrip())
    assert text.endswith(behind)
    said = text[len(before.rstrip()) : len(text) - len(behind)].strip()
    assert said
    assert row.text[slice(*places[-1])].startswith(said)
    refused = ChatEncoder(tokenizer, least - 1, "cut").refused([prompt], [response])
    assert "raise it" in str(refused[0])


@given(st.lists(st.text("ab<>/thinkuser \n", max_size=12), min_size=4, max_size=4), st.sampled_from(sorted(FAMILIES)))
def test_places_hold_the_contents_whatever_is_said(contents: list[str], name: str) -> None:
    tokenizer = TOKENIZERS[name]
    roles = ("user", "assistant", "user", "assistant")
    chat = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    places = content_places(tokenizer, chat, text := render(tokenizer, chat))
    assert places is not None
    for (start, end), content in zip(places, contents, strict=True):
        assert text[start:end] in (content.strip(), content.rpartition("</think>")[2].strip())
    frame = render(tokenizer, [{**turn, "content": ""} for turn in chat])
    assert sum(end - start for start, end in places) <= len(text) - len(frame.replace("<think>\n\n</think>\n\n", ""))


def test_no_day_but_the_pinned_one_is_in_a_chat() -> None:
    (told,) = tokenize_chats(TOKENIZERS["llama-3.2"], [TURNS], add_generation_prompt=True)
    assert f"Today: {DATE}\n" in told.text
    now = datetime.now(UTC)
    for name, tokenizer in TOKENIZERS.items():
        turns = TURNS if name == "gemma" else [SYSTEM, *TURNS]
        (told,) = tokenize_chats(tokenizer, [turns], add_generation_prompt=True)
        assert not any(f"{now + timedelta(days):%d %b %Y}" in told.text for days in (-1, 0, 1))


FAULTY = {
    "an answer it does not write": ("{{ messages[0].content }}", "does not write a question and then its answer"),
    "an answer written twice": (
        "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[-1].content }}",
        "does not write a question and then its answer",
    ),
    "another answer opened": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n",
        "opens another answer",
    ),
    "an error": ("{{ messages[9].content }}", "fails: UndefinedError"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_template_that_cannot_show_a_response_is_refused(fault: str) -> None:
    template, says = FAULTY[fault]
    tokenizer = family_tokenizer("qwen3", template)
    assert says in str(scoring_fault(tokenizer))
    with pytest.raises(ScorerError, match=f"{says}.*take the tokenizer of the model's own repository"):
        ChatEncoder(tokenizer, 64)


@pytest.mark.parametrize(
    ("template", "prompt", "says"),
    [
        (
            "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            [SYSTEM, TURNS[0]],
            "leaves out system turns: put that turn's text into the first user turn",
        ),
        (
            "{% for m in messages[-2:] %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            TURNS,
            "leaves out all but the last question",
        ),
    ],
)
def test_turns_that_would_be_left_out_are_refused(template: str, prompt: list[Any], says: str) -> None:
    encoder = ChatEncoder(family_tokenizer("qwen3", template), 512)
    assert not encoder.refused(["Why?"], [ANSWER])
    refused = encoder.refused(["Why?", prompt], [ANSWER, ANSWER])
    assert list(refused) == [1]
    assert says in str(refused[1])
    with pytest.raises(PolicyError, match=f"prompt 1: .*{says}"):
        encode_prompts(encoder.tokenizer, ["Why?", prompt], 512)
