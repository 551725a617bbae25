"""What is known of texts by a reward model's tokenizer, without its weights: their tokens, what is cut or refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import Encoder
from realm_lib.models.reward_models.reading import ScoreReading, read_of


class EncodingScorer:
    """The part of a scorer that is the same whether its weights are in this process or elsewhere.

    ``weights`` is what tells one version of them from another.
    """

    def __init__(self, params: RewardModelParams, encoder: Encoder, weights: str | None) -> None:
        self.params = params
        self.encoder = encoder
        self.identity: Mapping[str, Any] = {
            "backend": params.backend,
            "model": params.model_id,
            "weights": weights,
            "quantization": params.quantization,
            "dtype": params.dtype,
            "max_length": params.max_length,
            "template": encoder.template_digest,
        }

    def count_tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each chat after the cut, int64 [n]."""
        return self.read(prompts, responses)[0]

    def read(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> tuple[NDArray[np.int64], ScoreReading]:
        """What :meth:`count_tokens` says, and how many of the texts are cut to ``max_length``."""
        return read_of(self.encoder.lengths(prompts, responses))

    def refused(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[int, ScorerError]:
        """The errors of texts that do not fit, or cannot be told from the model's special tokens, by their index."""
        return self.encoder.refused(prompts, responses)
