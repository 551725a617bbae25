"""One of vLLM's servers with a reward model on it: what it is asked, and whether what it answers are rewards.

Read in the sources of vLLM 0.32 and tried on it (``tests/frameworks/real_vllm.py``); older versions are known from
their documentation. ``/classify`` takes token ids since 0.15; a server that has no such route, or does not take ids
there, is asked at ``/pooling``, where a model that rewards every token answers a number for each. Both apply a sigmoid
or softmax unless they are told ``use_activation: false`` (since 0.11, ``activation`` before).
"""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.hosted import RemoteError
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.vllm_client import VLLMClient

_HINTS = {
    400: "the request is not taken: does it serve this model, with positions for reward_model.max_length?",
    401: "the key is missing or not accepted: look at reward_model.api_key",
    404: "it knows no such route or model: look at reward_model.endpoints",
}
_ROUTES = ("/classify", "/pooling")
_NOT_HERE = frozenset({400, 404, 405, 422, 501})
"""What a route answers that a server does not have, or that does not take token ids."""
_START = "start it as `vllm serve {model} --runner pooling`"
_ACTIVATION_OFF = """--pooler-config '{"use_activation": false}'"""


def are_close(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two answers may be the same rewards: beside other texts bfloat16 rounds otherwise."""
    return bool(np.allclose(one, other, rtol=0.02, atol=0.1))


class VLLMEndpoint:
    """One address. Its methods raise RemoteError where there is no answer, :class:`ScorerError` where it is no reward.

    ``checking`` is held while it is looked at; ``failed_at`` is when it last had no answer (``time.monotonic``),
    ``failure`` what was said.
    """

    def __init__(self, url: str, params: RewardModelParams) -> None:
        self._client = VLLMClient(url, params, _HINTS)
        self._params = params
        self._model = ""
        self._route = ""
        self.checking = threading.Lock()
        self.checked = False
        self.failed_at = -math.inf
        self.failure: RemoteError | None = None

    def __str__(self) -> str:
        return f"vLLM at {self._client.url}"

    def fail(self, failure: RemoteError) -> bool:
        """Note that there was no answer; whether that is news. A server that comes back is looked at anew."""
        news = self.failure is None
        self.checked, self.failed_at, self.failure = False, time.monotonic(), failure
        return news

    def check(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """The rewards of two different ``texts`` (token ids), where all is well: then other texts may be asked for.

        Raises :class:`ScorerError` for another model, one that reads less than ``max_length``, and answers that are
        several numbers, the same for both texts, another each time, or what a sigmoid or softmax made of rewards.
        """
        self._model = self._find_model()
        self._route = self._find_route(texts)
        rewards = self.rewards(texts)
        again = self.rewards(texts[:1])
        if not np.isfinite(rewards).all():
            raise ScorerError(f"{self}: rewards {rewards.tolist()} are not finite: serve it in --dtype bfloat16")
        if rewards[0] == rewards[1]:
            raise ScorerError(
                f"{self}: two different texts have the reward {rewards[0]:g}: a softmax over one label, or a head "
                f"without its weights. Start it with {_ACTIVATION_OFF}"
            )
        if not are_close(again, rewards[:1]):
            raise ScorerError(
                f"{self}: one text has the rewards {rewards[0]:g} and {again[0]:g}: its model is not loaded whole"
            )
        if ((rewards >= 0) & (rewards <= 1)).all():
            self._prove_raw(texts, rewards)
        return rewards

    def take(self) -> None:
        """Note that it answers rewards."""
        self.checked, self.failure = True, None

    def rewards(
        self, texts: Sequence[Sequence[int]], cancelled: threading.Event | None = None, *, activation: bool = False
    ) -> NDArray[np.float64]:
        """The reward of each of the ``texts`` (token ids), float64 [n], perhaps not finite."""
        answer = self._client.ask("POST", self._route, self._request(texts, activation), cancelled)
        return self._read(self._client.json(answer), len(texts))

    def _request(self, texts: Sequence[Sequence[int]], activation: bool) -> dict[str, Any]:
        # Ids are taken as they are: add_special_tokens is for texts, and said all the same.
        return {
            "model": self._model,
            "input": [list(text) for text in texts],
            "add_special_tokens": False,
            "use_activation": activation,
        }

    def _find_model(self) -> str:
        """The name by which to ask. Raises :class:`ScorerError` where it serves another model or reads too little."""
        wanted, cards = self._params.model_id, self._client.cards()
        card = next((card for card in cards if wanted in (card["id"], card.get("root"))), None)
        if card is None:
            served = ", ".join(str(card["id"]) for card in cards)
            raise ScorerError(
                f"{self}: serves {served or 'no model'}, not {wanted}: {_START.format(model=wanted)}; where the model "
                f"has another name there, add --served-model-name {wanted}"
            )
        length = card.get("max_model_len")
        if isinstance(length, int) and length < self._params.max_length:
            raise ScorerError(
                f"{self}: reads {length} tokens, reward_model.max_length is {self._params.max_length}: start it with "
                f"--max-model-len {self._params.max_length}, or lower max_length"
            )
        return str(card["id"])

    def _find_route(self, texts: Sequence[Sequence[int]]) -> str:
        said = []
        for route in _ROUTES:
            try:
                self._client.ask("POST", route, self._request(texts, False))
            except RemoteError as error:
                if error.status not in _NOT_HERE:
                    raise
                said.append(f"{route}: {error}")
            else:
                return route
        raise ScorerError(f"{self}: has no rewards: {_START.format(model=self._params.model_id)}. {'; '.join(said)}")

    def _prove_raw(self, texts: Sequence[Sequence[int]], rewards: NDArray[np.float64]) -> None:
        """Raise :class:`ScorerError` unless numbers within [0, 1] become others by the sigmoid, asked for by name."""
        activated = self.rewards(texts, activation=True)
        if not np.allclose(activated, 1 / (1 + np.exp(-rewards)), atol=1e-3):
            raise ScorerError(
                f"{self}: the rewards of two texts, {rewards[0]:g} and {rewards[1]:g}, lie within [0, 1]: a sigmoid or "
                f"softmax is applied to them. Start it with {_ACTIVATION_OFF}, or before vLLM 0.11 with "
                """--override-pooler-config '{"activation": false}'"""
            )

    def _read(self, content: Any, number: int) -> NDArray[np.float64]:
        """One reward for each of ``number`` texts of an answer."""
        rows = content.get("data") if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._client.unreadable(content)
        indices = [row.get("index") for row in rows]
        if len(rows) != number or any(indices.count(index) != 1 for index in range(number)):
            raise ScorerError(f"{self}: answered {len(rows)} rewards to {number} texts (index {indices[:8]})")
        ordered = sorted(rows, key=lambda row: row["index"])
        return np.array([self._reward(row) for row in ordered], dtype=np.float64)

    def _reward(self, row: Mapping[str, Any]) -> float:
        """The reward of one text, the last token's where there is one for each; NaN for null."""
        numbers = row.get("probs", row.get("data"))
        if isinstance(numbers, list) and numbers and isinstance(numbers[-1], list):
            numbers = numbers[-1]
        if not isinstance(numbers, list) or not all(isinstance(n, int | float | None) for n in numbers):
            raise self._client.unreadable(row)
        if len(numbers) != 1:
            raise ScorerError(
                f"{self}: answers {len(numbers)} numbers to a text, not one reward: hidden states, an embedding or "
                f"several labels. Its checkpoint must be of a class for one (...ForSequenceClassification), and "
                f"{_START.format(model=self._params.model_id)}"
            )
        return math.nan if numbers[0] is None else float(numbers[0])
