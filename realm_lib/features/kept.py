"""The features of a run, in its folder features/, with the models that made them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from realm_lib.config.feature_models import FeatureModels
from realm_lib.features.extraction import FEATURE_COLUMNS, Extraction
from realm_lib.runs.reading import read_note, read_table
from realm_lib.runs.run import MissingStepError, Run

_MADE_BY = "01_feature_extraction"


def keep_features(run: Run, features: Mapping[str, Extraction], models: FeatureModels) -> None:
    """Write features/SPLIT.parquet for each split; every file says which models made it."""
    for split, extraction in features.items():
        run.write_table(extraction.table, "features", f"{split}.parquet", note=models.to_dict())


def read_features(run: Run, splits: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The features of some splits, one row a pair.

    Raises :class:`MissingStepError` naming the notebook to run where they are missing, made by an earlier version of
    this project, or by other models than those of the other splits.
    """
    feature_models(run, splits)
    return {split: read_table(run.path("features", f"{split}.parquet"), FEATURE_COLUMNS) for split in splits}


def feature_models(run: Run, splits: Sequence[str] = ("train", "validation")) -> FeatureModels:
    """The models that made the features of ``splits``, the same for all; raises as :func:`read_features` does."""
    notes: list[dict[str, Any]] = []
    for split in splits:
        path = run.require("features", f"{split}.parquet", made_by=_MADE_BY)
        note = read_note(path)
        if note is None or "max_prompt_words" not in note:
            raise MissingStepError(
                f"{path}: made by an earlier version, without {', '.join(FEATURE_COLUMNS)}, the names of the models "
                f"that made them or the words to which posts were cut: run notebook {_MADE_BY} again"
            )
        notes.append(note)
    if any(note != notes[0] for note in notes):
        fault = f"the features of {', '.join(splits)} were made by different models"
        raise MissingStepError(f"{run.folder}: {fault}: run notebook {_MADE_BY} again")
    return FeatureModels.from_dict(notes[0])
