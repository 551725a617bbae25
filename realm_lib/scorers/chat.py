"""Text to tokens for reward models: the model's own chat template, one BOS, the response never cut."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from realm_lib.preferences import Prompt, as_messages
from realm_lib.scorers import ScorerError, TextTooLongError

__all__ = ["ChatEncoder", "EncodedChat"]

DATE = "26 Jul 2024"
"""Llama-3.1's template writes today's date into the chat unless told another; a score must not change overnight."""


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of one chat, and how many tokens of its prompt were cut."""

    ids: list[int]
    cut: int


class ChatEncoder:
    """Renders (prompt, response) with a tokenizer's chat template and cuts prompts that are too long."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        if not tokenizer.chat_template:
            raise ScorerError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; a reward model scores chats"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    def template_digest(self) -> str:
        """SHA-256 of the template with its pinned date, for the cache key."""
        return hashlib.sha256(f"{DATE}\n{self.tokenizer.chat_template}".encode()).hexdigest()

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedChat]:
        """Token ids of each chat, at most ``max_length``: a prompt loses its oldest tokens, the response none.

        Raises :class:`TextTooLongError` naming the text when its response and the template alone do not fit.
        """
        chats = [self._turns(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        texts = [self._render(turns) for turns in chats]
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        self._check_bos(encoded["input_ids"][0])
        return [
            self._fit(number, turns, text, ids, offsets)
            for number, (turns, text, ids, offsets) in enumerate(
                zip(chats, texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
            )
        ]

    @staticmethod
    def _turns(prompt: Prompt, response: str) -> list[dict[str, str]]:
        return [*as_messages(prompt), {"role": "assistant", "content": response}]

    def _render(self, turns: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, date_string=DATE)
        return text

    def _check_bos(self, ids: list[int]) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos in ids[:1] and ids[1:2] == [bos]:
            raise ScorerError(f"{self.tokenizer.name_or_path}: the chat template writes the BOS token twice")

    def _fit(
        self, number: int, turns: list[dict[str, str]], text: str, ids: list[int], offsets: list[tuple[int, int]]
    ) -> EncodedChat:
        excess = len(ids) - self.max_length
        if excess <= 0:
            return EncodedChat(ids, 0)
        prompt_tokens = self._prompt_tokens(turns, text, offsets)
        if len(prompt_tokens) < excess:
            tokens = len(ids) - len(prompt_tokens)
            raise TextTooLongError(
                f"text {number}: its response and the chat template take {tokens} tokens, "
                f"reward_model.max_length is {self.max_length}; raise it or leave the text out "
                f"(response: {turns[-1]['content'][:60]!r})",
                tokens=tokens,
                limit=self.max_length,
            )
        cut = set(prompt_tokens[:excess])
        return EncodedChat([token for place, token in enumerate(ids) if place not in cut], excess)

    @staticmethod
    def _prompt_tokens(turns: list[dict[str, str]], text: str, offsets: list[tuple[int, int]]) -> list[int]:
        """Places of the tokens that lie within the contents of the turns before the response, oldest first."""
        places: list[int] = []
        position = 0
        for turn in turns[:-1]:
            content = turn["content"].strip()  # templates strip contents, or keep them: the stripped text is in both
            start = text.index(content, position)
            position = start + len(content)
            if turn["role"] != "system":
                places += [n for n, (a, b) in enumerate(offsets) if start <= a < b <= position]
        return places
