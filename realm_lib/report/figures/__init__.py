"""Every plot of the notebooks and reports: one look, one colour for each reward, and the number of pairs in each.

Functions take data and, if wanted, the axes to draw on; they return the axes and neither save nor show. A figure whose
data is simulated says so under its title.
"""

from realm_lib.report.figures.behaviour import effect_lines, perturbation_points, seed_points, spread_points
from realm_lib.report.figures.judging import (
    accuracy_bars,
    accuracy_by_domain,
    accuracy_by_group,
    difference_bars,
    reliability,
    signal_points,
)
from realm_lib.report.figures.learning import (
    feature_distributions,
    probe_choices,
    response_surface,
    responses_on_surface,
    reward_model_training,
    training_curves,
)
from realm_lib.report.figures.policies import (
    over_optimisation,
    policy_training,
    ppo_progress,
    rewards_by_prompt,
    token_credit,
)
from realm_lib.report.figures.theme import COLOURS, LABELS, set_theme

__all__ = [
    "COLOURS",
    "LABELS",
    "accuracy_bars",
    "accuracy_by_domain",
    "accuracy_by_group",
    "difference_bars",
    "effect_lines",
    "feature_distributions",
    "over_optimisation",
    "perturbation_points",
    "policy_training",
    "ppo_progress",
    "probe_choices",
    "reliability",
    "response_surface",
    "responses_on_surface",
    "reward_model_training",
    "rewards_by_prompt",
    "seed_points",
    "set_theme",
    "signal_points",
    "spread_points",
    "token_credit",
    "training_curves",
]
