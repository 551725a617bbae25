"""What a training leaves: its history, the held-out answers at several points, and the numbers for metrics/ppo.json."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.between_prompts import between_prompts
from realm_lib.rlhf.policies import Policy
from realm_lib.rlhf.ppo.held_out import paired_difference
from realm_lib.rlhf.ppo.references import TRANSFORMS


@dataclass(frozen=True)
class PPOResult:
    """A finished training; ``policy`` holds the weights that were kept."""

    policy: Policy
    history: pd.DataFrame
    """One row an update."""
    evaluations: pd.DataFrame
    """One row a point at which the prompts to choose on were answered: means of reward, objective, judges, kl, ..."""
    samples: pd.DataFrame
    """One row a point and prompt to choose on: step, prompt (its index), response, reward, its parts,
    each judge, kl, ..."""
    judged: pd.DataFrame
    """The held-out prompts before training (step 0) and with the policy that is kept; columns as ``samples``."""
    rollouts: pd.DataFrame
    """The first responses of training (some 512), one row each: step, question (those of a step with one number answer
    one prompt), and what each transform of ``rlhf.ppo.reward_transform`` makes of its reward, by the transform's name;
    none alone where a prompt has no reference."""
    judges: tuple[str, ...]
    """Names of the judges that were asked beside the reward."""
    best_step: int
    """The update after which the kept policy stood; 0 is the policy as it came."""
    stopped: str
    """Why training stopped before all episodes; empty when it did not."""
    dropped: str
    """Which prompts were left out, in words; empty when none was."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the reward is made of, columns of ``samples``: RealmReward's features."""
        others = {"step", "prompt", "response", "reward", "floored", "spread", "outside", "kl", "length", "ended"}
        return tuple(str(name) for name in self.samples if name not in others | set(self.judges))

    def comparison(self) -> pd.DataFrame:
        """Before and after on each held-out prompt: columns as ``judged`` with the suffixes _before and _after."""
        before = self.judged[self.judged["step"] == 0].drop(columns="step")
        after = self.judged[self.judged["step"] == self.best_step].drop(columns="step")
        return before.merge(after, on="prompt", suffixes=("_before", "_after"), validate="one_to_one")

    def curve(self) -> pd.DataFrame:
        """How far the mean reward, and each judge's, moved from where they began, a row a point of ``evaluations``.

        Columns: step, kl, prompts (their number), and for the reward and each judge the paired change, its NAME_low
        and NAME_high (95 %, prompts resampled). What :func:`over_optimisation` draws.
        """
        prompts = int(self.samples["prompt"].nunique())
        rows = []
        for step, kl in zip(self.evaluations["step"], self.evaluations["kl"], strict=True):
            row = {"step": step, "kl": kl, "prompts": prompts}
            for name in ("reward", *self.judges):
                change = paired_difference(self.samples, name, step)
                row[name] = change["difference"]
                row[f"{name}_low"], row[f"{name}_high"] = change["ci_of_difference"]
            rows.append(row)
        return pd.DataFrame(rows)

    def metrics(self) -> dict[str, Any]:
        """What metrics/ppo.json holds; means are over the held-out prompts, kl in nats a response.

        reward, and each judge's name, have before, after, difference and ci_of_difference. floored counts the responses
        that got ``rlhf.floor_reward``, while training and of the held-out prompts' answers. outside is the share, of
        the same responses, with a feature beyond those of the combiner's training; it is there where the reward tells
        it. between_prompts is how much of the variance of the first rollouts' rewards lies between prompts, by
        transform (:func:`between_prompts`); null where it is unknown.
        """
        both = self.comparison()
        seconds = float(self.history["seconds"].sum()) if len(self.history) else 0.0
        episodes = int(self.history["episodes"].iloc[-1]) if len(self.history) else 0
        names = ("reward", *self.judges)
        return {
            **{name: paired_difference(self.judged, name, self.best_step) for name in names},
            "kl": float(both["kl_after"].mean()),
            "length": {when: float(both[f"length_{when}"].mean()) for when in ("before", "after")},
            "ended": {when: float(both[f"ended_{when}"].mean()) for when in ("before", "after")},
            "floored": self._floored(both),
            **self._outside(both),
            "between_prompts": self._between_prompts(),
            "held_out_prompts": len(both),
            "best_step": self.best_step,
            "updates": len(self.history),
            "episodes": episodes,
            "episodes_per_second": episodes / seconds if seconds else 0.0,
            "seconds": seconds,
            "stopped": self.stopped,
        }

    def _outside(self, both: pd.DataFrame) -> dict[str, Any]:
        if "outside" not in self.judged:
            return {}
        shares = {when: float(both[f"outside_{when}"].mean()) for when in ("before", "after")}
        if "outside" in self.history:
            shares["training"] = float(self.history["outside"].mean())
        return {} if any(map(math.isnan, shares.values())) else {"outside": shares}

    def _between_prompts(self) -> dict[str, Any] | None:
        if self.rollouts.empty:
            return None
        steps, questions = (self.rollouts[name].nunique() for name in ("step", "question"))
        shape = (steps, questions, -1)
        kinds = [kind for kind in TRANSFORMS if kind in self.rollouts]
        parts = {kind: between_prompts(self.rollouts[kind].to_numpy(np.float64).reshape(shape)) for kind in kinds}
        if parts["none"] is None:
            return None
        told = {kind: None if part is None else asdict(part) for kind, part in parts.items()}
        return {"prompts": steps * questions, "responses": len(self.rollouts) // (steps * questions), **told}

    def _floored(self, both: pd.DataFrame) -> dict[str, int]:
        counts = {when: int(both[f"floored_{when}"].sum()) for when in ("before", "after")}
        if self.history.empty:
            return {"training": 0, **counts}
        rollout = self.history["episodes"].iloc[0] / self.history["step"].iloc[0]
        return {"training": round(float((self.history["floored"] * rollout).sum())), **counts}
