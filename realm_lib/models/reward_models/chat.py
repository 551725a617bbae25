"""Text to tokens for reward models: the model's own chat template, one BOS, the response cut only when asked."""

import hashlib
import json
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from realm_lib.data.chats import Message, Prompt, as_messages, as_text
from realm_lib.models.chat_templates import content_places, scoring_fault, what_is_kept
from realm_lib.models.chat_tokens import DATE, ChatTokens, ChatTokensError, dated, tokenize_each
from realm_lib.models.reward_models import LongResponseError, ScorerError

LongResponses = Literal["refuse", "cut"]
CUTTING = "contents as letters, oldest turns first, then the last one's end"
"""How contents become tokens and which of them are cut: what is scored changes with it, so the cache key holds it."""
_AT_ONCE = 1024
"""Texts that are chats and tokens at a time, where only numbers are kept of them: those of SHP would take 37 GB."""


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of one chat, and how many tokens of its prompt and of its response were cut."""

    ids: list[int]
    cut: int = 0
    response_cut: int = 0
    types: list[int] | None = None
    """Token types, for encoders that tell prompt from response by them."""
    start: int = 0
    """Where the response begins, for a model that reads it apart."""


@dataclass(frozen=True)
class TooLong:
    """Of a text that does not fit: what its response and the template take, in tokens."""

    tokens: int


class Encoder(ABC):
    """Texts to tokens, at most ``max_length`` each: a prompt is cut by :func:`cut_order`, the response not, unless
    ``long_responses`` is "cut": then it loses its end where all of the prompt is not enough.
    """

    finds_response = False
    """Whether each text says where its response begins, and one of which that cannot be told is refused."""

    def __init__(self, tokenizer: Any, max_length: int, long_responses: LongResponses = "refuse") -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_responses = long_responses

    @property
    @abstractmethod
    def template_digest(self) -> str:
        """SHA-256 of the form that texts get and of the cutting, for the cache key."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what :meth:`lengths` says of a text; the feature store keys on it."""
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        tokenizer |= {"truncation": None, "padding": None, "special": self.tokenizer.special_tokens_map}
        return {
            "form": type(self).__name__,
            "tokenizer": hashlib.sha256(json.dumps(tokenizer, sort_keys=True, default=str).encode()).hexdigest(),
            "template": self.template_digest,
            "max_length": self.max_length,
            "long_responses": self.long_responses,
        } | ({"finds_response": True} if self.finds_response else {})

    @abstractmethod
    def _encode_each(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Iterator[EncodedChat | TooLong | str]:
        """Each text's tokens, cut; or what is wrong with it, in words unless it is its length."""

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[EncodedChat]:
        """Token ids of each chat.

        Raises :class:`ScorerError` naming the first text that has no tokens, as one that :func:`tokenize_each` refuses;
        else :class:`LongResponseError` naming all whose response and template alone do not fit.
        """
        told: list[EncodedChat] = []
        faults: dict[int, TooLong | str] = {}
        for number, outcome in enumerate(self._outcomes(prompts, responses)):
            if isinstance(outcome, EncodedChat):
                told.append(outcome)
            else:
                faults[number] = outcome
        if faults:
            raise self._error(faults, prompts, responses)
        return told

    def lengths(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        """Of each text the tokens that are read, those cut from its prompt and those cut from its response, [n, 3].

        Of a million texts too no more than some are tokens at a time. Raises as :meth:`encode` does.
        """
        lengths, faults = self._look(prompts, responses)
        if faults:
            raise self._error(faults, prompts, responses)
        return lengths

    def refused(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[int, ScorerError]:
        """What :meth:`encode` raises for each text that it refuses, as if it were alone, by its index."""
        return self.look(prompts, responses)[1]

    def look(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[NDArray[np.int64], dict[int, ScorerError]]:
        """What :meth:`lengths` and :meth:`refused` say, by one look at each text; a refused one has no tokens."""
        lengths, faults = self._look(prompts, responses)
        told = {
            number: self._error({0: fault}, [prompts[number]], [responses[number]]) for number, fault in faults.items()
        }
        return lengths, told

    def _look(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> tuple[NDArray[np.int64], dict[int, TooLong | str]]:
        lengths = np.zeros((len(prompts), 3), dtype=np.int64)
        faults: dict[int, TooLong | str] = {}
        for number, outcome in enumerate(self._outcomes(prompts, responses)):
            if isinstance(outcome, EncodedChat):
                lengths[number] = len(outcome.ids), outcome.cut, outcome.response_cut
            else:
                faults[number] = outcome
        return lengths, faults

    def _outcomes(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Iterator[EncodedChat | TooLong | str]:
        """As :meth:`_encode_each`, whose chats and tokens are made for some texts at a time."""
        for start in range(0, max(len(prompts), len(responses)), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            yield from self._encode_each(prompts[some], responses[some])

    def _error(
        self, faults: "Mapping[int, TooLong | str]", prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> ScorerError:
        """Of the first text that has no tokens, else of all that are too long."""
        long = {}
        for number, fault in faults.items():
            if isinstance(fault, str):
                return ScorerError(f"{name_text(number, prompts[number], responses[number])}: {fault}", [number])
            long[number] = fault.tokens
        return self._long(long, prompts, responses)

    def _cut(
        self,
        ids: list[int],
        contents: Callable[[], tuple[list[int], list[int]] | None],
        types: list[int] | None = None,
        *,
        find_start: bool = False,
    ) -> EncodedChat | TooLong | str:
        """``ids`` cut to ``max_length``, and where the response begins if that is asked for.

        ``contents``, asked where there is something to cut, are the positions of the prompt's tokens in the order in
        which they go (:func:`cut_order`) and of the response's; None where the template does not let them be found.
        """
        excess = len(ids) - self.max_length
        if excess <= 0 and not find_start:
            return EncodedChat(ids, types=types)
        found = contents()
        if found is None:
            fault = "too long for reward_model.max_length, and cannot be cut" if excess > 0 else "cannot be read"
            return f"{fault}: the chat template of {self.tokenizer.name_or_path} rewrites what a turn says"
        of_prompt, of_response = found
        # Of an empty response: behind the prompt's last token, where the template closes its turn and opens the next.
        start = of_response[0] if of_response else max(of_prompt, default=-1) + 1
        if excess <= 0:
            return EncodedChat(ids, types=types, start=start)
        from_response = max(0, excess - len(of_prompt))
        if from_response and (self.long_responses == "refuse" or from_response >= len(of_response)):
            return TooLong(len(ids) - len(of_prompt))
        cut = {*of_prompt[:excess], *of_response[len(of_response) - from_response :]}
        kept = [position for position in range(len(ids)) if position not in cut]
        return EncodedChat(
            [ids[position] for position in kept],
            excess - from_response,
            from_response,
            [types[position] for position in kept] if types else None,
            start - sum(position < start for position in cut),
        )

    def _long(
        self, tokens: Mapping[int, int], prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> LongResponseError:
        named = [
            f"{name_text(number, prompts[number], responses[number])}: its response and the chat template take "
            f"{length} tokens"
            for number, length in list(tokens.items())[:5]
        ]
        more = f" and {len(tokens) - 5} more" if len(tokens) > 5 else ""
        advice = (
            "" if self.long_responses == "cut" else ", leave the texts out, or set reward_model.long_responses: cut"
        )
        message = f"{'; '.join(named)}{more}; reward_model.max_length is {self.max_length}: raise it{advice}"
        return LongResponseError(message, tokens, self.max_length)


class ChatEncoder(Encoder):
    """Renders (prompt, response) with a tokenizer's chat template.

    ``finds_response`` says of each chat where its response begins, and refuses those of which that cannot be told.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        long_responses: LongResponses = "refuse",
        *,
        finds_response: bool = False,
    ) -> None:
        if not tokenizer.chat_template:
            raise ScorerError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; a reward model scores chats. Take the "
                "model's own repository, whose tokenizer has one"
            )
        super().__init__(tokenizer, max_length, long_responses)
        self.finds_response = finds_response
        if fault := scoring_fault(tokenizer):
            raise ScorerError(f"{fault}: take the tokenizer of the model's own repository")
        self.kept = what_is_kept(tokenizer)
        """What the template keeps of a chat; texts of which it would leave out a turn are refused."""

    @property
    def template_digest(self) -> str:
        """SHA-256 of the template with its pinned date and of the cutting, for the cache key."""
        template = self.tokenizer.chat_template
        template = dated(template) if isinstance(template, str) else template
        return hashlib.sha256(f"{DATE}\n{CUTTING}\n{template}".encode()).hexdigest()

    def _encode_each(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Iterator[EncodedChat | TooLong | str]:
        chats = [
            [*as_messages(prompt), {"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        for chat, row in zip(chats, tokenize_each(self.tokenizer, chats), strict=True):
            if isinstance(row, ChatTokensError):
                yield str(row)
            else:
                lost = self.kept.lost(chat, self.tokenizer.name_or_path)
                yield lost or self._cut(row.ids, partial(self._contents, chat, row), find_start=self.finds_response)

    def _contents(self, turns: Sequence[Message], row: ChatTokens) -> tuple[list[int], list[int]] | None:
        places = content_places(self.tokenizer, turns, row.text)
        if places is None:
            return None
        tokens = tokens_within(places, row.text, row.offsets)
        return cut_order(turns[:-1], tokens[:-1]), tokens[-1]


def tokens_within(places: Sequence[tuple[int, int]], text: str, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """For each of the ``places`` in ``text``, the positions of the tokens that lie within it.

    A first token may hold the white space before it.
    """
    by_end = sorted(range(len(offsets)), key=lambda position: offsets[position][1])
    ends = [offsets[position][1] for position in by_end]
    tokens: list[list[int]] = []
    for start, end in places:
        within = sorted(by_end[bisect_right(ends, start) : bisect_right(ends, end)])
        tokens.append(
            [
                position
                for position in within
                if (a := offsets[position][0]) < offsets[position][1] and (start <= a or text[a:start].isspace())
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


def name_text(number: int, prompt: Prompt, response: str) -> str:
    """How an error names a text: its index, its id (the start of its key in the feature store), how it begins."""
    digest = hashlib.sha256(json.dumps([as_text(prompt), response]).encode()).hexdigest()[:12]
    return f"text {number} (id {digest}, prompt {as_text(prompt)[:40]!r}, response {response[:40]!r})"
