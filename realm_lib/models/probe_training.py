"""Training a probe: which hidden states a linear head reads and how it is held back, by pairs it was not fitted to."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from realm_lib.config.training import ProbeParams
from realm_lib.data.pairs import texts_of
from realm_lib.data.seen import keys_of
from realm_lib.models.hidden_states import load_backbone, read_states
from realm_lib.models.probe_tuning import tune
from realm_lib.models.reward_models.probe import POOLINGS, ProbeModel, Taps
from realm_lib.models.reward_models.transformer import TransformerScorer
from realm_lib.runs.files import atomic_path
from realm_lib.runs.seeds import derive_seed
from realm_lib.runs.trained_on import write_trained_on

PENALTIES = (100.0, 316.0, 1000.0, 3160.0, 10000.0)
"""What is tried: the weight of half the squared length of a head's weights beside the sum of the pairs' losses, for
features of spread 1."""


@dataclass(frozen=True)
class ProbeTraining:
    """What a training came to."""

    taps: Taps
    """The choice that was taken."""
    best: dict[str, float]
    """Its penalty, log_loss and accuracy, both of pairs that the head was not fitted to."""
    tried: pd.DataFrame
    """A row for each choice, at its best penalty: layers, poolings and what ``best`` says."""
    history: list[dict[str, float]]
    """Of tuning, step and loss; empty without."""

    def metrics(self) -> dict[str, Any]:
        """What was chosen and how well it did on pairs left out, for JSON."""
        return {
            "layers": list(self.taps.layers),
            "poolings": list(self.taps.poolings),
            "penalty": self.best["penalty"],
            "left_out_accuracy": self.best["accuracy"],
            "left_out_log_loss": self.best["log_loss"],
            "tuning_steps": len(self.history),
        }


def train_probe(
    pairs: pd.DataFrame,
    params: ProbeParams,
    folder: str | Path,
    *,
    seed: int,
    kept: Path | None = None,
    backbone: TransformerScorer | None = None,
    progress: bool = True,
) -> ProbeTraining:
    """Fit a head to ``pairs`` and save it with the layers under it at ``folder``, as ``reward_model.backend: probe``.

    Layers, poolings and penalty are those with the least Bradley-Terry loss on pairs of posts left out in turn
    (``params.folds`` parts, drawn by ``seed``); the head is then fitted to all pairs. ``kept`` is a folder for hidden
    states (:func:`realm_lib.models.hidden_states.read_states`), ``backbone`` one that is loaded already.
    ``pairs`` must not be among those that the combiner is trained on. Raises :class:`ValueError` for pairs of fewer
    posts than folds. The folder appears when everything is in it.
    """
    posts = pd.factorize(pairs["history"])[0]
    if posts.max(initial=-1) + 1 < params.folds:
        raise ValueError(
            f"a probe is trained on pairs of at least offline_models.probe.folds ({params.folds}) posts, not "
            f"{posts.max(initial=-1) + 1}: raise data.reward_model_share, or bring more pairs"
        )
    backbone = backbone or load_backbone(params)
    texts = texts_of(pairs)
    states = read_states(backbone, texts.prompts, texts.responses, kept, progress=progress)
    a_is_chosen = (pairs["labels"] == 1).to_numpy()
    a, b = texts.places
    chosen, rejected = np.where(a_is_chosen, a, b), np.where(a_is_chosen, b, a)
    part_of_post = np.random.default_rng(derive_seed(seed, "probe")).permutation(posts.max() + 1) % params.folds
    layers = backbone.taps.layers if backbone.taps is not None else ()
    found: list[tuple[Taps, dict[str, float]]] = []
    for taps in choices(layers):
        features, _, _ = _standardised(states, taps, layers)
        found.append((taps, _tried(features[chosen] - features[rejected], part_of_post[posts], params.folds)))
    taps, best = min(found, key=lambda each: each[1]["log_loss"])
    features, mean, spread = _standardised(states, taps, layers)
    weights = fit_head(features[chosen] - features[rejected], best["penalty"])
    with atomic_path(folder) as temporary:
        _save(backbone, taps, weights / spread, mean, temporary)
        write_trained_on(temporary, keys_of(pairs))
        history = tune(temporary, pairs, params, seed=seed, progress=progress) if params.tuning else []
    tried = pd.DataFrame([{"layers": each.layers, "poolings": each.poolings, **row} for each, row in found])
    return ProbeTraining(taps, best, tried, history)


def choices(layers: Sequence[int]) -> Iterator[Taps]:
    """The hidden states that a head may read: of one layer by one pooling or by all, or all there are."""
    for layer in layers:
        yield from (Taps((layer,), ways) for ways in (*((each,) for each in POOLINGS), POOLINGS))
    if len(layers) > 1:
        yield Taps(tuple(layers), POOLINGS)


def fit_head(differences: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Weights [d] of a linear reward by the Bradley-Terry loss on ``differences`` [n, d], chosen less rejected.

    Minimises the sum of log(1 + exp(-w x)) and penalty / 2 * |w|^2 (ridge).
    """
    from sklearn.linear_model import LogisticRegression

    signs = np.where(np.arange(len(differences)) % 2, -1.0, 1.0)  # a regression wants to see both classes
    model = LogisticRegression(C=1 / penalty, fit_intercept=False, max_iter=2000, tol=1e-6)
    weights: NDArray[np.float64] = model.fit(differences * signs[:, None], signs).coef_[0]
    return weights


def _tried(differences: NDArray[np.float64], parts: NDArray[np.int64], folds: int) -> dict[str, float]:
    """The best penalty by pairs of the parts left out in turn, and how well it does there."""
    # In a basis of the pairs' own span, where a ridge's solution lies: no more columns than there are pairs.
    left, values, _ = np.linalg.svd(differences, full_matrices=False)
    reduced = left * values
    found = []
    for penalty in PENALTIES:
        margins = np.empty(len(reduced))
        for part in range(folds):
            held = parts == part
            margins[held] = reduced[held] @ fit_head(reduced[~held], penalty)
        log_loss = float(np.logaddexp(0.0, -margins).mean())
        accuracy = float((margins > 0).mean() + (margins == 0).mean() / 2)
        found.append({"penalty": penalty, "log_loss": log_loss, "accuracy": accuracy})
    return min(found, key=lambda row: row["log_loss"])


def _standardised(
    states: NDArray[np.float32], taps: Taps, layers: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a head reads of each text, of mean 0 and spread 1; the means and spreads [d] that were taken out of it."""
    raw: NDArray[np.float64] = taps.of(torch.from_numpy(states), layers).double().numpy()
    mean, spread = raw.mean(axis=0), raw.std(axis=0)
    spread[spread == 0] = 1.0
    return (raw - mean) / spread, mean, spread


def _save(
    backbone: TransformerScorer,
    taps: Taps,
    weights: NDArray[np.float64],
    mean: NDArray[np.float64],
    folder: Path,
) -> None:
    """The layers that ``taps`` need and a head of ``weights`` whose mean over the training responses is 0."""
    config: Any = copy.deepcopy(backbone.model.config)
    taps.write(config)
    with torch.device("meta"):
        model = ProbeModel(config)
    held = {f"model.{name}": tensor for name, tensor in backbone.model.state_dict().items()}
    held["score.weight"] = torch.from_numpy(weights).float()[None]
    held["score.bias"] = torch.tensor([-float(weights @ mean)])
    model.load_state_dict({name: held[name] for name in model.state_dict()}, assign=True)
    model.save_pretrained(folder)
    backbone.encoder.tokenizer.save_pretrained(folder)
