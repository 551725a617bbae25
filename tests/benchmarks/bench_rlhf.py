"""Our PPO beside TRL 1.16's GRPO and RLOO, in truth gained a second, by hand.

``python tests/benchmarks/bench_rlhf.py outputs/demo`` after ``make``; it needs a run on **simulated** posts, whose
truth is known. All sides start from the policy of ``rlhf.ppo.model_name`` and learn on the same prompts through the
same chat template, with the same temperature, length, number of answers (``total_episodes``), answers a rollout
(``batch_size``), rows a step (``minibatch_size``), price of the KL (``kl_coefficient``; TRL's ``beta``) and the same
RealmReward: an answer earns its reward less the run's ``reward_uncertainty_penalty`` and ``missing_eos_penalty``, so
that all are taught the very same number. Ours has the run's settings, TRL's sides their own defaults and groups of
eight. No side looks at other prompts while it trains, and the policy after the last update counts.

What the sides may choose is searched first, on validation prompts with the seed SEARCH_SEED: the learning rate among
RATES; and then, for TRL's sides, whether to pass over a rollout once (``num_iterations``, their default) or as often as
the run's ``num_epochs``. The setting with the greatest gain of truth there counts, for each side its own: that is
kinder than life, where no truth is known. Our other settings are the run's, which were chosen on such prompts too.

Then the trainings that are compared: processes of one thread each, one after the other, the sides taking turns seed by
seed. Seconds are those of the training alone, after everything is loaded and the reward was asked once; the processor's
are given beside the clock's, since on a busy machine the clock tells more about the others. Our sampler draws ANSWERS
answers of each policy to each held-out prompt, from the same random numbers for all. Intervals resample prompts, the
same for all sides, and seeds where there are several.

What is done lies in ``--out`` (RUN/bench_rlhf) under a name that says what it depends on, and is not done again: the
search can be made on one day (``--only-search``) and the comparison on another. ``--set rlhf.ppo.gae_lambda=1``
changes the run's settings; ``--updates 2`` makes a short trial of everything, and ``--rates 3e-4`` takes the search's
first part away.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rlhf_training import ANSWERS, ROOT, Cell, start_of

SIDES = ("ours", "grpo", "rloo")
RATES = (1e-4, 3e-4, 1e-3)
SEARCH_SEED, RESAMPLES = 7, 10_000
HEARD_BY_TRL = (
    "model_name",
    "total_episodes",
    "batch_size",
    "minibatch_size",
    "learning_rate",
    "kl_coefficient",
    "reward_uncertainty_penalty",
    "missing_eos_penalty",
    "seed",
)
"""Settings of ``rlhf.ppo`` that change what TRL's sides do."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def place_of(cell: Cell, out: Path) -> Path:
    """The folder of a training, named after all that decides what comes out.

    TRL's part of the search stays when only ours changes; a comparison is made anew on all sides, so that its seconds
    are those of one day.
    """
    from realm_lib.runs.weights import folder_digest

    ppo, is_ours = cell["rlhf"]["ppo"], cell["side"] == "ours" or cell["split"] == "test"
    settings = ppo if is_ours else {name: ppo[name] for name in HEARD_BY_TRL}
    parts = [json.dumps([settings, cell["rlhf"]["sampling"]], sort_keys=True), folder_digest(start_of(cell))]
    parts.append(folder_digest(Path(cell["run"]) / "models" / "combiner"))
    if is_ours:
        parts += [path.read_text(encoding="utf-8") for path in sorted((ROOT / "realm_lib" / "rlhf").rglob("*.py"))]
    digest = hashlib.sha256("".join(parts).encode()).hexdigest()[:10]
    words = [cell["split"], cell["side"], f"{cell['rate']:g}", f"x{cell['iterations']}", f"seed{cell['seed']}", digest]
    return out / "-".join(words)


def result_of(cell: Cell, out: Path) -> dict[str, Any]:
    """A training's seconds and tokens, and its answers; it is made where it is not there yet."""
    target = place_of(cell, out)
    if not (target / "training.json").is_file():
        target.mkdir(parents=True, exist_ok=True)
        (target / "cell.json").write_text(json.dumps(cell), encoding="utf-8")
        words = [sys.executable, str(Path(__file__).with_name("rlhf_training.py")), str(target)]
        done = subprocess.run(words, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
        (target / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            sys.exit(f"{target.name}: {done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads((target / "training.json").read_text(encoding="utf-8"))
    return {**cell, **told, "answers": dict(np.load(target / "answers.npz"))}


def cell_of(
    run: Path, rlhf: dict[str, Any], side: str, rate: float, iterations: int, split: str, seed: int = 0
) -> Cell:
    """A training with a learning rate and a seed of its own; the side ``start`` is not trained."""
    own = {} if side == "start" else {"learning_rate": rate, "seed": seed}
    named = {"side": side, "rate": rate, "iterations": iterations, "split": split, "seed": seed}
    return {"run": str(run), **named, "rlhf": {**rlhf, "ppo": {**rlhf["ppo"], **own}}}


def search(
    run: Path, rlhf: dict[str, Any], out: Path, rates: Sequence[float], at_once: int
) -> dict[str, tuple[float, int]]:
    """Each side's learning rate and passes; ``at_once`` trainings run together, so their seconds are rough."""

    def made(settings: Sequence[tuple[str, float, int]]) -> list[dict[str, Any]]:
        cells = [cell_of(run, rlhf, *one, "validation", SEARCH_SEED) for one in settings]
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda cell: result_of(cell, out), cells))

    def best(side: str) -> dict[str, Any]:
        return max((one for one in found if one["side"] == side), key=lambda one: float(one["answers"]["truth"].mean()))

    epochs = rlhf["ppo"]["num_epochs"]
    start = result_of(cell_of(run, rlhf, "start", 0, 0, "validation"), out)
    found = made([(side, rate, epochs if side == "ours" else 1) for rate in rates for side in SIDES])
    if epochs > 1:
        found += made([(side, best(side)["rate"], epochs) for side in SIDES[1:]])
    print(f"search, seed {SEARCH_SEED}, {len(start['answers']['truth'])} validation prompts, simulated truth gained:")
    for one in sorted(found, key=lambda one: (SIDES.index(one["side"]), one["iterations"], one["rate"])):
        gain = float((one["answers"]["truth"] - start["answers"]["truth"]).mean())
        told = f"KL {one['answers']['kl'].mean():4.1f}, {one['total_cpu']:.0f} processor seconds"
        print(f"  {one['side']:5} rate {one['rate']:.0e} passes {one['iterations']}: {gain:+.3f}, {told}", flush=True)
    return {side: (best(side)["rate"], best(side)["iterations"]) for side in SIDES}


def report(start: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> None:
    """Every side's gain, and how much truth a second ours gains for each of theirs."""
    from realm_lib.evaluation.win_rates import length_controlled_win_rate, win_rate, win_shares

    before = start["answers"]
    prompts, seeds = len(before["truth"]), len(found["ours"])
    rng = np.random.default_rng(42)
    rows = rng.integers(0, prompts, (RESAMPLES, prompts))
    runs = rng.integers(0, seeds, (RESAMPLES, seeds)) if seeds > 1 else np.zeros((RESAMPLES, 1), dtype=int)
    runs, rows = np.vstack([np.arange(seeds), runs]), np.vstack([np.arange(prompts), rows])  # first: as it is

    def shown(values: Any) -> str:
        low, high = np.quantile(values[1:], [0.025, 0.975])
        return f"{values[0]:.4g} ({low:.4g} to {high:.4g})"

    print(f"\n{prompts} held-out prompts, {ANSWERS} answers each, {seeds} seed(s), all truth simulated:")
    speeds: dict[str, dict[str, Any]] = {}
    for side, trained in found.items():
        gains = np.stack([(one["answers"]["truth"] - before["truth"]).mean(axis=1) for one in trained])
        drawn = np.array([gains[own][:, row].mean() for own, row in zip(runs, rows, strict=True)])
        seconds = {kind: np.array([one[kind] for one in trained]) for kind in ("total", "total_cpu")}
        speeds[side] = {kind: drawn / taken[runs].mean(axis=1) for kind, taken in seconds.items()}
        shares = np.mean([win_shares(one["answers"]["truth"], before["truth"]) for one in trained], axis=0)
        pairs = np.hstack([np.sign(one["answers"]["truth"][:, :, None] - before["truth"][:, None]) for one in trained])
        longer = np.hstack([one["answers"]["characters"] for one in trained]).repeat(ANSWERS, axis=1)
        other = np.tile(before["characters"], len(trained) * ANSWERS)
        won = pairs.reshape(prompts, -1) / 2 + 0.5
        wins, equal = win_rate(shares), length_controlled_win_rate(won, longer, other).rate
        means = {name: np.mean([one["answers"][name] for one in trained]) for name in ("kl", "tokens", "ended")}
        told = {name: np.mean([one.get(name, 0) for one in trained]) for name in ("sampling", "reward", "tokens")}
        print(f"{side}: rate {trained[0]['rate']:g}, passes {trained[0]['iterations']}")
        print(f"  truth gained {shown(drawn)}; by seed {', '.join(f'{row.mean():.3f}' for row in gains)}")
        print(f"  wins over the start {wins.value:.1%} ({wins.low:.1%} to {wins.high:.1%}), ", end="")
        known = f"{equal.value:.1%} ({equal.low:.1%} to {equal.high:.1%})" if equal else "not known"
        print(f"at equal length {known}")
        print(f"  KL {means['kl']:.2f}, {means['tokens']:.0f} tokens an answer, {means['ended']:.1%} ended")
        wall, processor = seconds["total"], seconds["total_cpu"]
        print(f"  seconds {', '.join(f'{value:.0f}' for value in wall)} (processor {processor.mean():.0f}): ", end="")
        rest = wall.mean() - told["sampling"] - told["reward"]
        print(f"sampling {told['sampling']:.0f}, reward {told['reward']:.0f}, the rest {rest:.0f}; ", end="")
        print(f"{told['tokens']:,.0f} tokens sampled for {trained[0]['episodes']:,} answers")
        print(f"  truth gained a second {shown(speeds[side]['total'])}")
    for side in ("grpo", "rloo"):
        for kind, name in (("total", "a second"), ("total_cpu", "a processor second")):
            print(f"truth gained {name}, ours over {side}'s: {shown(speeds['ours'][kind] / speeds[side][kind])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run, as outputs/demo")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--set", nargs="+", default=[], dest="changes", metavar="section.key=value")
    parser.add_argument("--updates", type=int, help="so many updates only")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to try")
    parser.add_argument("--only-search", action="store_true")
    parser.add_argument("--at-once", type=int, default=2, help="trainings of the search that run together")
    asked = parser.parse_args()
    from realm_lib.config.profile import load_params

    run = asked.run.resolve()
    params = load_params(run / "params.yaml", asked.changes)
    assert params.rlhf is not None
    rlhf = params.rlhf.model_dump(mode="json")
    if asked.updates is not None:
        rlhf["ppo"]["total_episodes"] = asked.updates * rlhf["ppo"]["batch_size"]
    out = asked.out or run / "bench_rlhf"
    chosen = search(run, rlhf, out, asked.rates, asked.at_once)
    if asked.only_search:
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn, seed in enumerate(asked.seeds):
        for side in (*SIDES[turn % 3 :], *SIDES[: turn % 3]):
            found[side].append(result_of(cell_of(run, rlhf, side, *chosen[side], "test", seed), out))
    report(result_of(cell_of(run, rlhf, "start", 0, 0, "test"), out), found)


if __name__ == "__main__":
    main()
