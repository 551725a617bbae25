"""What rewards are called within a sentence, whatever features the combined one has."""

from collections.abc import Collection

from realm_lib.evaluation.parts import WITHOUT, parts
from realm_lib.report.words.numbers import in_letters

_NAMES = {
    "realm": "the combined reward",
    "reward_model": "the reward model alone",
    "similarity": "similarity alone",
    "linear": "a plain weighted sum of {all}",
    "trees": "boosted trees on {both}",
    "length": "taking the longer response",
}


def reward_name(reward: str, rewards: Collection[str]) -> str:
    """``reward`` of an evaluation's ``rewards`` in words; its own name where the project does not know it."""
    if reward in _NAMES:
        everything = all_features(rewards)
        return _NAMES[reward].format(all=everything, both="both" if everything == "the two" else everything)
    return f"{reward} alone" if reward in parts(rewards) else reward


def all_features(rewards: Collection[str]) -> str:
    """``the two``, ``all three``: the features, of which each but a single one was left out of one of ``rewards``."""
    count = sum(name.startswith(WITHOUT) for name in rewards) or 2
    return "the two" if count == 2 else f"all {in_letters(count)}"
