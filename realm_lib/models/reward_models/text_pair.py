"""Text to tokens for encoder classifiers without a chat template: prompt and response as a pair."""

import hashlib
from collections.abc import Sequence
from typing import Any

from realm_lib.data.chats import Prompt, as_messages, readable
from realm_lib.models.reward_models.chat import (
    CUTTING,
    EncodedChat,
    LongResponses,
    content_tokens,
    cut_order,
    cut_to_fit,
)


class TextPairEncoder:
    """The tokenizer's own form of a pair, as ``[CLS] prompt [SEP] response [SEP]``; turns become one text."""

    def __init__(self, tokenizer: Any, max_length: int, long_responses: LongResponses = "refuse") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_responses = long_responses

    @property
    def template_digest(self) -> str:
        """SHA-256 of the form and of the cutting, for the cache key."""
        return hashlib.sha256(f"text pair\n{CUTTING}".encode()).hexdigest()

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedChat]:
        """Token ids and types of each pair; cut and refused as :meth:`ChatEncoder.encode` does."""
        texts = [(readable(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
        if not texts:
            return []
        sides = [prompt for prompt, _ in texts], [response for _, response in texts]
        encoded = self.tokenizer(*sides, split_special_tokens=True)  # a "[SEP]" in a text is letters
        rows = encoded["input_ids"]
        parts = {
            number: self._contents(prompts[number], texts[number][0], encoded[number])
            for number, ids in enumerate(rows)
            if len(ids) > self.max_length
        }
        return cut_to_fit(
            rows,
            parts,
            prompts,
            responses,
            max_length=self.max_length,
            mode=self.long_responses,
            types=encoded.get("token_type_ids"),
        )

    @staticmethod
    def _contents(prompt: Prompt, text: str, pair: Any) -> tuple[list[int], list[int]]:
        """Positions of the prompt's tokens that may go, in the order in which they go, and of the response's."""
        of_prompt, of_response = ([n for n, side in enumerate(pair.sequence_ids) if side == own] for own in (0, 1))
        turns = as_messages(prompt)
        offsets = [pair.offsets[position] for position in of_prompt]
        tokens = content_tokens(turns, text, offsets)
        assert tokens is not None  # the text is made of these very turns
        return [of_prompt[place] for place in cut_order(turns, tokens)], of_response
