"""Training a probe: the head is the regularised optimum, pairs left out choose what it reads, states are kept."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from support.probe_backbones import polite_pairs, save_backbone
from support.small_scorers import scorer_of

from realm_lib.config.rlhf import LoraParams
from realm_lib.config.training import ProbeParams, ProbeTuningParams
from realm_lib.data.posts import post_key
from realm_lib.models.hidden_states import load_backbone, read_states
from realm_lib.models.probe_training import ProbeTraining, choices, fit_head, train_probe
from realm_lib.models.reward_models.probe import Taps
from realm_lib.runs.trained_on import read_trained_on
from realm_lib.runs.weights import folder_digest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> ProbeParams:
    folder = save_backbone(tmp_path_factory.mktemp("backbone"), tiny_tokenizer, tiny_config)
    return ProbeParams(backbone=str(folder), layers=[1, 3], max_length=128, folds=3)


@dataclass(frozen=True)
class Trained:
    """A probe, what it was trained on, and the folder of the states."""

    folder: Path
    pairs: pd.DataFrame
    kept: Path
    training: ProbeTraining


@pytest.fixture(scope="module")
def trained(params: ProbeParams, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, pairs = tmp_path_factory.mktemp("trained"), polite_pairs(48, seed=1)
    training = train_probe(pairs, params, folder / "probe", seed=7, kept=folder / "kept", progress=False)
    return Trained(folder / "probe", pairs, folder / "kept", training)


def accuracy(folder: Path, pairs: Any) -> float:
    scorer = scorer_of(folder, "probe", max_length=128)
    a, b = (scorer.score(pairs["history"], pairs[f"human_ref_{side}"]) for side in "AB")
    return float(np.mean((a > b) == (pairs["labels"] == 1)))


def test_a_head_minimises_the_penalised_loss() -> None:
    rng = np.random.default_rng(5)
    differences = rng.normal(size=(40, 3)) + np.array([0.5, 0.0, -0.2])

    def loss(weights: Any) -> Any:
        return np.logaddexp(0, -differences @ weights).sum() + 0.5 * 7.0 * weights @ weights

    expected = minimize(loss, np.zeros(3), tol=1e-12).x
    assert np.allclose(fit_head(differences, 7.0), expected, atol=1e-4)


def test_one_layer_or_all_by_one_pooling_or_both() -> None:
    found = list(choices((2, 4)))
    assert len(found) == 9
    assert Taps((2, 4), ("mean", "last", "max")) in found
    assert len(list(choices((2,)))) == 4


def test_a_probe_learns_what_pairs_say_and_is_a_reward_model(trained: Trained) -> None:
    training = trained.training
    best = training.tried.loc[training.tried["log_loss"].idxmin()]
    assert (training.taps.layers, training.taps.poolings) == (best["layers"], best["poolings"])
    assert best["accuracy"] > 0.9
    assert accuracy(trained.folder, polite_pairs(40, seed=2)) > 0.9
    scorer = scorer_of(trained.folder, "probe", max_length=128)
    scores = scorer.score(trained.pairs["history"], trained.pairs["human_ref_A"])
    assert np.isfinite(scores).all()
    assert read_trained_on(trained.folder) == {post_key(post) for post in trained.pairs["history"]}


def test_labels_turned_round_turn_the_reward_round(trained: Trained, params: ProbeParams, tmp_path: Path) -> None:
    turned, one = trained.pairs.assign(labels=1 - trained.pairs["labels"]), params.model_copy(update={"layers": [1]})
    train_probe(turned, one, tmp_path / "probe", seed=7, progress=False)
    assert accuracy(tmp_path / "probe", polite_pairs(40, seed=2)) < 0.2


def test_the_same_seed_gives_the_same_probe_and_kept_states_are_not_read_again(
    trained: Trained, params: ProbeParams, tmp_path: Path
) -> None:
    (file,) = trained.kept.glob("*.safetensors")
    before = file.stat().st_mtime_ns
    train_probe(trained.pairs, params, tmp_path / "again", seed=7, kept=trained.kept, progress=False)
    assert [file] == list(trained.kept.iterdir())
    assert file.stat().st_mtime_ns == before
    assert folder_digest(trained.folder) == folder_digest(tmp_path / "again")


@pytest.mark.parametrize("other", [{"max_length": 100}, {"layers": [1]}])
def test_states_that_were_read_otherwise_are_kept_apart(params: ProbeParams, tmp_path: Path, other: Any) -> None:
    for number, each in enumerate((params, params.model_copy(update=other)), start=1):
        read_states(load_backbone(each), ["Why?"], ["Yeast."], tmp_path, progress=False)
        assert len(list(tmp_path.iterdir())) == number


def test_too_few_posts_are_said(params: ProbeParams, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least offline_models.probe.folds"):
        train_probe(polite_pairs(4, seed=1), params, tmp_path / "probe", seed=7, progress=False)
    assert not (tmp_path / "probe").exists()


def test_tuning_lowers_the_loss_and_leaves_a_plain_checkpoint(
    trained: Trained, params: ProbeParams, tmp_path: Path
) -> None:
    tuning = ProbeTuningParams(lora=LoraParams(r=4, alpha=8), learning_rate=3e-3, num_epochs=3)
    tuned = params.model_copy(update={"tuning": tuning})
    training = train_probe(trained.pairs, tuned, tmp_path / "tuned", seed=7, kept=trained.kept, progress=False)
    assert training.taps == trained.training.taps
    losses = [row["loss"] for row in training.history]
    assert len(losses) == 3 * 3
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert accuracy(tmp_path / "tuned", polite_pairs(40, seed=2)) > 0.9
    assert folder_digest(tmp_path / "tuned") != folder_digest(trained.folder)
