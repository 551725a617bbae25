"""What ``realm verify`` catches: ``python tests/benchmarks/bench_verify.py RUN REFERENCE [CHANGE ...]``, by hand.

A finished run of the demo is copied, something small in it or in the library is changed, notebooks 02 and 03 run again,
and the result is compared with the reference: how many numbers are outside, and which one by how many tolerances. The
first row changes nothing; it must be within. A minute a change and thread.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from realm_lib.runs.verification import verify

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ("02_combiner_training", "03_evaluation")

Change = Callable[[Path], None]  # of a copy of the project, in which the run is outputs/demo


def nothing(_: Path) -> None:
    """Whether the run itself is within."""


def source(file: str, old: str, new: str) -> Change:
    """Another text in one place of the library."""

    def change(project: Path) -> None:
        path = project / "realm_lib" / file
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            sys.exit(f"{file} has changed: {old!r} stands in it {text.count(old)} times")
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def parameter(setting: str) -> Change:
    """Another parameter, of which the run's own file says nothing afterwards."""

    def change(project: Path) -> None:
        (project / "settings").write_text(setting, encoding="utf-8")

    return change


def features(split: str, edit: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]) -> Change:
    """Other features of a split, under the note of which models made them."""

    def change(project: Path) -> None:
        path = project / "outputs" / "demo" / "features" / f"{split}.parquet"
        table = pq.read_table(path)
        note = {key: value for key, value in table.schema.metadata.items() if key != b"pandas"}
        edited = pa.Table.from_pandas(edit(table.to_pandas(), np.random.default_rng(1)), preserve_index=False)
        pq.write_table(edited.replace_schema_metadata({**edited.schema.metadata, **note}), path)

    return change


def flipped(pairs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = rng.choice(len(pairs), len(pairs) // 100, replace=False)
    return pairs.assign(labels=np.where(np.isin(np.arange(len(pairs)), rows), 1 - pairs["labels"], pairs["labels"]))


def wrong_response(pairs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = np.isin(np.arange(len(pairs)), rng.choice(len(pairs), len(pairs) // 100, replace=False))
    a, b = pairs["similarity_A"], pairs["similarity_B"]
    return pairs.assign(similarity_A=np.where(rows, b, a), similarity_B=np.where(rows, a, b))


CHANGES: dict[str, Change] = {
    "nothing": nothing,
    "labels of 1 % of the training pairs flipped": features("train", flipped),
    "1 % of the training pairs left out": features("train", lambda pairs, _: pairs.iloc[: -len(pairs) // 100]),
    "one pair a training post fewer": features("train", lambda pairs, _: pairs.groupby("post_id").head(1)),
    "similarity of the wrong response in 1 % of the test pairs": features("test", wrong_response),
    "the network alone": parameter("model.prior=null"),
    "a prior of 100 pairs": parameter("training.prior_pairs=100"),
    "weight decay off": parameter("training.weight_decay=0.0"),
    "learning rate 10 % higher": parameter("training.learning_rate=0.0011"),
    "another seed of the combiner": parameter("training.seed=43"),
    "ties counted as longer in length-controlled accuracy": source(
        "evaluation/judging.py",
        "(half, half * correct) for half in ((sign > 0)",
        "(half, half * correct) for half in ((sign >= 0)",
    ),
    "Holm's correction for one comparison too few": source(
        "evaluation/resampling.py", "(len(p_values) - index) * p", "(len(p_values) - index - 1) * p"
    ),
    "expected calibration error of 12 bins": source(
        "evaluation/calibration.py",
        "def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 10)",
        "def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = 12)",
    ),
}


def run_changed(run: Path, change: Change, folder: Path) -> Path:
    """The copy of ``run`` in ``folder`` after the change and the two notebooks."""
    for name in ("notebooks", "params", "realm_lib"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    copied = folder / "outputs" / "demo"
    shutil.copytree(run, copied, ignore=shutil.ignore_patterns("notebooks", "reports", "figures", "samples"))
    change(folder)
    settings = folder / "settings"
    changed = ["--set", settings.read_text(encoding="utf-8")] if settings.exists() else []
    one_thread = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for arguments in (["prepare", "demo", *changed], *(["execute", "outputs/demo", name] for name in NOTEBOOKS)):
        command = [sys.executable, "-m", "realm_lib", *arguments]
        subprocess.run(command, cwd=folder, env={**os.environ, **one_thread}, check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(run / "params.yaml", copied / "params.yaml")
    return copied


def main(run: Path, reference: Path, names: list[str]) -> None:
    """Print a Markdown row for each change."""
    print("| changed | outside | farthest, in tolerances |\n| --- | --- | --- |", flush=True)
    for name in names or CHANGES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = verify(run_changed(run.resolve(), CHANGES[name], Path(folder)), reference.resolve())
            except subprocess.CalledProcessError:
                print(f"| {name} | | a notebook stops by itself |", flush=True)
                continue
        farthest = max(found.rows, key=lambda row: row.used)
        print(f"| {name} | {len(found.outside)} | {farthest.used:.1f}: {farthest.key} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
