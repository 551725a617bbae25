"""Judging rewards on preference pairs: how often they are right, how sure that is, where it comes from, and why.

``judging`` has :func:`evaluate_rewards`, ``resampling`` the statistics under it, ``calibration`` probabilities,
``slices`` the groups of pairs that are looked at, ``standard`` the rewards that are always compared, ``bias`` and
``perturbations`` what a reward likes beside quality, ``learned`` what the combiner makes of its features,
``task_types`` the ways to embed, ``result`` the tables and the verdict in words.
"""

from realm_lib.evaluation.bias import length_bias, length_bias_table
from realm_lib.evaluation.calibration import calibration_interval, expected_calibration_error, fit_scale
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.learned import (
    disagreement,
    disagreement_table,
    partial_effects,
    seed_sentence,
    seed_spread,
    spread_against_error,
)
from realm_lib.evaluation.perturbations import perturbation_suite, perturbation_table
from realm_lib.evaluation.resampling import (
    Bootstrap,
    EvaluationError,
    bootstrap_over_posts,
    detectable_difference,
    holm,
    permutation_p_value,
)
from realm_lib.evaluation.result import Evaluation
from realm_lib.evaluation.standard import feature_ceiling, fit_rewards, fit_scales, standard_rewards
from realm_lib.evaluation.task_types import similarity_by_task_type

__all__ = [
    "Bootstrap",
    "Evaluation",
    "EvaluationError",
    "bootstrap_over_posts",
    "calibration_interval",
    "detectable_difference",
    "disagreement",
    "disagreement_table",
    "evaluate_rewards",
    "expected_calibration_error",
    "feature_ceiling",
    "fit_rewards",
    "fit_scale",
    "fit_scales",
    "holm",
    "length_bias",
    "length_bias_table",
    "partial_effects",
    "permutation_p_value",
    "perturbation_suite",
    "perturbation_table",
    "seed_sentence",
    "seed_spread",
    "similarity_by_task_type",
    "spread_against_error",
    "standard_rewards",
]
