"""Text to tokens for reward models: the model's own chat template, one BOS, the response cut only when asked."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from realm_lib.data.chats import Message, Prompt, as_messages, as_text
from realm_lib.models.chat_tokens import DATE, ChatTokensError, tokenize_chats
from realm_lib.models.reward_models import LongResponseError, ScorerError

LongResponses = Literal["refuse", "cut"]
CUTTING = "contents as letters, oldest turns first, then the last one's end"
"""How contents become tokens and which of them are cut: what is scored changes with it, so the cache key holds it."""


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of one chat, and how many tokens of its prompt and of its response were cut."""

    ids: list[int]
    cut: int = 0
    response_cut: int = 0
    types: list[int] | None = None
    """Token types, for encoders that tell prompt from response by them."""


class ChatEncoder:
    """Renders (prompt, response) with a tokenizer's chat template and cuts prompts that are too long."""

    def __init__(self, tokenizer: Any, max_length: int, long_responses: LongResponses = "refuse") -> None:
        if not tokenizer.chat_template:
            raise ScorerError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; a reward model scores chats. Take the "
                "model's own repository, whose tokenizer has one"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_responses = long_responses

    @property
    def template_digest(self) -> str:
        """SHA-256 of the template with its pinned date and of the cutting, for the cache key."""
        return hashlib.sha256(f"{DATE}\n{CUTTING}\n{self.tokenizer.chat_template}".encode()).hexdigest()

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedChat]:
        """Token ids of each chat, at most ``max_length``: a prompt is cut by :func:`cut_order`, the response not.

        Raises :class:`LongResponseError` naming the texts whose response and template alone do not fit, unless
        ``long_responses`` is "cut": then they lose the prompt and the end of the response. Raises
        :class:`ScorerError` naming a text that :func:`tokenize_chats` refuses.
        """
        chats = [
            [*as_messages(prompt), {"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        try:
            told = tokenize_chats(self.tokenizer, chats)
        except ChatTokensError as error:
            named = name_text(error.number, prompts[error.number], responses[error.number])
            raise ScorerError(f"{named}: {error}") from error
        parts = {
            number: self._contents(number, chats[number], row.text, row.offsets)
            for number, row in enumerate(told)
            if len(row.ids) > self.max_length
        }
        rows = [row.ids for row in told]
        return cut_to_fit(rows, parts, prompts, responses, max_length=self.max_length, mode=self.long_responses)

    def _contents(
        self, number: int, turns: list[dict[str, str]], text: str, offsets: list[tuple[int, int]]
    ) -> tuple[list[int], list[int]]:
        """Positions of the prompt's tokens that may go, in the order in which they go, and of the response's."""
        tokens = content_tokens(turns, text, offsets)
        if tokens is None:
            raise ScorerError(
                f"{name_text(number, turns[:-1], turns[-1]['content'])}: too long for reward_model.max_length, and "
                f"cannot be cut: the chat template of {self.tokenizer.name_or_path} rewrites what a turn says"
            )
        return cut_order(turns[:-1], tokens[:-1]), tokens[-1]


def content_tokens(turns: Sequence[Message], text: str, offsets: Sequence[tuple[int, int]]) -> list[list[int]] | None:
    """For each of the ``turns`` that ``text`` renders, the positions of the tokens that lie within its content.

    A first token may hold the white space before it. None where the text does not hold what the turns say.
    """
    tokens: list[list[int]] = []
    end = 0
    for turn in turns:
        content = turn["content"].strip()  # templates strip contents, or keep them: the stripped text is in both
        start = text.find(content, end)
        if start < 0:
            return None
        end = start + len(content)
        tokens.append(
            [
                position
                for position, (a, b) in enumerate(offsets)
                if start < b <= end and a < b and (start <= a or text[a:start].isspace())
            ]
        )
    return tokens


def cut_order(turns: Sequence[Message], tokens: Sequence[list[int]]) -> list[int]:
    """In which order a prompt's ``tokens``, those of each turn's content, go when there is no room for all.

    As in :func:`realm_lib.data.lengths.cut_prompt`: the oldest turns go first, a system turn stays, and the last of the
    others loses its end.
    """
    *older, last = [of_turn for turn, of_turn in zip(turns, tokens, strict=True) if turn["role"] != "system"] or [[]]
    return [*(position for of_turn in older for position in of_turn), *reversed(last)]


def cut_to_fit(
    rows: Sequence[list[int]],
    parts: dict[int, tuple[list[int], list[int]]],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    *,
    max_length: int,
    mode: LongResponses,
    types: Sequence[list[int]] | None = None,
) -> list[EncodedChat]:
    """Token ids ``rows`` cut to ``max_length``: of the prompt, then, in mode "cut", the response's end.

    ``parts`` holds, for each row that is too long, the positions of its prompt's tokens in the order in which they go
    (:func:`cut_order`), and of its response's.
    Raises :class:`LongResponseError` with every row that cannot be made to fit.
    """
    chats, too_long = [], []
    for number, ids in enumerate(rows):
        excess = len(ids) - max_length
        kinds = types[number] if types else None
        if excess <= 0:
            chats.append(EncodedChat(ids, types=kinds))
            continue
        of_prompt, of_response = parts[number]
        from_response = max(0, excess - len(of_prompt))
        if from_response and (mode == "refuse" or from_response >= len(of_response)):
            too_long.append((number, len(ids) - len(of_prompt)))
            continue
        cut = {*of_prompt[:excess], *of_response[len(of_response) - from_response :]}
        kept = [position for position in range(len(ids)) if position not in cut]
        kept_kinds = [kinds[position] for position in kept] if kinds else None
        kept_ids = [ids[position] for position in kept]
        chats.append(EncodedChat(kept_ids, excess - from_response, from_response, kept_kinds))
    if too_long:
        named = [
            f"{name_text(number, prompts[number], responses[number])}: its response and the chat template take "
            f"{length} tokens"
            for number, length in too_long[:5]
        ]
        more = f" and {len(too_long) - 5} more" if len(too_long) > 5 else ""
        advice = "" if mode == "cut" else ", leave the texts out, or set reward_model.long_responses: cut"
        message = f"{'; '.join(named)}{more}; reward_model.max_length is {max_length}: raise it{advice}"
        raise LongResponseError(message, dict(too_long), max_length)
    return chats


def name_text(number: int, prompt: Prompt, response: str) -> str:
    """How an error names a text: its index, its id (the start of its key in the feature store), how it begins."""
    digest = hashlib.sha256(json.dumps([as_text(prompt), response]).encode()).hexdigest()[:12]
    return f"text {number} (id {digest}, prompt {as_text(prompt)[:40]!r}, response {response[:40]!r})"
