"""DPO: preference pairs from people or from the policy itself, training on them, and what it changed."""

from realm_lib.dpo.errors import DPOError
from realm_lib.dpo.loss import dpo_losses, implicit_rewards
from realm_lib.dpo.material import Material, load_material
from realm_lib.dpo.pairs import PreferencePairs
from realm_lib.dpo.result import DPOResult, conclusion, ranking_agreement, with_margins
from realm_lib.dpo.samples import SampleStore, policy_identity
from realm_lib.dpo.training import make_pairs, train_dpo

__all__ = [
    "DPOError",
    "DPOResult",
    "Material",
    "PreferencePairs",
    "SampleStore",
    "conclusion",
    "dpo_losses",
    "implicit_rewards",
    "load_material",
    "make_pairs",
    "policy_identity",
    "ranking_agreement",
    "train_dpo",
    "with_margins",
]
