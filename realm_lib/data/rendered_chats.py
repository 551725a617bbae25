"""Prompt and response found again in what a chat template rendered, which is all that some frameworks send."""

import re

from realm_lib.data.chats import Prompt, as_turns


class RenderedChatError(ValueError):
    """A text in which prompt and response cannot be told apart; the message holds nothing of the text."""


_RENDERED_HEADING = re.compile(
    r"<\|im_start\|>(?P<chatml>system|user|assistant)\n"
    r"|<\|start_header_id\|>(?P<llama3>system|user|assistant)<\|end_header_id\|>\n\n"
    r"|<start_of_turn>(?P<gemma>user|model)\n"
    r"|<\|(?P<plain>system|user|assistant)\|>\n?"
    r"|(?P<inst>\[/?INST\]) ?"
    r"|<｜(?P<deepseek>User|Assistant)｜>"
)
_ROLES = {"model": "assistant", "[INST]": "user", "[/INST]": "assistant", "User": "user", "Assistant": "assistant"}

_SPECIAL = (
    r"(?:<\|(?:im_end|eot_id|eom_id|end|eos|bos|pad|endoftext|end_of_text|begin_of_text|finetune_right_pad_id)\|>"
    r"|</?s>|<(?:eos|bos|pad|end_of_turn)>|<｜(?:begin|end)▁of▁sentence｜>)"
)
_AT_START = re.compile(rf"(?:\s*{_SPECIAL})+")
_ONE_SPECIAL = re.compile(rf"{_SPECIAL}\s*")


def read_prompt(rendered: str) -> Prompt:
    """The turns of a rendered prompt without the heading of the answer to come; a text without headings as it is."""
    headings = _headings(rendered)
    if not headings:
        return _without_end(_without_start(rendered))
    ends = [heading.start() for heading in headings[1:]] + [len(rendered)]
    turns = [
        {"role": _role(heading), "content": _without_end(rendered[heading.end() : end]).strip()}
        for heading, end in zip(headings, ends, strict=True)
    ]
    if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()
    return turns or ""


def split_query(query: str, prompt: str) -> tuple[Prompt, str]:
    """Prompt and response of a ``query`` that begins with its ``prompt``, both as a template rendered them.

    White space may differ, and special tokens at the start may be missing on either side: decoding tokens does not
    give back every text. Where a trainer cut the start of a long prompt (OpenRLHF does, and sends the whole one beside
    it), the query may begin with the prompt's end, down to the heading of the answer. The response loses the special
    tokens at its end, nothing else. Raises :class:`RenderedChatError` when ``query`` begins otherwise.
    """
    whole, start = _without_start(query), _without_start(prompt)
    end = len(start) if whole.startswith(start) else _end_of_prefix(whole, start)
    if end is None:
        whole = query.lstrip("\ufffd")  # the cut may go through a character
        end = _end_of_cut_prefix(whole, prompt)
    if end is None:
        raise RenderedChatError("does not begin with its prompt")
    return read_prompt(prompt), _without_end(whole[end:])


def split_rendered(text: str) -> tuple[Prompt, str]:
    """Prompt and response of a rendered chat: the last assistant turn is the response.

    A transcript of "\\n\\nHuman:" and "\\n\\nAssistant:" turns is read too. Raises :class:`RenderedChatError` for a
    text that does not end in an assistant turn after another turn.
    """
    headings = _headings(text)
    if headings and _role(headings[-1]) == "assistant":
        prompt = read_prompt(text[: headings[-1].start()])
        if prompt:
            return prompt, _without_end(text[headings[-1].end() :])
    if not headings:
        *turns, last = as_turns(_without_end(_without_start(text)))
        if turns and last["role"] == "assistant":
            return turns, last["content"]
    raise RenderedChatError(
        "holds no prompt and response that can be told apart: it must end in an assistant turn of ChatML, Llama-3, "
        "Gemma, Zephyr, Mistral or DeepSeek headings, or of a Human/Assistant transcript"
    )


def _headings(rendered: str) -> list[re.Match[str]]:
    """The headings of the template that wrote the first one: those of other templates are what somebody quotes."""
    found = list(_RENDERED_HEADING.finditer(rendered))
    return [heading for heading in found if heading.lastgroup == found[0].lastgroup]


def _role(heading: re.Match[str]) -> str:
    word = str(heading[heading.lastgroup or 0])
    return _ROLES.get(word, word)


def _without_start(text: str) -> str:
    start = _AT_START.match(text)
    return text[start.end() :] if start else text


def _without_end(text: str) -> str:
    """Without the special tokens at the end. From there, one by one: a search for them all is quadratic in their number
    where something stands behind them."""
    end = len(text)
    while (start := text.rfind("<", 0, end)) >= 0 and _ONE_SPECIAL.fullmatch(text, start, end):
        end = start
    return text[:end]


def _end_of_cut_prefix(text: str, prefix: str) -> int | None:
    """The length of the longest end of ``prefix`` with which ``text`` begins, if a heading is in it, else None.

    Knuth, Morris and Pratt's prefix function of ``text``, run over ``prefix``.
    """
    headings = _headings(prefix)
    if not headings:
        return None
    text = text[: len(prefix)]
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        length += text[index] == text[length]
        borders[index] = length
    length = 0
    for letter in prefix:
        while length and (length == len(text) or letter != text[length]):
            length = borders[length - 1]
        length += bool(text) and letter == text[length]
    return length if length >= len(prefix) - headings[-1].start() else None


def _end_of_prefix(text: str, prefix: str) -> int | None:
    """Where ``prefix`` ends in ``text`` when white space may differ; None when ``text`` begins otherwise."""
    end = matched = 0
    while matched < len(prefix):
        if end < len(text) and text[end] == prefix[matched]:
            end, matched = end + 1, matched + 1
        elif prefix[matched].isspace():
            matched += 1
        elif end < len(text) and text[end].isspace():
            end += 1
        else:
            return None
    return end
