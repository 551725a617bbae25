"""What a reward makes of each of its features, and which two matter most."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.feature_models import FEATURES

RewardOf = Callable[[NDArray[np.float32]], NDArray[np.floating[Any]]]
"""Features [n, k] to rewards [n]."""

_HELD = {"low": 0.1, "middle": 0.5, "high": 0.9}


def responses_of(features: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """The features ``names`` of all responses, those of A before those of B: [2 pairs, k]."""
    sides = [features[[f"{name}_{side}" for name in names]] for side in "AB"]
    return np.concatenate([side.to_numpy(dtype=np.float64) for side in sides])


def partial_effects(
    reward_of: RewardOf, features: pd.DataFrame, names: Sequence[str] = FEATURES, points: int = 60
) -> pd.DataFrame:
    """The reward along each feature of ``names`` while all others are held at their 10 %, 50 % and 90 % quantiles.

    Columns: feature, held (low, middle, high), held_value, value, reward. ``held_value`` is where the other feature is
    held; NaN where there are none or several. The range is that of 99 % of the responses; the quantiles are over the
    responses of ``features``. Lines that are not parallel are an interaction.
    """
    table = responses_of(features, names)
    levels = {held: np.quantile(table, share, axis=0) for held, share in _HELD.items()}
    rows = []
    for index, name in enumerate(names):
        low, high = np.quantile(table[:, index], [0.005, 0.995]).tolist()
        for held, level in levels.items():
            grid = np.tile(level, (points, 1)).astype(np.float32)
            grid[:, index] = np.linspace(low, high, points)
            others = np.delete(level, index)
            part = {"feature": name, "held": held, "held_value": others[0] if len(others) == 1 else np.nan}
            part |= {"value": grid[:, index], "reward": np.asarray(reward_of(grid), dtype=np.float64)}
            rows.append(pd.DataFrame(part))
    return pd.concat(rows, ignore_index=True)


def strongest_two(effects: pd.DataFrame) -> tuple[str, ...]:
    """The two features along which the reward moves most while the others are in the middle, in their own order.

    ``effects`` is what :func:`partial_effects` returns; a single feature comes alone.
    """
    middle = effects[effects["held"] == "middle"].groupby("feature", sort=False)["reward"]
    moved = middle.max() - middle.min()
    kept = moved.sort_values(ascending=False, kind="stable").index[:2]
    return tuple(str(name) for name in moved.index if name in kept)
