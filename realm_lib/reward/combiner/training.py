"""Fitting the members to preferences: batches, rates, early stopping, and a training that survives a kill.

Everything random comes from (seed, member, epoch), so an interrupted training needs no generator's state to go on,
and a member of an ensemble sees the batches and the dropout that it would see alone.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner.checkpoint import State, TrainingHistory, fingerprint, restore, save
from realm_lib.reward.combiner.network import (
    Layers,
    bradley_terry_loss,
    draw_dropped,
    dropout_threshold,
    member_rewards,
    new_layers,
)
from realm_lib.reward.combiner.pairs import CombinerError
from realm_lib.runs.seeds import derive_seed

_LEAST_STEPS = 256
"""Least steps an epoch. With a few steps of 4096 pairs a small set would end its epochs untrained: 20,000 simulated
pairs, 10 epochs, rate 1e-4 give a test log-loss of 0.413 with full batches, 0.388 with 64 steps, 0.387 with 256, and
0.386 with the 1,250 steps of batches of 16."""
_LEAST_BATCH = 16
_GREATEST_RATE = 0.01
_PAIRS_AT_ONCE = 1024
"""Members times pairs of one multiplication: more fall out of the cache, and batching members then costs time."""
_ROWS_AT_ONCE = 8192
_TRAIN_LOSS_PAIRS = 32768


@dataclass(frozen=True)
class TrainingPairs:
    """Standardised features of pairs, float32 [pairs, 2, features]: the chosen response, then the rejected one."""

    train: Tensor
    validation: Tensor


def effective_batch_size(pairs: int, params: TrainingParams) -> int:
    """``params.batch_size``, less where an epoch would have fewer than 256 steps of it, but 16 at least.

    Never more than ``pairs``.

    The rate follows the batch, so what this changes is how many steps there are.
    """
    return min(params.batch_size, max(_LEAST_BATCH, pairs // _LEAST_STEPS), pairs)


def effective_learning_rate(batch_size: int, params: TrainingParams) -> float:
    """``params.learning_rate`` times sqrt(batch_size / 16), but at most 0.01.

    Adam's square-root scaling rule (Malladi et al. 2022, arXiv 2205.10343). The rule would also move Adam's betas,
    which has no meaning at factors of 10 and more: only the rate is scaled. A ``params.learning_rate`` that is above
    0.01 itself is taken as it is.

    The rate stays the same from the first step to the last. Measured on 3,000 to 350,000 simulated pairs: a warm-up
    made no difference, and a decay (a cosine, or a line over the last 10 to 30 % of the steps) gave the same log-loss
    at best, and a worse one where the epochs are few for the pairs.
    """
    scaled = params.learning_rate * math.sqrt(batch_size / 16)
    return min(scaled, max(_GREATEST_RATE, params.learning_rate))


def train_members(
    pairs: TrainingPairs,
    model: ModelParams,
    params: TrainingParams,
    *,
    progress: bool = False,
    checkpoint: Path | None = None,
) -> tuple[Layers, TrainingHistory]:
    """Train ``model.ensemble`` members on ``pairs`` with AdamW and return their best weights and the history.

    A member keeps the weights of its epoch with the lowest validation loss and stops ``params.patience`` epochs after
    it. With ``checkpoint``, the state is written there after each epoch, a training with the same parameters and pairs
    goes on from it to the very weights that it would have reached uninterrupted, and the file is removed at the end.

    Raises :class:`CombinerError` when the losses stop being finite, and for a damaged checkpoint.
    """
    with _alone():
        return _train_members(pairs, model, params, progress, checkpoint)


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, and gradients whatever the caller has switched off.

    A step is too small to share: on two cores with other work on them, threads that wait for each other made a
    training of 2 seconds last 200. One thread also makes the weights independent of the number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _train_members(
    pairs: TrainingPairs, model: ModelParams, params: TrainingParams, progress: bool, checkpoint: Path | None
) -> tuple[Layers, TrainingHistory]:
    state = _new_state(model, params, *pairs.train.shape[::2])
    identity = ""
    if checkpoint is not None:
        identity = fingerprint((pairs.train, pairs.validation), model, params)
        restore(state, checkpoint, identity)
    history = state.history
    with tqdm(total=params.num_epochs, initial=state.epoch, desc="combiner", unit="epoch", disable=not progress) as bar:
        while state.epoch < params.num_epochs and (running := state.running(params.patience)):
            started = time.perf_counter()
            _train_epoch(state, running, pairs.train, model, params)
            state.epoch += 1
            _judge_epoch(state, running, pairs)
            history.seconds += time.perf_counter() - started
            if checkpoint is not None:
                save(state, checkpoint, identity)
            bar.set_postfix(validation=f"{history.validation_loss[-1]:.4f}")
            bar.update()
    history.best_epoch = 1 + int(np.argmin(history.validation_loss))
    train_loss, _ = _loss_and_accuracy(_margins(_sample(pairs.train), state.best))
    validation_loss, accuracy = _loss_and_accuracy(_margins(pairs.validation, state.best))
    history.kept = {"train_loss": train_loss, "validation_loss": validation_loss, "validation_accuracy": accuracy}
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return state.best, history


def _new_state(model: ModelParams, params: TrainingParams, pairs: int, inputs: int) -> State:
    started = new_layers(model, params.seed, inputs)
    layers = [(weight.requires_grad_(), bias.requires_grad_()) for weight, bias in started]
    batch_size = effective_batch_size(pairs, params)
    rate = effective_learning_rate(batch_size, params)
    return State(
        layers=layers,
        best=[(weight.detach().clone(), bias.detach().clone()) for weight, bias in layers],
        best_loss=torch.full((model.ensemble,), math.inf, dtype=torch.float64),
        optimiser=torch.optim.AdamW(
            [tensor for layer in layers for tensor in layer], rate, weight_decay=params.weight_decay, fused=True
        ),
        epoch=0,
        history=TrainingHistory(
            member_epochs=[0] * model.ensemble,
            batch_size=batch_size,
            learning_rate=rate,
        ),
    )


def _train_epoch(state: State, running: list[int], train: Tensor, model: ModelParams, params: TrainingParams) -> None:
    """One pass of the ``running`` members over the pairs, each in its own order."""
    generators, orders = [], []
    for member in running:
        seed = derive_seed(params.seed, "combiner", member, "epoch", state.epoch)
        generators.append(torch.Generator().manual_seed(seed))
        orders.append(torch.randperm(len(train), generator=generators[-1]))
    # As even as can be, rather than full batches and a small last one whose few pairs would weigh the most.
    steps = -(-len(train) // state.history.batch_size)
    threshold = dropout_threshold(model.dropout)
    for batch in torch.stack(orders).tensor_split(steps, dim=1):
        state.optimiser.zero_grad()
        for group in _groups(len(running), batch.shape[1]):
            members = running[group]
            layers = state.layers
            if len(members) < len(state.best_loss):
                layers = [(weight[members], bias[members]) for weight, bias in layers]
            # [members, pairs, 2, inputs] to all chosen responses, then all rejected ones.
            features = train[batch[group]].transpose(1, 2).flatten(1, 2)
            dropped = None
            if threshold:
                dropped = draw_dropped(generators[group], features.shape[1], model.hidden_dims, threshold)
            rewards = member_rewards(features, layers, dropped, keep=1 - threshold / 2**16)
            chosen, rejected = rewards.chunk(2, dim=1)
            # The sum over members: no weight is shared, so each member gets the gradient of its own mean.
            bradley_terry_loss(chosen - rejected).mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()


def _groups(members: int, batch_size: int) -> Iterator[slice]:
    size = max(1, _PAIRS_AT_ONCE // batch_size)
    return (slice(start, start + size) for start in range(0, members, size))


@torch.no_grad()
def _judge_epoch(state: State, running: list[int], pairs: TrainingPairs) -> None:
    """Measure the epoch, keep the best weights of each member, and put stopped members back to theirs."""
    history = state.history
    # The optimiser's momentum has moved the stopped members too.
    stopped = [member for member in range(len(state.best_loss)) if member not in running]
    _copy_members(state.best, state.layers, stopped)
    margins = _margins(pairs.validation, state.layers)
    member_losses = bradley_terry_loss(margins).mean(dim=1)
    for member in running:
        if member_losses[member] < state.best_loss[member]:
            state.best_loss[member] = member_losses[member]
            history.member_epochs[member] = state.epoch
            _copy_members(state.layers, state.best, [member])
    loss, accuracy = _loss_and_accuracy(margins)
    train_loss, _ = _loss_and_accuracy(_margins(_sample(pairs.train), state.layers))
    if not (math.isfinite(loss) and math.isfinite(train_loss)):
        raise CombinerError(
            f"training diverged in epoch {state.epoch} (train loss {train_loss}, validation loss {loss}): "
            "lower training.learning_rate"
        )
    history.train_loss.append(train_loss)
    history.validation_loss.append(loss)
    history.validation_accuracy.append(accuracy)


def _copy_members(source: Layers, target: Layers, members: list[int]) -> None:
    for source_layer, target_layer in zip(source, target, strict=True):
        for tensor, copy in zip(source_layer, target_layer, strict=True):
            copy[members] = tensor[members]


def _sample(train: Tensor) -> Tensor:
    """At most 32,768 pairs, evenly from the whole, as tables come sorted by domain."""
    return train[:: -(-len(train) // _TRAIN_LOSS_PAIRS)]


@torch.no_grad()
def _margins(pairs: Tensor, layers: Layers) -> Tensor:
    """r(chosen) - r(rejected) of each member: float64 [members, pairs]. All units count: dropout is for training."""
    members = len(layers[0][0])
    margins = []
    for chunk in torch.split(pairs, max(1, _ROWS_AT_ONCE // (2 * members))):
        rewards = member_rewards(chunk.flatten(0, 1).expand(members, -1, -1), layers).double()
        margins.append(rewards[:, 0::2] - rewards[:, 1::2])
    return torch.cat(margins, dim=1)


def _loss_and_accuracy(margins: Tensor) -> tuple[float, float]:
    """Of the mean over members; a tie counts half."""
    mean = margins.mean(dim=0)
    correct = (mean > 0).double() + 0.5 * (mean == 0).double()
    return bradley_terry_loss(mean).mean().item(), correct.mean().item()
