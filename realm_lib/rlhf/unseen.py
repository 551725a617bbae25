"""Prompts that nobody has seen: what a policy or a reward was trained on or chosen by does not judge it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from realm_lib.config.rlhf import PolicyParams
from realm_lib.data.chats import Prompt
from realm_lib.data.posts import post_key
from realm_lib.data.seen import TrainedOn, seen_prompts
from realm_lib.rlhf.errors import PolicyError
from realm_lib.rlhf.rewards import Reward
from realm_lib.runs.trained_on import posts_behind


def trained_on(reward: Reward, policies: dict[str, PolicyParams], run_folder: Path | None) -> TrainedOn:
    """What the ``policies``, by their names, and the models of ``reward`` were trained on, where they tell.

    A reward tells by its method ``trained_on``, as :class:`realm_lib.reward.realm_reward.RealmReward` does.
    Raises what :func:`realm_lib.runs.trained_on.posts_behind` raises.
    """
    told = getattr(reward, "trained_on", None)
    of_reward: TrainedOn = told() if callable(told) else {}
    return {**{name: posts_behind(each.model_name, run_folder) for name, each in policies.items()}, **of_reward}


def unseen(prompts: Sequence[Prompt], known: TrainedOn) -> tuple[list[int], str]:
    """The places of the ``prompts`` that none of the models was trained on, and what is left out, in words.

    The words are empty where all are left. Raises :class:`PolicyError` where none is.
    """
    found = seen_prompts(prompts, known)
    if not found.seen.any():
        return list(range(len(prompts))), ""
    said = f"{int(found.seen.sum())} of {len(prompts)} prompts left out: seen in training ({found})"
    if found.seen.all():
        raise PolicyError(f"{said}: nothing is left to judge by; give other prompts")
    return np.flatnonzero(~found.seen).tolist(), said


def with_start(start: frozenset[str] | None, *prompts: Iterable[Prompt]) -> frozenset[str]:
    """The keys of what a policy has seen: the ``prompts``, and what the policy that it started from had seen."""
    return frozenset(start or ()) | {post_key(prompt) for some in prompts for prompt in some}
