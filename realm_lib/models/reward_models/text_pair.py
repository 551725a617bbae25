"""Text to tokens for encoder classifiers without a chat template: prompt and response as a pair."""

import hashlib
from collections.abc import Sequence
from typing import Any

from realm_lib.data.chats import Prompt, readable
from realm_lib.models.reward_models.chat import EncodedChat, LongResponses, cut_to_fit


class TextPairEncoder:
    """The tokenizer's own form of a pair, as ``[CLS] prompt [SEP] response [SEP]``; turns become one text."""

    def __init__(self, tokenizer: Any, max_length: int, long_responses: LongResponses = "refuse") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_responses = long_responses

    @property
    def template_digest(self) -> str:
        """SHA-256 of the form, for the cache key."""
        return hashlib.sha256(b"text pair").hexdigest()

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedChat]:
        """Token ids and types of each pair; cut and refused as :meth:`ChatEncoder.encode` does."""
        texts = [(readable(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
        if not texts:
            return []
        sides = [prompt for prompt, _ in texts], [response for _, response in texts]
        encoded = self.tokenizer(*sides, split_special_tokens=True)  # a "[SEP]" in a text is letters
        rows = encoded["input_ids"]
        parts = {
            number: (_positions(encoded.sequence_ids(number), 0), _positions(encoded.sequence_ids(number), 1))
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


def _positions(sides: list[int | None], wanted: int) -> list[int]:
    return [position for position, side in enumerate(sides) if side == wanted]
