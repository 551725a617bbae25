"""How rewards are called that stand for one feature of the combined reward, or for all but one."""

from collections.abc import Iterable

WITHOUT = "realm_without_"
"""Begins the name of the combined reward that was trained without a feature."""

_STANDARD = {"score": "reward_model", "similarity": "similarity"}


def alone(feature: str) -> str:
    """The reward that is ``feature`` alone: that of the score is the reward model."""
    return _STANDARD.get(feature, feature)


def parts(rewards: Iterable[str]) -> tuple[str, ...]:
    """Those of ``rewards`` that are one feature alone.

    A signal is known by the reward that was trained without it; the standard two are also known without one.
    """
    names = list(rewards)
    features = {**_STANDARD, **{name.removeprefix(WITHOUT): "" for name in names if name.startswith(WITHOUT)}}
    return tuple(part for part in map(alone, features) if part in names)
