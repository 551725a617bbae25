"""Epochs of training: batches, rates, steps, and a training that survives a kill.

Everything random comes from (seed, member, epoch), so an interrupted training needs no generator's state to go on,
and a member of an ensemble sees the batches and the dropout that it would see alone. All is float64, so that
processors that round otherwise come to the same weights.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    keep_signs,
    member_rewards,
    monotone_signs,
    new_layers,
)
from realm_lib.reward.combiner.pairs import CombinerError
from realm_lib.runs.seeds import derive_seed

LEAST_STEPS = 256
"""Least steps an epoch. With a few steps of 4096 pairs a small set would end its epochs untrained: 20,000 simulated
pairs, 10 epochs, rate 1e-4 give a test log-loss of 0.413 with full batches, 0.388 with 64 steps, 0.387 with 256, and
0.386 with the 1,250 steps of batches of 16."""
_LEAST_BATCH = 16
_GREATEST_RATE = 0.01
_PAIRS_AT_ONCE = 1024
"""Members times pairs of one multiplication: more fall out of the cache, and batching members then costs time."""
_ROWS_AT_ONCE = 8192
_CURVE_PAIRS = 8192


@dataclass(frozen=True)
class TrainingPairs:
    """Standardised and clipped features of pairs, float64 [pairs, 2, features]: the chosen response, then the other."""

    train: Tensor
    validation: Tensor
    posts: Tensor
    """The number of each training pair's post, int64 [pairs]."""


@dataclass(frozen=True)
class Members:
    """What training leaves, float64: networks, and a weighted sum [members, features] beside each."""

    layers: Layers
    linear: Tensor

    @torch.no_grad()
    def rewards(self, features: Tensor) -> Tensor:
        """The reward that each member gives, [members, n], from standardised ``features`` [n, features]."""
        chunks = torch.split(features, max(1, _ROWS_AT_ONCE // len(self.linear)))
        of_networks = [member_rewards(chunk.expand(len(self.linear), -1, -1), self.layers) for chunk in chunks]
        return torch.cat(of_networks, dim=1) + self.linear @ features.T

    def margins(self, pairs: Tensor) -> Tensor:
        """r(chosen) - r(rejected) of each member, [members, pairs]."""
        rewards = self.rewards(pairs.flatten(0, 1))
        return rewards[:, 0::2] - rewards[:, 1::2]


@dataclass(frozen=True)
class Task:
    """What networks are trained to add to the margins ``offset``, and on which pairs each."""

    pairs: Tensor
    """float64 [pairs, 2, features]"""
    rows: Sequence[Tensor]
    """The pairs of each network; an epoch takes as many of each as the one with the fewest has."""
    names: Sequence[tuple[str | int, ...]]
    """What each network's randomness is named by."""
    offset: Tensor
    """float64 [pairs]"""
    penalty: float = 0.0
    """What a nat of squared margin, less the offset, costs: see :mod:`realm_lib.reward.combiner.prior`."""
    dropout: float = 0.0
    starts_at_zero: bool = True
    least_steps: int = LEAST_STEPS
    """Of an epoch."""
    monotone: tuple[int, ...] = ()
    """Features that networks cannot fall with."""
    weights: Tensor | None = None
    """Those of the weighted sum behind ``offset`` [features]."""

    @property
    def size(self) -> int:
        """Pairs an epoch."""
        return min(len(rows) for rows in self.rows)


def effective_batch_size(pairs: int, params: TrainingParams, least_steps: int = LEAST_STEPS) -> int:
    """``params.batch_size``, less where an epoch would have fewer than ``least_steps`` of it, but 16 at least.

    Never more than ``pairs``.

    The rate follows the batch, so what this changes is how many steps there are.
    """
    return min(params.batch_size, max(_LEAST_BATCH, pairs // least_steps), pairs)


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


def train(
    task: Task,
    model: ModelParams,
    params: TrainingParams,
    *,
    epochs: int,
    begin: Callable[[State], None],
    judge: Callable[[State, list[int]], None],
    running: Callable[[State], list[int]],
    what: str,
    progress: bool,
    checkpoint: Path | None,
) -> State:
    """Train the networks of ``task`` with AdamW for ``epochs`` epochs at most, while any are ``running``.

    ``begin`` fills what is kept before the first epoch, ``judge`` after each; ``what`` names the bar. With
    ``checkpoint``, the state is written there after each epoch, and a training with the same parameters and pairs goes
    on from it to the very weights that it would have reached uninterrupted; removing the file is the caller's.

    Raises :class:`CombinerError` when the losses stop being finite, and for a damaged checkpoint.
    """
    state = _new_state(task, model, params)
    begin(state)
    identity = ""
    if checkpoint is not None:
        tensors = (task.pairs, task.offset, *task.rows)
        identity = fingerprint(tensors, model, params.model_copy(update={"num_epochs": epochs}))
        restore(state, checkpoint, identity)
    with tqdm(total=epochs, initial=state.epoch, desc=what, unit="epoch", disable=not progress) as bar:
        while state.epoch < epochs and (members := running(state)):
            started = time.perf_counter()
            _train_epoch(state, members, task, model, params)
            state.epoch += 1
            judge(state, members)
            state.history.seconds += time.perf_counter() - started
            if checkpoint is not None:
                save(state, checkpoint, identity)
            bar.update()
    return state


@contextmanager
def alone() -> Iterator[None]:
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


def _new_state(task: Task, model: ModelParams, params: TrainingParams) -> State:
    widths = [task.pairs.shape[2], *model.hidden_dims, model.output_dim]
    layers = new_layers(widths, [derive_seed(params.seed, *name, "weights") for name in task.names])
    if task.starts_at_zero:
        for tensor in layers[-1]:
            tensor.zero_()
    skip = torch.zeros(len(task.rows), widths[0], dtype=torch.float64)
    learned = [tensor for layer in layers for tensor in layer]
    if task.monotone:
        signs = monotone_signs(widths, task.monotone)
        for (weight, _), sign in zip(layers, signs, strict=True):
            weight.copy_(torch.where(sign == 0, weight, sign * weight.abs()))
        if task.weights is not None:
            learned.append(skip)
    batch_size = effective_batch_size(task.size, params, task.least_steps)
    rate = effective_learning_rate(batch_size, params)
    return State(
        layers=layers,
        skip=skip,
        optimiser=torch.optim.AdamW(
            [tensor.requires_grad_() for tensor in learned], rate, weight_decay=params.weight_decay, fused=True
        ),
        epoch=0,
        history=TrainingHistory(batch_size=batch_size, learning_rate=rate),
    )


def _train_epoch(state: State, running: list[int], task: Task, model: ModelParams, params: TrainingParams) -> None:
    """One pass of the ``running`` networks over their pairs, each in its own order."""
    generators, orders = [], []
    for member in running:
        seed = derive_seed(params.seed, *task.names[member], "epoch", state.epoch)
        generators.append(torch.Generator().manual_seed(seed))
        rows = task.rows[member]
        orders.append(rows[torch.randperm(len(rows), generator=generators[-1])[: task.size]])
    # As even as can be, rather than full batches and a small last one whose few pairs would weigh the most.
    steps = -(-task.size // state.history.batch_size)
    threshold = dropout_threshold(task.dropout)
    signs = monotone_signs([task.pairs.shape[2], *model.hidden_dims, 1], task.monotone) if task.monotone else None
    pairs = task.pairs.flatten(1)  # several times as fast to gather from as whole pairs of responses
    for batch in torch.stack(orders).tensor_split(steps, dim=1):
        state.optimiser.zero_grad()
        for group in _groups(len(running), batch.shape[1]):
            members = running[group]
            layers, skip = state.layers, state.skip
            if len(members) < len(task.rows):
                layers, skip = [(weight[members], bias[members]) for weight, bias in layers], skip[members]
            # [members, pairs, 2, inputs] to all chosen responses, then all rejected ones.
            places = batch[group]
            features = pairs.index_select(0, places.flatten()).view(*places.shape, 2, -1).transpose(1, 2).flatten(1, 2)
            dropped = None
            if threshold:
                dropped = draw_dropped(generators[group], features.shape[1], model.hidden_dims, threshold)
            rewards = member_rewards(features, layers, dropped, keep=1 - threshold / 2**16)
            if skip.requires_grad:
                rewards = rewards + (features @ skip.unsqueeze(2)).squeeze(2)
            chosen, rejected = rewards.chunk(2, dim=1)
            margins = chosen - rejected
            losses = bradley_terry_loss(task.offset[places] + margins)
            if task.penalty:
                losses = losses + task.penalty * margins * margins
            # The sum over members: no weight is shared, so each member gets the gradient of its own mean.
            losses.mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        if signs is not None:
            keep_signs(state.layers, signs)
            _keep_rising(state.skip, task)


def _groups(members: int, batch_size: int) -> Iterator[slice]:
    size = max(1, _PAIRS_AT_ONCE // batch_size)
    return (slice(start, start + size) for start in range(0, members, size))


@torch.no_grad()
def _keep_rising(skip: Tensor, task: Task) -> None:
    """The weighted sum and what is added to it have no negative weight together."""
    if task.weights is not None:
        rising = list(task.monotone)
        skip[:, rising] = torch.maximum(skip[:, rising], -task.weights[rising])


def added(state: State) -> Members:
    """What the networks add to the offset."""
    return Members([(weight.detach(), bias.detach()) for weight, bias in state.layers], state.skip.detach())


def sample(pairs: Tensor) -> Tensor:
    """At most 8,192 pairs, evenly from the whole, as tables come sorted by domain."""
    return pairs[:: -(-len(pairs) // _CURVE_PAIRS)]


def loss_and_accuracy(margins: Tensor) -> tuple[float, float]:
    """Of the mean over members, from their ``margins`` [members, pairs]; a tie counts half."""
    mean = margins.mean(dim=0)
    correct = (mean > 0).double() + 0.5 * (mean == 0).double()
    return bradley_terry_loss(mean).mean().item(), correct.mean().item()


def require_finite(epoch: int, *losses: float) -> None:
    """Raise :class:`CombinerError` for a training that has diverged."""
    if not all(math.isfinite(loss) for loss in losses):
        raise CombinerError(f"training diverged in epoch {epoch} (losses {losses}): lower training.learning_rate")
