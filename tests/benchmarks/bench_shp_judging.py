"""Notebooks 02 and 03 and the report at the size of SHP: time and memory of each, by the number of pairs, by hand.

    python tests/benchmarks/bench_shp_judging.py RUN FOLDER [--pairs 4000 40000 385563] [--cells]

RUN is a finished run of the demo, whose small reward model judges the few texts that notebook 03 reads for itself. The
features are made up, in the form in which notebook 01 leaves them: SHP's domains, its three splits in their shares,
five pairs a post in the mean, votes, and a score and a similarity with a weak signal, which is no weighted sum's. Texts
are as long as SHP's download of 2 GB suggests. What the features took is made up too. Combiner and training are those
of ``params/full.yaml``; every notebook runs as make runs it. The time is that of the command, imports among it, beside
what its processes took of a processor, which other work on the machine changes less; the memory is the most that one of
them ever had resident. Prints a table in Markdown, and with ``--cells`` the seconds of the cells that took longest.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import combinations, count, islice
from multiprocessing import get_context
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.profile import Params
from realm_lib.data.posts import post_key
from realm_lib.features.extraction import Extraction, FeatureCost, FeatureCounts
from realm_lib.features.identities import identities_of
from realm_lib.features.kept import keep_features
from realm_lib.features.signals import ScoreSignal, Signal, SimilaritySignal
from realm_lib.models.embedders import build_embedder
from realm_lib.models.reward_models import build_scorer
from realm_lib.runs.notebooks import prepare
from realm_lib.runs.run import Run

ROOT = Path(__file__).parents[2]
SPLITS = {"train": 348_718, "validation": 18_436, "test": 18_409}
"""Of SHP, from its card; so are the pairs of the test split by domain."""
DOMAINS = {
    **{"askacademia": 1708, "askanthropology": 268, "askbaking": 1544, "askcarguys": 117, "askculinary": 2563},
    **{"askdocs": 455, "askengineers": 2638, "askhistorians": 164, "askhr": 395, "askphilosophy": 677},
    **{"askphysics": 587, "askscience": 977, "asksciencefiction": 1987, "asksocialscience": 188, "askvet": 224},
    **{"changemyview": 1836, "explainlikeimfive": 1070, "legaladvice": 1011},
}
PAIRS_A_POST = 5
CHECKED = 8
"""Texts whose reward notebook 03 compares with that of their features."""
STEPS = ("02_combiner_training", "03_evaluation", "report")


class Texts:
    """Texts of random words, no two the same, of log-normal lengths."""

    def __init__(self, rng: np.random.Generator) -> None:
        lengths = rng.integers(2, 10, 3000)
        letters = rng.choice(list("etaoinshrdlucmfwypvbgk"), lengths.sum())
        ends = np.cumsum(lengths)
        words = ["".join(letters[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
        signs = rng.choice(["", ",", ".", ".\n\n"], 400_000, p=[0.85, 0.08, 0.06, 0.01])
        drawn = rng.zipf(1.3, 400_000) % len(words)
        self._pool = " ".join(words[place] + sign for place, sign in zip(drawn, signs, strict=True))
        self._rng, self._numbers = rng, count()

    def make(self, size: int, median: float, spread: float, most: int) -> list[str]:
        """``size`` texts of a median length, up to ``most`` characters."""
        lengths = np.clip(self._rng.lognormal(np.log(median), spread, size), 20, most).astype(int)
        starts = self._rng.integers(0, len(self._pool) - most, size)
        spans = zip(self._numbers, starts, lengths, strict=False)
        return [f"{number} {self._pool[start : start + length]}" for number, start, length in islice(spans, size)]


def draw_pairs(split: str, pairs: int, rng: np.random.Generator, texts: Texts) -> pd.DataFrame:
    """A split's pairs with their features, in the columns and the order that notebook 01 leaves."""
    sizes = rng.geometric(1 / PAIRS_A_POST, pairs)
    sizes = sizes[: 1 + int(np.searchsorted(np.cumsum(sizes), pairs))]
    sizes[-1] -= sizes.sum() - pairs
    sizes = sizes[sizes > 0]
    comments = np.ceil((1 + np.sqrt(1 + 8 * sizes)) / 2).astype(int)  # c of them make c (c - 1) / 2 pairs
    starts = np.cumsum(comments) - comments
    orders = {size: np.array(list(combinations(range(size), 2))) for size in np.unique(comments)}
    drawn = [start + orders[own][:size] for start, own, size in zip(starts, comments, sizes, strict=True)]
    flipped = np.concatenate(drawn)
    flip = rng.random(pairs) < 0.5
    flipped[flip] = flipped[flip, ::-1]
    a, b = flipped.T
    post = np.repeat(np.arange(len(sizes)), sizes)
    table = _table(split, post, texts.make(len(sizes), 1_500, 0.8, 5_500), rng)
    score, similarity = rng.normal(size=(2, comments.sum()))
    responses = np.array(texts.make(len(score), 560, 1.0, 10_000), dtype=object)
    numbers = {"score": score.astype(np.float32), "similarity": 0.45 + 0.12 * np.tanh(similarity)}
    # Bent, or the network would be found to be of no use, and not be trained.
    quality = 0.5 * score + 0.4 * similarity - 0.3 * similarity**2 + 0.2 * score * similarity
    votes = 2 + np.floor(np.exp(1.5 + quality + rng.normal(size=len(quality)))).astype(np.int64)
    # Votes of a pair are never equal in SHP.
    of_pair = np.stack([votes[a], votes[b]])
    of_pair[0, of_pair[0] == of_pair[1]] += 1
    for side, own, place in zip("AB", of_pair, (a, b), strict=True):
        table[f"votes_{side}"], table[f"human_ref_{side}"] = own, responses[place]
    table["labels"] = (of_pair[0] > of_pair[1]).astype(np.int64)
    table["seconds_difference"] = np.round(rng.exponential(1e4, pairs))
    table["score_ratio"] = of_pair.max(axis=0) / of_pair.min(axis=0)
    table["pair_id"] = [f"{split}{number:016x}"[-16:] for number in range(pairs)]
    for side, place in zip("AB", (a, b), strict=True):
        for name, values in numbers.items():
            table[f"{name}_{side}"] = values[place]
    return table


def _table(split: str, post: NDArray[np.int64], histories: list[str], rng: np.random.Generator) -> pd.DataFrame:
    shares = np.array(list(DOMAINS.values())) / sum(DOMAINS.values())
    # Sorted by domain, as SHP is.
    domains = np.sort(rng.choice(list(DOMAINS), len(histories), p=shares)).astype(object) + f"_{split}"
    keys = np.array([post_key(text) for text in histories], dtype=object)
    columns = {"post_id": keys[post], "domain": domains[post], "history": np.array(histories, dtype=object)[post]}
    return pd.DataFrame({**columns, "given_post_id": pd.Series(post).map("p{}".format)})


def make_run(demo: Path, folder: Path, pairs: int) -> None:
    """A run in ``folder`` with the features of so many pairs, as notebook 01 would leave it."""
    small = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
    full = yaml.safe_load((ROOT / "params" / "full.yaml").read_text())
    profile = {
        "run": {"name": f"shp_{pairs}", "output_dir": str(folder), "threads": 1},
        "reward_model": small["reward_model"] | {"long_responses": "cut"},
        "embedding": small["embedding"],
        "signals": {},
        **{name: full[name] for name in ("data", "model", "training")},
        **dict.fromkeys(("offline_models", "rlhf")),
    }
    file = folder / f"shp_{pairs}.yaml"
    file.write_text(yaml.safe_dump(profile))
    run = prepare(str(file), [])
    shutil.copytree(demo / "models" / "reward_model", run.path("models", "reward_model"), dirs_exist_ok=True)
    params = Params.from_sections(**{name: profile[name] for name in ("reward_model", "embedding", "signals", "data")})
    signals: dict[str, Signal] = {
        "score": ScoreSignal(build_scorer(params.reward_model, run.folder)),
        "similarity": SimilaritySignal(build_embedder(params.embedding, run.folder)),
    }
    identities = identities_of(signals)
    rng = np.random.default_rng(0)
    texts = Texts(rng)
    shares = {split: round(pairs * size / sum(SPLITS.values())) for split, size in SPLITS.items()}
    models = FeatureModels(params.reward_model, params.embedding, params.data.preprocessing.max_length)
    cost = FeatureCost(0, 0, None, 0.0, None)
    counts = {}
    for split, size in shares.items():
        table = draw_pairs(split, size, rng, texts)
        counts[split] = asdict(FeatureCounts(size, size, 0, size, 0, 1, 0.0))
        if split == "test":
            _make_true(table, signals)
        keep_features(run, {split: Extraction(table, FeatureCounts(**counts[split]), {}, identities)}, models)
    totals = {name: sum(of_split[name] for of_split in counts.values()) for name in counts["test"]}
    costs = {name: asdict(cost) for name in signals}
    run.write_metrics("features", {**totals, "splits": counts, "costs": costs, "reading": {}})


def _make_true(table: pd.DataFrame, signals: Mapping[str, Signal]) -> None:
    """The features of the first A responses by the models themselves: notebook 03 asks for them again."""
    first = table.index[:CHECKED]
    prompts, responses = (table.loc[first, name].tolist() for name in ("history", "human_ref_A"))
    for name, signal in signals.items():
        table.loc[first, f"{name}_A"] = signal.values(prompts, responses)


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds of a command, those of a processor, and the GiB that its largest process had; ends where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def longest_cells(run: Run, name: str, number: int = 8) -> None:
    """Print the cells of an executed notebook that took longest."""
    cells = nbformat.read(run.path("notebooks", f"{name}.ipynb"), as_version=4).cells
    timed = [(cell.metadata.papermill.duration or 0, place) for place, cell in enumerate(cells)]
    for seconds, place in sorted(timed, reverse=True)[:number]:
        print(f"  {seconds:8.1f} s  [{place}] {cells[place].source.strip().splitlines()[-1][:90]}", flush=True)


def folder_size(folder: Path) -> float:
    """MB of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """Make the runs, execute them and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", default=[4_000, 40_000, sum(SPLITS.values())])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--cells", action="store_true")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for pairs in asked.pairs:
        folder = asked.folder.resolve() / f"shp_{pairs}"
        if not folder.exists():
            # In a process of its own: what this one has resident would count as the command's.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as maker:
                maker.submit(make_run, asked.run, asked.folder.resolve(), pairs).result()
        run = Run(folder)
        for step in asked.steps:
            done = ["report", str(folder)] if step == "report" else ["execute", str(folder), step]
            seconds, busy, memory = measured([sys.executable, "-m", "realm_lib", *done])
            rows.append(f"| {pairs:,} | {step} | {seconds:,.0f} s | {busy:,.0f} s | {memory:.2f} GiB |")
            print(rows[-1], flush=True)
            if asked.cells and step != "report":
                longest_cells(run, step)
        sizes = (f"{name}/ {folder_size(run.path(name)):,.1f} MB" for name in ("features", "figures", "reports"))
        print(f"  {', '.join(sizes)}", flush=True)
    head = "| pairs | step | time | of a processor | memory |"
    print(f"\n{head}\n| ---: | --- | ---: | ---: | ---: |", *rows, sep="\n")


if __name__ == "__main__":
    main()
