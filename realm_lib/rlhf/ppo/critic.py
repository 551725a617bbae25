"""A value head that knows something before the policy follows it: least squares on rollouts of a policy at rest."""

from collections.abc import Sequence

import torch
from torch import Tensor

from realm_lib.rlhf.policies import alike
from realm_lib.rlhf.ppo.actor_critic import ActorCritic
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.rlhf.ppo.rollout import Episode, Learnable

_RIDGE = 1.0
"""Weight of staying where the head was, in mean squares of a state's entries: the tokens of a response share what they
earned, so that a rollout holds as many observations as responses, not as tokens."""


@torch.no_grad()
def fit_value_head(
    models: ActorCritic, episodes: Sequence[Episode], data: Learnable, batch_size: int, processes: Processes
) -> None:
    """Move the value head to the least squares fit of the rollout's returns on the states before its tokens.

    A ridge holds the weights to where they were, so that a second rollout adds to what the first one taught; the bias
    is free. Nothing else is trained.
    """
    head = models.value_head
    width = head.in_features
    # Sums over tokens of x x', x (return - V) and their count, with x the state and a constant 1.
    curvature = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    pull = torch.zeros(width + 1, dtype=torch.float64)
    mine = list(processes.share(range(len(episodes))))
    lengths = [len(episodes[n].prompt_ids) + len(episodes[n].response_ids) for n in mine]
    for batch in alike(lengths, batch_size):
        rows = [mine[n] for n in batch]
        some = [episodes[n] for n in rows]
        states = models.value_states([row.prompt_ids for row in some], [row.response_ids for row in some])
        design = torch.cat([states.double().cpu(), torch.ones(len(states), 1, dtype=torch.float64)], dim=1)
        missing = (data.returns - data.old_values)[rows][data.mask[rows]]
        curvature += design.T @ design
        pull += design.T @ missing
    curvature, pull = (processes.sum(sums) for sums in (curvature, pull))
    tokens = float(curvature[-1, -1])
    ridge = torch.full((width + 1,), _RIDGE * float(curvature.diagonal()[:-1].mean()), dtype=torch.float64)
    ridge[-1] = 1e-6 * tokens
    step: Tensor = torch.linalg.solve(curvature + torch.diag(ridge), pull).to(head.weight)
    head.weight.add_(step[:-1])
    head.bias.add_(step[-1])
