"""The training with a prior: a weighted sum, and a network that bends it as far as unseen pairs bear it out.

reward = w·z + s f(z). w is the logistic regression's. f begins at zero and is held there by a penalty on its margins,
(K / n) mean(margin²) / 8: near even odds a pair says a quarter as much of its margin's square as a normal with the same
halved, so that K is the number of pairs whose word the prior has. Two questions are asked of pairs that f was not
trained on, since on its own f always seems to help: for how many epochs to train it, and how much of it, s, to believe.
Where they say that f is held too hard, as they do where labels have no chance in them, K becomes a tenth of itself.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner.checkpoint import State, TrainingHistory
from realm_lib.reward.combiner.linear import Floats, draw_weights, fit_weights, logistic_regression
from realm_lib.reward.combiner.network import bradley_terry_loss
from realm_lib.reward.combiner.training import (
    LEAST_STEPS,
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
_MOST_PAIRS = 10_000
"""Pairs of the cross-fit: more say no more about how far to believe the network."""
_STEPS_OF_A_PART = 64
"""Least steps of an epoch of the cross-fit where it takes a part of the pairs: 256 would be a third of all the time."""
_ALMOST_NONE = 1e-9  # of a ridge: margins that order all pairs rightly would have no best factor
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
    def held_too_hard(self) -> bool:
        """Whether the margins should be larger than the prior lets them be: by a tenth, and three standard errors."""
        return self.se is not None and self.alpha - 3 * self.se > 1.1

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

    A logistic regression on one number with an offset.
    """
    if not margins.any():
        return Evidence(0.0, None, 0.0, len(margins))
    (alpha,), ((curvature,),) = logistic_regression(margins[:, None], offset, ridge=_ALMOST_NONE)
    return Evidence(float(alpha), float(curvature**-0.5), float(alpha * curvature**0.5), len(margins))


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
    weights, covariance = fit_weights(_differences(pairs.train).numpy(), monotone)
    training = _Training(pairs, torch.from_numpy(weights), model, params, monotone, progress)

    def file(step: str) -> Path | None:
        return None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}_{step}")

    files = [checkpoint]
    (offset, margins), crossed = training.cross_fit(checkpoint)
    seconds = crossed.seconds
    while find_evidence(offset.numpy(), margins.numpy()).held_too_hard and training.params.prior_pairs > 1:
        fewer = training.params.prior_pairs / 10
        freer = replace(training, params=params.model_copy(update={"prior_pairs": fewer}))
        files.append(file(f"{fewer:g}"))
        unseen, found = freer.cross_fit(files[-1])
        seconds += found.seconds
        if min(found.out_of_fold_loss) >= min(crossed.out_of_fold_loss):
            break
        training, (offset, margins), crossed = freer, unseen, found
    files.append(file("members"))
    state = training.train_members(crossed.best_epoch, files[-1])
    networks, history = added(state), state.history
    evidence = find_evidence(
        torch.cat([offset, training.offset(pairs.validation)]).numpy(),
        torch.cat([margins, networks.margins(pairs.validation).mean(dim=0)]).numpy(),
    )
    history.out_of_fold_loss, history.best_epoch = crossed.out_of_fold_loss, crossed.best_epoch
    history.seconds, history.prior_pairs = history.seconds + seconds, training.params.prior_pairs
    history.evidence, history.bend = asdict(evidence), evidence.bend
    drawn = draw_weights(weights, covariance, model.ensemble, derive_seed(params.seed, "combiner", "weighted sum"))
    *layers, (weight, bias) = networks.layers
    linear = torch.from_numpy(drawn) + evidence.bend * networks.linear
    # Until here, so that a training which is killed among the members does not cross-fit again.
    for done in files:
        if done is not None:
            done.unlink(missing_ok=True)
    return Members([*layers, (evidence.bend * weight, evidence.bend * bias)], linear), history


def draw_folds(posts: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each pair of ``posts`` [pairs], from 0; -1 for pairs beyond the 10,000 that are cross-fitted.

    A post's pairs stay together: what they share must not be known of a pair that is asked.
    """
    _, codes, sizes = np.unique(posts, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    used = order[np.cumsum(sizes[order]) <= _MOST_PAIRS]
    fold_of = np.full(len(sizes), -1)
    fold_of[used] = np.arange(len(used)) % _FOLDS
    return fold_of[codes]


@dataclass(frozen=True)
class _Training:
    """Networks beside the weighted sum with ``weights`` [features]: those of the folds, and the members."""

    pairs: TrainingPairs
    weights: Tensor
    model: ModelParams
    params: TrainingParams
    monotone: tuple[int, ...]
    progress: bool

    def offset(self, pairs: Tensor) -> Tensor:
        """The weighted sum's margins [pairs]."""
        return _differences(pairs) @ self.weights

    def cross_fit(self, checkpoint: Path | None) -> tuple[tuple[Tensor, Tensor], TrainingHistory]:
        """The weighted sum's and the networks' margins of pairs that these do not know, at the best epoch.

        And a history with that epoch and the losses.
        """
        fold = draw_folds(self.pairs.posts.numpy(), derive_seed(self.params.seed, "combiner", "folds"))
        asked = [torch.from_numpy(np.flatnonzero(fold == number)) for number in range(fold.max() + 1)]
        if len(asked) < 2:  # one post: nothing is unseen, and nothing is believed
            return (torch.zeros(0), torch.zeros(0)), TrainingHistory()
        rows = [torch.cat([other for other in asked if other is not own]).sort().values for own in asked]
        offset = self.offset(self.pairs.train[torch.cat(asked)])

        def judge(state: State, _: list[int]) -> None:
            networks, losses = added(state), state.history.out_of_fold_loss
            of_folds = [
                Members([(weight[[n]], bias[[n]]) for weight, bias in networks.layers], networks.linear[[n]])
                for n in range(len(asked))
            ]
            margins = [one.margins(self.pairs.train[own])[0] for one, own in zip(of_folds, asked, strict=True)]
            loss = bradley_terry_loss(offset + torch.cat(margins)).mean().item()
            require_finite(state.epoch, loss)
            if loss < min(losses, default=math.inf):
                state.history.best_epoch = state.epoch
                state.kept["margins"] = torch.cat(margins)
            losses.append(loss)

        def running(state: State) -> list[int]:
            waited = state.epoch - state.history.best_epoch
            return list(range(len(asked))) if waited < self.params.patience else []

        names = [("combiner", "fold", number) for number in range(len(asked))]
        steps = LEAST_STEPS if len(offset) == len(self.pairs.train) else _STEPS_OF_A_PART
        state = self._train(rows, names, "combiner, folds", self.params.num_epochs, judge, running, checkpoint, steps)
        return (offset, state.kept["margins"]), state.history

    def train_members(self, epochs: int, checkpoint: Path | None) -> State:
        """The members on all pairs for ``epochs`` epochs, with the losses before the first and after each."""
        members = range(self.model.ensemble)
        seen, unseen = sample(self.pairs.train), sample(self.pairs.validation)
        offsets = self.offset(seen), self.offset(unseen)

        def judge(state: State, _: list[int]) -> None:
            networks, history = added(state), state.history
            train_loss = loss_and_accuracy(offsets[0] + networks.margins(seen))[0]
            loss, accuracy = loss_and_accuracy(offsets[1] + networks.margins(unseen))
            require_finite(state.epoch, train_loss, loss)
            history.train_loss.append(train_loss)
            history.validation_loss.append(loss)
            history.validation_accuracy.append(accuracy)
            history.member_epochs = [state.epoch for _ in members]

        everything = torch.arange(len(self.pairs.train))
        names = [("combiner", member) for member in members]
        return self._train(
            [everything for _ in members],
            names,
            "combiner, members",
            epochs,
            judge,
            lambda _: list(members),
            checkpoint,
        )

    def _train(
        self,
        rows: Sequence[Tensor],
        names: Sequence[tuple[str | int, ...]],
        what: str,
        epochs: int,
        judge: Callable[[State, list[int]], None],
        running: Callable[[State], list[int]],
        checkpoint: Path | None,
        least_steps: int = LEAST_STEPS,
    ) -> State:
        task = Task(
            pairs=self.pairs.train,
            rows=rows,
            names=names,
            offset=self.offset(self.pairs.train),
            penalty=self.params.prior_pairs / min(map(len, rows)) / 8,
            monotone=self.monotone,
            weights=self.weights,
            least_steps=least_steps,
        )
        return train(
            task,
            self.model,
            self.params,
            epochs=epochs,
            begin=lambda state: judge(state, []),
            judge=judge,
            running=running,
            what=what,
            progress=self.progress,
            checkpoint=checkpoint,
        )


def _differences(pairs: Tensor) -> Tensor:
    return pairs[:, 0] - pairs[:, 1]
