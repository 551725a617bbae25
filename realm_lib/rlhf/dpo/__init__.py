"""DPO: preference pairs from people or from the policy itself, training on them, and what it changed."""

from realm_lib.rlhf.dpo.balance import balance_length, length_difference
from realm_lib.rlhf.dpo.loss import dpo_losses, implicit_rewards
from realm_lib.rlhf.dpo.material import Material, load_material
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.dpo.result import DPOResult, ranking_agreement, with_margins
from realm_lib.rlhf.dpo.training import make_pairs, train_dpo
from realm_lib.rlhf.errors import DPOError

__all__ = [
    "DPOError",
    "DPOResult",
    "Material",
    "PreferencePairs",
    "balance_length",
    "dpo_losses",
    "implicit_rewards",
    "length_difference",
    "load_material",
    "make_pairs",
    "ranking_agreement",
    "train_dpo",
    "with_margins",
]
