"""How much of a reward's variance lies between prompts, where it says nothing of which response is better."""

from dataclasses import dataclass

import numpy as np

from realm_lib.evaluation.resampling import Floats


@dataclass(frozen=True)
class BetweenPrompts:
    """A variance in two parts."""

    between: float
    """Variance of what prompts are worth, in squared units of the values; below 0 it is 0."""
    within: float
    """Variance of the responses to one prompt."""
    share: float
    """The part of both that lies between prompts, 0 to 1."""
    ci: list[float]
    """Its 95 % interval, for values that are normal within and between prompts."""


def between_prompts(values: Floats) -> BetweenPrompts | None:
    """The parts of ``values`` [rollouts, prompts, responses]; a rollout's mean, which moves in training, is in neither.

    The one-way random-effects analysis of variance: F is the ratio of the mean squares between and within prompts, the
    share (F - 1) / (F - 1 + responses), the intraclass correlation (Shrout and Fleiss 1979, ICC(1,1) and its
    interval). None where it cannot be told: fewer than two prompts or two responses to each, or values all the same.
    """
    from scipy.stats import f as f_distribution

    rollouts, prompts, responses = values.shape
    if prompts < 2 or responses < 2:
        return None
    means = values.mean(axis=2)
    freedom = rollouts * (prompts - 1), rollouts * prompts * (responses - 1)
    between = responses * float(((means - means.mean(axis=1, keepdims=True)) ** 2).sum()) / freedom[0]
    within = float(((values - means[:, :, None]) ** 2).sum()) / freedom[1]
    if between + within < np.finfo(float).tiny:
        return None
    share, high, low = (
        max(0.0, (between - within * by) / (between + (responses - 1) * within * by))
        for by in (1.0, *f_distribution.ppf([0.025, 0.975], *freedom).tolist())
    )
    return BetweenPrompts(max(0.0, between - within) / responses, within, share, [low, high])
