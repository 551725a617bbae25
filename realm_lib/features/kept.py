"""The features of a run, in its folder features/, with the models that made them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from realm_lib.config.feature_models import FeatureModels
from realm_lib.features.extraction import FEATURE_COLUMNS, Extraction
from realm_lib.features.identities import changed
from realm_lib.runs.reading import read_note, read_table
from realm_lib.runs.run import MissingStepError, Run

_MADE_BY = "01_feature_extraction"


def keep_features(run: Run, features: Mapping[str, Extraction], models: FeatureModels) -> None:
    """Write features/SPLIT.parquet for each split; every file says which models made it, by their identities too."""
    for split, extraction in features.items():
        note = replace(models, identities=extraction.identities).to_dict()
        run.write_table(extraction.table, "features", f"{split}.parquet", note=note)


def read_features(
    run: Run, splits: Sequence[str], *, without: Mapping[str, Collection[str]] | None = None
) -> dict[str, pd.DataFrame]:
    """The features of some splits, one row a pair.

    ``without`` names by split columns that nobody will ask for: texts are most of what a table takes. Raises
    :class:`MissingStepError` naming the notebook to run where they are missing, made by an earlier version of this
    project, or by other models than those of the other splits.
    """
    feature_models(run, splits)
    left_out = without or {}
    return {
        split: read_table(run.path("features", f"{split}.parquet"), FEATURE_COLUMNS, left_out.get(split, ()))
        for split in splits
    }


def require_trained_on(run: Run, trained_on: FeatureModels | None) -> None:
    """Raise :class:`MissingStepError` where the run's features are not of the models that its combiner was trained on.

    ``trained_on`` is the saved reward's (:attr:`RealmReward.feature_models`); of None nothing is known.
    """
    if trained_on is None:
        return
    models = feature_models(run)
    fault = changed(trained_on.identities, models.identities)
    if fault is None and trained_on.max_prompt_words != models.max_prompt_words:
        fault = f"max_prompt_words {trained_on.max_prompt_words} became {models.max_prompt_words}"
    if fault is not None:
        raise MissingStepError(
            f"{run.folder}: the features are no longer those that the combiner was trained on: {fault}: run notebook "
            "02_combiner_training again"
        )


def feature_models(run: Run, splits: Sequence[str] = ("train", "validation")) -> FeatureModels:
    """The models that made the features of ``splits``, the same for all; raises as :func:`read_features` does."""
    notes: list[dict[str, Any]] = []
    for split in splits:
        path = run.require("features", f"{split}.parquet", made_by=_MADE_BY)
        note = read_note(path)
        if note is None or not {"max_prompt_words", "identities"} <= note.keys():
            raise MissingStepError(
                f"{path}: made by an earlier version, without {', '.join(FEATURE_COLUMNS)}, the names and identities "
                f"of the models that made them or the words to which posts were cut: run notebook {_MADE_BY} again"
            )
        notes.append(note)
    if any(note != notes[0] for note in notes):
        fault = f"the features of {', '.join(splits)} were made by different models"
        raise MissingStepError(f"{run.folder}: {fault}: run notebook {_MADE_BY} again")
    return FeatureModels.from_dict(notes[0])
