"""Training a probe: the head is the regularised optimum, pairs left out choose what it reads, states are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from support.probe_backbones import polite_pairs, save_backbone
from support.small_scorers import scorer_of

from realm_lib.config.rlhf import LoraParams
from realm_lib.config.training import ProbeParams, ProbeTuningParams
from realm_lib.data.posts import post_key
from realm_lib.models.probe_training import choices, fit_head, train_probe
from realm_lib.models.reward_models.probe import Taps
from realm_lib.runs.trained_on import read_trained_on
from realm_lib.runs.weights import folder_digest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> ProbeParams:
    folder = save_backbone(tmp_path_factory.mktemp("backbone"), tiny_tokenizer, tiny_config)
    return ProbeParams(backbone=str(folder), layers=[1, 3], max_length=128, folds=4)


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
    assert Taps((2, 4), ("mean", "last")) in found
    assert len(list(choices((2,)))) == 3


def test_a_probe_learns_what_pairs_say_and_is_a_reward_model(params: ProbeParams, tmp_path: Path) -> None:
    pairs = polite_pairs(80, seed=1)
    training = train_probe(pairs, params, tmp_path / "probe", seed=7, progress=False)
    best = training.tried.loc[training.tried["log_loss"].idxmin()]
    assert (training.taps.layers, training.taps.poolings) == (best["layers"], best["poolings"])
    assert best["accuracy"] > 0.9
    unseen = polite_pairs(40, seed=2)
    assert accuracy(tmp_path / "probe", unseen) > 0.9
    scores = scorer_of(tmp_path / "probe", "probe", max_length=128).score(pairs["history"], pairs["human_ref_A"])
    assert np.isfinite(scores).all()
    assert read_trained_on(tmp_path / "probe") == {post_key(post) for post in pairs["history"]}


def test_labels_turned_round_turn_the_reward_round(params: ProbeParams, tmp_path: Path) -> None:
    pairs = polite_pairs(40, seed=1)
    train_probe(pairs.assign(labels=1 - pairs["labels"]), params, tmp_path / "probe", seed=7, progress=False)
    assert accuracy(tmp_path / "probe", polite_pairs(40, seed=2)) < 0.2


def test_the_same_seed_gives_the_same_probe_and_kept_states_are_not_read_again(
    params: ProbeParams, tmp_path: Path
) -> None:
    pairs, kept = polite_pairs(24, seed=1), tmp_path / "kept"
    train_probe(pairs, params, tmp_path / "first", seed=7, kept=kept, progress=False)
    (file,) = kept.glob("*.safetensors")
    before = file.stat().st_mtime_ns
    train_probe(pairs, params, tmp_path / "second", seed=7, kept=kept, progress=False)
    assert [file] == list(kept.iterdir())
    assert file.stat().st_mtime_ns == before
    assert folder_digest(tmp_path / "first") == folder_digest(tmp_path / "second")
    train_probe(pairs, params.model_copy(update={"max_length": 100}), tmp_path / "third", seed=7, kept=kept)
    assert len(list(kept.iterdir())) == 2


def test_too_few_posts_are_said(params: ProbeParams, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least offline_models.probe.folds"):
        train_probe(polite_pairs(6, seed=1), params, tmp_path / "probe", seed=7, progress=False)
    assert not (tmp_path / "probe").exists()


def test_tuning_lowers_the_loss_and_leaves_a_plain_checkpoint(params: ProbeParams, tmp_path: Path) -> None:
    pairs = polite_pairs(48, seed=1)
    tuning = ProbeTuningParams(lora=LoraParams(r=4, alpha=8), learning_rate=3e-3, num_epochs=4)
    tuned = params.model_copy(update={"tuning": tuning})
    training = train_probe(pairs, tuned, tmp_path / "tuned", seed=7, progress=False)
    plain = train_probe(pairs, params, tmp_path / "plain", seed=7, progress=False)
    assert training.taps == plain.taps
    losses = [row["loss"] for row in training.history]
    assert len(losses) == 4 * 3
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert accuracy(tmp_path / "tuned", polite_pairs(40, seed=2)) > 0.9
    assert folder_digest(tmp_path / "tuned") != folder_digest(tmp_path / "plain")
