"""The features of a run: which models made them is in the files, and other or older ones are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.signals import LengthSignal, RewardModelSignal
from realm_lib.features.extraction import Extraction, FeatureCounts
from realm_lib.features.kept import feature_models, keep_features, read_features, require_trained_on
from realm_lib.runs.run import MissingStepError, Run

COUNTS = FeatureCounts(1, 2, 2, 0, 10, 10, 0.1)
TABLE = pd.DataFrame({"score_A": [1.0], "score_B": [2.0], "similarity_A": [0.1], "similarity_B": [0.2], "labels": [0]})


def models(name: str = "run:models/reward_model") -> FeatureModels:
    return FeatureModels(
        RewardModelParams(backend="inform", model_id=name),
        EmbeddingParams(backend="gemini", model_id="gemini-embedding-001", api_key="${SOME_KEY}"),
        max_prompt_words=1024,
        signals={
            "words": LengthSignal(kind="length"),
            "second": RewardModelSignal(
                kind="reward_model", reward_model=RewardModelParams(backend="nim", model_id="n", api_key="${SOME_KEY}")
            ),
        },
    )


def keep(run: Run, *splits: str, made_by: FeatureModels | None = None) -> None:
    keep_features(run, {split: Extraction(TABLE, COUNTS, {}) for split in splits}, made_by or models())


def test_features_and_their_models_come_back(tmp_path: Path) -> None:
    run = Run(tmp_path)
    keep(run, "train", "validation", "test")
    features = read_features(run, ("train", "test"))
    assert list(features) == ["train", "test"]
    pd.testing.assert_frame_equal(features["test"], TABLE)
    assert feature_models(run) == models()
    assert feature_models(run).features == ("score", "similarity", "words", "second")


def test_a_missing_split_names_its_notebook(tmp_path: Path) -> None:
    keep(Run(tmp_path), "train")
    with pytest.raises(MissingStepError, match=r"validation\.parquet is missing: run notebook 01_feature_extraction"):
        read_features(Run(tmp_path), ("train", "validation"))


def test_features_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    run = Run(tmp_path)
    keep(run, "train", "validation")
    keep(run, "validation", made_by=models("another/model"))
    with pytest.raises(MissingStepError, match="different models: run notebook 01_feature_extraction again"):
        read_features(run, ("train", "validation"))
    assert feature_models(run, ("validation",)) == models("another/model")


def test_a_run_made_before_says_which_notebook_to_run_again(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    TABLE.rename(columns=lambda name: name.replace("score", "reward")).to_parquet(tmp_path / "features/train.parquet")
    with pytest.raises(MissingStepError, match=r"earlier version.*run notebook 01_feature_extraction again"):
        read_features(Run(tmp_path), ("train",))


def test_features_that_do_not_say_how_posts_were_cut_are_an_earlier_versions(tmp_path: Path) -> None:
    sections = {name: section for name, section in models().to_dict().items() if name != "max_prompt_words"}
    Run(tmp_path).write_table(TABLE, "features", "train.parquet", note=sections)
    with pytest.raises(MissingStepError, match="to which posts were cut: run notebook 01_feature_extraction again"):
        read_features(Run(tmp_path), ("train",))


def test_the_identities_of_the_models_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path)
    identities = {"score": {"model": "m", "weights": "a" * 64}, "similarity": {"model": "e"}}
    keep_features(run, {"train": Extraction(TABLE, COUNTS, {}, identities)}, models())
    assert feature_models(run, ("train",)).identities == identities
    other = {**identities, "score": {"model": "m", "weights": "b" * 64}}
    keep_features(run, {"validation": Extraction(TABLE, COUNTS, {}, other)}, models())
    with pytest.raises(MissingStepError, match="different models: run notebook 01_feature_extraction again"):
        feature_models(run)


def test_features_without_identities_are_an_earlier_versions(tmp_path: Path) -> None:
    sections = {name: section for name, section in models().to_dict().items() if name != "identities"}
    Run(tmp_path).write_table(TABLE, "features", "train.parquet", note=sections)
    with pytest.raises(MissingStepError, match=r"identities of the models .*: run notebook 01_feature"):
        read_features(Run(tmp_path), ("train",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": {"score": {"model": "m", "weights": "b" * 64}}}, "weights aaaaaaaaaaaa became bbbbbbbbbbbb"),
        ({"max_prompt_words": 12}, "max_prompt_words 1024 became 12"),
    ],
    ids=["weights", "words"],
)
def test_a_combiner_is_judged_on_the_features_that_it_was_trained_on(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """As after 01 again with another model or another cut, and 02 not."""
    run = Run(tmp_path)
    splits = ("train", "validation")
    trained_on = replace(models(), identities={"score": {"model": "m", "weights": "a" * 64}})
    now = replace(trained_on, **change)
    keep_features(run, {split: Extraction(TABLE, COUNTS, {}, trained_on.identities) for split in splits}, trained_on)
    require_trained_on(run, trained_on)
    keep_features(run, {split: Extraction(TABLE, COUNTS, {}, now.identities) for split in splits}, now)
    with pytest.raises(MissingStepError, match=f"{message}: run notebook 02_combiner_training again"):
        require_trained_on(run, trained_on)


def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    keep(run, "train", "test")
    features = read_features(run, ("train", "test"), without={"train": ("labels", "no column")})
    pd.testing.assert_frame_equal(features["train"], TABLE.drop(columns="labels"))
    pd.testing.assert_frame_equal(features["test"], TABLE)
