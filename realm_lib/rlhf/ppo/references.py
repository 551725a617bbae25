"""Rewards of a batch with many prompts: what is worth the same under each, and how much of them is the prompt's own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from tqdm.auto import trange

from realm_lib.config.rlhf import PPOParams
from realm_lib.rlhf.ppo.estimators import transformed
from realm_lib.rlhf.ppo.rollout import Asked, Episode, Floats
from realm_lib.rlhf.rewards import Judge
from realm_lib.runs.seeds import derive_seed

TRANSFORMS = ("none", "centred", "log_sigmoid")
_FIRST = 512
"""Responses whose rewards are kept to be looked at: the first rollouts, while the policy has hardly moved."""


def transformed_rewards(episodes: Sequence[Episode], params: PPOParams, kind: str) -> Floats:
    """What each response of a rollout earns by the transform ``kind``, [episodes].

    That is :func:`realm_lib.rlhf.ppo.estimators.transformed` of its reward less the penalty on the ensemble's spread
    (Coste et al., arXiv 2310.02743).
    """
    rewards = torch.tensor(
        [episode.worth(params.reward_uncertainty_penalty) for episode in episodes], dtype=torch.float64
    )
    references = None
    if params.reference_samples is not None:
        references = torch.tensor([episode.reference for episode in episodes], dtype=torch.float64)
    earned: Floats = transformed(rewards, kind, params.samples_per_prompt, references).numpy()
    return earned


def draw_references(
    asked: Iterable[Asked],
    known: dict[str, float],
    play: Callable[[Sequence[Asked], Mapping[str, Judge]], Sequence[Episode]],
    save: Callable[[], None],
    params: PPOParams,
    *,
    show: bool,
) -> None:
    """Fill ``known`` with the reference of each prompt (its index) of ``asked``: what ``play`` gets for it.

    ``reference_samples`` responses to a prompt, in parts of about a rollout; after every ``checkpoint_every`` of them,
    and at the end, ``save`` is called, so that a kill costs no more than elsewhere. Random numbers follow from the seed
    and the prompt. The reference is ``reference_quantile`` of their rewards (less the penalty on the spread), or the
    mean.
    """
    count = params.reference_samples or 1
    missing = list({row.index: row for row in asked if str(row.index) not in known}.values())
    size = max(1, params.batch_size // count)
    for done, start in enumerate(trange(0, len(missing), size, desc="references", disable=not show), start=1):
        rows = [
            replace(row, seed=derive_seed(params.seed, "ppo", "reference", row.index, number))
            for row in missing[start : start + size]
            for number in range(count)
        ]
        worth: dict[str, list[float]] = {}
        for episode in play(rows, {}):
            worth.setdefault(str(episode.index), []).append(episode.worth(params.reward_uncertainty_penalty))
        quantile = params.reference_quantile
        known |= {
            index: float(np.mean(values) if quantile is None else np.quantile(values, quantile))
            for index, values in worth.items()
        }
        if done % params.checkpoint_every == 0 or start + size >= len(missing):
            save()


def first_rewards(step: int, episodes: Sequence[Episode], params: PPOParams) -> list[dict[str, float]]:
    """Rows step, question, and the reward as each transform makes it, of a rollout among the first; else none.

    Responses with one ``question``, a number within the rollout, answer one prompt together. Where a prompt has no
    reference there is the plain reward alone.
    """
    if step * params.batch_size > max(_FIRST, params.batch_size):
        return []
    compared = params.samples_per_prompt > 1 or params.reference_samples is not None
    earned = {kind: transformed_rewards(episodes, params, kind) for kind in TRANSFORMS if compared or kind == "none"}
    return [
        {"step": step, "question": n // params.samples_per_prompt, **{kind: float(earned[kind][n]) for kind in earned}}
        for n in range(len(episodes))
    ]
