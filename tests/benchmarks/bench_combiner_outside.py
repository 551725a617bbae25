"""What the combiner says where it has not been, and how sure it is of pairs that it was not trained on.

    python tests/benchmarks/bench_combiner_outside.py [--features outputs/RUN/features] [--worlds gated:4000 ...]

Outside: a combiner, one held to rise with the score and the seed document's plain network are trained on the features
of a run, or on simulated worlds (tests/support/preference_worlds.py). Reward, spread and ``outside`` of responses at
the ends of the training range (its 0.1 and 99.9 % quantiles) and at 10 standard deviations from the mean. Inversions:
one feature rises in 200 steps from -10 to 10 standard deviations while the other stands at each of 19 quantiles; in
how many of these the reward falls anywhere by more than 0.001 log-odds, and by how much at most from where it was.

Sure: simulated worlds whose training pairs are only those of clear votes (``data.min_score_ratio``) while validation
and test pairs are all. Bare differences, before the temperature is folded in, beside those that the combiner gives:
the slope of the true log-odds on them, where 1 is right, log-loss in nats against the true probabilities, and
calibration error. Tables in Markdown; the sections ``model`` and ``training`` are those of ``--profile``.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from support.preference_worlds import best_slope, draw_world  # noqa: E402

from realm_lib.config.profile import load_params  # noqa: E402
from realm_lib.config.training import ModelParams, TrainingParams  # noqa: E402
from realm_lib.evaluation.calibration import confidences, expected_calibration_error  # noqa: E402
from realm_lib.reward.combiner import FEATURES, Combiner, feature_matrix  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "combiner": {"prior": "weighted_sum"},
    "monotone": {"prior": "weighted_sum", "monotone": ["score"]},
    "plain network": {"prior": None},
}
FARTHEST, STEPS, FALL = 10.0, 200, 0.001


def fitted(
    train: pd.DataFrame, validation: pd.DataFrame, kind: str, model: ModelParams, how: TrainingParams
) -> Combiner:
    """A combiner of one of the KINDS."""
    combiner = Combiner(ModelParams.model_validate({**model.model_dump(), **KINDS[kind]}))
    combiner.fit(train, validation, how)
    return combiner


def places(responses: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Names and features of single responses at the ends of what there was, and far beyond."""
    middle, deviation = responses.mean(axis=0), responses.std(axis=0)
    low, high = np.quantile(responses, [0.001, 0.999], axis=0)
    yield "the mean response", middle
    for index, name in enumerate(FEATURES):
        for words, value in (
            ("10 sd below", middle[index] - FARTHEST * deviation[index]),
            ("at the low end", low[index]),
            ("at the high end", high[index]),
            ("10 sd above", middle[index] + FARTHEST * deviation[index]),
            *([("at 1.0", 1.0)] if name == "similarity" else []),
        ):
            features = middle.copy()
            features[index] = value
            yield f"{name} {words}", features
    yield "both 10 sd above", middle + FARTHEST * deviation


def falls(combiner: Combiner, responses: NDArray[np.float32], rising: int) -> NDArray[np.float64]:
    """By how much the reward falls at most while the feature ``rising`` rises, for each place of the other [19]."""
    middle, deviation = responses.mean(axis=0), responses.std(axis=0)
    line = middle[rising] + deviation[rising] * np.linspace(-FARTHEST, FARTHEST, STEPS + 1)
    deepest = []
    for held in np.quantile(responses[:, 1 - rising], np.linspace(0.05, 0.95, 19)):
        features = np.full((len(line), 2), held)
        features[:, rising] = line
        rewards = combiner.reward(features).astype(float)
        deepest.append((np.maximum.accumulate(rewards) - rewards).max())
    return np.array(deepest)


def print_outside(source: str, combiners: dict[str, Combiner], responses: NDArray[np.float32]) -> None:
    """The rewards at the places, then the inversions."""
    print(f"\n{source}: reward ± spread\n\n| response | {' | '.join(combiners)} | outside |")
    print(f"| --- {'| ---: ' * len(combiners)}| --- |")
    for name, features in places(responses):
        cells, outside = [], set()
        for combiner in combiners.values():
            (reward,), (spread,) = combiner.reward_and_spread(features[None])
            cells.append(f"{reward:+.2f} ± {spread:.2f}")
            outside.add("yes" if combiner.outside(features[None])[0] else "no")
        print(f"| {name} | {' | '.join(cells)} | {' or '.join(sorted(outside))} |")
    for index, name in enumerate(FEATURES):
        found = [falls(combiner, responses, index) for combiner in combiners.values()]
        cells = [f"{(of > FALL).sum()} of {len(of)}, {of.max():.3f}" for of in found]
        print(f"| falls while {name} rises | {' | '.join(cells)} | |")


def print_sureness(world: str, ratios: list[float], seeds: int, model: ModelParams, how: TrainingParams) -> None:
    """A row for each ratio: the means over seeds, bare and as given."""
    kind, pairs = world.split(":")
    for ratio in ratios:
        rows = []
        for seed in range(seeds):
            train, validation, test = draw_world(kind, int(pairs), seed)
            clear = train[train["log_votes"].abs() >= math.log(ratio)].reset_index(drop=True)
            combiner = fitted(clear, validation, "combiner", model, how.model_copy(update={"seed": seed}))
            a, b = feature_matrix(test)
            given = combiner.reward(a).astype(float) - combiner.reward(b)
            truth = test["log_odds"].to_numpy()
            win = 1 / (1 + np.exp(-truth))
            row = [len(clear), combiner.scale]
            for margins in (given / combiner.scale, given):
                loss = float((np.logaddexp(0, -margins) + (1 - win) * margins).mean())
                right = np.where(margins > 0, win, 1 - win)
                row += [best_slope(margins, truth), loss, expected_calibration_error(confidences(margins, 1.0), right)]
            rows.append(row)
        count, scale, *numbers = np.mean(rows, axis=0)
        cells = [
            f"{numbers[place]:.{digits}f}, {numbers[place + 3]:.{digits}f}" for place, digits in enumerate((2, 4, 3))
        ]
        print(f"| {world} | {ratio:g} | {count:.0f} | {scale:.2f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="features of a run")
    parser.add_argument("--worlds", nargs="*", default=["gated:515", "gated:4000"], help="KIND:PAIRS")
    parser.add_argument("--ratios", nargs="*", type=float, default=[1.0, 2.0, 4.0], help="least ratio of votes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--profile", type=Path, default=ROOT / "params" / "demo.yaml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    params = load_params(options.profile)
    sources = {}
    if options.features:
        tables = [pd.read_parquet(options.features / f"{split}.parquet") for split in ("train", "validation")]
        sources[str(options.features)] = tables
    for world in options.worlds:
        kind, pairs = world.split(":")
        sources[world] = list(draw_world(kind, int(pairs), 0)[:2])
    for source, (train, validation) in sources.items():
        combiners = {kind: fitted(train, validation, kind, params.model, params.training) for kind in KINDS}
        print_outside(source, combiners, np.concatenate(feature_matrix(train)))
    print("\n| world | least ratio of votes | training pairs | factor | slope | log-loss | calibration error |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for world in options.worlds:
        print_sureness(world, options.ratios, options.seeds, params.model, params.training)


if __name__ == "__main__":
    main()
