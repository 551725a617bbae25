"""The training with a prior: a weighted sum, and a network that bends it as far as unseen pairs bear it out.

reward = w·z + s f(z). w is the logistic regression's. f begins at zero and is held there by a penalty on its margins,
(K / n) mean(margin²) / 8: near even odds a pair says a quarter as much of its margin's square as a normal with the same
halved, so that K is the number of pairs whose word the prior has. Two questions are asked of pairs that f was not
trained on, since on its own f always seems to help: for how many epochs to train it, and how much of it, s, to believe.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner.checkpoint import State, TrainingHistory
from realm_lib.reward.combiner.linear import Floats, draw_weights, fit_weights
from realm_lib.reward.combiner.network import bradley_terry_loss
from realm_lib.reward.combiner.training import (
    Members,
    Task,
    TrainingPairs,
    added,
    loss_and_accuracy,
    require_finite,
    sample,
    train,
)
from realm_lib.runs.seeds import derive_seed

_FOLDS = 5
_MOST_PAIRS = 20_000
"""Pairs of the cross-fit: more say no more about how far to believe the network."""
_DOUBT = 4.0
"""How large t² has to be before anything of f is believed; the classical shrinkage takes 1 to 2."""


@dataclass(frozen=True)
class Evidence:
    """What pairs say of margins that were made without them."""

    alpha: float
    """The factor with which those margins, added to the weighted sum's, have the least log-loss."""
    se: float | None
    """Its standard error; None where the margins are all 0."""
    t: float
    """alpha / se"""
    pairs: int

    @property
    def bend(self) -> float:
        """How much of the network is believed, from 0 to 1: alpha by the positive-part rule of James & Stein (1961).

        alpha (1 - 4 / t²): nothing where alpha is within two standard errors of 0.
        """
        if self.alpha <= 0 or self.t == 0:
            return 0.0
        return min(1.0, self.alpha * max(0.0, 1 - _DOUBT / self.t**2))


def find_evidence(offset: Floats, margins: Floats) -> Evidence:
    """The evidence of pairs for ``margins`` beside the weighted sum's, ``offset``, each [pairs].

    A logistic regression on one number with an offset, by Newton's method.
    """
    if not margins.any():
        return Evidence(0.0, None, 0.0, len(margins))
    alpha, curvature = 0.0, 0.0
    for _ in range(100):
        wrong = 1 / (1 + np.exp(np.clip(offset + alpha * margins, -500, 500)))
        curvature = float((wrong * (1 - wrong) * margins**2).sum())
        if curvature == 0:  # margins so large that every pair is certain
            return Evidence(0.0, None, 0.0, len(margins))
        # Margins that order every pair rightly have no best factor: the steps end at some large one.
        step = float(np.clip((wrong * margins).sum() / curvature, -2, 2))
        alpha += step
        if abs(step) < 1e-12:
            break
    se = curvature**-0.5
    return Evidence(alpha, se, alpha / se, len(margins))


def train_with_prior(
    pairs: TrainingPairs,
    model: ModelParams,
    params: TrainingParams,
    monotone: tuple[int, ...] = (),
    *,
    progress: bool = False,
    checkpoint: Path | None = None,
) -> tuple[Members, TrainingHistory]:
    """Fit the weighted sum, cross-fit the network, train ``model.ensemble`` of it, and shrink them by the evidence.

    Raises as :func:`realm_lib.reward.combiner.training.train`.
    """
    differences = (pairs.train[:, 0] - pairs.train[:, 1]).numpy()
    weights = fit_weights(differences, monotone)
    last = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}_members")
    held_out, history = _cross_fit(pairs, weights, model, params, monotone, progress, checkpoint)
    state = _train_members(pairs, weights, model, params, monotone, history.best_epoch, progress, last)
    networks = added(state)
    offset_of = pairs.validation[:, 0] - pairs.validation[:, 1]
    unseen = (offset_of.numpy() @ weights, networks.margins(pairs.validation).mean(dim=0).numpy())
    evidence = find_evidence(*(np.concatenate(both) for both in zip(held_out, unseen, strict=True)))
    found = state.history
    found.out_of_fold_loss, found.best_epoch = history.out_of_fold_loss, history.best_epoch
    found.seconds += history.seconds
    found.evidence, found.bend = asdict(evidence), evidence.bend
    drawn = draw_weights(differences, weights, model.ensemble, derive_seed(params.seed, "combiner", "weighted sum"))
    *layers, (weight, bias) = networks.layers
    linear = torch.from_numpy(drawn) + evidence.bend * networks.linear
    for file in (checkpoint, last):
        if file is not None:
            file.unlink(missing_ok=True)
    return Members([*layers, (evidence.bend * weight, evidence.bend * bias)], linear), found


def draw_folds(posts: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each pair of ``posts`` [pairs], from 0; -1 for pairs beyond the 20,000 that are cross-fitted.

    A post's pairs stay together: what they share must not be known of a pair that is asked.
    """
    _, codes, sizes = np.unique(posts, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    used = order[np.cumsum(sizes[order]) <= _MOST_PAIRS]
    fold_of = np.full(len(sizes), -1)
    fold_of[used] = np.arange(len(used)) % _FOLDS
    return fold_of[codes]


def _cross_fit(
    pairs: TrainingPairs,
    weights: Floats,
    model: ModelParams,
    params: TrainingParams,
    monotone: tuple[int, ...],
    progress: bool,
    checkpoint: Path | None,
) -> tuple[tuple[Floats, Floats], TrainingHistory]:
    """Offsets and out-of-fold margins of the pairs at the best epoch, and a history with that epoch and the losses."""
    fold = draw_folds(pairs.posts.numpy(), derive_seed(params.seed, "combiner", "folds"))
    asked = [torch.from_numpy(np.flatnonzero(fold == number)) for number in range(fold.max() + 1)]
    offset = _offset(pairs.train, weights)
    if len(asked) < 2:  # one post: nothing is unseen, and nothing is believed
        return (np.zeros(0), np.zeros(0)), TrainingHistory()
    rows = [torch.cat([other for other in asked if other is not own]).sort().values for own in asked]
    task = _task(pairs.train, rows, "fold", weights, params, monotone)
    everyone = torch.cat(asked)

    def measure(state: State) -> Tensor:
        networks = added(state)
        single = [
            Members([(w[[m]], b[[m]]) for w, b in networks.layers], networks.linear[[m]]) for m in range(len(asked))
        ]
        return torch.cat([one.margins(pairs.train[own])[0] for one, own in zip(single, asked, strict=True)])

    def judge(state: State, _: list[int]) -> None:
        margins, losses = measure(state), state.history.out_of_fold_loss
        losses.append(bradley_terry_loss(offset[everyone] + margins).mean().item())
        require_finite(state.epoch, losses[-1])
        if losses[-1] < min(losses[:-1], default=math.inf):
            state.history.best_epoch = state.epoch
            state.kept["margins"] = margins

    state = train(
        task,
        model,
        params,
        epochs=params.num_epochs,
        begin=lambda state: judge(state, []),
        judge=judge,
        running=lambda state: (
            list(range(len(asked))) if state.epoch - state.history.best_epoch < params.patience else []
        ),
        progress=progress,
        checkpoint=checkpoint,
    )
    return (offset[everyone].numpy(), state.kept["margins"].numpy()), state.history


def _train_members(
    pairs: TrainingPairs,
    weights: Floats,
    model: ModelParams,
    params: TrainingParams,
    monotone: tuple[int, ...],
    epochs: int,
    progress: bool,
    checkpoint: Path | None,
) -> State:
    """The members on all pairs for ``epochs`` epochs, with the losses before the first and after each."""
    everything = torch.arange(len(pairs.train))
    task = _task(pairs.train, [everything] * model.ensemble, None, weights, params, monotone)
    seen, offsets = sample(pairs.train), _offset(pairs.validation, weights)
    seen_offsets = _offset(seen, weights)

    def judge(state: State, _: list[int]) -> None:
        history, networks = state.history, added(state)
        loss, accuracy = loss_and_accuracy(offsets + networks.margins(pairs.validation))
        train_loss, _ = loss_and_accuracy(seen_offsets + networks.margins(seen))
        require_finite(state.epoch, train_loss, loss)
        history.train_loss.append(train_loss)
        history.validation_loss.append(loss)
        history.validation_accuracy.append(accuracy)
        history.member_epochs = [state.epoch] * model.ensemble

    return train(
        task,
        model,
        params,
        epochs=epochs,
        begin=lambda state: judge(state, []),
        judge=judge,
        running=lambda _: list(range(model.ensemble)),
        progress=progress,
        checkpoint=checkpoint,
    )


def _task(
    train_pairs: Tensor,
    rows: list[Tensor],
    kind: str | None,
    weights: Floats,
    params: TrainingParams,
    monotone: tuple[int, ...],
) -> Task:
    task = Task(
        pairs=train_pairs,
        rows=rows,
        names=[("combiner", number) if kind is None else ("combiner", kind, number) for number in range(len(rows))],
        offset=_offset(train_pairs, weights),
        penalty=params.prior_pairs / min(map(len, rows)) / 8,
        monotone=monotone,
        weights=torch.from_numpy(weights),
    )
    return task


def _offset(pairs: Tensor, weights: Floats) -> Tensor:
    return (pairs[:, 0] - pairs[:, 1]) @ torch.from_numpy(weights)
