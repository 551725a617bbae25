"""The reward of a ``realm serve`` elsewhere, as a reward: one copy of the models for all processes of a training."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pandas as pd

from realm_lib.config.base import Secret
from realm_lib.config.rlhf import RewardServerParams
from realm_lib.data.chats import Prompt, asked_texts
from realm_lib.models.hosted import RemoteError, Service, with_retries
from realm_lib.models.rate_limiter import RateLimiter
from realm_lib.models.reward_models import UnscorableError

_HINTS = {
    401: "the token is missing or wrong: look at rlhf.reward_server.token and at the server's REALM_SERVER_TOKEN",
    404: "no realm serve at this address: look at rlhf.reward_server.url",
    413: "a single prompt and response are too large for the server",
    422: "the server does not take the request; its limits are 256 responses and 100,000 characters a text",
}
_NUMBERS = ("reward", "spread", "score", "similarity")
_QUESTION = ["Are you ready?"], ["Yes."]
"""What is asked to know whose rewards these are: the server's queue waits for the model, /readyz does not."""


class RemoteRewardError(RuntimeError):
    """An answer that is not the rewards asked for, or of other models than those before it."""


class RemoteReward:
    """A run's reward behind ``realm serve``; called, explained and named as RealmReward is.

    A request that is refused for now (429 and 5xx, with Retry-After), that is not answered in time or finds nobody
    is sent again, ``params.max_attempts`` times in all: the server remembers what it has computed.
    """

    def __init__(self, params: RewardServerParams) -> None:
        self.params = params
        secret = None if params.token is None else Secret(params.token)
        self._service = Service(f"the reward server {params.url}", _HINTS, secret)
        self._limiter = RateLimiter()
        self._client: httpx.Client | None = None
        self._models: dict[str, str] | None = None
        self._columns = [*_NUMBERS, "outside"]
        """Of the first answer, which may have signals before the last."""

    @property
    def __name__(self) -> str:
        """Trainers log a reward function by its name."""
        return "realm_reward"

    @property
    def models(self) -> dict[str, str]:
        """What the numbers depend on, as :attr:`RealmReward.models`: of the first answer, which all others must match.

        Raises what :meth:`explain` raises where the server has to be asked.
        """
        if self._models is None:
            self.explain(*_QUESTION)
            assert self._models is not None
        return self._models

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: Any) -> list[float]:  # noqa: ARG002
        """The reward of each completion under its prompt; strings or lists of chat messages."""
        return [float(reward) for reward in self.explain(prompts, completions)["reward"]]

    def explain(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> pd.DataFrame:
        """One row a completion, with the columns of :meth:`RealmReward.explain`. Equal texts are sent once.

        Raises what :func:`asked_texts` raises, :class:`UnscorableError` with the completions that are too long for the
        server's reward, :class:`realm_lib.models.hosted.RemoteError` for requests that failed to the end,
        :class:`RemoteRewardError` for an answer that cannot be used, :class:`realm_lib.config.base.ParamsError` for a
        token that is not set.
        """
        asked = asked_texts(prompts, completions)
        distinct = list(dict.fromkeys(asked))
        told: dict[tuple[str, str], list[float]] = {}
        refused: dict[tuple[str, str], str] = {}
        for start in range(0, len(distinct), self.params.batch_size):
            batch = distinct[start : start + self.params.batch_size]
            try:
                told |= zip(batch, self._ask(batch), strict=True)
            except UnscorableError as error:
                refused |= {batch[place]: str(error) for place in error.places}
        if refused:
            places = [index for index, texts in enumerate(asked) if texts in refused]
            raise UnscorableError(f"{len(places)} of {len(asked)}: {next(iter(refused.values()))}", places)
        table = pd.DataFrame([told[texts] for texts in asked], columns=self._columns, dtype=float)
        return table.astype({"outside": bool})

    def _ask(self, batch: Sequence[tuple[str, str]]) -> list[list[float]]:
        """The numbers of each, in the order of the columns; a body that is too large is sent as two."""
        try:
            return with_retries(
                lambda: self._request(batch),
                limiter=self._limiter,
                max_attempts=self.params.max_attempts,
                first_wait=self.params.retry_wait,
            )
        except RemoteError as error:
            if error.status == httpx.codes.UNPROCESSABLE_ENTITY and (places := _unscorable(error.content, len(batch))):
                raise UnscorableError(str(error), places) from None
            if error.status != httpx.codes.REQUEST_ENTITY_TOO_LARGE or len(batch) == 1:
                raise
        half = len(batch) // 2
        numbers: list[list[float]] = []
        places = []
        message = ""
        for start, part in ((0, batch[:half]), (half, batch[half:])):
            try:
                numbers += self._ask(part)
            except UnscorableError as error:
                places += [start + place for place in error.places]
                message = str(error)
        if places:
            raise UnscorableError(message, places)
        return numbers

    def _request(self, batch: Sequence[tuple[str, str]]) -> list[list[float]]:
        content = {"prompt": [prompt for prompt, _ in batch], "response": [response for _, response in batch]}
        try:
            answer = self._service.request(self._session(), "POST", f"{self.params.url}/predict", content)
        except UnicodeEncodeError:
            raise RemoteRewardError("a prompt or response is not Unicode (a lone surrogate)") from None
        return self._read(answer.content, len(batch))

    def _read(self, content: bytes, asked: int) -> list[list[float]]:
        try:
            results = json.loads(content)["results"]
            told = [dict(result["models"]) for result in results]
            if not all({"outside", "signals"} <= result.keys() for result in results):
                raise RemoteRewardError(
                    f"{self._service.name} does not say outside and signals, as an earlier version did not: update "
                    "realm_lib where it runs, and start it again"
                )
            rows = [
                {name: result[name] for name in _NUMBERS} | result["signals"] | {"outside": result["outside"]}
                for result in results
            ]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = self._service.shown(content.decode(errors="replace"))
            raise RemoteRewardError(f"{self._service.name}: its answer cannot be read: {said!r}") from None
        if len(rows) != asked:
            raise RemoteRewardError(f"{self._service.name} answered {len(rows)} rewards for {asked} responses")
        for row in rows:
            for name, value in row.items():
                if not _is_good(name, value):
                    what = "neither true nor false" if name == "outside" else "no finite number"
                    raise RemoteRewardError(f"{self._service.name} answered {name} {value!r}, which is {what}")
        for models, row in zip(told, rows, strict=True):
            if self._models is None:
                self._columns = list(row)
            self._check_models(models)
            if list(row) != self._columns:
                raise RemoteRewardError(
                    f"{self._service.name} answered {', '.join(row)}, and before that {', '.join(self._columns)}"
                )
        return [list(row.values()) for row in rows]

    def _check_models(self, models: Mapping[str, str]) -> None:
        """One training has one reward, also after the server has been started again."""
        if self._models is None:
            self._models = dict(models)
        if models != self._models:
            changed = [
                f"{name} {self._models.get(name)} became {models.get(name)}"
                for name in sorted({*models, *self._models})
                if models.get(name) != self._models.get(name)
            ]
            raise RemoteRewardError(
                f"{self._service.name} serves another reward than before: {'; '.join(changed)}. Start it with the run "
                "that this work began with"
            )

    def _session(self) -> httpx.Client:
        if self._client is None:  # in the process that asks: connections are not shared by those that are forked
            self._client = httpx.Client(timeout=self.params.timeout, follow_redirects=False)
        return self._client


def _is_good(name: str, value: object) -> bool:
    if name == "outside" or isinstance(value, bool):
        return name == "outside" and isinstance(value, bool)
    return isinstance(value, (int, float)) and math.isfinite(value)


def _unscorable(content: bytes, asked: int) -> list[int]:
    """The indices that a 422 names as those of responses without a reward; none where it is about something else."""
    try:
        places = json.loads(content).get("unscorable")
    except (ValueError, AttributeError, RecursionError):
        return []
    good = isinstance(places, list) and all(type(place) is int and 0 <= place < asked for place in places)
    return list(places) if good else []
