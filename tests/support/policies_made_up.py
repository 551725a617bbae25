"""A comparison of policies whose answers and scores are made up: what notebooks 04 and 06 leave, without a run."""

from typing import Any

import pandas as pd

from realm_lib.rlhf.comparison.result import PolicyComparison
from realm_lib.rlhf.policies import SequenceKL
from realm_lib.runs.run import Run


def write_policies(run: Run, answer: str = "Yeast makes gas.") -> dict[str, Any]:
    """metrics/policies.json and policy_answers.parquet as the library's own comparison makes them."""
    rows = []
    for policy, gain in (("base", 0.0), ("best_of_4", 0.4), ("ppo", 1.0)):
        for row in range(40):
            luck = ((row * 7) % 11 - 5) / 5
            rows.append(
                {
                    "policy": policy, "row": row, "number": 0, "answer": answer, "length": 20 + row % 3,
                    "characters": 90.0 + (row * 5) % 13, "ended": True, "weight": 1.0, "picked": True,
                    "prompt": f"Post {row}?", "realm": gain + luck, "gold": gain / 2 - luck,
                }
            )  # fmt: skip
    comparison = PolicyComparison(
        answers=pd.DataFrame(rows),
        kls={"ppo": SequenceKL(k1=3.25, k1_error=0.2, k3=3.3)},
        judges=("realm", "gold"),
        best_of=(4,),
        resamples=200,
        dropped="",
    )
    comparison.answers.to_parquet(run.path("metrics", "policy_answers.parquet"))
    return run.write_metrics("policies", comparison.metrics())


PPO = {
    "reward": {"before": -0.5, "after": 0.25, "difference": 0.75, "ci_of_difference": [0.5, 1.0]},
    "length": {"before": 20.0, "after": 31.0},
    "episodes": 1024,
    "seconds": 31.6,
}
