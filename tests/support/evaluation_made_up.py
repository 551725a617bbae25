"""The numbers of an evaluation, made up: what metrics/evaluation.json holds, without a run."""

from typing import Any


def reward(accuracy: float, low: float, high: float) -> dict[str, Any]:
    shares = {"accuracy": accuracy, "ci": [low, high]}
    calibration = {"ece": 0.02345, "ece_by_chance": 0.0182, "temperature": 1.44}
    return {**shares, "ties": 3, "log_loss": 0.61234, **calibration}


def difference(value: float, low: float, high: float, p: float = 0.0123) -> dict[str, Any]:
    return {"value": value, "ci": [low, high], "p_value": p / 3, "p_holm": p, "detectable": 0.04}


EVALUATION: dict[str, Any] = {
    "pairs": 1234,
    "posts": 321,
    "rewards": {
        "realm": reward(0.701, 0.68, 0.72),
        "linear": reward(0.69, 0.67, 0.71),
        "reward_model": reward(0.65, 0.63, 0.67),
        "similarity": reward(0.6, 0.58, 0.62),
        "length": reward(0.55, 0.53, 0.57),
    },
    "differences": {
        "realm - reward_model": difference(0.051, 0.02, 0.08, p=0.00004),
        "realm - linear": difference(0.011, -0.005, 0.03, p=0.21),
        "realm - length": difference(-0.06, -0.1, -0.02),
    },
    "by_domain": {},
    "ceiling": {"accuracy": 0.76, "ci": [0.74, 0.78]},
    "verdict": "On these pairs, REALM is fine.",
}
SEEDS = {"ensemble": [0.701, 0.7, 0.704], "members": [0.69, 0.7], "sd": 0.0012, "members_sd": 0.0034}
