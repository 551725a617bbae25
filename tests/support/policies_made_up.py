"""A comparison of policies whose answers and scores are made up: what notebooks 04 and 06 leave, without a run."""

from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.win_rates import best_of_n_weights
from realm_lib.rlhf.comparison.result import PolicyComparison
from realm_lib.rlhf.policies import SequenceKL
from realm_lib.runs.run import Run

_ANSWERS = {"base": 2, "best_of_4": 4, "ppo": 2}


def made_up_comparison(answer: str = "Yeast makes gas.", *, kl: float = 3.25, prompts: int = 40) -> PolicyComparison:
    """Two answers a prompt of the start and of a policy at ``kl`` nats, and best-of-4 from four others."""
    rng = np.random.default_rng(11)
    rows = []
    for policy, gain in (("base", 0.0), ("best_of_4", 0.0), ("ppo", 0.8)):
        for row in range(prompts):
            for number in range(_ANSWERS[policy]):
                luck, own = ((row * 7) % 11 - 5) / 5, rng.normal()
                rows.append(
                    {
                        "policy": policy, "row": row, "number": number + 2 * (policy == "best_of_4"), "answer": answer,
                        "floored": False,
                        "length": 20 + (row + number) % 3, "characters": 90.0 + (row * 5 + number) % 13, "ended": True,
                        "weight": 1 / _ANSWERS[policy], "picked": number == 0, "prompt": f"Post {row}?",
                        "realm": gain + luck + own, "gold": gain / 2 + own / 2 - luck,
                        "log_ratio": kl + rng.normal() / 3 if policy == "ppo" else np.nan,
                    }
                )  # fmt: skip
    answers = pd.DataFrame(rows)
    pool = answers[answers["policy"] == "best_of_4"]
    rewards = pool["realm"].to_numpy().reshape(-1, 4)
    answers.loc[pool.index, "weight"] = best_of_n_weights(rewards, 4).ravel()
    answers.loc[pool.index, "picked"] = (rewards == rewards.max(axis=1, keepdims=True)).ravel()
    return PolicyComparison(
        answers=answers,
        kls={"ppo": SequenceKL(k1=kl, k1_error=0.2, k3=1.02 * kl)},
        judges=("realm", "gold"),
        parts=(),
        best_of=(4,),
        resamples=200,
        dropped="",
    )


def write_policies(run: Run, answer: str = "Yeast makes gas.") -> dict[str, Any]:
    """metrics/policies.json and policy_answers.parquet as the library's own comparison makes them."""
    comparison = made_up_comparison(answer)
    comparison.answers.to_parquet(run.path("metrics", "policy_answers.parquet"))
    return run.write_metrics("policies", comparison.metrics())


PPO = {
    "reward": {"before": -0.5, "after": 0.25, "difference": 0.75, "ci_of_difference": [0.5, 1.0]},
    "length": {"before": 20.0, "after": 31.0},
    "episodes": 1024,
    "seconds": 31.6,
}
