"""The pairs that a training is followed by and never sees: how the policy orders them, against the reference."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.rlhf import DPOParams
from realm_lib.rlhf.dpo.loss import dpo_losses, implicit_rewards
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.policies import Policy, response_log_probs

_SIDES = ("chosen", "rejected")


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
        return cls(pairs, _log_probs(policy, pairs, batch_size), params, batch_size)

    def implicit(self, policy: Policy) -> pd.DataFrame:
        """One row a pair: prompt, and the implicit rewards chosen and rejected under ``policy``.

        At temperature 1, as DPO's loss has them; rewards that nothing has moved are 0 exactly.
        """
        own = _log_probs(policy, self.pairs, self.batch_size)
        rewards = {side: implicit_rewards(own[side], self.reference[side], self.params.beta) for side in _SIDES}
        return pd.DataFrame({"prompt": self.pairs.table["prompt"], **rewards})

    def look(self, policy: Policy) -> dict[str, float]:
        """Means over all pairs: loss, margin, and accuracy, the share with a positive margin (a tie is half)."""
        rewards = self.implicit(policy)
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


def _log_probs(policy: Policy, pairs: PreferencePairs, batch_size: int) -> dict[str, list[NDArray[np.float32]]]:
    prompts = pairs.table["prompt_ids"].tolist()
    training = policy.model.training
    policy.model.eval()
    try:
        return {
            side: response_log_probs(policy.model, prompts, pairs.table[f"{side}_ids"].tolist(), batch_size=batch_size)
            for side in _SIDES
        }
    finally:
        policy.model.train(training)
