"""What a training leaves: its history, the held-out answers at several points, and the numbers for metrics/ppo.json."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from realm_lib.policies import Policy
from realm_lib.ppo.held_out import paired_difference

__all__ = ["PPOResult"]


@dataclass(frozen=True)
class PPOResult:
    """A finished training; ``policy`` holds the weights that were kept."""

    policy: Policy
    history: pd.DataFrame
    """One row an update."""
    evaluations: pd.DataFrame
    """One row a point at which the held-out prompts were answered: means of reward, objective, gold, kl, ..."""
    samples: pd.DataFrame
    """One row a held-out prompt and point: step, prompt (its place), response, reward and its parts, gold, kl, ..."""
    best_step: int
    """The update after which the kept policy stood; 0 is the policy as it came."""
    stopped: str
    """Why training stopped before all episodes; empty when it did not."""
    dropped: str
    """Which prompts were left out, in words; empty when none was."""

    def comparison(self) -> pd.DataFrame:
        """Before and after on each held-out prompt: columns as ``samples`` with the suffixes _before and _after."""
        before = self.samples[self.samples["step"] == 0].drop(columns="step")
        after = self.samples[self.samples["step"] == self.best_step].drop(columns="step")
        return before.merge(after, on="prompt", suffixes=("_before", "_after"), validate="one_to_one")

    def curve(self) -> pd.DataFrame:
        """One row a look at the held-out prompts: step, episodes, prompts (their number), kl, reward, perhaps gold.

        Beside reward and gold stand their _low and _high: the 95 % interval of the paired difference from the policy
        as it came, added to what that policy had. What :func:`realm_lib.figures.over_optimisation` draws.
        """
        rows: list[dict[str, float]] = []
        for look in self.evaluations.to_dict("records"):
            row = {name: look[name] for name in ("step", "episodes", "kl")}
            row["prompts"] = int(self.samples["prompt"].nunique())
            for name in ("reward", "gold"):
                if name in self.samples:
                    found = paired_difference(self.samples, name, int(look["step"]))
                    low, high = found["ci_of_difference"]
                    before = found["before"]
                    row |= {name: found["after"], f"{name}_low": before + low, f"{name}_high": before + high}
            rows.append(row)
        return pd.DataFrame(rows)

    def metrics(self) -> dict[str, Any]:
        """What metrics/ppo.json holds; means are over the held-out prompts, kl in nats a response."""
        kept = self.evaluations[self.evaluations["step"] == self.best_step].iloc[0]
        seconds = float(self.history["seconds"].sum()) if len(self.history) else 0.0
        episodes = int(self.history["episodes"].iloc[-1]) if len(self.history) else 0
        found: dict[str, Any] = {
            name: paired_difference(self.samples, name, self.best_step)
            for name in ("reward", "gold")
            if name in self.samples
        }
        return {
            **found,
            "kl": float(kept["kl"]),
            "length": {"before": float(self.evaluations["length"].iloc[0]), "after": float(kept["length"])},
            "ended": {"before": float(self.evaluations["ended"].iloc[0]), "after": float(kept["ended"])},
            "held_out_prompts": int(self.samples["prompt"].nunique()),
            "best_step": self.best_step,
            "updates": len(self.history),
            "episodes": episodes,
            "episodes_per_second": episodes / seconds if seconds else 0.0,
            "seconds": seconds,
            "stopped": self.stopped,
        }
