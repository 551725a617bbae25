"""NVIDIA's hosted reward model, asked for one text a request: an answer that is not exactly a reward is an error."""

import json
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import Secret
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt, as_messages, as_text
from realm_lib.models.hosted import (
    LONGEST_MESSAGE,
    RemoteError,
    Service,
    ask_all,
    estimate_tokens,
    with_retries,
)
from realm_lib.models.rate_limiter import RateLimiter
from realm_lib.models.reward_models import ScorerError, gathered
from realm_lib.models.reward_models.chat import name_text

_ENDPOINT = "https://integrate.api.nvidia.com/v1"
_REWARD = re.compile(r"reward: ?(-?[0-9]{1,6}(?:\.[0-9]{1,30})?)")
_HINTS = {
    400: "the request is not valid: a text over the model's limit of tokens, or one that the service does not take",
    401: "the key is not accepted: look at NVIDIA_API_KEY",
    402: "the account has no credits left",
    403: "the key may not use this: look at NVIDIA_API_KEY and at what its account may use",
    404: "no such model at this address: look at reward_model.model_id and reward_model.api_endpoint",
    422: "the service does not take this text, perhaps for its length",
    429: "the limit of your account is reached: lower reward_model.requests_per_minute",
}

_OF_A_TEXT = frozenset({400, 413, 422})
"""What the service answers where another text may well be taken."""


class NIMScorer:
    """A reward model behind an OpenAI-style endpoint whose answer to a dialogue is ``reward:-3.2``.

    One text a request, so that no answer can be taken for another's; several requests in flight within the limit a
    minute. Nothing is cut here: a text over the service's own limit is the service's error.
    """

    def __init__(self, params: RewardModelParams) -> None:
        self.params = params
        self._secret = Secret(params.api_key or "${NVIDIA_API_KEY}")
        self._service = Service("the service", _HINTS, self._secret)
        self._limiter = RateLimiter(params.requests_per_minute)
        self._client: httpx.Client | None = None
        self.identity: Mapping[str, Any] = {
            "backend": params.backend,
            "model": params.model_id,
            # Another address is perhaps another model: a proxy's rewards are not taken for NVIDIA's.
            "api_endpoint": params.api_endpoint,
        }

    def count_tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        """About how many tokens the service reads in each text, int64 [n], by the bytes."""
        texts = [as_text(prompt) + response for prompt, response in zip(prompts, responses, strict=True)]
        return np.array(list(map(estimate_tokens, texts)), dtype=np.int64)

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n]. Raises :class:`ScorerError` when any text failed; :meth:`stream` gives the others."""
        return gathered(self.stream(prompts, responses), len(responses))

    def stream(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Indices of texts and their scores in the order of the answers, each distinct text asked for once.

        The first failure that retries do not cure stops the asking; what is in flight is still given, and then
        :class:`ScorerError` names the text and says why; its ``places`` are those of the text, and none where the
        service may be at fault. Raises ParamsError when the key is not set.
        """
        indices: dict[tuple[str, str], list[int]] = {}
        for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            if not response.strip():
                raise ScorerError(f"{name_text(index, prompt, response)}: the response is empty", [index])
            indices.setdefault((as_text(prompt), response), []).append(index)
        if not indices:
            return
        self._secret.reveal()
        asked = list(indices.values())
        done = 0
        failure: tuple[int, Exception] | None = None
        for number, answer in ask_all(
            asked,
            lambda same, stopped: self._ask(prompts[same[0]], responses[same[0]], stopped),
            max_in_flight=self.params.max_in_flight,
            expected=(RemoteError, ScorerError),
        ):
            if isinstance(answer, Exception):
                failure = failure or (number, answer)
                continue
            done += len(asked[number])
            yield asked[number], np.full(len(asked[number]), answer, dtype=np.float32)
        if failure:
            index = asked[failure[0]][0]
            raise ScorerError(
                f"{done} of {len(responses)} texts were scored; {name_text(index, prompts[index], responses[index])} "
                f"failed. Why: {failure[1]}",
                asked[failure[0]] if getattr(failure[1], "status", 422) in _OF_A_TEXT else (),
            )

    def _ask(self, prompt: Prompt, response: str, stopped: threading.Event) -> float:
        messages = [*as_messages(prompt), {"role": "assistant", "content": response}]
        return with_retries(
            lambda: self._request(messages),
            limiter=self._limiter,
            max_attempts=self.params.max_attempts,
            first_wait=self.params.retry_wait,
            cancelled=stopped,
        )

    def _request(self, messages: list[dict[str, str]]) -> float:
        """One request, once."""
        url = f"{(self.params.api_endpoint or _ENDPOINT).rstrip('/')}/chat/completions"
        content = {"model": self.params.model_id, "messages": messages}
        try:
            return _read_reward(self._service.request(self._session(), "POST", url, content).content)
        except UnicodeEncodeError:
            raise ScorerError("the text is not Unicode (a lone surrogate)") from None
        except ScorerError as error:
            raise ScorerError(self._service.hidden(str(error))) from None

    def _session(self) -> httpx.Client:
        if self._client is None:  # two threads may make one each; the later one stays, both work
            self._client = httpx.Client(timeout=self.params.timeout, follow_redirects=False)
        return self._client


def _read_reward(content: bytes) -> float:
    """The reward of an answer. Raises :class:`ScorerError` for anything but one choice that says ``reward:NUMBER``."""
    try:
        body = json.loads(content)
        choices = body["choices"]
        text = choices[0]["message"]["content"]
        alone = len(choices) == 1
    except (ValueError, KeyError, IndexError, TypeError):
        raise ScorerError(f"the service's answer cannot be read: {content[:LONGEST_MESSAGE]!r}") from None
    match = _REWARD.fullmatch(text.strip()) if isinstance(text, str) and alone else None
    if match is None:
        raise ScorerError(f"the service's answer is not one reward (as reward:-3.2): {str(text)[:LONGEST_MESSAGE]!r}")
    return float(match[1])
