"""Responses of models that think aloud before they answer: which part is the answer."""

from collections.abc import Sequence
from typing import Any

_OPEN, _CLOSE = "<think>", "</think>"


def after_thinking(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of a response's tokens ``ids`` (without its end token) after the last ``</think>``.

    All of it where nothing was thought; nothing where thinking was opened, by the response or at the very end of the
    ``prompt`` (its tokens), and never closed: then there is no answer.
    """
    said: str = tokenizer.decode(ids, skip_special_tokens=False)  # the tags are special tokens of some tokenizers
    _, close, after = said.rpartition(_CLOSE)
    opened = not close and tokenizer.decode(prompt[-8:], skip_special_tokens=False).rstrip().endswith(_OPEN)
    if opened or _OPEN in after:
        return ""
    tag = tokenizer.convert_tokens_to_ids(_CLOSE)
    if close and tag != tokenizer.unk_token_id and tag in ids:
        start = len(ids) - list(ids)[::-1].index(tag)
        return str(tokenizer.decode(ids[start:], skip_special_tokens=True)).lstrip()
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text.rpartition(_CLOSE)[2].lstrip() if close else text
