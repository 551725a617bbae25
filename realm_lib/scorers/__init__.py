"""Reward models behind one protocol: (prompt, response) in, one number out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from realm_lib.params import RewardModelParams
from realm_lib.preferences import Prompt

__all__ = ["Scorer", "ScorerError", "TextTooLongError", "build_scorer"]


class Scorer(Protocol):
    """A reward model. A score depends on its own (prompt, response) alone, whatever else is scored beside it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything besides the texts that changes a score; the feature store keys on it."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n]; all finite, or an error that names the text."""

    def count_tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        """Tokens that scoring each text would read, int64 [n]."""


class ScorerError(RuntimeError):
    """A reward model that cannot be loaded or a text that cannot be scored; the message says which and what to do."""


class TextTooLongError(ScorerError):
    """A response that does not fit beside the chat template, however much of its prompt is cut."""

    def __init__(self, message: str, *, tokens: int, limit: int) -> None:
        """``tokens`` is what the response and the template take, ``limit`` the reward model's ``max_length``."""
        super().__init__(message)
        self.tokens = tokens
        self.limit = limit


def build_scorer(params: RewardModelParams, run_folder: Path | None = None) -> Scorer:
    """The scorer that ``reward_model`` names; ``run_folder`` is where ``run:`` model ids start.

    Raises :class:`ScorerError` when the model cannot be loaded whole.
    """
    from realm_lib.scorers.transformer import TransformerScorer

    return TransformerScorer(params, run_folder)
