"""The seed document's training: the network alone, from random weights, stopped early by validation pairs."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner.checkpoint import State, TrainingHistory
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


def train_plain(
    pairs: TrainingPairs,
    model: ModelParams,
    params: TrainingParams,
    monotone: tuple[int, ...] = (),
    *,
    progress: bool = False,
    checkpoint: Path | None = None,
) -> tuple[Members, TrainingHistory]:
    """Train ``model.ensemble`` networks with dropout; return their best weights and the history.

    A member keeps the weights of its epoch with the lowest validation loss and stops ``params.patience`` epochs after
    it. Raises as :func:`realm_lib.reward.combiner.training.train`.
    """
    members = range(model.ensemble)
    everything = torch.arange(len(pairs.train))
    task = Task(
        pairs=pairs.train,
        rows=[everything for _ in members],
        names=[("combiner", member) for member in members],
        offset=torch.zeros(len(pairs.train), dtype=torch.float64),
        dropout=model.dropout,
        starts_at_zero=False,
        monotone=monotone,
    )

    def begin(state: State) -> None:
        state.history.member_epochs = [0] * model.ensemble
        state.kept = {str(place): tensor.clone() for place, tensor in enumerate(_tensors(state))}
        state.kept["loss"] = torch.full((model.ensemble,), math.inf, dtype=torch.float64)

    def running(state: State) -> list[int]:
        best = state.history.member_epochs
        return [member for member in members if state.epoch - best[member] < params.patience]

    state = train(
        task,
        model,
        params,
        epochs=params.num_epochs,
        begin=begin,
        judge=lambda state, trained: _judge(state, trained, pairs),
        running=running,
        what="combiner",
        progress=progress,
        checkpoint=checkpoint,
    )
    best = [state.kept[str(place)] for place in range(2 * len(state.layers))]
    state.history.best_epoch = 1 + int(np.argmin(state.history.validation_loss))
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return Members(list(zip(best[0::2], best[1::2], strict=True)), state.skip), state.history


@torch.no_grad()
def _judge(state: State, trained: list[int], pairs: TrainingPairs) -> None:
    """Measure the epoch, keep the best weights of each member, and put stopped members back to theirs."""
    history = state.history
    layers = _tensors(state)
    best = [state.kept[str(place)] for place in range(len(layers))]
    # The optimiser's momentum has moved the stopped members too.
    stopped = [member for member in range(len(state.skip)) if member not in trained]
    for tensor, kept in zip(layers, best, strict=True):
        tensor[stopped] = kept[stopped]
    margins = added(state).margins(pairs.validation)
    losses = bradley_terry_loss(margins).mean(dim=1)
    for member in trained:
        if losses[member] < state.kept["loss"][member]:
            state.kept["loss"][member] = losses[member]
            history.member_epochs[member] = state.epoch
            for tensor, kept in zip(layers, best, strict=True):
                kept[member] = tensor[member]
    loss, accuracy = loss_and_accuracy(margins)
    train_loss, _ = loss_and_accuracy(added(state).margins(sample(pairs.train)))
    require_finite(state.epoch, train_loss, loss)
    history.train_loss.append(train_loss)
    history.validation_loss.append(loss)
    history.validation_accuracy.append(accuracy)


def _tensors(state: State) -> list[Tensor]:
    return [tensor.detach() for layer in state.layers for tensor in layer]
