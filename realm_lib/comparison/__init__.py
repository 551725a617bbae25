"""Which policy is better: the same prompts, every policy's answers, every judge, intervals, and a verdict in words."""

from realm_lib.comparison.answers import compare_policies, starting_policy, trained_policy
from realm_lib.comparison.result import ComparisonError, PolicyComparison
from realm_lib.policy_verdict import label, limits, policy_name, verdict

__all__ = [
    "ComparisonError",
    "PolicyComparison",
    "compare_policies",
    "label",
    "limits",
    "policy_name",
    "starting_policy",
    "trained_policy",
    "verdict",
]
