"""Held-out prompts: the same prompts answered at several points of a training, and which policy is kept."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.resampling import bootstrap_over_posts
from realm_lib.ppo.monitor import describe
from realm_lib.ppo.rollout import Episode
from realm_lib.rlhf_params import PPOParams

__all__ = ["choose", "paired_difference", "sample_rows", "summary"]


def summary(step: int, episodes: Sequence[Episode], params: PPOParams) -> dict[str, float]:
    """The means over the held-out prompts after ``step`` updates; ``objective`` is the reward less the penalty."""
    worth = [episode.worth(params.reward_uncertainty_penalty) for episode in episodes]
    return {
        "step": step,
        "episodes": step * params.batch_size,
        "objective": float(np.mean(worth)),
        **describe(episodes),
    }


def sample_rows(step: int, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """One row a held-out prompt, for the table of samples."""
    return [
        {
            "step": step,
            "prompt": episode.place,
            "response": episode.text,
            **episode.told,
            "kl": episode.kl,
            "length": len(episode.response_ids),
            "ended": episode.ended,
        }
        for episode in episodes
    ]


def choose(evaluations: Sequence[dict[str, float]], params: PPOParams) -> int:
    """The step whose policy is kept: the best mean objective on the held-out prompts.

    Objective: reward less ``reward_uncertainty_penalty`` spreads. Only steps whose held-out KL is within ``kl_budget``
    count, where there is one; the policy as it came (KL 0) always does. The earliest of equals. The judge has no say.
    """
    budget = np.inf if params.kl_budget is None else params.kl_budget
    allowed = [row for row in evaluations if row["step"] == 0 or row["kl"] <= budget]
    best = max(allowed, key=lambda row: (row["objective"], -row["step"]))
    return int(best["step"])


def paired_difference(samples: pd.DataFrame, column: str, step: int) -> dict[str, Any]:
    """Mean of ``column`` before (step 0) and after ``step``, and the 95 % interval of their paired difference.

    The interval resamples held-out prompts; both policies drew each answer from the same random numbers.
    """
    before = samples[samples["step"] == 0].set_index("prompt")[column]
    after = samples[samples["step"] == step].set_index("prompt")[column].loc[before.index]
    found = bootstrap_over_posts(after.to_numpy() - before.to_numpy(), before.index.to_numpy())
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": float(found.means[0]),
        "ci_of_difference": [float(found.lows[0]), float(found.highs[0])],
    }
