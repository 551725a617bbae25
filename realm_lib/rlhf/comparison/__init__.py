"""Which policy is better: the same prompts, every policy's answers, every judge, and intervals."""

from realm_lib.rlhf.comparison.answers import compare_policies, starting_policy, trained_policy
from realm_lib.rlhf.comparison.result import ComparisonError, PolicyComparison

__all__ = ["ComparisonError", "PolicyComparison", "compare_policies", "starting_policy", "trained_policy"]
