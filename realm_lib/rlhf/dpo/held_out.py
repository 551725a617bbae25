"""The pairs that a training is followed by and never sees: how the policy orders them, against the reference."""

from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.rlhf import DPOParams
from realm_lib.rlhf.dpo.loss import dpo_losses, implicit_rewards
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.policies import Policy, response_log_probs
from realm_lib.rlhf.processes import Peers

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class HeldOutPairs:
    """Held-out pairs with the reference's log-probabilities of their tokens."""

    pairs: PreferencePairs
    reference: dict[str, list[NDArray[np.float32]]]
    params: DPOParams
    batch_size: int
    """Rows at once in a forward pass: memory and speed, not results."""

    @classmethod
    def of(cls, policy: Policy, pairs: PreferencePairs, params: DPOParams, batch_size: int) -> Self:
        """``pairs`` as ``policy`` sees them now: before the first step it is the reference."""
        return cls(pairs, side_log_probs(policy, pairs, batch_size), params, batch_size)

    def implicit(self, policy: Policy) -> pd.DataFrame:
        """One row a pair: prompt, and the implicit rewards chosen and rejected under ``policy``.

        At temperature 1, as DPO's loss has them; rewards that nothing has moved are 0 exactly.
        """
        return self.rewards(side_log_probs(policy, self.pairs, self.batch_size))

    def rewards(self, own: dict[str, list[NDArray[np.float32]]]) -> pd.DataFrame:
        """:meth:`implicit` of a policy whose log-probabilities of the responses are ``own``, by side."""
        rewards = {side: implicit_rewards(own[side], self.reference[side], self.params.beta) for side in SIDES}
        return pd.DataFrame({"prompt": self.pairs.table["prompt"], **rewards})

    def look(self, rewards: pd.DataFrame) -> dict[str, float]:
        """Means over all pairs, from a table as :meth:`implicit` makes it: loss, margin, and accuracy, the share with a
        positive margin (a tie is half)."""
        losses = dpo_losses(
            rewards["chosen"],
            rewards["rejected"],
            loss_type=self.params.loss_type,
            beta=self.params.beta,
            chosen_lengths=self.pairs.table["chosen_ids"].map(len),
            rejected_lengths=self.pairs.table["rejected_ids"].map(len),
        )
        margins = (rewards["chosen"] - rewards["rejected"]).to_numpy(dtype=np.float64)
        return {
            "loss": float(losses.mean()),
            "margin": float(margins.mean()),
            "accuracy": float((np.sign(margins) / 2 + 0.5).mean()),
        }


def side_log_probs(policy: Policy, pairs: PreferencePairs, batch_size: int) -> dict[str, list[NDArray[np.float32]]]:
    """Of both responses of each pair, token by token; several processes divide the pairs."""
    peers = Peers()
    prompts = pairs.table["prompt_ids"].tolist()

    def share(side: str) -> list[NDArray[np.float32]]:
        responses = peers.share(pairs.table[f"{side}_ids"].tolist())
        return response_log_probs(policy.model, peers.share(prompts), responses, batch_size=batch_size)

    training = policy.model.training
    policy.model.eval()
    try:
        return {side: peers.together(partial(share, side)) for side in SIDES}
    finally:
        policy.model.train(training)


def summed(log_probs: dict[str, list[NDArray[np.float32]]]) -> dict[str, list[float]]:
    """The log-probability of each response from those of its tokens, by side."""
    return {side: [float(values.sum(dtype="float64")) for values in rows] for side, rows in log_probs.items()}
