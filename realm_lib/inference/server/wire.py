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


class Message(BaseModel):
    """A chat message."""

    model_config = ConfigDict(hide_input_in_errors=True)
    role: Literal["system", "user", "assistant"]
    content: str


Chat = Annotated[list[Message], Field(min_length=1)]


class PredictRequest(BaseModel):
    """A prompt with one response; or a list of responses with one prompt for all, or a prompt for each."""

    model_config = _example(prompt="Why does bread rise?", response="Yeast turns sugar into gas.")
    prompt: str | Chat | Annotated[list[str], Field(min_length=1)] | Annotated[list[Chat], Field(min_length=1)]
    response: str | Annotated[list[str], Field(min_length=1)]


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
    query: list[str] | str
    prompts: list[str] | str | None = None
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
    messages: Annotated[list[str], Field(min_length=1)]


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
    """(prompt, response) of each response asked for.

    Raises :class:`BadRequestError` for numbers that do not agree, for too many or too long texts, and for a rendered
    chat that cannot be split.
    """
    if isinstance(request, PredictRequest):
        return _check(_predict_pairs(request, limits), limits)
    texts = request.messages if isinstance(request, ScoresRequest) else _listed(request.query)
    name = "messages" if isinstance(request, ScoresRequest) else "query"
    _check_number(len(texts), name, limits)
    for index, text in enumerate(texts):
        # Twice: a query holds a prompt and a response, each within its own limit.
        _check_text(text, f"{name}[{index}]", 2 * limits.characters)
    prompts: Sequence[str | None] = [None] * len(texts)
    if isinstance(request, GetRewardRequest) and request.prompts:
        prompts = _listed(request.prompts)
        if len(prompts) != len(texts):
            raise BadRequestError(f"{len(texts)} queries but {len(prompts)} prompts")
    pairs = []
    for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        try:
            asked, response = split_query(text, prompt) if prompt else split_rendered(text)
        except RenderedChatError as error:
            raise BadRequestError(f"{name}[{index}] {error}") from None
        pairs.append((_prompt_text(asked, index), response))
    return _check(pairs, limits)


def _predict_pairs(request: PredictRequest, limits: Limits) -> list[Pair]:
    responses = _listed(request.response)
    _check_number(len(responses), "response", limits)
    prompt: Any = request.prompt
    several = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], Message))
    if several and isinstance(request.response, str):
        raise BadRequestError("several prompts but one response: give a list of responses")
    prompts = prompt if several else [prompt] * len(responses)
    if len(prompts) != len(responses):
        raise BadRequestError(f"{len(prompts)} prompts but {len(responses)} responses")
    chats = [chat if isinstance(chat, str) else [turn.model_dump() for turn in chat] for chat in prompts]
    texts = [_prompt_text(chat, index) for index, chat in enumerate(chats)]
    return list(zip(texts, responses, strict=True))


def _prompt_text(prompt: Prompt, index: int) -> str:
    try:
        return asked_text(prompt)
    except PairsError as error:
        raise BadRequestError(f"the prompt of response {index}: {error}") from None


def _listed(value: list[str] | str) -> list[str]:
    return [value] if isinstance(value, str) else value


def _check(pairs: list[Pair], limits: Limits) -> list[Pair]:
    if long := [index for index, (_, response) in enumerate(pairs) if len(response) > limits.characters]:
        told = f"response {long[0]} has {len(pairs[long[0]][1])} characters, the limit is {limits.characters}"
        raise BadRequestError(told, long)
    for index, (prompt, response) in enumerate(pairs):
        _check_text(prompt, f"the prompt of response {index}", limits.characters)
        _check_text(response, f"response {index}", limits.characters)
    return pairs


def _check_text(text: str, name: str, most: int) -> None:
    if len(text) > most:
        raise BadRequestError(f"{name} has {len(text)} characters, the limit is {most}")
    if not is_unicode(text):
        raise BadRequestError(f"{name} holds a lone surrogate, which is not Unicode text")


def _check_number(number: int, name: str, limits: Limits) -> None:
    if number > limits.responses:
        raise BadRequestError(f"{name} has {number} texts, the limit is {limits.responses} a request")


def probability(reward: float) -> float:
    """The Bradley-Terry probability, 0 to 1, of being preferred to a response whose reward is 0 (the mean training
    response), for pairs like those of the run's validation split, which the reward's scale was fitted to."""
    return 1 / (1 + math.exp(-reward)) if reward >= 0 else math.exp(reward) / (1 + math.exp(reward))
