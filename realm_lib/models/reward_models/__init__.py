"""Reward models behind one protocol: (prompt, response) in, one number out."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt
from realm_lib.models.reward_models.reading import ScoreReading

__all__ = [
    "CheckingScorer",
    "HostedScorer",
    "LongResponseError",
    "ReadingScorer",
    "ScoreReading",
    "Scorer",
    "ScorerError",
    "UnscorableError",
    "build_scorer",
    "gathered",
]


class Scorer(Protocol):
    """A reward model. A score depends on its own (prompt, response) alone, whatever else is scored beside it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything besides the texts that changes a score; the feature store keys on it."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n]; all finite, or an error that names the text."""

    def count_tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        """Tokens that scoring each text would read, int64 [n]."""


@runtime_checkable
class CheckingScorer(Scorer, Protocol):
    """A reward model that knows before it scores which texts have no score."""

    def refused(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> "dict[int, ScorerError]":
        """The error of each text that :meth:`score` would refuse, as if it were alone, by its index."""


@runtime_checkable
class ReadingScorer(Scorer, Protocol):
    """A reward model that knows how much of a text it reads."""

    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> tuple[NDArray[np.int64], ScoreReading]:
        """What :meth:`count_tokens` says, and how many of the texts it cuts, scored or not."""


@runtime_checkable
class HostedScorer(Scorer, Protocol):
    """A reward model that is asked over the network: its answers come one by one."""

    def stream(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Indices and their scores, as answers come; an error comes after all that succeeded."""


def gathered(answers: Iterable[tuple[list[int], NDArray[np.float32]]], count: int) -> NDArray[np.float32]:
    """The scores of ``count`` texts, float32 [count], from a whole :meth:`HostedScorer.stream`, in the texts' order."""
    scores = np.empty(count, dtype=np.float32)
    for indices, answered in answers:
        scores[indices] = answered
    return scores


class ScorerError(RuntimeError):
    """A reward model that cannot be loaded or a text that cannot be scored; the message says which and what to do.

    ``places`` are the indices, in what was asked, of the texts at fault where single ones are.
    """

    def __init__(self, message: str, places: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.places = list(places)


class UnscorableError(ScorerError):
    """Responses that have no score however often it is asked for; the others of the call may have one.

    A reward of your own may raise it.
    """

    def __init__(self, message: str, places: Iterable[int]) -> None:
        super().__init__(message, places)


class LongResponseError(UnscorableError):
    """Responses that do not fit the reward model's ``max_length`` (``limit``, in tokens) by themselves.

    ``tokens`` holds, by the response's index in what was asked, what it and the chat template take.
    """

    def __init__(self, message: str, tokens: Mapping[int, int], limit: int) -> None:
        super().__init__(message, tokens)
        self.tokens = dict(tokens)
        self.limit = limit


def build_scorer(params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
    """The scorer that ``reward_model`` names; ``run_folder`` is where ``run:`` model ids start.

    Raises :class:`ScorerError` when a local model cannot be loaded whole or does not fit this machine's memory. A
    hosted one is first asked when it is used.
    """
    if params.backend == "nim":
        from realm_lib.models.reward_models.nim import NIMScorer

        return NIMScorer(params)
    if params.backend == "vllm":
        from realm_lib.models.reward_models.vllm import VLLMScorer

        return VLLMScorer(params, run_folder)
    from realm_lib.models.reward_models.transformer import TransformerScorer

    return TransformerScorer(params, run_folder)
