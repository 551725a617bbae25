"""Simulated worlds of two features whose preferences follow a known utility: what a combiner could learn at best."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def gated(score: Floats, similarity: Floats) -> Floats:
    """The score counts as far as the response is about its prompt."""
    return 0.2 * score + 1.4 * score / (1 + np.exp(-2.5 * similarity)) + 0.2 * similarity


UTILITIES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "linear": lambda score, similarity: 0.8 * score + 0.4 * similarity,
    "saturating": lambda score, similarity: 1.6 * np.tanh(score) + 0.4 * similarity,
    "gated": gated,
    "certain": lambda score, similarity: 20 * gated(score, similarity),  # labels of a judge who hardly ever wavers
}
"""Log-odds of being preferred, from a response's score and similarity, both standard normal with correlation 1/2."""


class World(NamedTuple):
    """Pairs to train and to stop by, with labels drawn, and pairs to judge by, of which the utility is known."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    """Each table has ``log_odds``, the utility of A less that of B, and ``log_votes``, the logarithm of A's votes over
    B's: the log-odds and what chance added to them, whose sign is the label."""


def draw_world(kind: str, pairs: int, seed: int, *, test_pairs: int = 40_000) -> World:
    """A world with ``pairs`` training pairs, 0.4 times as many validation pairs, 200 at least; each pair is a post."""
    generator = np.random.default_rng([list(UTILITIES).index(kind), pairs, seed])
    validation_pairs = max(200, int(0.4 * pairs))
    score, other = np.moveaxis(generator.normal(size=(pairs + validation_pairs + test_pairs, 2, 2)), -1, 0)
    similarity = 0.5 * score + math.sqrt(0.75) * other
    utility = UTILITIES[kind](score, similarity)
    log_odds = utility[:, 0] - utility[:, 1]
    chance = generator.random(len(score))
    log_votes = log_odds - np.log(chance / (1 - chance))
    table = pd.DataFrame(
        {
            "post_id": [str(row) for row in range(len(score))],
            "score_A": score[:, 0],
            "score_B": score[:, 1],
            "similarity_A": similarity[:, 0],
            "similarity_B": similarity[:, 1],
            "labels": (log_votes > 0).astype(int),
            "log_odds": log_odds,
            "log_votes": log_votes,
        }
    )
    parts = np.split(np.arange(len(table)), [pairs, pairs + validation_pairs])
    return World(*(table.iloc[part].reset_index(drop=True) for part in parts))


def expected_accuracy(margins: Floats, log_odds: Floats) -> float:
    """The share of pairs that ``margins`` [pairs] order rightly, expected over labels; a tie counts half.

    Expected, so that the chance of the drawn labels is no part of the comparison of two rewards.
    """
    probability = 1 / (1 + np.exp(-log_odds))
    return float(np.where(margins > 0, probability, np.where(margins < 0, 1 - probability, 0.5)).mean())


def best_slope(margins: Floats, log_odds: Floats) -> float:
    """The factor of ``margins`` [pairs] with the least expected log-loss, by Newton's method.

    A logistic regression without intercept on the true probabilities instead of labels; 1 says that differences of
    rewards are log-odds.
    """
    probability, slope = 1 / (1 + np.exp(-log_odds)), 0.0
    for _ in range(100):
        predicted = 1 / (1 + np.exp(-slope * margins))
        step = float(((probability - predicted) * margins).sum() / (predicted * (1 - predicted) * margins**2).sum())
        slope += step
        if abs(step) < 1e-12 * max(1.0, abs(slope)):
            return slope
    raise ValueError("the slope was not found in 100 steps")
