"""What training the combiner costs beside the usual loop: ``python tests/benchmarks/bench_combiner.py``, by hand.

The usual loop is a DataLoader with batches of 16 over torch.nn modules and AdamW. One thread each; data made here from
a known utility in which relevance gates quality (simulated).

Time: 350,000 pairs, 10 epochs. Ours in full; the usual loop for 2,000 steps at a time, scaled to all. Three rounds,
taking turns so that a busy machine slows both alike. Processor seconds beside wall seconds: on a machine with other
work on it, the former are nearer to what an idle core takes.

Log-loss: 20,000 pairs, 10 epochs, both from three seeds, on 50,000 test pairs; the logistic regression beside them.

Ensemble: what five members cost beside one, for the same 20,000 pairs and for 350,000.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner import Combiner, LinearCombiner, chosen_and_rejected

EPOCHS = 10
PAIRS = 350_000
STEPS = 2_000
BATCH = 16
ROUNDS = 3
SMALL_PAIRS = 20_000
SEEDS = 3

Rewards = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def make_pairs(count: int, seed: int) -> pd.DataFrame:
    """Simulated pairs whose utility is quality, counted as far as the response is on topic."""
    generator = np.random.default_rng(seed)
    similarity = np.clip(generator.normal(0.45, 0.2, size=(count, 2)), -1, 1)
    quality = generator.normal(size=(count, 2))
    utility = 4 / (1 + np.exp(-(similarity - 0.45) / 0.06)) * (quality + 0.5)
    score = 3 * quality + generator.normal(scale=0.6, size=(count, 2)) - 1
    wins = generator.random(count) < 1 / (1 + np.exp(utility[:, 1] - utility[:, 0]))
    columns = {
        f"{name}_{side}": values[:, place]
        for name, values in (("score", score), ("similarity", similarity))
        for place, side in enumerate("AB")
    }
    return pd.DataFrame({**columns, "labels": wins.astype(int)})


class UsualLoop:
    """The common way: one DataLoader, small batches, torch.nn."""

    def __init__(self, train: pd.DataFrame, seed: int) -> None:
        torch.manual_seed(seed)
        chosen, rejected = chosen_and_rejected(train)
        pooled = np.concatenate([chosen, rejected])
        self.mean, self.std = pooled.mean(axis=0), pooled.std(axis=0)
        self.loader = DataLoader(TensorDataset(self._input(chosen), self._input(rejected)), BATCH, shuffle=True)
        self.network = nn.Sequential(
            nn.Linear(2, 64),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(32, 1),
        )
        params = TrainingParams()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
        )

    def epoch(self, steps: int | None = None) -> None:
        """One epoch, or its first ``steps`` steps."""
        self.network.train()
        for chosen, rejected in itertools.islice(self.loader, steps):
            self.optimiser.zero_grad()
            margin = self.network(chosen) - self.network(rejected)
            (-nn.functional.logsigmoid(margin).mean()).backward()
            self.optimiser.step()

    def fit(self, validation: pd.DataFrame) -> None:
        """All epochs; the weights of the best one on ``validation`` stay."""
        best = float("inf")
        for _ in range(EPOCHS):
            self.epoch()
            if (loss := log_loss(self.reward, validation)) < best:
                best, kept = loss, {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(kept)

    @torch.no_grad()
    def reward(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n]"""
        self.network.eval()
        return self.network(self._input(features)).squeeze(1).numpy()

    def _input(self, features: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy((features - self.mean) / self.std)


def log_loss(reward: Rewards, pairs: pd.DataFrame) -> float:
    """Mean -log sigmoid(margin), in nats."""
    chosen, rejected = chosen_and_rejected(pairs)
    return float(np.logaddexp(0, reward(rejected).astype(np.float64) - reward(chosen)).mean())


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.4f} (sd {statistics.stdev(values):.4f})"


def main() -> None:
    """Print all three comparisons."""
    torch.set_num_threads(1)
    # Patience that never ends: equal epochs for both.
    params = TrainingParams(num_epochs=EPOCHS, patience=EPOCHS)
    train, validation, test = make_pairs(PAIRS, 1), make_pairs(35_000, 2), make_pairs(50_000, 3)
    usual = UsualLoop(train, 0)
    usual.epoch(100)
    scale = EPOCHS * len(usual.loader) / STEPS
    ours_times, usual_times = [], []
    print(f"{PAIRS:,} pairs, {EPOCHS} epochs, one thread: wall and processor seconds")
    for number in range(ROUNDS):
        combiner = Combiner()
        ours_times.append(timed(lambda fitted=combiner: fitted.fit(train, validation, params)))
        usual_times.append(tuple(scale * seconds for seconds in timed(lambda: usual.epoch(STEPS))))
        print(
            f"  round {number + 1}: ours {ours_times[-1][0]:.1f} {ours_times[-1][1]:.1f}   "
            f"batches of {BATCH} {usual_times[-1][0]:.0f} {usual_times[-1][1]:.0f} (scaled)"
        )
    for place, kind in enumerate(("wall", "processor")):
        ours = statistics.median(times[place] for times in ours_times)
        theirs = statistics.median(times[place] for times in usual_times)
        print(f"  median {kind}: ours {ours:.1f} s, batches of {BATCH} {theirs:.0f} s, ratio {theirs / ours:.0f}")
    print(f"  test log-loss of ours: {log_loss(combiner.reward, test):.4f}")

    small, small_validation = make_pairs(SMALL_PAIRS, 1), make_pairs(2_000, 2)
    ours_losses, usual_losses = [], []
    for seed in range(SEEDS):
        combiner = Combiner()
        combiner.fit(small, small_validation, params.model_copy(update={"seed": seed}))
        ours_losses.append(log_loss(combiner.reward, test))
        usual = UsualLoop(small, seed)
        usual.fit(small_validation)
        usual_losses.append(log_loss(usual.reward, test))
    print(f"{SMALL_PAIRS:,} pairs, {EPOCHS} epochs, {SEEDS} seeds: test log-loss in nats")
    print(
        f"  ours {spread(ours_losses)}, batches of {BATCH} {spread(usual_losses)}, "
        f"logistic regression {log_loss(LinearCombiner().fit(small).reward, test):.4f}"
    )

    print("five members beside one: processor seconds")
    for pairs, held_out in ((small, small_validation), (train, validation)):
        _, one = timed(lambda p=pairs, v=held_out: Combiner().fit(p, v, params))
        five_combiner = Combiner(ModelParams(ensemble=5))
        _, five = timed(lambda c=five_combiner, p=pairs, v=held_out: c.fit(p, v, params))
        print(
            f"  {len(pairs):,} pairs: one {one:.1f}, five {five:.1f}, ratio {five / one:.1f}; "
            f"test log-loss of five {log_loss(five_combiner.reward, test):.4f}"
        )


if __name__ == "__main__":
    main()
