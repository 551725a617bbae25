"""The combiner: two features of a response in, one reward out, learned from preferences.

``pairs`` turns the features' table into matrices, ``network`` is the arithmetic of the members, ``training`` fits them,
``model`` is the :class:`Combiner` that the rest of the library uses, ``linear`` and ``trees`` the
baselines of less and of more freedom.
"""

from realm_lib.config.feature_models import FEATURES
from realm_lib.reward.combiner.checkpoint import TrainingHistory
from realm_lib.reward.combiner.linear import LinearCombiner
from realm_lib.reward.combiner.model import Combiner
from realm_lib.reward.combiner.network import bradley_terry_loss
from realm_lib.reward.combiner.pairs import CombinerError, chosen_and_rejected, feature_matrix
from realm_lib.reward.combiner.trees import TreePreference

__all__ = [
    "FEATURES",
    "Combiner",
    "CombinerError",
    "LinearCombiner",
    "TrainingHistory",
    "TreePreference",
    "bradley_terry_loss",
    "chosen_and_rejected",
    "feature_matrix",
]
