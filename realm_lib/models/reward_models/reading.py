"""How much of the texts a reward model reads: prompts are cut to its ``max_length``, responses where that is said."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoreReading:
    """How many of some distinct texts, each a prompt with a response, do not fit a reward model whole."""

    texts: int
    cut_prompts: int
    """Those whose prompt lost a part."""
    cut_responses: int
    """Those whose response lost its end as well, which ``reward_model.long_responses: cut`` allows."""

    @property
    def is_notable(self) -> bool:
        """Whether anything was cut."""
        return bool(self.cut_prompts or self.cut_responses)

    def __str__(self) -> str:
        if not self.is_notable:
            return f"the reward model reads all of {self.texts:,} texts"
        return (
            f"of {self.texts:,} texts the reward model reads {self.cut_prompts:,} without a part of the prompt and "
            f"{self.cut_responses:,} without the end of the response"
        )

    def __add__(self, other: "ScoreReading") -> "ScoreReading":
        return ScoreReading(
            self.texts + other.texts,
            self.cut_prompts + other.cut_prompts,
            self.cut_responses + other.cut_responses,
        )


def read_of(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], ScoreReading]:
    """The tokens of each text, [n], and how many were cut, of ``Encoder.lengths`` [n, 3]."""
    tokens, cut_prompts, cut_responses = lengths.T
    return tokens.copy(), ScoreReading(len(lengths), int((cut_prompts > 0).sum()), int((cut_responses > 0).sum()))
