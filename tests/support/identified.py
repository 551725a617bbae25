"""What a combiner of made-up features is saved with: the identities that features by real models would have had."""

from dataclasses import replace
from pathlib import Path

from realm_lib.config.feature_models import FeatureModels
from realm_lib.features.identities import identities_of
from realm_lib.features.signals import ScoreSignal, SimilaritySignal, build_signal
from realm_lib.models.embedders import build_embedder
from realm_lib.models.reward_models import build_scorer


def identified(models: FeatureModels, run_folder: Path) -> FeatureModels:
    """``models`` with the identities of those that are there now."""
    signals = {
        "score": ScoreSignal(build_scorer(models.reward_model, run_folder)),
        "similarity": SimilaritySignal(build_embedder(models.embedding, run_folder)),
        **{name: build_signal(name, signal, run_folder) for name, signal in models.signals.items()},
    }
    return replace(models, identities=identities_of(signals))
