"""Is the combiner ever worse than a weighted sum, and does it gain where there is something to gain?

    python tests/benchmarks/bench_combiner_prior.py [--features outputs/RUN/features] [--worlds gated:515 ...]

Accuracy in points, against the weighted sum (logistic regression on the training pairs), of the combiner as it is, of
the same held to rise with the score, of the seed document's plain network, and of two comparisons of scikit-learn's
on the training pairs: an additive model (splines of each feature) and a Gaussian process (its radial kernel by
Nystroem's method), both beside an unpenalised weighted sum, with the penalty that five folds of posts choose.

``--features`` takes the pairs of all three splits of a run and deals their posts out again, ``--splits`` times, to
splits of the same sizes. Without it, simulated worlds (tests/support/preference_worlds.py) of so many training pairs,
judged by what accuracy is to be expected on 40,000 pairs whose true probabilities are known. The combiners have the
sections ``model`` and ``training`` of ``--profile``. Prints each row as it is done, then a table in Markdown: mean
(worst to best), and processor seconds of a fit; one thread.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import SplineTransformer, StandardScaler

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support.preference_worlds import UTILITIES, draw_world, expected_accuracy  # noqa: E402

from realm_lib.config.profile import load_params  # noqa: E402
from realm_lib.config.training import ModelParams, TrainingParams  # noqa: E402
from realm_lib.reward.combiner import Combiner, LinearCombiner, chosen_and_rejected, feature_matrix  # noqa: E402

Matrix = NDArray[np.floating[Any]]
Rewards = Callable[[Matrix], Matrix]
Accuracy = Callable[[Rewards], float]

WORLDS = [f"{kind}:{pairs}" for pairs in (515, 4_000, 40_000) for kind in UTILITIES]
UNPENALISED = 100.0
"""Columns this many times as large need weights this many times as small: a penalty on their squares is nothing."""


class Trial(NamedTuple):
    """Pairs to fit to, the number that seeds the fit, and how well rewards order other pairs, in per cent."""

    train: pd.DataFrame
    validation: pd.DataFrame
    seed: int
    accuracy: Accuracy
    best: float
    """The accuracy of the truth; NaN where nobody knows it."""


class Kernel:
    """A weighted sum beside what ``expand`` makes of the standardised features, whose weights are penalised."""

    def __init__(self, train: pd.DataFrame, expand: Any) -> None:
        chosen, rejected = chosen_and_rejected(train)
        self.scaler = StandardScaler().fit(np.concatenate([chosen, rejected]))
        self.expand = expand.fit(self.scaler.transform(np.concatenate([chosen, rejected])))
        differences = self._inputs(chosen) - self._inputs(rejected)
        # Each pair in both orders, so that the labels hold both classes.
        posts = np.tile(train["post_id"].to_numpy(), 2)
        inputs, labels = np.concatenate([differences, -differences]), np.repeat([1, 0], len(differences))
        folds = list(GroupKFold(5, shuffle=True, random_state=0).split(inputs, groups=posts))
        model = LogisticRegressionCV(
            Cs=np.geomspace(1e-4, 1, 7),
            cv=folds,
            fit_intercept=False,
            scoring="neg_log_loss",
            solver="newton-cholesky",
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
        )
        self.weights = model.fit(inputs, labels).coef_[0]

    def reward(self, features: Matrix) -> Matrix:
        """float64 [n]"""
        rewards: Matrix = self._inputs(features) @ self.weights
        return rewards

    def _inputs(self, features: Matrix) -> Matrix:
        standardised = self.scaler.transform(features)
        return np.concatenate([UNPENALISED * standardised, self.expand.transform(standardised)], axis=1)


def methods(model: ModelParams, training: TrainingParams) -> dict[str, Callable[[Trial], Rewards]]:
    """What is compared: from a trial to the reward that it learns there."""

    def combiner(**changes: Any) -> Callable[[Trial], Rewards]:
        def fit(trial: Trial) -> Rewards:
            fitted = Combiner(ModelParams.model_validate({**model.model_dump(), **changes}))
            fitted.fit(trial.train, trial.validation, training.model_copy(update={"seed": trial.seed}))
            return fitted.reward

        return fit

    return {
        "weighted sum": lambda trial: LinearCombiner().fit(trial.train).reward,
        "combiner": combiner(prior="weighted_sum"),
        "monotone": combiner(prior="weighted_sum", monotone=["score"]),
        "plain network": combiner(prior=None),
        "additive": lambda trial: Kernel(trial.train, SplineTransformer(6, extrapolation="linear")).reward,
        "Gaussian process": lambda trial: Kernel(trial.train, Nystroem(gamma=0.25, random_state=0)).reward,
    }


def dealt_again(folder: Path, splits: int) -> Iterator[Trial]:
    """The pairs of a run's features in other splits of the same sizes, as near as whole posts allow."""
    parts = [pd.read_parquet(folder / f"{split}.parquet") for split in ("train", "validation", "test")]
    pairs = pd.concat(parts, ignore_index=True)
    posts = pd.factorize(pairs["post_id"])[0]
    for number in range(splits):
        order = np.random.default_rng(number).permutation(posts.max() + 1)
        dealt = np.cumsum(np.bincount(order[posts]))
        ends = [int(np.abs(dealt - size).argmin()) for size in np.cumsum([len(part) for part in parts])[:2]]
        train, validation, test = (
            pairs[np.digitize(order[posts], ends, right=True) == place].reset_index(drop=True) for place in range(3)
        )
        yield Trial(train, validation, number, lambda reward, test=test: accuracy(reward, test), float("nan"))


def drawn_again(world: str, seeds: int) -> Iterator[Trial]:
    """A simulated world, KIND:PAIRS, from several seeds."""
    kind, pairs = world.split(":")
    for seed in range(seeds):
        train, validation, test = draw_world(kind, int(pairs), seed)
        log_odds = test["log_odds"].to_numpy()

        def expected(reward: Rewards, test: pd.DataFrame = test, log_odds: Matrix = log_odds) -> float:
            a, b = feature_matrix(test)
            return 100 * expected_accuracy(reward(a).astype(float) - reward(b), log_odds)

        yield Trial(train, validation, seed, expected, 100 * expected_accuracy(log_odds, log_odds))


def accuracy(reward: Rewards, pairs: pd.DataFrame) -> float:
    """Per cent; a tie counts half."""
    chosen, rejected = chosen_and_rejected(pairs)
    margins = reward(chosen).astype(float) - reward(rejected)
    return 100 * float((margins > 0).mean() + (margins == 0).mean() / 2)


def measured(trial: Trial, fits: dict[str, Callable[[Trial], Rewards]]) -> dict[str, tuple[float, float]]:
    """Accuracy less that of the weighted sum, and processor seconds, for each method; for the sum its accuracy."""
    row: dict[str, tuple[float, float]] = {}
    for name, fit in fits.items():
        started = time.process_time()
        reward = fit(trial)
        seconds = time.process_time() - started
        base = row["weighted sum"][0] if row else 0.0
        row[name] = trial.accuracy(reward) - base, seconds
        print(f"  {name} {row[name][0]:+.3f}, {seconds:.1f} s", end="", flush=True)
    print()
    return row


def main() -> None:
    """Print every trial, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="features of a run, to deal out again")
    parser.add_argument("--splits", type=int, default=12)
    parser.add_argument("--worlds", nargs="+", default=[], help=f"KIND:PAIRS; {' '.join(WORLDS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--profile", type=Path, default=ROOT / "params" / "demo.yaml")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the profile to change, section.key=value")
    parser.add_argument("--methods", nargs="*", help="some of the columns only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(options.profile, options.set)
    fits = methods(params.model, params.training)
    fits = {name: fit for name, fit in fits.items() if name in ("weighted sum", *(options.methods or fits))}
    sources: dict[str, Iterator[Trial]] = {}
    if options.features:
        sources[str(options.features)] = dealt_again(options.features, options.splits)
    for world in options.worlds or ([] if options.features else WORLDS):
        sources[world] = drawn_again(world, options.seeds)
    lines = []
    for source, trials in sources.items():
        rows, best = [], []
        for trial in trials:
            print(f"{source} {trial.seed}: {len(trial.train)} pairs", end="", flush=True)
            rows.append(measured(trial, fits))
            best.append(trial.best - rows[-1]["weighted sum"][0])
        gains = {name: [row[name][0] for row in rows] for name in fits}
        cells = [f"{np.mean(gains.pop('weighted sum')):.1f} %"]
        cells += [f"{np.mean(of):+.2f} ({min(of):+.2f} to {max(of):+.2f})" for of in gains.values()]
        seconds = ", ".join(f"{np.mean([row[name][1] for row in rows]):.1f}" for name in gains)
        truth = "unknown" if np.isnan(best).any() else f"{np.mean(best):+.2f}"
        lines.append(f"| {source} | {' | '.join(cells)} | {truth} | {seconds} |")
    print(f"\n| pairs | {' | '.join(fits)} | the truth | seconds |")
    print(f"| --- {'| ---: ' * (len(fits) + 2)}|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
