"""The name under which training frameworks import the reward: users write it into files of their own."""

from realm_lib.inference.frameworks import FrameworkError, compute_score, reward_func

__all__ = ["FrameworkError", "compute_score", "reward_func"]
