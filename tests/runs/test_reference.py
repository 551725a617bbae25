"""Keeping a run as the reference: what is copied, what is not, and what an unfinished run says."""

from pathlib import Path

import pytest

from realm_lib.runs.reference import keep_reference
from realm_lib.runs.run import MissingStepError

KEPT = (
    "params.yaml",
    "manifest.json",
    "figures/evaluation_accuracy.svg",
    "metrics/evaluation.json",
    "metrics/ppo.json",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for name in (*KEPT, "metrics/pairs.parquet", "figures/training.svg", "models/combiner/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_git_keeps_is_copied_and_nothing_else(run: Path, tmp_path: Path) -> None:
    copied = keep_reference(run, tmp_path / "reference")
    assert files(tmp_path / "reference") == set(KEPT)
    assert {path.relative_to(tmp_path / "reference").as_posix() for path in copied} == set(KEPT)
    assert all((tmp_path / "reference" / name).read_text() == name for name in KEPT)


def test_what_an_older_run_measured_goes_and_drawings_of_the_project_stay(run: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    for name in ("metrics/gone.json", "spread.json", "figures/pipeline.svg", "metrics/ppo.json"):
        (reference / name).parent.mkdir(parents=True, exist_ok=True)
        (reference / name).write_text("old")
    keep_reference(run, reference)
    assert files(reference) == {*KEPT, "figures/pipeline.svg"}
    assert (reference / "metrics/ppo.json").read_text() == "metrics/ppo.json"


@pytest.mark.parametrize("missing", ["params.yaml", "manifest.json", "figures/evaluation_accuracy.svg", "metrics"])
def test_an_unfinished_run_is_not_kept(run: Path, tmp_path: Path, missing: str) -> None:
    (reference := tmp_path / "reference").mkdir()
    (reference / "spread.json").write_text("old")
    for path in [run / missing, *(run / missing).glob("*")]:
        if path.is_file():
            path.unlink()
    with pytest.raises(MissingStepError, match=missing):
        keep_reference(run, reference)
    assert files(reference) == {"spread.json"}
