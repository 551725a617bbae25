"""Asking a text-level reward, and believing only one finite number a response."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.data.chats import Prompt
from realm_lib.rlhf.errors import RewardError

Reward = Callable[..., Sequence[float | None]]
"""``reward(prompts=, completions=) -> list of numbers``: RealmReward, or any of TRL's reward functions. One with
a method ``explain`` that returns a table (reward, and perhaps spread, score, similarity) is asked through it."""

Judge = Callable[..., Sequence[float]]
"""The same signature; its numbers are logged beside the reward's and never trained on: the simulator's utility."""

PARTS = ("score", "similarity", "spread")


def reward_identity(reward: Reward) -> dict[str, str] | None:
    """What the numbers of ``reward`` depend on, for the fingerprint of a training that was killed and goes on.

    That is its attribute ``models``, as :class:`realm_lib.reward.realm_reward.RealmReward` has it. None for a reward
    that has none: two plain functions cannot be told apart, nor can two versions of one.
    """
    models = getattr(reward, "models", None)
    if models is None:
        return None
    if not isinstance(models, Mapping):
        raise RewardError(f"the reward's attribute models must be a mapping of names, it is {models!r:.80}")
    return {str(name): str(value) for name, value in sorted(models.items())}


def ask_reward(
    reward: Reward, prompts: Sequence[Prompt], responses: Sequence[str], indices: Sequence[int], *, needs_spread: bool
) -> pd.DataFrame:
    """One row a response: reward, and spread, score, similarity where the reward tells them. One call.

    ``indices`` say which of the user's prompts these are. Raises :class:`RewardError` naming one for a reward that
    raises, that answers with another number of rewards, or with None, NaN or infinity; and when ``needs_spread`` and
    there is none.
    """
    explain = getattr(reward, "explain", None)
    completions = [_completion(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    answer = _call(explain or reward, "the reward", prompts, completions, indices)
    if explain is None:
        table = pd.DataFrame({"reward": _numbers(answer, "the reward", responses, indices)})
    else:
        columns = ["reward", *(part for part in PARTS if part in answer)]
        table = pd.DataFrame(
            {name: _numbers(list(answer[name]), f"the reward's {name}", responses, indices) for name in columns}
        )
    if needs_spread and "spread" not in table:
        raise RewardError(
            "reward_uncertainty_penalty is above 0, but the reward tells no spread: it needs a method explain() with a "
            "column spread, as RealmReward has; or set the penalty to 0"
        )
    return table


def ask_judge(
    name: str, judge: Judge | Reward, prompts: Sequence[Prompt], responses: Sequence[str], indices: Sequence[int]
) -> NDArray[np.float64]:
    """The number of the judge ``name`` for each response, float64 [n]; asked and checked as a reward is."""
    who = f"judge {name!r}"
    answer = _call(judge, who, prompts, list(responses), indices)
    return np.array(_numbers(answer, who, responses, indices), dtype=np.float64)


def _completion(prompt: Prompt, response: str) -> Prompt:
    """Conversational prompts get conversational completions, as TRL's reward functions do."""
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]


def _call(
    reward: Callable[..., Any], who: str, prompts: Sequence[Prompt], completions: list[Any], indices: Sequence[int]
) -> Any:
    try:
        return reward(prompts=list(prompts), completions=completions)  # by name: TRL's may take only some
    except Exception as error:
        named = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        raise RewardError(f"{who} failed on prompts {named}: {type(error).__name__}: {error}") from error


def _numbers(answer: Any, who: str, responses: Sequence[str], indices: Sequence[int]) -> list[float]:
    try:
        numbers = list(answer)
    except TypeError:
        raise RewardError(f"{who} answered {type(answer).__name__}, not a list of numbers") from None
    if len(numbers) != len(responses):
        raise RewardError(
            f"{who} answered {len(numbers)} numbers for the {len(responses)} responses to prompts {indices[0]} to "
            f"{indices[-1]}"
        )
    for value, response, index in zip(numbers, responses, indices, strict=True):
        number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise RewardError(
                f"{who} answered {number!r} for prompt {index} (response: {response[:60]!r}); every response needs a "
                "finite number"
            )
    return [float(value) for value in numbers]
