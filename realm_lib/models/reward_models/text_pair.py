"""Text to tokens for encoder classifiers without a chat template: prompt and response as a pair."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Message, Prompt, as_messages, readable
from realm_lib.models.chat_tokens import portions
from realm_lib.models.reward_models.chat import (
    CUTTING,
    ChatEncoder,
    EncodedChat,
    Encoder,
    TooLong,
    cut_order,
    tokens_within,
)


class TextPairEncoder(Encoder):
    """The tokenizer's own form of a pair, as ``[CLS] prompt [SEP] response [SEP]``; turns become one text."""

    @property
    def template_digest(self) -> str:
        """SHA-256 of the form and of the cutting, for the cache key."""
        return hashlib.sha256(f"text pair\n{CUTTING}".encode()).hexdigest()

    def _encode_each(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Iterator[EncodedChat | TooLong | str]:
        texts = [(readable(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
        for numbers in portions([len(prompt) + len(response) for prompt, response in texts]):
            if not numbers:
                return
            sides = [texts[number][0] for number in numbers], [texts[number][1] for number in numbers]
            encoded = self.tokenizer(*sides, split_special_tokens=True)  # a "[SEP]" in a text is letters
            types = encoded.get("token_type_ids") or [None] * len(numbers)
            for number, ids, kinds, pair in zip(numbers, encoded["input_ids"], types, encoded.encodings, strict=True):
                yield self._cut(ids, partial(_contents, prompts[number], texts[number][0], pair), kinds)


def build_encoder(tokenizer: Any, params: RewardModelParams, *, pairs: bool) -> Encoder:
    """The encoder of a reward model; ``pairs``: without a chat template, prompt and response are read as a pair.

    Raises :class:`ScorerError` for any other tokenizer without a chat template.
    """
    if pairs and not tokenizer.chat_template:
        return TextPairEncoder(tokenizer, params.max_length, params.long_responses)
    finds = params.backend == "probe"
    return ChatEncoder(tokenizer, params.max_length, params.long_responses, finds_response=finds)


def _contents(prompt: Prompt, text: str, pair: Any) -> tuple[list[int], list[int]]:
    """Positions of the prompt's tokens that may go, in the order in which they go, and of the response's."""
    of_prompt, of_response = ([n for n, side in enumerate(pair.sequence_ids) if side == own] for own in (0, 1))
    turns = as_messages(prompt)
    offsets = [pair.offsets[position] for position in of_prompt]
    tokens = tokens_within(_places(turns, text), text, offsets)
    return [of_prompt[place] for place in cut_order(turns, tokens)], of_response


def _places(turns: Sequence[Message], text: str) -> list[tuple[int, int]]:
    """Start and end of each turn's content, stripped, in the ``text`` that is made of these very turns."""
    places, end = [], 0
    for turn in turns:
        content = turn["content"].strip()
        start = text.index(content, end)
        end = start + len(content)
        places.append((start, end))
    return places
