"""What clients send and get: our own form, OpenRLHF's and LLaMA-Factory's."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from realm_lib.data.chats import PairsError, Prompt, asked_text, is_unicode
from realm_lib.data.rendered_chats import RenderedChatError, split_query, split_rendered
from realm_lib.inference.server.batching import Pair
from realm_lib.inference.server.limits import Limits


class BadRequestError(ValueError):
    """A request that is well formed and cannot be answered (422); the message says where, and nothing of a text.

    ``unscorable`` are the places of responses that have no reward whatever is tried: without them there is an answer.
    """

    def __init__(self, message: str, unscorable: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.unscorable = list(unscorable)


def _example(**content: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [content]}, hide_input_in_errors=True, protected_namespaces=())


# The lengths of texts are checked in pairs_of, which can say all that are too long.
Text = Annotated[str, Field(json_schema_extra={"maxLength": Limits.characters})]
Rendered = Annotated[str, Field(json_schema_extra={"maxLength": 2 * Limits.characters})]
"""A query holds a prompt and a response, each within its own limit."""


class Message(BaseModel):
    """A chat message."""

    model_config = ConfigDict(hide_input_in_errors=True)
    role: Literal["system", "user", "assistant"]
    content: Text


# fail_fast: else a list that fits none of a union's forms would be an error for each of its items, in each form.
_SOME = Field(min_length=1, max_length=Limits.responses, fail_fast=True)
_ANY_NUMBER = Field(max_length=Limits.responses, fail_fast=True)
Chat = Annotated[list[Message], Field(min_length=1, max_length=Limits.messages, fail_fast=True)]


class PredictRequest(BaseModel):
    """A prompt with one response; or a list of responses with one prompt for all, or a prompt for each."""

    model_config = _example(prompt="Why does bread rise?", response="Yeast turns sugar into gas.")
    prompt: Text | Chat | Annotated[list[Text], _SOME] | Annotated[list[Chat], _SOME]
    response: Text | Annotated[list[Text], _SOME]


class Explained(BaseModel):
    """A response's reward and what it is made of; ``signals`` are the run's further features, by name.

    ``outside``: one of the features lies beyond the range of the training responses.
    """

    model_config = _example(
        reward=0.83,
        spread=0.04,
        score=1.91,
        similarity=0.62,
        outside=False,
        signals={},
        models={"reward_model": "NAME@WEIGHTS", "embedding": "NAME@WEIGHTS", "combiner": "WEIGHTS", "realm_lib": "0"},
    )
    reward: float
    spread: float
    score: float
    similarity: float
    outside: bool
    signals: dict[str, float]
    models: dict[str, str]


class ExplainedList(BaseModel):
    """An answer for each response of a list, in order."""

    rewards: list[float]
    results: list[Explained]


class GetRewardRequest(BaseModel):
    """OpenRLHF's: prompt and response in one text, and the prompt again. ``labels`` and other keys are not used."""

    model_config = _example(
        query=["<|user|>\nWhy?</s>\n<|assistant|>\nYeast.</s>"], prompts=["<|user|>\nWhy?</s>\n<|assistant|>\n"]
    )
    query: Annotated[list[Rendered], _ANY_NUMBER] | Rendered
    prompts: Annotated[list[Rendered], _ANY_NUMBER] | Rendered | None = None
    labels: Any = None


class GetRewardAnswer(BaseModel):
    """OpenRLHF's: rewards, their sigmoids as scores between 0 and 1 (dynamic filtering), and logs, signals' too."""

    model_config = _example(
        rewards=[0.83],
        scores=[0.7],
        extra_logs={"score": [1.91], "similarity": [0.62], "spread": [0.04], "outside": [0.0]},
    )
    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class ScoresRequest(BaseModel):
    """LLaMA-Factory's: whole chats as text. ``model`` and other keys are not used."""

    model_config = _example(
        model="model", messages=["<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nYeast.<|im_end|>"]
    )
    messages: Annotated[list[Rendered], _SOME]


class ScoresAnswer(BaseModel):
    """LLaMA-Factory's: the rewards, called scores."""

    model_config = _example(object="score.evaluation", model="realm", scores=[0.83])
    object: Literal["score.evaluation"] = "score.evaluation"
    model: str = "realm"
    scores: list[float]


class Failure(BaseModel):
    """Why there is no answer, and what would help. ``unscorable`` are the places of responses that are too long."""

    model_config = _example(detail="the queue is full")
    detail: str
    unscorable: list[int] | None = None


def pairs_of(request: PredictRequest | GetRewardRequest | ScoresRequest, limits: Limits) -> list[Pair]:
    """(prompt, response) of each response asked for. No text is read before its length is known to be within bounds.

    Raises :class:`BadRequestError` for numbers that do not agree, for too many or too long texts, and for a rendered
    chat that cannot be split.
    """
    pairs = _predict_pairs(request, limits) if isinstance(request, PredictRequest) else _rendered_pairs(request, limits)
    _check_responses([response for _, response in pairs], limits)
    for index, (prompt, response) in enumerate(pairs):
        _check_text(prompt, f"the prompt of response {index}", limits.characters)
        _check_text(response, f"response {index}", limits.characters)
    return pairs


def _predict_pairs(request: PredictRequest, limits: Limits) -> list[Pair]:
    responses = _listed(request.response)
    _check_number(len(responses), "response", limits)
    prompt: Any = request.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], Message)
    if several and isinstance(request.response, str):
        raise BadRequestError("several prompts but one response: give a list of responses")
    prompts = prompt if several else [prompt]
    if several and len(prompts) != len(responses):
        raise BadRequestError(f"{len(prompts)} prompts but {len(responses)} responses")
    _check_responses(responses, limits)
    texts = []
    for index, chat in enumerate(prompts):
        turns = chat if isinstance(chat, str) else [turn.model_dump() for turn in chat]
        size = len(chat) if isinstance(chat, str) else sum(len(turn.content) for turn in chat)
        _check_size(size, f"the prompt of response {index}", limits.characters)
        texts.append(_prompt_text(turns, index))
    return list(zip(texts if several else texts * len(responses), responses, strict=True))


def _rendered_pairs(request: GetRewardRequest | ScoresRequest, limits: Limits) -> list[Pair]:
    texts = request.messages if isinstance(request, ScoresRequest) else _listed(request.query)
    name = "messages" if isinstance(request, ScoresRequest) else "query"
    _check_number(len(texts), name, limits)
    prompts: Sequence[str | None] = [None] * len(texts)
    if isinstance(request, GetRewardRequest) and request.prompts:
        prompts = _listed(request.prompts)
        if len(prompts) != len(texts):
            raise BadRequestError(f"{len(texts)} queries but {len(prompts)} prompts")
    pairs = []
    for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        _check_text(text, f"{name}[{index}]", 2 * limits.characters)
        _check_size(len(prompt or ""), f"prompts[{index}]", 2 * limits.characters)
        try:
            asked, response = split_query(text, prompt) if prompt else split_rendered(text)
        except RenderedChatError as error:
            raise BadRequestError(f"{name}[{index}] {error}") from None
        pairs.append((_prompt_text(asked, index), response))
    return pairs


def _prompt_text(prompt: Prompt, index: int) -> str:
    try:
        return asked_text(prompt)
    except PairsError as error:
        raise BadRequestError(f"the prompt of response {index}: {error}") from None


def _listed(value: list[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else value


def _check_responses(responses: Sequence[str], limits: Limits) -> None:
    if long := [index for index, response in enumerate(responses) if len(response) > limits.characters]:
        told = f"response {long[0]} has {len(responses[long[0]])} characters, the limit is {limits.characters}"
        raise BadRequestError(told, long)


def _check_text(text: str, name: str, most: int) -> None:
    _check_size(len(text), name, most)
    if not is_unicode(text):
        raise BadRequestError(f"{name} holds a lone surrogate, which is not Unicode text")


def _check_size(characters: int, name: str, most: int) -> None:
    if characters > most:
        raise BadRequestError(f"{name} has {characters} characters, the limit is {most}")


def _check_number(number: int, name: str, limits: Limits) -> None:
    if number > limits.responses:
        raise BadRequestError(f"{name} has {number} texts, the limit is {limits.responses} a request")


def probability(reward: float) -> float:
    """The Bradley-Terry probability, 0 to 1, of being preferred to a response whose reward is 0 (the mean training
    response), for pairs like those of the run's validation split, which the reward's scale was fitted to."""
    return 1 / (1 + math.exp(-reward)) if reward >= 0 else math.exp(reward) / (1 + math.exp(reward))
