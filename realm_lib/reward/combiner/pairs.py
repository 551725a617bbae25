"""From the table of features, one row a pair, to the matrices that a combiner trains on."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from realm_lib.config.feature_models import FEATURES

_ROWS_NAMED = 5
_BORDERS = (0.001, 0.999)


class CombinerError(ValueError):
    """Features, weights or files that a combiner cannot use; the message says what to do."""


def feature_matrix(
    features: pd.DataFrame, names: Sequence[str] = FEATURES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The features of the responses A and of the responses B, each float32 [pairs, features] in the order of ``names``.

    Raises :class:`CombinerError` naming the missing columns, or the rows that hold NaN or infinity.
    """
    columns = {side: [f"{name}_{side}" for name in names] for side in "AB"}
    _require_columns(features, columns["A"] + columns["B"])
    matrices = {}
    for side, own in columns.items():
        try:
            # What is too large for float32 becomes infinite, and is named below.
            with np.errstate(over="ignore"):
                matrices[side] = features[own].to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
        except (TypeError, ValueError) as error:
            raise CombinerError(f"the columns {own} are not numbers: {error}") from error
    bad = ~(np.isfinite(matrices["A"]).all(axis=1) & np.isfinite(matrices["B"]).all(axis=1))
    if bad.any():
        rows = features.index[bad][:_ROWS_NAMED].tolist()
        raise CombinerError(
            f"{int(bad.sum())} of {len(features)} pairs have a feature that is NaN or infinite in float32, rows {rows}"
            f"{' and more' if bad.sum() > _ROWS_NAMED else ''}: extract their features again"
        )
    return matrices["A"], matrices["B"]


def chosen_and_rejected(
    features: pd.DataFrame, names: Sequence[str] = FEATURES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The features of the preferred and of the other responses, each float32 [pairs, features].

    Swapping A and B together with the label changes nothing here, so the order of a pair cannot matter to what is
    trained on it. Raises :class:`CombinerError` as :func:`feature_matrix` does, and for a label that is not 0 or 1.
    """
    _require_columns(features, ["labels"])
    a, b = feature_matrix(features, names)
    bad = ~features["labels"].isin([0, 1]).to_numpy(dtype=bool)
    if bad.any():
        row = features.index[bad][0]
        raise CombinerError(
            f"{int(bad.sum())} of {len(features)} labels are not 0 or 1, the first in row {row}: "
            f"{features['labels'][bad].iloc[0]!r} (1 says that A is preferred)"
        )
    a_is_chosen = (features["labels"] == 1).to_numpy(dtype=bool)[:, None]
    return np.where(a_is_chosen, a, b), np.where(a_is_chosen, b, a)


def check_features(features: ArrayLike, names: Sequence[str] = FEATURES) -> NDArray[np.float32]:
    """``features`` of single responses as float32 [n, features].

    Raises :class:`CombinerError` for another shape, and for NaN or infinity.
    """
    matrix = np.array(features, dtype=np.float32, order="C")  # a copy: torch takes no negative strides
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise CombinerError(f"expected features of shape [n, {len(names)}] {tuple(names)}, got {list(matrix.shape)}")
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if bad.size:
        raise CombinerError(
            f"{bad.size} of {len(matrix)} responses have a feature that is NaN or infinite in float32, "
            f"the first in row {bad[0]}"
        )
    return matrix


def mean_and_std(
    chosen: NDArray[np.float32], rejected: NDArray[np.float32], names: Sequence[str] = FEATURES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each feature over all responses, float32 [features] each.

    A constant feature says nothing and gets an infinite deviation: standardised it is 0 for every response, now and
    at prediction, when an untrained weight must not act on it. A UserWarning names it. Raises :class:`CombinerError`
    when there are no pairs, or when all features are constant.
    """
    if not len(chosen):
        raise CombinerError("there are no training pairs: loosen the filters of the section data")
    pooled = np.concatenate([chosen, rejected]).astype(np.float64)
    mean, std = pooled.mean(axis=0), pooled.std(axis=0)
    # Below a millionth of the mean, differences are float32's own rounding.
    constant = std <= 1e-6 * np.abs(mean)
    if constant.all():
        raise CombinerError(
            f"all features ({', '.join(names)}) are the same for every training response: check scorer and embedder"
        )
    for name in compress(names, constant):
        warnings.warn(
            f"feature {name!r} is the same for every training response and is ignored: check what computes it",
            UserWarning,
            stacklevel=3,
        )
    return mean.astype(np.float32), np.where(constant, np.inf, std).astype(np.float32)


@dataclass(frozen=True)
class Standardisation:
    """From raw features to standardised ones, clipped to what training has seen: four float32 [features].

    The borders ``low`` and ``high`` are the 0.1 % and 99.9 % quantiles of the standardised training responses. Beyond
    them a reward would be extrapolated, which is where a policy that is trained on it goes.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, chosen: NDArray[np.float32], rejected: NDArray[np.float32], names: Sequence[str]) -> Self:
        """That of the training responses; warns and raises as :func:`mean_and_std`."""
        mean, std = mean_and_std(chosen, rejected, names)
        standardised = (np.concatenate([chosen, rejected]).astype(np.float64) - mean) / std
        low, high = np.quantile(standardised, _BORDERS, axis=0).astype(np.float32)
        return cls(mean, std, low, high)

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw features [..., features] standardised and clipped."""
        standardised = (features.astype(np.float64) - self.mean) / self.std
        result: NDArray[np.float64] = np.clip(standardised, self.low, self.high)
        return result


def _require_columns(features: pd.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in features.columns]
    if missing:
        raise CombinerError(f"the features lack the columns {missing}: make them with extract_features")
