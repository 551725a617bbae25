"""A run's reward behind a queue: the loading of the model, and the status that each fault is answered with."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fastapi import HTTPException

from realm_lib.inference.server.batching import ClosedError, MicroBatcher, Pair, QueueFullError, TimedOutError
from realm_lib.inference.server.limits import Limits
from realm_lib.inference.server.metrics import Metrics
from realm_lib.inference.server.wire import BadRequestError, Explained

log = logging.getLogger("realm_lib.inference.server")


class RewardService:
    """A run's reward behind a queue: loads, computes, and turns each fault into a status.

    The queue takes requests while the reward is loaded, so that a client that tries a few times (OpenRLHF: five, a
    second apart) outlives a restart.
    """

    def __init__(self, run: Path, limits: Limits) -> None:
        self.run = run
        self.limits = limits
        self.models: dict[str, str] | None = None
        """None until the reward is loaded."""
        self.failure: Exception | None = None
        """What kept the reward from being loaded."""
        self.wait = {"Retry-After": str(limits.retry_after)}
        """The header of an answer that asks to try again."""
        self._reward: Any = None
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = MicroBatcher(self._compute, limits, self.metrics.batches.observe)

    def load(self) -> None:
        """Load the run's reward. Raises what RealmReward.from_pretrained does."""
        from realm_lib.reward.realm_reward import RealmReward

        self._reward = RealmReward.from_pretrained(self.run)
        self.models = self._reward.models
        log.info("loaded %s", self.run)
        self._say_what_is_read()

    def _say_what_is_read(self) -> None:
        from realm_lib.features.signals import SimilaritySignal
        from realm_lib.models.embedders import ReadingEmbedder

        for name, signal in self._reward.features.items():
            embedder = signal.embedder if isinstance(signal, SimilaritySignal) else None
            if isinstance(embedder, ReadingEmbedder) and embedder.most_pieces is not None:
                told = name, embedder.most_pieces, embedder.long_texts
                log.info("%s: its model reads %d word pieces at once; long_texts: %s", *told)

    def _compute(self, prompts: Sequence[str], responses: Sequence[str]) -> Sequence[object]:
        from realm_lib.reward.explanations import explain_each

        if self._reward is None:
            return [ClosedError("the model cannot be loaded")] * len(prompts)
        return explain_each(self._reward, prompts, responses)

    def stop(self) -> None:
        """Take no more; what is under way is answered within ``limits.stop`` seconds, or told to come again."""
        self.batcher.close(self.limits.stop)

    async def explain(self, pairs: Sequence[Pair], client: str | None = None) -> list[Explained]:
        """The explanation of each pair, for the client at that address.

        Raises HTTPException with the status of what went wrong, or BadRequestError.
        """
        try:
            results = await self.batcher.submit(pairs, client)
        except QueueFullError as error:
            raise HTTPException(429, str(error), self.wait) from None
        except ClosedError as error:
            raise HTTPException(503, str(error), self.wait) from None
        except TimedOutError as error:
            late = f"no answer within {self.limits.timeout:g} s"
            if error.started:
                raise HTTPException(504, late) from None
            why = "the model is being loaded" if self.models is None else "too much waits"
            raise HTTPException(503, f"{late}: {why}", self.wait) from None
        self._refuse_long(results)
        self._refuse_unread(results)
        self._refuse_empty(results)
        explained = [self._answer(index, result) for index, result in enumerate(results)]
        self.metrics.responses.inc(len(explained))
        return explained

    def _refuse_long(self, results: Sequence[object]) -> None:
        """Raise :class:`BadRequestError` with all the responses that are too long for the reward model."""
        from realm_lib.models.reward_models import LongResponseError

        long = {index: result for index, result in enumerate(results) if isinstance(result, LongResponseError)}
        for index, error in long.items():
            raise BadRequestError(
                f"response {index} and the chat template take {max(error.tokens.values())} tokens, the reward model "
                f"reads {error.limit} at most",
                list(long),
            )

    def _refuse_unread(self, results: Sequence[object]) -> None:
        """Raise :class:`BadRequestError` with all the responses that the embedding model is not to cut."""
        from realm_lib.features.reading import LongTextError

        if long := [index for index, result in enumerate(results) if isinstance(result, LongTextError)]:
            raise BadRequestError(
                f"response {long[0]} or its prompt is longer than the embedding model reads, and "
                "embedding.long_texts of the run is refuse",
                long,
            )

    def _refuse_empty(self, results: Sequence[object]) -> None:
        """Raise :class:`BadRequestError` with all the empty responses that a hosted model has no number for."""
        from realm_lib.features.signals import EmptyResponseError

        if empty := [index for index, result in enumerate(results) if isinstance(result, EmptyResponseError)]:
            raise BadRequestError(f"response {empty[0]} is empty: a hosted model has no number for it", empty)

    def _answer(self, index: int, result: object) -> Explained:
        from realm_lib.reward.explanations import Explanation

        if not isinstance(result, Explanation):
            self._refuse(index, result)
        assert self.models is not None, "a result is computed by the loaded reward"
        return Explained(**result.to_dict(), models=self.models)

    def _refuse(self, index: int, error: object) -> NoReturn:
        """The messages of the models' errors may hold a piece of a text: none is passed on."""
        from realm_lib.features.signals import SignalError
        from realm_lib.models.embedders import EmbedderError
        from realm_lib.models.reward_models import ScorerError
        from realm_lib.reward.explanations import HostedModelError, RewardNotFiniteError

        if isinstance(error, ClosedError):
            raise HTTPException(503, str(error), self.wait)
        if isinstance(error, HostedModelError):
            log.error("the service of a hosted model did not answer")
            raise HTTPException(503, "the service of a hosted model did not answer", {"Retry-After": "10"})
        log.error("response %d of a request has no reward: %s", index, type(error).__name__)
        if isinstance(error, RewardNotFiniteError):
            raise HTTPException(500, f"response {index} has no reward: {error}")
        if isinstance(error, ScorerError):
            raise HTTPException(500, f"the reward model could not score response {index}")
        if isinstance(error, EmbedderError):
            raise HTTPException(500, f"response {index} or its prompt could not be embedded")
        if isinstance(error, SignalError):
            raise HTTPException(500, f"the function of the signal {error.name} has no number for response {index}")
        raise HTTPException(500, f"response {index} has no reward: {type(error).__name__}")
