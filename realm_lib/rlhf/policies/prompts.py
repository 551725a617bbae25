"""Prompts to tokens: the model's own chat template, one BOS, the assistant's turn opened, nothing cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from realm_lib.data.chats import Prompt, as_messages, is_empty_prompt
from realm_lib.models.chat_templates import what_is_kept
from realm_lib.models.chat_tokens import ChatTokensError, tokenize_chats
from realm_lib.rlhf.errors import PolicyError


@dataclass(frozen=True)
class EncodedPrompts:
    """Token ids of the prompts that fit, their indices among those given, and what was left out and why."""

    ids: list[list[int]]
    kept: list[int]
    dropped: int
    reason: str
    """Says in words how many were left out; empty when none was."""


def encode_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], max_prompt_tokens: int, enable_thinking: bool | None = None
) -> EncodedPrompts:
    """Each prompt as a chat that waits for the assistant's answer.

    ``enable_thinking`` is given to the chat template; None leaves it to the template's own default.
    Prompts over ``max_prompt_tokens`` tokens, template included, are left out and counted. Raises :class:`PolicyError`
    naming an empty prompt, one that :func:`tokenize_chats` refuses or of which the template would leave out a turn, and
    when no prompt fits.
    """
    for index, prompt in enumerate(prompts):
        if is_empty_prompt(prompt):
            raise PolicyError(f"prompt {index} is empty: remove it")
    switches = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    chats = [as_messages(prompt) for prompt in prompts]
    template = what_is_kept(tokenizer)
    for index, chat in enumerate(chats):
        if lost := template.lost(chat, tokenizer.name_or_path):
            raise PolicyError(f"prompt {index}: {lost}")
    try:
        told = tokenize_chats(tokenizer, chats, add_generation_prompt=True, **switches)
    except ChatTokensError as error:
        raise PolicyError(f"prompt {error.number}: {error}") from error
    rows = [row.ids for row in told]
    kept = [index for index, row in enumerate(rows) if len(row) <= max_prompt_tokens]
    dropped = len(rows) - len(kept)
    reason = ""
    if dropped:
        longest = max(range(len(rows)), key=lambda index: len(rows[index]))
        reason = (
            f"{dropped} of {len(rows)} prompts left out: longer than max_prompt_tokens {max_prompt_tokens} "
            f"(the longest is prompt {longest} with {len(rows[longest])})"
        )
    if not kept:
        raise PolicyError(reason or "there are no prompts")
    return EncodedPrompts([rows[index] for index in kept], kept, dropped, reason)
